"""Carries out the commands of the protocol on a session, and plays it into a sink. One thread, no clock of its own.

Legend: c channels, T samples.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from duotone.atomic import write_bytes
from duotone.audio.wav_stream import pcm
from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.errors import DuotoneError, UsageError
from duotone.flow import protocol as p
from duotone.flow.model import FlowModel
from duotone.flow.prompt import Given, read_prompt
from duotone.flow.session import Asked, Session, resume
from duotone.flow.solvers import SOLVERS, driven
from duotone.flow.weights import fingerprint


class Sink(Protocol):
    """What plays: a sound card, a file, or nothing."""

    buffer: float  #: seconds between the sink and the ear
    underruns: int  #: times that it waited for sound

    @property
    def played(self) -> int:
        """Samples of the current session that were heard."""
        ...

    def begin(self) -> None:
        """A session begins: count from 0."""
        ...

    def write(self, wave: Waveform) -> None:
        """Take the next piece."""
        ...


class Places(Protocol):
    """Where commands find prompts and states, and leave states."""

    def prompt(self, name: str | None, codec: Codec) -> Given:
        """The prompt of that name."""
        ...

    def read(self, name: str) -> bytes:
        """The state of that name."""
        ...

    def write(self, name: str, state: bytes) -> None:
        """Leave a state under that name."""
        ...


class Paths:
    """Names are paths of this machine."""

    def prompt(self, name: str | None, codec: Codec) -> Given:
        """A sound file or a .duo, the whole of it."""
        return Given(read_prompt(name, codec))

    def read(self, name: str) -> bytes:
        """A file's bytes."""
        return Path(name).read_bytes()

    def write(self, name: str, state: bytes) -> None:
        """Write a file, completely or not at all."""
        write_bytes(name, state)


class Desk:
    """A flow, a codec, a sink, and at most one session; `emit` gets every event.

    `host` is whether chunks are made by the command `step` alone; else `work` makes them as the sink plays. `places` is what the names in
    commands mean.
    """

    def __init__(
        self,
        model: FlowModel,
        codec: Codec,
        sink: Sink,
        emit: Callable[[Any], None],
        host: bool = False,
        places: Places | None = None,
    ) -> None:
        self.model, self.codec, self.sink, self.emit, self.host = model, codec, sink, emit, host
        self.places = Paths() if places is None else places
        self.session: Session | None = None
        self.slack: list[float] = []  #: of the last pieces, in seconds
        self._audio = self._stuck = False
        self.base = 0  #: samples that were made before the sink began: a session that goes on

    def ready(self) -> None:
        """Tell what is loaded."""
        spec, config = self.codec.spec, self.model.config
        self.emit(
            p.Ready(
                flow=fingerprint(self.model), codec=spec.fingerprint, rate=spec.rate_out, channels=2,
                chunk_seconds=spec.chunk_seconds, tokens=config.tokens, token_channels=config.channels, solvers=SOLVERS,
            )
        )  # fmt: skip

    def line(self, text: str) -> None:
        """Carry out a line of JSON; errors become events."""
        try:
            self.do(p.parse(text))
        except (DuotoneError, OSError) as error:
            self.emit(_error(error, p.identity(text)))

    def do(self, command: Any) -> None:
        """Carry out a command. Raises `DuotoneError` or `OSError` where it cannot be; then nothing has changed."""
        if isinstance(command, p.Start):
            self._start(command)
        elif isinstance(command, p.Import):
            self._import(command)
        elif isinstance(command, p.Set):
            at = self._playing().set(command.controls)
            self._ack(command, at, command.controls.named())
        elif isinstance(command, p.Reseed):
            self._ack(command, self._playing().reseed(command.seed, command.fade))
        elif isinstance(command, p.Reanchor):
            self._ack(command, self._playing().reanchor(command.fade))
        elif isinstance(command, p.Input):
            self._input(command)
        elif isinstance(command, p.Step):
            self._step(command)
        elif isinstance(command, p.Export):
            self._export(command)
        elif isinstance(command, p.AskHealth):
            self._health(self._playing(), command.id)
        else:
            self.stop(command.id)

    def _health(self, session: Session, id: p.Id) -> None:
        figures = session.health().to_dict()
        placed, late = session.placed, session.late
        self.emit(p.HealthEvent(id=id, **figures, placed=placed, late=late, underruns=self.sink.underruns))

    def _watch(self, session: Session) -> None:
        """Tell without being asked when the music begins to seem stuck."""
        stuck = session.health().stuck is not None
        if stuck and not self._stuck:
            self._health(session, None)
        self._stuck = stuck

    @property
    def heard(self) -> int:
        """Samples of the session's sound that were heard."""
        return self.base + self.sink.played

    def due(self) -> bool:
        """Whether a chunk should be made now: no more than the look-ahead is made and not heard."""
        session = self.session
        if session is None or self.host:
            return False
        if session.queued:
            return True
        chunk = round(self.codec.spec.chunk_seconds * session.rate)
        return session.made - self.heard <= session.lookahead * chunk

    def work(self) -> None:
        """Make a chunk and hand it to the sink, if one is due; a session that fails is stopped."""
        driven(self.working(), lambda asked: asked.run())

    def working(self) -> Generator[Asked, Any, None]:
        """The same, asking for each evaluation (`Session.making`); no command may be carried out between two asks."""
        if not self.due():
            return
        try:
            session = self._playing()
            if not session.queued:
                yield from session.making()
            self._hand_over(session.taken, session.take())
        except (DuotoneError, OSError) as error:
            self.emit(_error(error, None))
            self.stop()

    def stop(self, id: p.Id = None) -> None:
        """End the session. Raises `UsageError` if none plays."""
        session = self._playing()
        session.closed, self.session = True, None
        self.emit(
            p.Stopped(
                id=id, samples=session.made, chunks=session.chunks, steps=session.steps, evaluations=session.evaluations,
                underruns=self.sink.underruns,
            )
        )  # fmt: skip

    def _playing(self) -> Session:
        if self.session is None:
            raise UsageError('No session plays. Send {"type": "start"} first.')
        return self.session

    def _start(self, command: p.Start) -> None:
        given = self.places.prompt(command.prompt, self.codec)
        session = Session(
            self.model, self.codec, given.prompt, command.seed, None, command.lookahead, include_prompt=command.include_prompt
        )  # fmt: skip
        session.set(command.controls)
        self._replace(session, command.id, command.audio, given.left_out)

    def _import(self, command: p.Import) -> None:
        if (command.path is None) == (command.state is None):
            raise UsageError("import needs a path or a state, and not both.")
        data = self.places.read(command.path) if command.path is not None else _bytes(command.state or "")
        self._replace(resume(self.model, self.codec, data), command.id, command.audio)

    def _replace(self, session: Session, id: p.Id, audio: bool, left_out: float = 0.0) -> None:
        if self.session is not None:
            self.stop()
        self.session, self._audio, self.base = session, audio, session.taken
        self.slack.clear()
        self.sink.begin()
        self.emit(
            p.Started(
                id=id, sample=session.made, prompt_chunks=session.prompt_chunks, prompt_left_out=left_out, lookahead=session.lookahead,
                latency_seconds=session.latency(self.sink.buffer).seconds, controls=session.controls.to_dict(),
            )
        )  # fmt: skip

    def _ack(self, command: Any, sample: int, values: dict[str, Any] | None = None) -> None:
        self.emit(p.Ack(id=command.id, command=command.type, sample=sample, values=values or {}))

    def _input(self, command: p.Input) -> None:
        session = self._playing()
        data = _bytes(command.samples)
        if len(data) % (2 * command.channels):
            raise UsageError(f"input got {len(data)} bytes, expected a multiple of {2 * command.channels}.")
        samples = np.frombuffer(data, "<i2").reshape(-1, command.channels).T
        wave = Waveform(np.ascontiguousarray(samples.astype(np.int16)), self.codec.spec.rate)
        at = self.heard if command.at is None and not session.input_begun else command.at
        session.push(wave, at)
        self._ack(command, session.made)

    def _step(self, command: p.Step) -> None:
        if not self.host:
            raise UsageError("step is for a clock that the host drives: start with --clock host.")
        session = self._playing()
        at = session.taken
        for _ in range(command.chunks):
            self._hand_over(session.taken, next(session))
        self._ack(command, at)

    def _export(self, command: p.Export) -> None:
        session = self._playing()
        data = session.state()
        if command.path is not None:
            self.places.write(command.path, data)
        text = None if command.path is not None else base64.b64encode(data).decode()
        self.emit(p.State(id=command.id, path=command.path, state=text, sample=session.taken))

    def _hand_over(self, first: int, wave: Waveform | None) -> None:
        """Give the next piece, whose first sample is `first`, to the sink."""
        session = self._playing()
        assert wave is not None  # one was made
        heard = self.heard
        slack = (first - heard) / session.rate
        self.sink.write(wave)
        self.slack = [*self.slack[-999:], slack]
        peak = float(wave.samples.abs().max()) if wave.length else 0.0
        text = base64.b64encode(pcm(wave.numpy()).T.tobytes()).decode() if self._audio else None
        self._watch(session)
        self.emit(p.Audio(sample=first, count=wave.length, heard=heard, peak=peak, slack_seconds=slack, samples=text))


def _error(error: DuotoneError | OSError, id: p.Id) -> p.Error:
    code = error.exit_code if isinstance(error, DuotoneError) else 7
    return p.Error(id=id, message=str(error), exit_code=code)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("Got text that is not base64.") from None


def slack_percentile(slack: list[float], share: float) -> float:
    """The slack that this share of the pieces fell below; 0 without any."""
    return float(torch.tensor(slack).quantile(share)) if slack else 0.0
