"""Live encoding and live decoding.

Legend: c channels, T samples.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from duotone.audio.waveform import Waveform
from duotone.codec.container import DuoReader, DuoWriter
from duotone.codec.sessions import DecodeSession
from duotone.codec.values import Codes, Latents
from duotone.errors import FormatError, UsageError
from duotone.flow import protocol
from duotone.serve import frames
from duotone.serve.asks import Decode, kind_of
from duotone.serve.feed import Feed
from duotone.serve.files import Pieces, faced
from duotone.serve.frames import Frame, What
from duotone.serve.hello import Hello
from duotone.serve.live import Connection, Live, unexpected
from duotone.serve.refusal import over
from duotone.serve.tasks import Call, Work
from duotone.spec import Face


class LiveEncode(Live):
    """Audio frames -> the metadata frames of a `.duo`."""

    def __init__(self, connection: Connection, hello: Hello) -> None:
        super().__init__(connection, hello)
        spec = self.codec.spec
        self.face: Face = hello.face or spec.faces[-1]
        if self.face not in spec.faces:
            raise UsageError(f"face got {self.face}, and this codec has only {spec.faces[0]}.")
        self._stream = self.codec.encode_stream(self.rate, 2)
        self._pieces = Pieces()
        self._writer = DuoWriter(self._pieces, spec, self._stream.source, self.face)  # type: ignore[arg-type]
        self._samples = self._chunks = 0
        self._kind = kind_of("encode", spec)

    @property
    def rate(self) -> int:
        """Of the audio frames, in Hz: the client's."""
        return self.hello.rate or self.codec.spec.rate

    def demand(self) -> list[tuple[str, float]]:
        """A chunk is encoded when it is complete; the other frames cost next to nothing."""
        return [(kind_of("encode", self.codec.spec), 1 / self.codec.spec.chunk_seconds)]

    def sound_due(self) -> float | None:
        """None: this session makes no sound."""
        return None

    def make(self) -> Work:
        """Nothing."""
        yield from ()

    def take(self, frame: Frame) -> Work:
        """Audio frames, and the command stop."""
        if isinstance(frame, frames.Audio):
            if frame.place != self._samples:
                raise FormatError(
                    f"Got sound from sample {frame.place} on, expected {self._samples}: none may be left out."
                )
            self._samples += len(frame.samples)
            if self._samples > self.limits.decoded_seconds * self.rate:
                raise over("decoded_seconds", "more", f"{self.limits.decoded_seconds:g} s", "The session")
            wave = Waveform(np.ascontiguousarray(frame.samples.T), self.rate)
            value = yield Call(lambda: self._stream.push(wave), self._kind)
            self._write(value)
        elif isinstance(frame, frames.Control):
            command = protocol.parse(frame.text)
            if not isinstance(command, protocol.Stop):
                raise UsageError(f"A session of kind encode takes the command stop alone, and got {command.type}.")
            self._write((yield Call(self._stream.finish, self._kind)))
            self._writer.finish(self._stream.source)
            self._hand_over(last=True)
            self.event(
                protocol.Stopped(
                    id=command.id, samples=self._samples, chunks=self._chunks, steps=0, evaluations=0, underruns=0
                )
            )
            self.end()
        else:
            raise unexpected(frame, "encode")

    def _write(self, value: Latents | Codes) -> None:
        self._chunks += len(value)
        self._writer.write(faced(value, self.face))
        self._writer.flush()
        self._hand_over(last=False)

    def _hand_over(self, last: bool) -> None:
        data = self._pieces.take()
        if data or last:
            for part in frames.parts(What.duo, data, last):
                self.send(part)


class LiveDecode(Live):
    """The metadata frames of a `.duo` -> audio frames, at most the look-ahead beyond what was played."""

    def __init__(self, connection: Connection, hello: Hello) -> None:
        super().__init__(connection, hello)
        self._upload = self.upload()
        self._feed = Feed(self._upload, self.codec.check)
        self._stream: DecodeSession | None = None
        self._values: deque[Latents | Codes] = deque()
        self._chunks = 0
        self._whole = False
        wishes = hello.options.model_dump(exclude_none=True)
        self._options = {**wishes, "seed": hello.seed}
        self.codec.decode_stream(self.codec.source(), **self._options)  # refuses what the codec does not have

    def sound_due(self) -> float | None:
        """Before the listener runs dry, where chunks have come and the look-ahead is not full."""
        spec = self.codec.spec
        chunk = round(spec.chunk * spec.rate_out / spec.rate)
        ahead = self.listener.sent - self.listener.base - self.listener.played
        if ahead > self.hello.lookahead * chunk or not (self._values or self._feed.ready):
            return None
        return self.listener.dry

    def take(self, frame: Frame) -> Work:
        """Metadata frames of a `.duo`, and the command stop."""
        if isinstance(frame, frames.Metadata) and frame.what == What.duo:
            if self._whole:
                raise UsageError("Got more of a .duo whose last part has come.")
            self._upload.write(frame.data)
            self._whole = self._feed.complete = frame.last
        elif isinstance(frame, frames.Control) and isinstance(command := protocol.parse(frame.text), protocol.Stop):
            self._stop(command.id)
        else:
            raise unexpected(frame, "decode")
        yield from ()

    def make(self) -> Work:
        """Decode the next chunk; after the last one the end, which needs no room in the look-ahead."""
        if self._values:
            chunk, stream = self._values.popleft(), self._stream
            assert stream is not None
            self._chunks += 1
            if self._chunks * self.codec.spec.chunk_seconds > self.limits.decoded_seconds:
                raise over("decoded_seconds", "more", f"{self.limits.decoded_seconds:g} s", "The .duo")
            wave = yield Decode(stream, chunk)
            self._play(wave)
        if not self._values:
            yield from self._read_on()

    def _read_on(self) -> Work:
        """The next values, if they have come."""
        value = self._feed.next()
        reader = self._feed.reader
        if reader is not None and self._stream is None:
            self._stream = self._opened(reader)
        if value is not None:
            self._values.extend(value[i] for i in range(len(value)))
        elif self._feed.over:
            yield from self._finish()

    def _opened(self, reader: DuoReader) -> DecodeSession:
        return self.codec.decode_stream(reader.source, restore=False, **self._options)

    def _finish(self) -> Work:
        stream, reader = self._stream, self._feed.reader
        if stream is None or reader is None or self._chunks == 0:
            raise FormatError("The .duo holds no chunk; there is nothing to decode.")
        wave = yield Call(lambda: stream.finish(reader.source), "finish")
        self._play(wave)
        self._stop(None)

    def _play(self, wave: Waveform) -> None:
        if wave.length:
            self.listener.write(wave)

    def _stop(self, id: protocol.Id) -> None:
        sent = self.listener.sent
        self.event(
            protocol.Stopped(
                id=id, samples=sent, chunks=self._chunks, steps=0, evaluations=0, underruns=self.listener.underruns
            )
        )
        self.end()

    def close(self) -> None:
        """Remove what was uploaded."""
        self._feed.close()
        self._upload.close()
        super().close()
