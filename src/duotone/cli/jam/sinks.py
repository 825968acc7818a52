"""Where a session is played: a sound card, a file at the speed of the clock, or nowhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from duotone.audio.files import open_writer
from duotone.audio.waveform import Waveform
from duotone.errors import UsageError

Self = TypeVar("Self", bound="ClockSink")
#: Seconds between the callback of a sound card and the ear, where the card does not tell.
DEVICE_BUFFER = 0.1


class ClockSink:
    """Plays into nothing at the speed of a clock; without one (`now` is None), as soon as it is written."""

    buffer = 0.0

    def __init__(self, rate: int, now: Callable[[], float] | None = time.monotonic) -> None:
        self.rate, self._now = rate, now
        self.underruns = 0
        self.begin()

    def begin(self) -> None:
        """A session begins: count from 0."""
        self._written, self._before = 0, 0  # samples in all, and before the clock was last started
        self._started: float | None = None

    @property
    def played(self) -> int:
        """Samples that the clock has passed, at most those written."""
        if self._now is None or self._started is None:
            return self._written if self._now is None else self._before
        return min(self._written, self._before + int((self._now() - self._started) * self.rate))

    def write(self, wave: Waveform) -> None:
        """Take the next piece; the clock waits where there was nothing left to play."""
        if self._now is not None and self.played == self._written:
            self.underruns += self._started is not None
            self._before, self._started = self._written, self._now()
        self._written += wave.length

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class FileSink(ClockSink):
    """The same, and every piece is written to a file, which is complete when the sink is left."""

    def __init__(self, path: str, rate: int, channels: int, now: Callable[[], float] | None = time.monotonic) -> None:
        super().__init__(rate, now)
        self._writer = open_writer(path, rate, channels)
        self._stack = ExitStack()

    def __enter__(self) -> FileSink:
        self._stack.enter_context(self._writer)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            self._stack.close()  # what was played until then is kept
        else:
            self._stack.__exit__(kind, error, trace)

    def write(self, wave: Waveform) -> None:
        """Take the next piece."""
        super().write(wave)
        self._writer.write(wave)


class Ring:
    """Pieces that wait for a sound card's callback; written by one thread, read by another."""

    def __init__(self) -> None:
        self._pieces: deque[Any] = deque()
        self._at = 0  # samples of the first piece that were read
        self.read_samples = 0
        self.dry = 0  #: reads that got less than they asked for, after the first piece

    def write(self, samples: Any) -> None:
        """Append samples `[T, c]`."""
        self._pieces.append(samples)

    def read(self, out: Any) -> None:
        """Fill `[T, c]`, with silence where nothing waits."""
        place, count = 0, len(out)
        while place < count and self._pieces:
            piece = self._pieces[0]
            part = piece[self._at : self._at + count - place]
            out[place : place + len(part)] = part
            place += len(part)
            self._at += len(part)
            if self._at == len(piece):
                self._pieces.popleft()
                self._at = 0
        out[place:] = 0
        self.dry += place < count and self.read_samples > 0
        self.read_samples += place


class DeviceSink:
    """A sound card, through `sounddevice` (the extra jam). Raises `UsageError` without the package, PortAudio, or a card."""

    def __init__(self, rate: int, channels: int, device: str | None = None) -> None:
        sounddevice = sound_package()
        self._ring = Ring()
        try:
            self._stream = sounddevice.OutputStream(
                samplerate=rate, channels=channels, dtype="float32", device=device_of(device), callback=self._fill
            )
        except (sounddevice.PortAudioError, ValueError) as error:
            raise UsageError(
                f"No sound card could be opened ({error}). Play into a file (--sink out.wav) or nowhere (--sink null)."
            ) from None
        self.buffer = float(self._stream.latency or DEVICE_BUFFER)

    def _fill(self, out: Any, frames: int, when: Any, status: Any) -> None:
        self._ring.read(out)

    @property
    def underruns(self) -> int:
        """Callbacks that lacked sound."""
        return self._ring.dry

    @property
    def played(self) -> int:
        """Samples that the card has taken."""
        return self._ring.read_samples

    def begin(self) -> None:
        """A session begins: what still waits is dropped."""
        self._ring = Ring()

    def write(self, wave: Waveform) -> None:
        """Take the next piece."""
        self._ring.write(np.ascontiguousarray(wave.numpy().T))

    def __enter__(self) -> DeviceSink:
        self._stream.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.stop()
        self._stream.close()


def device_of(name: str | None) -> str | int | None:
    """A sound device as `sounddevice` takes it: digits are its number there, not a part of its name."""
    return int(name) if name is not None and name.isdecimal() else name


def sound_package() -> Any:
    """The package `sounddevice`. Raises `UsageError` where it, or the PortAudio that it loads, is missing."""
    try:
        import sounddevice
    except ImportError:
        raise UsageError(
            'The sound card needs the package sounddevice: pip install "duotone[jam]". Or play into a file (--sink out.wav) or nowhere '
            "(--sink null)."
        ) from None
    except OSError as error:
        raise UsageError(
            f"The sound card needs PortAudio ({error}): install libportaudio2. Or play into a file (--sink out.wav) or nowhere "
            f"(--sink null)."
        ) from None
    return sounddevice
