"""A client of sessions for tests that shows every frame; nothing of the library's own client is in it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, ConnectionClosedOK
from websockets.sync.client import ClientConnection, connect

from duotone.serve import frames
from duotone.serve.frames import Audio, Control, Failure, Handshake, Ping
from serving import WAIT_S, Running


class Talk:
    """One end of a session, which plays what it hears at once."""

    def __init__(self, running: Running, hello: dict[str, Any] | None = None, **options: Any) -> None:
        url = f"ws://127.0.0.1:{running.port}/v1/session"
        # It reads all the time, and nobody is given up because a slow machine has let him wait.
        patient: dict[str, Any] = {
            "max_queue": None,
            "ping_interval": None,
            "open_timeout": WAIT_S,
            "close_timeout": WAIT_S,
        }
        self._context: Any = connect(url, max_size=None, **patient, **options)
        self.socket: ClientConnection = self._context.__enter__()
        self.at = 0  # samples heard
        self._rest = np.zeros((0, 2), np.int16)  # heard and not asked for yet
        if hello is not None:
            self.say(Handshake(hello))
            self.welcome = self.hear(Handshake).document
            self.at = self.welcome["sample"]

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.__exit__(None, None, None)

    def say(self, frame: Any) -> None:
        self.socket.send(frame.to_bytes())

    def command(self, **command: Any) -> None:
        self.say(Control(json.dumps(command)))

    def hear(self, kind: type | None = None) -> Any:
        frame = frames.parse(self.socket.recv(timeout=WAIT_S))
        assert kind is None or isinstance(frame, kind), frame
        if isinstance(frame, Audio):
            assert frame.place == self.at
            self.at += len(frame.samples)
            self._rest = np.concatenate([self._rest, frame.samples])
        return frame

    def event(self, name: str) -> dict[str, Any]:
        """The next event of that name."""
        while True:
            frame = self.hear()
            assert not isinstance(frame, Failure), frame
            if isinstance(frame, Control) and (found := json.loads(frame.text))["type"] == name:
                return found

    def sound(self, samples: int) -> np.ndarray:
        """The next samples `[T, 2]`."""
        while len(self._rest) < samples:
            with suppress(ConnectionClosedOK):  # a session of decoding may have sent everything, and ended
                self.say(Ping(self.at))
            frame = self.hear()
            assert not isinstance(frame, Failure), frame
        found, self._rest = self._rest[:samples], self._rest[samples:]
        return found

    def rest(self) -> np.ndarray:
        """What was heard and not asked for."""
        return self.sound(len(self._rest))

    def closed(self) -> tuple[int, list[Any]]:
        """The code of the close, and the frames before it."""
        found = []
        try:
            while True:
                found.append(self.hear())
        except ConnectionClosed as error:
            assert error.rcvd is not None
            return error.rcvd.code, found
