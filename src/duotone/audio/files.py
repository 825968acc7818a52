"""Read and write audio files: whole, or in blocks, so that files of any length need constant memory.

wav, flac, ogg/vorbis, opus and mp3 are read and written, and more are read (`formats.READABLE`), through libsndfile;
``-`` is standard input or output.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import soundfile
import torch

from duotone.atomic import replacing
from duotone.audio.blocks import BLOCK_SECONDS, Blocks, Source
from duotone.audio.formats import FORMATS as FORMATS
from duotone.audio.formats import READABLE as READABLE
from duotone.audio.formats import UNREADABLE_SOUND as UNREADABLE_SOUND
from duotone.audio.formats import WRITABLE as WRITABLE
from duotone.audio.formats import Format, check_format, shown
from duotone.audio.resample import Resampler
from duotone.audio.waveform import Waveform, check_finite
from duotone.errors import AudioError, UsageError

#: A file's name, or ``-`` for standard output.
Target = str | os.PathLike[str]
_SLICE = 1 << 16  # samples handed to libsndfile at once: its vorbis encoder overflows its stack on long blocks
_SPOOL = 8 << 20
_OGG = {"VORBIS": ".ogg", "OPUS": ".opus"}  # each with rates of its own


def read(source: Source) -> Waveform:
    """Read a whole file, or an open one (``-``: standard input): float32 samples `[C, T]`, mono or stereo, at the file's rate.

    Raises `AudioError` if it cannot be read, is empty, has more than two channels, or holds samples that are not finite.
    """
    with open_reader(source) as reader:
        blocks = [block.samples for block in reader]
        return Waveform.of_checked(torch.cat(blocks, dim=1), reader.rate)


def write(
    target: Target, wave: Waveform, *, force: bool = False, format: str | None = None, subtype: str | None = None
) -> None:
    """Write a file (``-``: standard output), completely or not at all; the suffix determines the format.

    `subtype` keeps more than the usual 16 bits: ``"PCM_24"`` or ``"FLOAT"`` for wav, ``"PCM_24"`` for flac (that of a
    file that was read is `AudioReader.subtype`). Samples beyond +-1 are clamped where the format holds integers. Raises
    `UsageError` for an unknown format, a missing folder, or a file that exists while `force` is off; `AudioError` for zero samples.
    """
    _check_arguments(target, wave)
    if wave.length == 0:
        raise AudioError(f"{shown(target)} would hold zero samples; there is nothing to write.")
    with AudioWriter(target, wave.rate, wave.channels, force=force, format=format, subtype=subtype) as writer:
        writer.write(wave)


def open_reader(source: Source, block: float = BLOCK_SECONDS) -> AudioReader:
    """Open a file for reading in blocks of `block` seconds; use as a context manager."""
    return AudioReader(source, block)


def open_writer(
    target: Target,
    rate: int,
    channels: int,
    *,
    format: str | None = None,
    subtype: str | None = None,
    comment: str | None = None,
) -> AudioWriter:
    """Open a file for writing block by block, replacing an existing one; use as a context manager. `comment` is kept in the file."""
    return AudioWriter(target, rate, channels, format=format, subtype=subtype, comment=comment)


class AudioReader:
    """Iterates over a file as `Waveform` blocks; use as a context manager.

    `rate`, `channels`, `samples` (a channel; None where only reading to the end tells), and `format` and `subtype` as
    libsndfile names them (``"WAV"``, ``"PCM_24"``).
    """

    def __init__(self, source: Source, block: float = BLOCK_SECONDS) -> None:
        self._blocks = Blocks(source, block)
        self.name, self.rate, self.channels = self._blocks.name, self._blocks.rate, self._blocks.channels
        self.samples, self.format, self.subtype = self._blocks.samples, self._blocks.format, self._blocks.subtype

    def __enter__(self) -> AudioReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._blocks.close()

    def __iter__(self) -> Iterator[Waveform]:
        """Blocks in order. Raises `AudioError` for a cut or damaged file, or samples that are not finite."""
        for block in self._blocks:
            with torch.inference_mode(False):
                samples = torch.from_numpy(np.ascontiguousarray(block.T))
            yield Waveform.of_checked(samples, self.rate)


class AudioWriter:
    """Writes blocks to a temporary file, which replaces the target if the ``with`` block ends without an exception.

    See `duotone.atomic.replacing` for links, pipes and permissions. Audio of a rate that the format does not support is
    resampled. Raises `UsageError` for an unknown format, a missing folder, or a file that exists
    while `force` is off; `AudioError` for sound that the format cannot hold.
    """

    def __init__(
        self,
        target: Target,
        rate: int,
        channels: int,
        *,
        force: bool = True,
        format: str | None = None,
        subtype: str | None = None,
        comment: str | None = None,
    ) -> None:
        check_format(rate, channels, "The output")
        self._comment = comment
        self._standard_output = target == "-"
        self.target: Target = target if self._standard_output else Path(target)
        self.rate, self.channels, self._force = rate, channels, force
        self._format = _format(self.target, format, subtype)
        held = rate if self._format.holds(rate) else self._format.otherwise
        if held is None:
            raise AudioError(
                f"{self._format.container} cannot hold a rate of {rate} Hz. Write .wav, or resample the sound first."
            )
        self._rate = held
        self._subtype = _subtype(self._format, subtype)
        self._integers = self._subtype not in ("FLOAT", "DOUBLE")
        if self._standard_output and sys.stdout is None:
            raise UsageError("Standard output is closed; name a file to write to.")
        if not self._standard_output and not Path(os.path.realpath(target)).parent.is_dir():
            raise UsageError(f"There is no folder {shown(Path(target).parent)} to write into. Create it first.")
        self._count = 0
        self._stack: ExitStack | None = None

    def __enter__(self) -> AudioWriter:
        with ExitStack() as stack:
            temporary = self._temporary(stack)
            rate = self._rate
            self._resampler = None if rate == self.rate else Resampler(self.rate, rate, self.channels)
            name = str(temporary) if sys.platform == "win32" else os.fsencode(temporary)
            container = self._format.container
            try:
                self._file = soundfile.SoundFile(name, "w", rate, self.channels, self._subtype, format=container)
            except (soundfile.LibsndfileError, ValueError) as error:
                words = getattr(error, "error_string", error)
                raise AudioError(
                    f"{shown(self.target)} cannot be written as {container}/{self._subtype} with {self.channels} "
                    f"channels at {rate} Hz: {words}"
                ) from None
            stack.callback(self._file.close)
            if self._comment is not None:
                self._file.comment = self._comment
            self._stack = stack.pop_all()
        return self

    def _temporary(self, stack: ExitStack) -> Path:
        if not self._standard_output:
            return stack.enter_context(replacing(self.target, force=self._force))
        path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="duotone-")), "whole")

        def deliver(kind: type[BaseException] | None, *_: object) -> None:
            if kind is None:
                with path.open("rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer, _SPOOL)
                sys.stdout.buffer.flush()

        stack.push(deliver)
        return path

    def write(self, wave: Waveform) -> None:
        """Append a block of the writer's rate and channels (else `AudioError`)."""
        if self._stack is None:
            raise UsageError("This writer is not open. Use it in a with block: with open_writer(...) as writer.")
        _check_arguments(self.target, wave)
        if (wave.rate, wave.channels) != (self.rate, self.channels):
            raise AudioError(
                f"The writer got {wave.channels} channels at {wave.rate} Hz, expected {self.channels} at {self.rate} Hz."
            )
        check_finite(wave.samples, wave.rate, f"The sound for {shown(self.target)}", self._count)
        self._count += wave.length
        self._put(wave.samples if self._resampler is None else self._resampler.push(wave.samples))

    def _put(self, samples: torch.Tensor) -> None:
        for part in torch.split(samples, _SLICE, dim=1):
            data = part.clamp(-1, 1) if self._integers else part
            self._file.write(data.numpy().T)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack, self._stack = self._stack, None
        assert stack is not None  # entered
        if kind is not None:
            stack.__exit__(kind, error, trace)
            return
        with stack:
            if self._resampler is not None:
                self._put(self._resampler.finish())


def _check_arguments(target: object, wave: object) -> None:
    if isinstance(wave, Waveform) and isinstance(target, str | os.PathLike):
        return
    hint = "Wrap the samples first: Waveform(samples, rate)."
    if isinstance(target, Waveform):
        hint = "Give the path first."
    elif isinstance(wave, Waveform):
        hint = "To write to an open file, use soundfile.write(file, wave.numpy().T, wave.rate, format='WAV')."
    raise UsageError(
        f"write got {type(target).__name__} and {type(wave).__name__}, expected a path and a Waveform. {hint}"
    )


def _format(target: Target, asked: str | None, subtype: str | None) -> Format:
    if target == "-" or asked:
        ending = f".{(asked or 'wav').lstrip('.').lower()}"
        if ending not in FORMATS:
            raise UsageError(f"The format {asked!r} cannot be written, expected one of {_names(WRITABLE)}.")
    else:
        ending = Path(target).suffix.lower()
        if ending not in FORMATS:
            raise UsageError(
                f"{shown(target)} has the extension {ending or '(none)'!r}, expected one of {', '.join(WRITABLE)}."
            )
    if FORMATS[ending].container == "OGG" and (subtype or "").upper() in _OGG:
        return FORMATS[_OGG[(subtype or "").upper()]]
    return FORMATS[ending]


def _subtype(format: Format, asked: str | None) -> str:
    if asked is None:
        return format.subtype
    known = soundfile.available_subtypes(format.container)
    if asked.upper() not in known:
        raise UsageError(f"{format.container} cannot hold the subtype {asked!r}, expected one of {', '.join(known)}.")
    return asked.upper()


def _names(endings: tuple[str, ...]) -> str:
    return ", ".join(ending[1:] for ending in endings)
