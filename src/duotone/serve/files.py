"""Files, piece by piece: a sound becomes a `.duo`, a `.duo` becomes WAV or FLAC, while it is made."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, BinaryIO, Literal

import soundfile
import torch

from duotone.audio.files import AudioReader, open_reader
from duotone.audio.wav_stream import WavStream, pcm
from duotone.audio.waveform import Waveform
from duotone.codec.container import DuoReader, DuoWriter, describe
from duotone.codec.contract import Codec
from duotone.codec.duofile import TooDamaged
from duotone.codec.header import MAGIC
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, FormatError, UsageError
from duotone.serve.outbox import Outbox
from duotone.serve.refusal import over
from duotone.serve.settings import Limits
from duotone.serve.tasks import Call, Task, Work
from duotone.spec import Face

SoundFormat = Literal["wav", "flac"]
MEDIA = {"wav": "audio/wav", "flac": "audio/flac"}


class Pieces(io.RawIOBase):
    """A file that can only be appended to, and is read away by `take`. What is written again at an earlier place is dropped."""

    def __init__(self) -> None:
        super().__init__()
        self._data = bytearray()
        self._end = self._at = 0

    def writable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes: libsndfile asks for it."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As any file's."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        """As any file's."""
        return self._at

    def write(self, data: Any) -> int:
        """As any file's, at the end."""
        count = len(data)
        new = max(0, self._at + count - self._end)
        self._data += bytes(data)[count - new :] if new else b""
        self._at += count
        self._end = max(self._end, self._at)
        return count

    def take(self) -> bytes:
        """What was appended since the last call."""
        found, self._data = bytes(self._data), bytearray()
        return found


class FileJob(Task):
    """Makes the bytes of an answer whenever sessions leave time for it, as fast as they are taken."""

    def __init__(self, pieces: Iterator[bytes], outbox: Outbox, resources: ExitStack, kind: str) -> None:
        super().__init__()
        self._pieces, self.outbox, self._resources, self._kind = pieces, outbox, resources, kind
        self._over = False

    def due(self, now: float) -> float | None:
        """After everything that has a deadline."""
        return None if self._over or self.outbox.full else math.inf

    def work(self) -> Work:
        """The next bytes."""
        piece = yield Call(lambda: next(self._pieces, None), self._kind)
        if piece is None:
            self._over = True
            self.outbox.finish()
        elif piece:
            self.outbox.put(piece)

    def failed(self, error: Exception) -> None:
        """Tell whoever waits."""
        self.outbox.finish(error)

    def close(self) -> None:
        """Close the reader, and the upload with it."""
        with self._resources:
            self._pieces.close()  # type: ignore[attr-defined]
        self.outbox.finish(ConnectionAbortedError("The service stopped before the answer was complete."))

    @property
    def ended(self) -> bool:
        """Whether all bytes were made."""
        return self._over


def encoded(file: BinaryIO, codec: Codec, face: Face, most: float) -> Iterator[bytes]:
    """A sound file as a `.duo`. Raises `Refusal` where it has more than `most` seconds, `AudioError` where it is unusable."""
    if face not in codec.spec.faces:
        raise UsageError(f"kind got {face}, and this codec has only {codec.spec.faces[0]}.")
    pieces = Pieces()
    with open_reader(file, codec.spec.chunk_seconds) as reader:
        check_seconds(reader, most)
        with codec.encode_stream(reader.rate, reader.channels) as stream:
            told = stream.source.of_length(reader.samples)
            with DuoWriter(pieces, codec.spec, told, face) as writer:  # type: ignore[arg-type]
                for block in limited(reader, most):
                    writer.write(faced(stream.push(block), face))
                    yield pieces.take()
                writer.write(faced(stream.finish(), face))
                writer.finish(stream.source)
    yield pieces.take()


def decoded(
    file: BinaryIO, pick: Callable[[str], Codec], format: SoundFormat, most: float, seed: int, options: dict[str, Any]
) -> Iterator[bytes]:
    """A `.duo` as a sound file of 16 bits; `pick` gives the codec of a space. Raises `Refusal`, `FormatError` or `CodecMismatchError`."""
    pieces = Pieces()
    with DuoReader(file) as reader:
        codec = pick(reader.spec.space)
        codec.check(reader.spec)
        stream = codec.decode_stream(reader.source, seed=seed, **options)
        told, made = reader.source.samples, 0
        if told is not None and told > most * stream.rate:
            raise over("decoded_seconds", f"{told / stream.rate:.1f} s", f"{most:g} s", "The .duo")
        write, finish = _writer(pieces, format, stream.rate, stream.channels, told)
        for value in reader:
            made += len(value)
            if made * reader.spec.chunk_seconds > most + reader.spec.chunk_seconds:
                raise over("decoded_seconds", "more", f"{most:g} s", "The .duo")
            for i in range(len(value)):
                write(stream.push(value[i]))
                yield pieces.take()
        if made == 0:
            raise FormatError("The .duo holds no chunk; there is nothing to decode.")
        write(stream.finish(reader.source))
        finish()
    yield pieces.take()


def _writer(pieces: Pieces, format: SoundFormat, rate: int, channels: int, samples: int | None) -> tuple[Any, Any]:
    """Functions that take waveforms, and that end the file."""
    if format == "wav":
        stream = WavStream(pieces, rate, channels, samples)  # type: ignore[arg-type]
        return stream.write, lambda: None
    try:
        sound = soundfile.SoundFile(pieces, "w", rate, channels, "PCM_16", format="FLAC")
    except (soundfile.LibsndfileError, ValueError) as error:
        raise AudioError(f"FLAC cannot hold {channels} channels at {rate} Hz ({error}). Ask for wav.") from None
    return lambda wave: sound.write(pcm(wave.numpy()).T), sound.close


def limited(reader: AudioReader, most: float, limit: str = "decoded_seconds") -> Iterator[Waveform]:
    """The blocks of a sound. Raises `Refusal` naming the limit where they are more than `most` seconds, whatever the header said."""
    seconds = 0.0
    for block in reader:
        seconds += block.seconds
        if seconds > most:
            raise over(limit, "more", f"{most:g} s", "The sound")
        yield block


def check_seconds(reader: AudioReader, most: float, limit: str = "decoded_seconds") -> None:
    """Raise `Refusal` where the header tells of more than `most` seconds."""
    if reader.samples is not None and reader.samples > most * reader.rate:
        raise over(limit, f"{reader.samples / reader.rate:.1f} s", f"{most:g} s", "The sound")


def held(waves: Iterator[Waveform], most: int) -> Iterator[Waveform]:
    """The same waveforms, to be held in memory together. Raises `Refusal` where their samples have more than `most` bytes.

    A short file can hold hours of silence in many channels at a high rate, so that a limit in seconds is not enough.
    """
    room = most
    for wave in waves:
        room -= wave.samples.numel() * wave.samples.element_size()
        if room < 0:
            raise over("decoded_bytes", "more", f"{most} bytes of samples", "The sound")
        yield wave


def described(file: BinaryIO, limits: Limits) -> dict[str, Any]:
    """What an upload is. Raises `AudioError` or `FormatError` for what is neither a `.duo` nor a sound, `Refusal` for limits."""
    start = file.read(len(MAGIC))
    file.seek(0)
    if start == MAGIC:
        try:
            info = describe(file, limits.damages)
        except TooDamaged:
            raise over("damages", "more", f"{limits.damages} damaged places", "The .duo") from None
        return {
            "type": "duo", "version": info.version, "kind": info.kind, "codec": info.spec.to_dict(), "rate": info.source.rate,
            "channels": info.source.channels, "samples": info.source.samples, "seconds": info.seconds, "chunks": info.chunks,
            "bytes": info.bytes, "kbit_per_second": info.kbit_per_second,
            "information_kbit_per_second": info.information_kbit_per_second, "damage": [vars(d) for d in info.damage],
        }  # fmt: skip
    with open_reader(file) as reader:
        samples = reader.samples
        if samples is None:
            samples = sum(block.length for block in limited(reader, limits.decoded_seconds))
        return {
            "type": "sound", "rate": reader.rate, "channels": reader.channels, "samples": samples, "format": reader.format,
            "subtype": reader.subtype, "seconds": samples / reader.rate,
        }  # fmt: skip


def compared(reference: BinaryIO, estimate: BinaryIO, limits: Limits, speech: bool) -> dict[str, float | None]:
    """The metrics of a pair; None where one is infinite, as for equal sounds. Raises `AudioError` where the pair does not fit together."""
    from duotone.evaluate.metrics import measure

    found = measure(whole(reference, limits), whole(estimate, limits), speech)
    return {key: value if math.isfinite(value) else None for key, value in found.items() if not math.isnan(value)}


def whole(
    file: BinaryIO, limits: Limits, limit: Literal["decoded_seconds", "compared_seconds"] = "decoded_seconds"
) -> Waveform:
    """A sound that is held in memory. Raises `Refusal` where it is longer, or larger, than the limits allow."""
    most = getattr(limits, limit)
    with open_reader(file) as reader:
        check_seconds(reader, most, limit)
        blocks = [wave.samples for wave in held(limited(reader, most, limit), limits.decoded_bytes)]
        return Waveform.of_checked(torch.cat(blocks, dim=1), reader.rate)


def faced(value: Latents | Codes, face: Face) -> Latents | Codes:
    """A value as the face that is stored."""
    return value.codes() if face == "tokens" and isinstance(value, Latents) else value
