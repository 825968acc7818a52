"""Live sessions of a flow: continue and jam. Commands, events and their meaning are those of `flow.protocol`."""

from __future__ import annotations

import base64
from collections import deque
from typing import Any

import numpy as np

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.errors import UsageError
from duotone.flow import protocol
from duotone.flow.desk import Desk
from duotone.flow.prompt import Given
from duotone.flow.solvers import evaluations
from duotone.serve import frames
from duotone.serve.asks import FLOW, asking
from duotone.serve.frames import Frame, What
from duotone.serve.hello import Hello
from duotone.serve.live import Connection, Live, unexpected
from duotone.serve.prompts import prompt_of
from duotone.serve.refusal import over
from duotone.serve.states import Kept
from duotone.serve.tasks import Call, Work
from duotone.serve.uploads import Upload


class LiveFlow(Live):
    """A desk whose sink is a listener far away."""

    def __init__(self, connection: Connection, hello: Hello) -> None:
        super().__init__(connection, hello)
        self._uploads: dict[What, Upload] = {}
        self._tail: deque[frames.Audio] = deque()  # what was sent and not played
        self._prompt = Given()
        self._input_end: int | None = None  # where the user's sound that came last ends
        self.desk = Desk(connection.models.playing(), self.codec, self.listener, self._told, places=self)

    def begin(self, kept: Kept | None) -> None:
        """Tell what is loaded; go on with what was kept. The first thing that the model thread does."""
        self.desk.ready()
        if kept is None:
            return
        self.desk.do(protocol.Import(state=base64.b64encode(kept.state).decode()))
        samples = np.frombuffer(kept.tail, "<i2").reshape(-1, 2)
        skip = max(0, self.hello.received - kept.place)
        for frame in frames.pieces(kept.place + skip, samples[skip:], self.rate):
            self.send(frame)

    def demand(self) -> list[tuple[str, float]]:
        """The evaluations of a chunk, its entering the context, and its decoding, by the settings stored with the flow, or as they are set."""
        session, seconds = self.desk.session, self.codec.spec.chunk_seconds
        sampling = self.desk.model.config.sampling if session is None else session.controls.sampling
        asks = evaluations(sampling.solver, sampling.steps) + 1
        return [(FLOW, asks / seconds), *super().demand()]

    def sound_due(self) -> float | None:
        """Before the listener runs dry, if a session plays and the look-ahead is not full."""
        return self.listener.dry if self.desk.due() else None

    def make(self) -> Work:
        """The next piece."""
        yield from asking(self.desk.working())

    def take(self, frame: Frame) -> Work:
        """Commands, prompts and states; the user's sound in a jam."""
        if isinstance(frame, frames.Control):
            command = protocol.parse(frame.text)
            self._check(command)
            if isinstance(command, protocol.Start):
                yield from self._prompting(command)
            yield Call(lambda: self.desk.do(command), "command")
        elif isinstance(frame, frames.Metadata) and frame.what != What.duo:
            self._receive(frame)
        elif isinstance(frame, frames.Audio) and self.hello.kind == "jam":
            session = self.desk.session
            if session is None:
                raise UsageError("Got sound before a session plays. Send the command start first.")
            if self.rate != self.codec.spec.rate:
                raise UsageError(f"The codec takes {self.codec.spec.rate} Hz and gives {self.rate} Hz; it cannot jam.")
            wave = Waveform(np.ascontiguousarray(frame.samples.T), self.rate)
            place = None if frame.place == self._input_end else frame.place  # what follows is not aligned anew
            self._input_end = frame.place + wave.length
            yield Call(lambda: session.push(wave, place), "input")
        else:
            raise unexpected(frame, self.hello.kind)

    def _check(self, command: Any) -> None:
        if isinstance(command, protocol.Input) and self.hello.kind != "jam":
            raise UsageError("A session of kind continue takes no input. Open one of kind jam.")
        if isinstance(command, protocol.Start) and command.lookahead > self.limits.lookahead:
            raise over("lookahead", command.lookahead, self.limits.lookahead, "The command start")

    def _prompting(self, command: protocol.Start) -> Work:
        """Make latents of the prompt that a command names. Raises `UsageError` for one that was not sent."""
        self._prompt = Given()
        if command.prompt is not None:
            with self._sent(command.prompt, What.prompt).reader() as file:
                self._prompt = yield from prompt_of(file, self.codec, self.limits)

    def _receive(self, frame: frames.Metadata) -> None:
        """A part of a prompt or a state; the first part after a last one begins anew."""
        found = self._uploads.get(frame.what)
        if found is None or found.complete:
            if found is not None:
                found.close()
            found = self._uploads[frame.what] = self.upload()
        found.write(frame.data)
        found.complete = frame.last

    def _told(self, event: Any) -> None:
        """Events of the desk go to the client; sound goes as audio frames instead."""
        if isinstance(event, protocol.Audio):
            return
        if isinstance(event, protocol.Started):
            self.listener.begin(self.desk.base)
            self._tail.clear()
            self._input_end = None
        if isinstance(event, protocol.Ack):
            heard = (event.sample - self.desk.heard) / self.rate
            self.connection.figures.control.observe(max(0.0, heard))
        if isinstance(event, protocol.Error):
            self.send(frames.Failure(event.to_dict()))
            return
        self.event(event)

    def send(self, frame: Frame) -> None:
        """Hand a frame to the connection; sound is kept until it was played."""
        if isinstance(frame, frames.Audio):
            self._tail.append(frame)
            while self._tail and self._tail[0].place + len(self._tail[0].samples) <= self.desk.heard:
                self._tail.popleft()
        super().send(frame)

    def kept(self) -> Kept | None:
        """What the session needs to go on elsewhere; None if none plays."""
        session = self.desk.session
        if session is None or session.closed:
            return None
        place = self._tail[0].place if self._tail else session.taken
        return Kept("", session.state(), place, b"".join(frame.samples.tobytes() for frame in self._tail))

    def close(self) -> None:
        """Remove what was uploaded."""
        for upload in self._uploads.values():
            upload.close()
        super().close()

    # --- what names in commands mean: `flow.desk.Places`

    def prompt(self, name: str | None, codec: Codec) -> Given:
        """What was sent as a prompt, as latents that `_prompting` made."""
        return self._prompt

    def read(self, name: str) -> bytes:
        """What was sent as a state. Raises `UsageError` for any other name."""
        with self._sent(name, What.state).reader() as file:
            return file.read()

    def write(self, name: str, state: bytes) -> None:
        """Send a state. Raises `UsageError` for any name but download."""
        if name != "download":
            raise UsageError(
                'This service writes no files: leave the path out, or give "download" for metadata frames.'
            )
        for part in frames.parts(What.state, state):
            self.send(part)

    def _sent(self, name: str, what: What) -> Upload:
        if name != "upload":
            raise UsageError(
                f'This service reads no files: send the {what.name} as metadata frames, and give "upload".'
            )
        found = self._uploads.get(what)
        if found is None or not found.complete:
            raise UsageError(f"No whole {what.name} has come: send it as metadata frames, the last part marked, first.")
        return found
