"""Simulated listeners of `bench_serve.py`, which play what comes at the speed of the clock, or as fast as it comes.

A frame that comes after its first sample was due makes its listener wait (an underrun); everything after it is heard later by as much::

    slack of a frame = when its first sample is due - when it came
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from duotone.serve import frames
from duotone.serve.frames import Audio, Control, Failure, Frame, Handshake, Ping, What

REPORT = 0.2  # seconds between reports of what was played
DEAF = 1.0  # seconds that a slow listener takes nothing from its connection, in every two
LOOKAHEAD = 2


@dataclass
class Playback:
    """The clock of one listener."""

    rate: int = 48_000
    slacks: list[float] = field(default_factory=list)  #: seconds, of each frame but the first
    start: float | None = None  #: when sample 0 was, or would have been, heard
    arrived: int = 0

    def arrive(self, place: int, count: int, now: float) -> None:
        """A frame came."""
        self.arrived = place + count
        if self.start is None:
            self.start = now - place / self.rate
            return
        slack = self.start + place / self.rate - now
        self.slacks.append(slack)
        self.start += max(0.0, -slack)  # who ran dry waited

    def played(self, now: float) -> int:
        """Samples that were heard until now."""
        return 0 if self.start is None else min(self.arrived, round((now - self.start) * self.rate))


@dataclass
class Outcome:
    """What one listener met."""

    sort: str
    slacks: list[float] = field(default_factory=list)
    sessions: int = 0
    refused: bool = False
    lost: list[str] = field(default_factory=list)  #: why connections ended, other than refusals


class Listener:
    """A listener of a sort (steady, slow, vanishing, reconnecting) until the time `until` of the monotonic clock."""

    def __init__(self, url: str, kind: str, sort: str, number: int, duo: bytes, until: float) -> None:
        self.url, self.kind, self.duo, self.until, self.number = url, kind, duo, until, number
        self.dice, self.found, self.playback = random.Random(number), Outcome(sort), Playback()
        self.key: str | None = None

    @property
    def left(self) -> float:
        """Seconds until its end."""
        return self.until - time.monotonic()

    async def run(self) -> Outcome:
        """Listen, and again after each loss; a refused one does not come back."""
        await asyncio.sleep(self.dice.random())
        while self.left > 0.5 and not self.found.refused:
            seconds = (
                self.left if self.found.sort in ("steady", "slow") else min(self.left, self.dice.uniform(2.0, 5.0))
            )
            try:
                await asyncio.wait_for(self._listen(), seconds)
            except (TimeoutError, asyncio.TimeoutError):
                pass
            except (OSError, ConnectionClosed) as error:
                self.found.lost.append(repr(error))
            if self.found.sort == "vanishing" and self.left > 1:
                await asyncio.sleep(1.0)
        self.found.slacks += self.playback.slacks
        return self.found

    async def _listen(self) -> None:
        """One connection; it is cancelled where the listener goes."""
        goes_on = self.found.sort == "reconnecting" and self.kind == "jam" and self.key is not None
        if not goes_on:
            self.found.slacks += self.playback.slacks
            self.playback, self.key = Playback(), None
        hello = {"kind": self.kind, "lookahead": LOOKAHEAD, "resume": self.key, "received": self.playback.arrived}
        socket = await opened(self.url)
        reports = asyncio.ensure_future(self._report(socket))
        try:
            first = await begun(socket, hello, self.number, self.duo)
            if isinstance(first, Failure):
                self.found.refused = True
                return
            self.key, self.playback.rate = first.document["key"], first.document["rate"]
            self.found.sessions += 1
            await self._hear(socket)
        finally:
            reports.cancel()
            await asyncio.gather(reports, return_exceptions=True)
            socket.transport.abort()  # without a word

    async def _hear(self, socket: ClientConnection) -> None:
        rested = time.monotonic()
        while True:
            frame = frames.parse(await socket.recv(decode=False))
            if isinstance(frame, Audio):
                self.playback.arrive(frame.place, len(frame.samples), time.monotonic())
            elif isinstance(frame, Failure):
                self.found.lost.append(str(frame.document.get("message")))
            if self.found.sort == "slow" and time.monotonic() - rested > 2 * DEAF:
                await asyncio.sleep(DEAF)
                rested = time.monotonic()

    async def _report(self, socket: ClientConnection) -> None:
        while True:
            await asyncio.sleep(REPORT)
            if self.playback.start is not None:
                await socket.send(Ping(self.playback.played(time.monotonic())).to_bytes())


class Eager:
    """A listener for whom nothing comes too fast, while it is `active`; `samples` counts what came."""

    def __init__(self, url: str, kind: str, number: int, duo: bytes) -> None:
        self.url, self.kind, self.number, self.duo = url, kind, number, duo
        self.active, self.samples, self.seconds_each = False, 0, 0.0
        self._at = 0
        self._socket: ClientConnection | None = None

    async def run(self) -> None:
        """Listen until cancelled. Raises `RuntimeError` where the service refuses, or fails."""
        self._socket = await opened(self.url)
        try:
            first = await begun(self._socket, {"kind": self.kind, "lookahead": LOOKAHEAD}, self.number, self.duo)
            if isinstance(first, Failure):
                raise RuntimeError(f"The service refused a session: {first.document['message']}")
            self.seconds_each = 1 / first.document["rate"]
            while True:
                frame = frames.parse(await self._socket.recv(decode=False))
                if isinstance(frame, Failure):
                    raise RuntimeError(f"The service ended a session: {frame.document['message']}")
                if isinstance(frame, Audio):
                    self._at = frame.place + len(frame.samples)
                    self.samples += len(frame.samples)
                    if self.active:
                        await self.report()
        finally:
            self._socket.transport.abort()

    async def report(self) -> None:
        """Say that everything was played."""
        assert self._socket is not None
        await self._socket.send(Ping(self._at).to_bytes())


async def opened(url: str) -> ClientConnection:
    """A connection for a session."""
    address = url.replace("http", "ws", 1) + "/v1/session"
    return await connect(address, max_size=None, open_timeout=60, compression=None, ping_interval=None)


async def begun(socket: ClientConnection, hello: dict[str, Any], number: int, duo: bytes) -> Frame:
    """Begin a session: the handshake of the service, or its error."""
    await socket.send(Handshake(hello).to_bytes())
    first = frames.parse(await socket.recv(decode=False))
    if isinstance(first, Handshake) and hello["kind"] == "decode":
        for part in frames.parts(What.duo, duo):
            await socket.send(part.to_bytes())
    elif isinstance(first, Handshake) and hello.get("resume") is None:
        await socket.send(Control(json.dumps({"type": "start", "seed": number})).to_bytes())
    return first
