"""Reading and writing sound files: whole, or in blocks so that a file of any length passes in constant memory.

wav, flac, ogg/vorbis, opus and mp3 through libsndfile; ``-`` is standard input or output.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO

import numpy as np
import soundfile
import torch

from duotone.audio.resample import Resampler
from duotone.audio.waveform import Waveform, check_finite, check_format
from duotone.errors import AudioError, UsageError

#: Extension -> (libsndfile format, subtype, rates it can hold or None for any).
FORMATS: dict[str, tuple[str, str, tuple[int, ...] | None]] = {
    ".wav": ("WAV", "PCM_16", None),
    ".flac": ("FLAC", "PCM_16", None),
    ".ogg": ("OGG", "VORBIS", None),
    ".oga": ("OGG", "VORBIS", None),
    ".opus": ("OGG", "OPUS", (8_000, 12_000, 16_000, 24_000, 48_000)),
    ".mp3": ("MP3", "MPEG_LAYER_III", (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)),
}
EXTENSIONS = tuple(FORMATS)
BLOCK_SECONDS = 10.0
_SLICE = 1 << 16  # frames handed to libsndfile at once: its vorbis encoder overflows its stack on long blocks
_SPOOL = 8 << 20


def read(source: str | Path | BinaryIO) -> Waveform:
    """Read a whole file (``-``: standard input). Raises `AudioError` saying what is wrong and what to do."""
    with open_reader(source) as reader:
        blocks = [block.samples for block in reader]
        return Waveform(torch.cat(blocks, dim=1), reader.rate)


def write(
    target: str | Path, wave: Waveform, *, force: bool = True, format: str | None = None, subtype: str | None = None
) -> None:
    """Write a whole file (``-``: standard output), atomically; the extension gives the format.

    Samples beyond +-1 are clamped where the format holds integers. Raises `AudioError` for zero samples or an unknown
    format, `UsageError` if the file exists and `force` is off.
    """
    if not force and str(target) != "-" and Path(target).exists():
        raise UsageError(f"{target} exists already. Choose another name, or pass force=True to replace it.")
    if wave.length == 0:
        raise AudioError(f"{target} would hold zero samples; there is nothing to write.")
    with open_writer(target, wave.rate, wave.channels, format=format, subtype=subtype) as writer:
        writer.write(wave)


def open_reader(source: str | Path | BinaryIO, block: float = BLOCK_SECONDS) -> AudioReader:
    """Open a file for reading in blocks of `block` seconds; use as a context manager."""
    return AudioReader(source, block)


def open_writer(
    target: str | Path, rate: int, channels: int, *, format: str | None = None, subtype: str | None = None
) -> AudioWriter:
    """Open a file for writing block by block; use as a context manager."""
    return AudioWriter(target, rate, channels, format=format, subtype=subtype)


class AudioReader:
    """Iterates over a file as `Waveform` blocks. `rate`, `channels`, and `samples` (a channel, None if not known)."""

    def __init__(self, source: str | Path | BinaryIO, block: float = BLOCK_SECONDS) -> None:
        self.name = "standard input" if source == "-" else str(getattr(source, "name", source))
        self._own: IO[bytes] | None = None
        self._file = self._open(source)
        try:
            self.rate, self.channels = int(self._file.samplerate), int(self._file.channels)
            check_format(self.rate, self.channels, self.name)
        except AudioError:
            self.close()
            raise
        frames = int(self._file.frames)
        self.samples: int | None = frames if 0 < frames < 1 << 48 else None
        self._block = max(1, int(block * self.rate))

    def _open(self, source: str | Path | BinaryIO) -> soundfile.SoundFile:
        if source == "-" or not isinstance(source, (str, Path)):
            stream: Any = sys.stdin.buffer if source == "-" else source
            spool: IO[bytes] = tempfile.TemporaryFile(prefix="duotone-")  # noqa: SIM115 (closed in close)
            shutil.copyfileobj(stream, spool, _SPOOL)
            size = spool.tell()
            spool.seek(0)
            self._own = spool
            if size == 0:
                self.close()
                raise AudioError(f"{self.name} is empty (0 bytes). Was the program before the pipe successful?")
            return self._sound(spool)
        path = Path(source)
        if path.is_dir():
            raise AudioError(f"{path} is a folder, expected a sound file. Name the files in it.")
        if not path.exists():
            raise AudioError(f"There is no file {path}. Check the name and the folder.")
        if path.stat().st_size == 0:
            raise AudioError(f"{path} is empty (0 bytes). Copy or export it again.")
        return self._sound(str(path))

    def _sound(self, source: Any) -> soundfile.SoundFile:
        try:
            return soundfile.SoundFile(source)
        except (soundfile.LibsndfileError, TypeError) as error:
            self.close()
            raise AudioError(
                f"{self.name} is not a sound file that can be read ({error}). "
                f"Expected {', '.join(e[1:] for e in EXTENSIONS)}; convert it first, for example with: ffmpeg -i IN OUT.wav"
            ) from None

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if hasattr(self, "_file"):
            self._file.close()
        if self._own is not None:
            self._own.close()

    def __iter__(self) -> Iterator[Waveform]:
        """Blocks in order. Raises `AudioError` for a cut or damaged file, or samples that are not finite."""
        done = 0
        while True:
            try:
                array = self._file.read(self._block, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise AudioError(
                    f"{self.name} is damaged after {done / self.rate:.3f} s ({error}). Copy or export it again."
                ) from None
            if len(array) == 0:
                break
            samples = torch.from_numpy(np.ascontiguousarray(array.T))
            check_finite(samples, self.rate, self.name, done)
            done += len(array)
            yield Waveform(samples, self.rate)
        if done == 0:
            raise AudioError(f"{self.name} holds zero samples; there is nothing to do with it.")
        if self.samples is not None and done < self.samples:
            raise AudioError(
                f"{self.name} is cut short: its header promises {self.samples} samples and it holds {done} "
                f"({done / self.rate:.3f} s). Copy or export it again."
            )


class AudioWriter:
    """Writes blocks to a temporary file beside the target and renames it at a clean end of the ``with`` block."""

    def __init__(
        self, target: str | Path, rate: int, channels: int, *, format: str | None = None, subtype: str | None = None
    ) -> None:
        check_format(rate, channels, "The output")
        self.target = target
        extension = (
            f".{(format or 'wav').lstrip('.').lower()}" if target == "-" or format else Path(target).suffix.lower()
        )
        if extension not in FORMATS:
            raise AudioError(
                f"{target} has the extension {extension or '(none)'!r}, expected one of {', '.join(EXTENSIONS)}."
            )
        container, kind, rates = FORMATS[extension]
        self.rate, self.channels = rate, channels
        self._resampler: Resampler | None = None
        if rates is not None and rate not in rates:  # formats of few rates get the sound at 48 kHz
            self._resampler, rate = Resampler(rate, 48_000, channels), 48_000
        folder = None if target == "-" else Path(target).resolve().parent
        if folder is not None and not folder.is_dir():
            raise AudioError(f"There is no folder {folder} to write into. Create it first.")
        handle, name = tempfile.mkstemp(prefix=".duotone-", suffix=extension, dir=folder)
        os.close(handle)
        self._temporary = Path(name)
        self._count = 0
        try:
            self._file = soundfile.SoundFile(name, "w", rate, channels, subtype or kind, format=container)
        except (soundfile.LibsndfileError, ValueError) as error:
            self._temporary.unlink(missing_ok=True)
            raise AudioError(f"{target} cannot be written as {container}/{subtype or kind}: {error}") from None
        self._integers = (subtype or kind) not in ("FLOAT", "DOUBLE")

    def __enter__(self) -> AudioWriter:
        return self

    def write(self, wave: Waveform) -> None:
        """Append a block of the writer's rate and channels (else `AudioError`)."""
        if (wave.rate, wave.channels) != (self.rate, self.channels):
            raise AudioError(
                f"The writer got {wave.channels} channels at {wave.rate} Hz, expected {self.channels} at {self.rate} Hz."
            )
        check_finite(wave.samples, wave.rate, f"The sound for {self.target}", self._count)
        self._count += wave.length
        self._put(wave.samples if self._resampler is None else self._resampler.push(wave.samples))

    def _put(self, samples: torch.Tensor) -> None:
        for part in torch.split(samples, _SLICE, dim=1):
            data = part.clamp(-1, 1) if self._integers else part
            self._file.write(data.numpy().T)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._resampler is not None:
                self._put(self._resampler.finish())
            self._file.close()
            if kind is None:
                self._deliver()
        finally:
            self._temporary.unlink(missing_ok=True)

    def _deliver(self) -> None:
        if self.target == "-":
            with self._temporary.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, _SPOOL)
            sys.stdout.buffer.flush()
            return
        mask = os.umask(0)
        os.umask(mask)
        self._temporary.chmod(0o666 & ~mask)  # temporary files are private; the result has the usual rights
        os.replace(self._temporary, self.target)
