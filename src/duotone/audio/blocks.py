"""Audio files as NumPy blocks, read to their actual end whatever their header says. Does not import torch.

Legend: C channels (1 or 2), T samples.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray

from duotone.audio.formats import CONVERT, WRITABLE, check_format, not_finite, shown
from duotone.audio.headers import Layout, View, layout
from duotone.errors import AudioError, UsageError

#: A file's name, ``-`` for standard input, or a file opened for reading bytes.
Source = str | bytes | os.PathLike[str] | os.PathLike[bytes] | BinaryIO | io.IOBase
BLOCK_SECONDS = 10.0
_SPOOL = 8 << 20
_KNOWN = 1 << 48  # libsndfile reports larger numbers if it does not know the length


@dataclass(frozen=True)
class SoundInfo:
    """Properties of an audio file; `samples` is the number per channel."""

    rate: int
    channels: int
    samples: int
    format: str  #: libsndfile's names: WAV, FLAC, OGG, MP3, ...
    subtype: str  #: PCM_16, PCM_24, FLOAT, VORBIS, ...

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.samples / self.rate


def measure(source: Source) -> SoundInfo:
    """Rate, channels and actual length of a file: from its header, or by decoding if the header is unreliable.

    Raises `AudioError` for a file that cannot be used.
    """
    with Blocks(source) as blocks:
        samples = blocks.samples
        if samples is None:
            samples = 0
            while count := len(blocks.read(blocks.block)):
                samples += count
        return SoundInfo(blocks.rate, blocks.channels, samples, blocks.format, blocks.subtype)


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """A soundfile that reads to the end of the data.

    soundfile itself stops at the length in the header, and seeks after each read if it considers the file seekable.
    """

    def seekable(self) -> bool:
        """False, for `read`; `seek` works nevertheless."""
        return False


class Blocks:
    """Iterates over a sound file as float32 blocks `[T, C]`; use as a context manager.

    `rate`, `channels`, `samples` (per channel; None if known only after reading to the end), `format` and `subtype` as
    libsndfile names them. Raises `AudioError` for files that cannot be read.
    """

    def __init__(self, source: Source, seconds: float = BLOCK_SECONDS) -> None:
        self._files: list[Any] = []  # to close
        self._sound: Any = None
        self._at = 0
        try:
            self.name, self._file, path = self._open(source)
            self._layout = self._checked_layout(path)
            self._waiting = list(self._layout.parts)
            self._sound = self._next_sound(path)
            self.rate, self.channels = int(self._sound.samplerate), int(self._sound.channels)
            check_format(self.rate, self.channels, self.name)
        except BaseException:
            self.close()
            raise
        self.format, self.subtype = str(self._sound.format), str(self._sound.subtype)
        frames = int(self._sound.frames)
        self.samples: int | None = frames if 0 < frames < _KNOWN and self._layout.exact else None
        #: samples of a block
        self.block = max(1, int(seconds * self.rate))

    def _open(self, source: Source) -> tuple[str, BinaryIO, str | bytes | None]:
        """A name for messages, a seekable open file, and the path if it is a regular file."""
        if isinstance(source, str | bytes | os.PathLike):
            name = os.fspath(source)
            if name in ("-", b"-"):
                if sys.stdin is None:
                    raise AudioError("Standard input is closed, expected the bytes of a sound file.")
                return "standard input", self._spooled(sys.stdin.buffer, "standard input"), None
            return self._open_path(name)
        name = shown(str(getattr(source, "name", None) or "The open file"))
        if isinstance(source, io.TextIOBase):
            raise UsageError(f"{name} is open for reading text, expected bytes. Open it with open(path, 'rb').")
        if not callable(getattr(source, "read", None)):
            raise UsageError(
                f"Got {type(source).__name__}, expected the path of a sound file, an open file, or - for standard input."
            )
        direct = isinstance(source, io.BytesIO | io.BufferedReader | io.RawIOBase) and source.seekable()
        if direct and source.tell() == 0:
            return name, cast(BinaryIO, source), None
        return name, self._spooled(source, name), None

    def _open_path(self, path: str | bytes) -> tuple[str, BinaryIO, str | bytes | None]:
        name = shown(path)
        try:
            mode = os.stat(path).st_mode
            if stat.S_ISDIR(mode):
                raise AudioError(f"{name} is a folder, expected a sound file. Name the files in it.")
            file = open(path, "rb")  # noqa: SIM115 (closed in close)
        except FileNotFoundError:
            raise AudioError(f"There is no file {name}. Check the name and the folder.") from None
        except OSError as error:
            raise AudioError(
                f"{name} cannot be opened ({error.strerror}). Check the name and the permissions."
            ) from None
        self._files.append(file)
        if not stat.S_ISREG(mode):  # a pipe
            return name, self._spooled(file, name), None
        # soundfile encodes names strictly, so names that are no UTF-8 go to it as bytes
        return name, file, path if sys.platform == "win32" else os.fsencode(path)

    def _spooled(self, stream: Any, name: str) -> BinaryIO:
        """A stream's bytes in a temporary file, because libsndfile seeks."""
        spool: Any = tempfile.TemporaryFile(prefix="duotone-")  # noqa: SIM115 (closed in close)
        self._files.append(spool)
        shutil.copyfileobj(stream, spool, _SPOOL)
        if spool.tell() == 0:
            raise AudioError(f"{name} is empty (0 bytes). Was the program before the pipe successful?")
        return spool  # type: ignore[no-any-return]

    def _checked_layout(self, path: str | bytes | None) -> Layout:
        if self._file.seek(0, io.SEEK_END) == 0:
            raise AudioError(f"{self.name} is empty (0 bytes). Copy or export it again.")
        if path is None:
            found = layout(self._file)
        else:
            about = os.fstat(self._file.fileno())
            found = _layout_of(path, about.st_ino, about.st_size, about.st_mtime_ns)
        if found.promised:
            raise AudioError(
                f"{self.name} is cut short: its header promises {found.promised} bytes of sound and it holds "
                f"{found.held}. Copy or export it again."
            )
        return found

    def _next_sound(self, path: str | bytes | None = None) -> Any:
        """Open the next part of the file, or the whole file."""
        source: Any = path
        if self._waiting:
            source = View(self._file, self._waiting.pop(0), self._layout.endless)
        elif path is None:  # also as a view: damaged headers make libsndfile seek to before the beginning
            source = View(self._file, ((0, self._file.seek(0, io.SEEK_END)),))
        try:
            return _Forward(source)
        except (soundfile.LibsndfileError, TypeError) as error:
            raise AudioError(
                f"{self.name} is not a sound file that can be read ({_reason(error)}). "
                f"Expected {', '.join(e[1:] for e in WRITABLE)}, aiff or another that libsndfile reads; {CONVERT}"
            ) from None

    def __enter__(self) -> Blocks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._sound is not None:
            self._sound.close()
        for file in self._files:
            file.close()

    def read(self, samples: int) -> NDArray[np.float32]:
        """The next `samples` samples `[T, C]`, fewer only at the end; NaN and infinity as they are in the file."""
        blocks: list[NDArray[np.float32]] = []
        while samples > 0:
            try:
                block = self._sound.read(samples, dtype="float32", always_2d=True)
            except soundfile.LibsndfileError as error:
                raise self._damaged(error) from None
            if len(block):
                blocks.append(block)
                samples -= len(block)
                self._at += len(block)
            elif self._waiting:
                self._next_part()
            else:
                break
        if len(blocks) == 1:
            return blocks[0]
        return np.concatenate(blocks) if blocks else np.zeros((0, self.channels), np.float32)

    def _next_part(self) -> None:
        self._sound.close()
        self._sound = self._next_sound()
        got = int(self._sound.samplerate), int(self._sound.channels)
        if got != (self.rate, self.channels):
            raise AudioError(
                f"{self.name} is several recordings in one file: from {self._at / self.rate:.3f} s on it has {got[1]} "
                f"channels at {got[0]} Hz, before {self.channels} at {self.rate} Hz. Take it apart first, for example "
                f"with ffmpeg."
            )

    def skip(self, samples: int) -> None:
        """Skip the next `samples` samples, without decoding them if the format allows it."""
        if self._layout.parts[1:]:
            end = self._at + samples
            while self._at < end and len(self.read(min(self.block, end - self._at))):
                pass
            return
        try:
            self._sound.seek(self._at + samples)
        except soundfile.LibsndfileError as error:
            raise self._damaged(error) from None
        self._at += samples

    def _damaged(self, error: soundfile.LibsndfileError) -> AudioError:
        where = self._at / self.rate
        return AudioError(f"{self.name} is damaged after {where:.3f} s ({_reason(error)}). Copy or export it again.")

    def __iter__(self) -> Iterator[NDArray[np.float32]]:
        """Blocks in order. Raises `AudioError` for a cut or damaged file, or samples that are not finite."""
        integers = self.subtype.startswith("PCM_")
        while len(block := self.read(self.block)):
            if not integers:
                check_finite(block, self.rate, self.name, self._at - len(block))
            yield block
        if self._at == 0:
            raise AudioError(f"{self.name} holds zero samples; there is nothing to do with it.")
        if self.samples is not None and self._at < self.samples:
            raise AudioError(
                f"{self.name} is cut short: its header promises {self.samples} samples and it holds {self._at} "
                f"({self._at / self.rate:.3f} s). Copy or export it again."
            )


@lru_cache(1 << 14)
def _layout_of(path: str | bytes, inode: int, size: int, changed: int) -> Layout:
    """The layout of a file, cached until the file changes: some files must be scanned to the end."""
    with open(path, "rb") as file:
        return layout(file)


def check_finite(block: NDArray[np.float32], rate: int, what: str, start: int = 0) -> None:
    """Raise `AudioError` naming the first sample of `[T, C]` that is NaN or infinite; `start` is the block's place."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(block.sum()):  # much faster than to look at each
            return
    bad = ~np.isfinite(block).all(1)
    if bad.any():
        raise not_finite(what, int(bad.argmax()) + start, rate)


def _reason(error: Exception) -> str:
    """libsndfile's message, without the path that soundfile prepends."""
    text = str(getattr(error, "error_string", "") or "").strip().rstrip(".")
    code = getattr(error, "code", None)
    return text or (f"libsndfile's error {code}" if code is not None else str(error))
