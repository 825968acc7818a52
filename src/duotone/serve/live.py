"""What live sessions share: frames in, frames out, errors, and what remains when the connection is lost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from duotone.audio.wav_stream import pcm
from duotone.audio.waveform import Waveform
from duotone.errors import DuotoneError
from duotone.flow import protocol
from duotone.serve import frames
from duotone.serve.asks import kind_of
from duotone.serve.frames import Frame
from duotone.serve.hello import Hello
from duotone.serve.inbox import Inbox
from duotone.serve.listener import Listener
from duotone.serve.models import Models
from duotone.serve.outbox import Outbox
from duotone.serve.refusal import Refusal, document, over, refused
from duotone.serve.settings import Limits
from duotone.serve.states import Kept
from duotone.serve.tasks import Call, Task, Work
from duotone.serve.uploads import Opener, Upload

#: Frames that may wait to be sent; with more, nothing is made.
OUT = 256


@dataclass(frozen=True)
class Connection:
    """What the service gives a session: its limits and means, and the two boxes of its connection."""

    limits: Limits
    models: Models
    opened: Opener
    now: Callable[[], float]
    figures: Any
    inbox: Inbox
    outbox: Outbox


class Live(Task):
    """A live session. `report` is called in the event loop's thread, everything else in the model thread."""

    def __init__(self, connection: Connection, hello: Hello) -> None:
        super().__init__()
        self.connection, self.hello, self.limits = connection, hello, connection.limits
        self.codec = connection.models.codec(hello.model)
        if hello.lookahead > self.limits.lookahead:
            raise over("lookahead", hello.lookahead, self.limits.lookahead, "The handshake's lookahead")
        self.listener = Listener(hello.kind, self.rate, connection.now, self._sound, connection.figures)
        self.first: Callable[[], None] | None = None  #: called before everything else
        self._faults = 0
        self._over = False

    @property
    def rate(self) -> int:
        """Of the audio frames, in Hz."""
        return self.codec.spec.rate_out

    @property
    def ended(self) -> bool:
        """Whether the session came to its end."""
        return self._over

    def begin(self, kept: Kept | None) -> None:
        """What comes first; sessions that can go on take what was kept."""

    def kept(self) -> Kept | None:
        """What the session needs to go on elsewhere; None where it cannot."""
        return None

    def demand(self) -> list[tuple[str, float]]:
        """What the session asks the device for in real time: kinds of asks, and how many a second."""
        return [(kind_of("decode", self.codec.spec), 1 / self.codec.spec.chunk_seconds)]

    def report(self, samples: int) -> None:
        """The listener has played so many samples."""
        self.listener.report(samples)

    def due(self, now: float) -> float | None:
        """Frames that came are worked on at once; sound is due before the listener runs dry."""
        if self._over or self.connection.outbox.full:
            return None
        return now if self.first is not None or len(self.connection.inbox) else self.sound_due()

    @abstractmethod
    def sound_due(self) -> float | None:
        """When the next piece is due; None if none can or should be made."""

    @abstractmethod
    def make(self) -> Work:
        """Make the next piece."""

    @abstractmethod
    def take(self, frame: Frame) -> Work:
        """Work on a frame of the client."""

    def work(self) -> Work:
        """A frame that came, else a piece; errors of frames are told, and too many of them end the session."""
        if self.first is not None:
            first, self.first = self.first, None
            yield Call(first)
            return
        if not len(self.connection.inbox):
            yield from self.make()
            return
        frame = self.connection.inbox.take()
        try:
            yield from self.take(frame)
        except Refusal:
            raise
        except DuotoneError as error:
            self.fault(error, protocol.identity(frame.text) if isinstance(frame, frames.Control) else None)

    def fault(self, error: DuotoneError, id: protocol.Id = None) -> None:
        """Tell an error. Raises `Refusal` after too many."""
        self._faults += 1
        found = refused(error)
        assert found is not None  # every error of ours is known there
        self.send(frames.Failure(document(found, id)))
        if self._faults >= self.limits.faults:
            raise Refusal(
                f"There were {self._faults} errors in this session, the most that there may be (faults).",
                HTTPStatus.BAD_REQUEST, limit="faults",
            )  # fmt: skip

    def send(self, frame: Frame) -> None:
        """Hand a frame to the connection."""
        self.connection.outbox.put(frame)

    def event(self, event: Any) -> None:
        """Send an event of the protocol."""
        self.send(frames.Control(event.model_dump_json()))

    def end(self) -> None:
        """The session is complete."""
        self._over = True
        self.connection.outbox.finish()

    def failed(self, error: Exception) -> None:
        """Tell the connection why the session ends."""
        self.connection.outbox.finish(error)

    def close(self) -> None:
        """Let go of everything."""
        self.connection.outbox.finish()

    def upload(self) -> Upload:
        """A new place for what the client sends as metadata."""
        return Upload(self.limits.upload_bytes, self.connection.opened)

    def _sound(self, place: int, wave: Waveform) -> None:
        samples = pcm(wave.to_channels(2).numpy()).T
        for frame in frames.pieces(place, samples, self.rate):
            self.send(frame)


def unexpected(frame: Frame, kind: str) -> Refusal:
    """A frame that this kind of session does not take."""
    return Refusal(
        f"Got a frame of type {type(frame).__name__.lower()}, which a session of kind {kind} does not take (docs/serve.md).",
        HTTPStatus.BAD_REQUEST,
    )
