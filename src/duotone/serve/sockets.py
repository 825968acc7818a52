"""The connection of a session: handshake, two coroutines that read and write frames, and the close."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
from collections.abc import Callable
from contextlib import ExitStack
from http import HTTPStatus
from typing import Any

from duotone.errors import FormatError
from duotone.flow.weights import fingerprint
from duotone.serve import frames
from duotone.serve.frames import Frame
from duotone.serve.guard import client_of
from duotone.serve.hello import FLOWING, Hello
from duotone.serve.inbox import Inbox
from duotone.serve.live import OUT, Connection, Live
from duotone.serve.live_codec import LiveDecode, LiveEncode
from duotone.serve.live_flow import LiveFlow
from duotone.serve.outbox import Outbox
from duotone.serve.patience import within
from duotone.serve.refusal import DONE, NO_FRAME, POLICY, STOPPING, Refusal, defect, document, over, refused
from duotone.serve.service import Service
from duotone.serve.states import Kept, new_key

_CLASSES: dict[str, Callable[[Connection, Hello], Live]] = {
    "encode": LiveEncode,
    "decode": LiveDecode,
    "continue": LiveFlow,
    "jam": LiveFlow,
}


class Gone(Exception):
    """The client has closed the connection, or it was lost."""


class Socket:
    """One connection. `websocket` is that of Starlette; `client` who it is, None if that is yet to be shown."""

    def __init__(self, service: Service, websocket: Any, client: str | None) -> None:
        self.service, self.websocket, self.client = service, websocket, client
        self.limits = service.config.limits
        self.id, self.key = secrets.token_hex(8), new_key()  # neither is used twice
        self.live: Live | None = None
        self.kept: Kept | None = None
        self._stop: asyncio.Event = asyncio.Event()

    def demand(self) -> list[tuple[str, float]]:
        """What the session asks the device for."""
        return [] if self.live is None else self.live.demand()

    def stop(self) -> None:
        """The service stops: tell the client, hand over the state, close. For the event loop's thread."""
        self._stop.set()

    async def run(self) -> None:
        """From the handshake to the close."""
        await self.websocket.accept()
        code, reason = DONE, ""
        try:
            with ExitStack() as stack:
                await self._session(stack)
        except Gone:
            self.service.log("gone", session=self.id)
            return
        except Exception as error:
            refusal = refused(error)
            if refusal is None:
                self.service.log("defect", session=self.id, error=repr(error))
            found = refusal or defect()
            code = found.close
            reason = "" if found.retry is None else f"retry after {found.retry:g} s"
            self.service.tell(found, f"session {self.id}")
            await self._last_words(frames.Failure(document(found)))
        await self._close(code, reason)

    async def _session(self, stack: ExitStack) -> None:
        hello = await self._hello()
        client = client_of(self.service.config, hello.token) if self.client is None else self.client
        stack.enter_context(self.service.session(client, hello.kind))
        live = self._live(hello)
        try:
            self.service.admit(live.demand())
            kept = None if hello.resume is None else self.service.states.take(hello.resume, client)
        except Refusal:
            live.close()
            raise
        self.live = live
        self.service.sockets.add(self)
        stack.callback(self.service.sockets.discard, self)
        try:
            await self.send(self._welcome(hello, live, kept))
            self.service.log("opened", session=self.id, kind=hello.kind, client=client, resumed=kept is not None)
            live.first = lambda: live.begin(kept)
            self.service.device.add(live)
            await self._serve(live)
        finally:
            await self._end(live, client)
            self.service.log("closed", session=self.id, samples=live.listener.sent, underruns=live.listener.underruns)

    async def _hello(self) -> Hello:
        frame = await self.receive()
        if not isinstance(frame, frames.Handshake):
            raise _no_frame("Got another frame first, expected a handshake (docs/serve.md).")
        if frame.version != frames.VERSION:
            raise _no_frame(f"Got version {frame.version} of the protocol, expected {frames.VERSION}.")
        return Hello.parse(frame.document, "The handshake")

    def _live(self, hello: Hello) -> Live:
        loop, device = asyncio.get_running_loop(), self.service.device
        connection = Connection(
            self.limits, self.service.models, self.service.opened, self.service.now, self.service.metrics,
            Inbox(loop, self.limits.waiting, device.wake), Outbox(loop, OUT, device.wake),
        )  # fmt: skip
        if hello.resume is not None and hello.kind not in FLOWING:
            raise Refusal(f"A session of kind {hello.kind} cannot go on; start a new one.", HTTPStatus.BAD_REQUEST)
        return _CLASSES[hello.kind](connection, hello)

    def _welcome(self, hello: Hello, live: Live, kept: Kept | None) -> Frame:
        models, spec = self.service.models, live.codec.spec
        flow = models.flow if hello.kind in FLOWING else None
        return frames.Handshake(
            {
                "session": self.id, "key": self.key, "kind": hello.kind, "model": models.name_of(live.codec), "codec": spec.to_dict(),
                "flow": None if flow is None else fingerprint(flow), "rate": live.rate, "channels": 2,
                "chunk_seconds": spec.chunk_seconds, "lookahead": hello.lookahead,
                "sample": 0 if kept is None else max(kept.place, hello.received), "limits": self.limits.to_dict(),
            }
        )  # fmt: skip

    async def _serve(self, live: Live) -> None:
        """Read and write until one of them ends, the time is over, or the service stops."""
        jobs = [asyncio.ensure_future(job) for job in (self._read(live), self._write(live), self._stop.wait())]
        try:
            done, _ = await asyncio.wait(
                jobs, timeout=self.limits.session_minutes * 60, return_when=asyncio.FIRST_COMPLETED
            )
            if jobs[1] in done:
                jobs[1].result()
            elif jobs[2] in done:
                await self._hand_over(live)
            elif jobs[0] in done:
                jobs[0].result()
            else:
                minutes = f"{self.limits.session_minutes:g} minutes"
                raise over("session_minutes", minutes, minutes, "The session")
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)

    async def _read(self, live: Live) -> None:
        """Pings are answered here, so that reports pass by what waits; the rest is the session's."""
        while True:
            frame = await self.receive()
            if isinstance(frame, frames.Ping):
                live.report(frame.samples)
                self.service.device.wake()
                await self.send(frames.Ping(live.listener.sent, frame.echo))
            else:
                await live.connection.inbox.put(frame)

    async def _write(self, live: Live) -> None:
        async for frame in live.connection.outbox:
            await self.send(frame)

    async def receive(self) -> Frame:
        """The next frame. Raises `Gone`, or `Refusal` where none comes for too long, it is too large, or it is none."""
        try:
            message = await within(self.limits.idle_seconds, self.websocket.receive())
        except TimeoutError:
            seconds = f"{self.limits.idle_seconds:g} s"
            raise Refusal(
                f"Nothing came for {seconds} (idle_seconds). Send a ping now and then.",
                HTTPStatus.REQUEST_TIMEOUT,
                POLICY,
                "idle_seconds",
            ) from None
        if message["type"] == "websocket.disconnect":
            raise Gone
        data = message.get("bytes")
        if data is None:
            raise _no_frame("Got a message of text, expected binary frames (docs/serve.md).")
        if len(data) > self.limits.message_bytes:
            raise over("message_bytes", f"{len(data)} bytes", f"{self.limits.message_bytes} bytes", "A message")
        try:
            return frames.parse(data)
        except FormatError as error:
            raise _no_frame(str(error)) from None

    async def send(self, frame: Frame) -> None:
        """Send a frame. Raises `Gone` where nobody is there."""
        from starlette.websockets import WebSocketDisconnect

        try:
            await self.websocket.send_bytes(frame.to_bytes())
        except (
            WebSocketDisconnect,
            RuntimeError,
            OSError,
        ) as error:  # RuntimeError: Starlette's for a socket that is closed
            raise Gone from error

    async def _hand_over(self, live: Live) -> None:
        """Send the state to the client of a service that stops."""
        kept = self.kept = await self._kept(live)
        if kept is not None:
            for part in frames.parts(frames.What.state, kept.state):
                await self.send(part)
        raise Refusal(
            "The service stops. Go on with the state, or with the key when the service is back.",
            HTTPStatus.SERVICE_UNAVAILABLE,
            STOPPING,
        )

    async def _end(self, live: Live, client: str) -> None:
        """End the session at its next evaluation; keep its state, unless it came to its end."""
        live.cancel()
        kept = self.kept or await self._kept(live)
        if kept is not None and not live.ended:
            try:
                self.service.states.keep(self.key, dataclasses.replace(kept, client=client))
            except OSError as error:  # the session can still go on in this process
                self.service.log("not stored", session=self.id, error=str(error))

    async def _kept(self, live: Live) -> Kept | None:
        """What the session needs to go on; it is served no longer."""
        return await self.service.device.retire(live, live.kept)

    async def _last_words(self, frame: Frame) -> None:
        try:
            await self.send(frame)
        except Gone:
            self.service.log("gone", session=self.id)

    async def _close(self, code: int, reason: str) -> None:
        from starlette.websockets import WebSocketDisconnect

        try:
            await self.websocket.close(code, reason)
        except (WebSocketDisconnect, RuntimeError):  # RuntimeError: Starlette's for a socket that is closed
            self.service.log("gone", session=self.id)


def _no_frame(message: str) -> Refusal:
    return Refusal(message, HTTPStatus.BAD_REQUEST, NO_FRAME)
