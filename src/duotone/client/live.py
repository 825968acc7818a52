"""The client of live sessions: frames as values. Needs the package websockets."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from duotone.client.errors import raised
from duotone.errors import DuotoneError, ServiceError, UsageError
from duotone.serve import frames
from duotone.serve.frames import Frame, What

if TYPE_CHECKING:
    from duotone.audio.waveform import Waveform

_NORMAL = 1000  # close code


@dataclass(frozen=True)
class Sound:
    """A piece of sound `[2, T]` whose first sample is at `place` of the session."""

    place: int
    wave: Waveform


@dataclass(frozen=True)
class Part:
    """A part of a `.duo` or of a state."""

    what: What
    last: bool
    data: bytes


Got: TypeAlias = Any  # Sound, Part, or an event of `flow.protocol`, among them Error


class LiveSession:
    """A live session; iterate over what comes, until it ends. Tell with `played` how far you are: nothing is sent without end.

    `welcome` is what the service answered to the handshake: rate, chunk_seconds, sample, key, ... Raises `ServiceError` if the service
    cannot be reached or closes the session other than at its end, and what it tells if it refuses the session.
    """

    def __init__(self, url: str, token: str | None, timeout: float, hello: dict[str, Any]) -> None:
        self.url, self.token, self.timeout, self.hello = url, token, timeout, hello
        self.welcome: dict[str, Any] = {}
        self.arrived = 0  #: samples of the session that have come, for `received` when it is resumed
        self._stack = ExitStack()
        self._refused: DuotoneError | None = None

    def __enter__(self) -> LiveSession:
        try:
            from websockets.exceptions import WebSocketException
            from websockets.sync.client import connect
        except ImportError:
            raise UsageError('Live sessions need the package websockets: pip install "duotone[serve]".') from None
        headers = {} if self.token is None else {"Authorization": f"Bearer {self.token}"}
        url = self.url.replace("http", "ws", 1) + "/v1/session"
        with ExitStack() as stack:
            try:
                opened: Any = connect(url, additional_headers=headers, max_size=None, open_timeout=self.timeout)
                self._socket: Any = stack.enter_context(opened)
            except (OSError, WebSocketException) as error:
                raise ServiceError(
                    f"The service {self.url} cannot be reached ({error}). Start it: duotone serve."
                ) from None
            self._send(frames.Handshake(self.hello))
            first = self._frame()
            if not isinstance(first, frames.Handshake):
                raise self._refused or ServiceError("The service closed the session before it began.")
            self.welcome = first.document
            self.arrived = int(self.welcome["sample"])
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def rate(self) -> int:
        """Of the sound, in Hz."""
        return int(self.welcome["rate"])

    def __iter__(self) -> Iterator[Got]:
        while (found := self.receive()) is not None:
            yield found

    def receive(self) -> Got | None:
        """What comes next: sound, a part, an event; None at the session's end."""
        while True:
            frame = self._frame()
            if frame is None:
                return None
            if isinstance(frame, frames.Audio):
                from duotone.audio.waveform import Waveform

                self.arrived = frame.place + len(frame.samples)
                return Sound(frame.place, Waveform(np.ascontiguousarray(frame.samples.T), self.rate))
            if isinstance(frame, frames.Metadata):
                return Part(frame.what, frame.last, frame.data)
            if isinstance(frame, frames.Control):
                from duotone.flow.protocol import parse_event

                return parse_event(frame.text)
            if isinstance(frame, frames.Failure):
                from duotone.flow.protocol import Error

                told = frame.document
                return Error(
                    id=told.get("id"), message=str(told.get("message")), exit_code=int(told.get("exit_code", 1))
                )

    def command(self, command: Any) -> None:
        """Send a command of `flow.protocol`, as its value or as a dictionary."""
        if not isinstance(command, dict):  # what was not set is left out: a control that is named is changed
            command = {"type": command.type, **command.model_dump(mode="json", exclude_unset=True)}
        self._send(frames.Control(json.dumps(command)))

    def stop(self) -> None:
        """End the session: of an encoder, the rest comes then."""
        self.command({"type": "stop"})

    def played(self, samples: int) -> None:
        """Tell that so many samples of the session were played."""
        self._send(frames.Ping(samples, secrets.token_bytes(4)))

    def push(self, wave: Waveform, place: int) -> None:
        """Send sound, whose first sample is at `place`: of the recording for an encoder, of the session's sound for a jam."""
        from duotone.audio.wav_stream import pcm

        if wave.rate != self.rate:
            raise UsageError(
                f"The session has {self.rate} Hz, got sound of {wave.rate} Hz. Resample it: wave.resample({self.rate})."
            )
        for frame in frames.pieces(place, pcm(wave.to_channels(2).numpy()).T, wave.rate):
            self._send(frame)

    def upload(self, what: What, data: bytes, last: bool = True) -> None:
        """Send a `.duo`, a prompt or a state."""
        for frame in frames.parts(what, data, last):
            self._send(frame)

    def _send(self, frame: Frame) -> None:
        from websockets.exceptions import ConnectionClosed

        with suppress(ConnectionClosed):  # what came before, and why it was closed, is told by the next `receive`
            self._socket.send(frame.to_bytes())

    def _frame(self) -> Frame | None:
        """The next frame; None at the end. Remembers the last error, which tells why the session was closed."""
        from websockets.exceptions import ConnectionClosed

        try:
            frame = frames.parse(self._socket.recv())
        except ConnectionClosed:
            self._over()
            return None
        if isinstance(frame, frames.Failure):
            self._refused = raised(frame.document)
        return frame

    def _over(self) -> None:
        """Raise why the session was closed, unless it came to its end."""
        code = self._socket.close_code
        if code != _NORMAL:
            raise self._refused or ServiceError(
                f"The connection was lost (close code {code}). Go on with resume={self.welcome.get('key')!r}."
            )
