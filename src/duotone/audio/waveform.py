"""`Waveform`: samples and their rate, together, always.

Legend: C channels (1 or 2), T samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotone.errors import AudioError

LOWEST_RATE, HIGHEST_RATE = 4_000, 768_000


def check_format(rate: int, channels: int, what: str) -> None:
    """Raise `AudioError` unless the rate and the number of channels can be used."""
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise AudioError(
            f"{what} has a rate of {rate} Hz, expected {LOWEST_RATE} to {HIGHEST_RATE} Hz. "
            f"Check the file, or give the rate that the sound was really recorded at."
        )
    if channels not in (1, 2):
        raise AudioError(
            f"{what} has {channels} channels, expected 1 (mono) or 2 (stereo). "
            f"Mix it down first, for example with: ffmpeg -i IN -ac 2 OUT.wav"
        )


def check_finite(samples: Tensor, rate: int, what: str, start: int = 0) -> None:
    """Raise `AudioError` naming the first sample that is NaN or infinite; `start` is the block's place in the file."""
    if samples.numel() and not bool(torch.isfinite(samples).all()):
        first = int((~torch.isfinite(samples)).any(0).nonzero()[0]) + start
        raise AudioError(
            f"{what} holds a sample that is NaN or infinite at {first / rate:.3f} s (sample {first}). "
            f"Clean it first, for example with numpy.nan_to_num, and write it again."
        )


@dataclass(frozen=True)
class Waveform:
    """Sound: `samples` `[C, T]` float32, nominally within +-1, and their `rate` in Hz.

    C is 1 or 2; T may be 0 (the end of a stream). Raises `AudioError` for other shapes, kinds or rates.
    """

    samples: Tensor
    rate: int

    def __post_init__(self) -> None:
        if not isinstance(self.samples, Tensor) or self.samples.ndim != 2:
            got = tuple(self.samples.shape) if isinstance(self.samples, Tensor) else type(self.samples).__name__
            raise AudioError(f"Waveform got {got}, expected a tensor [channels, samples]. Use Waveform.from_array.")
        if self.samples.dtype != torch.float32:
            raise AudioError(
                f"Waveform got {self.samples.dtype}, expected float32. Use Waveform.from_array to convert."
            )
        check_format(self.rate, self.channels, "The waveform")

    @classmethod
    def from_array(cls, values: Any, rate: int) -> Waveform:
        """Build from a NumPy array or tensor, `[T]` (mono) or `[C, T]`; integers are scaled to +-1.

        Raises `AudioError` for complex numbers, other shapes, `[T, C]` layouts and samples that are not finite.
        """
        tensor = values.detach().cpu() if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
        if tensor.is_complex() or tensor.dtype == torch.bool:
            raise AudioError(
                f"Waveform got {tensor.dtype} samples, expected real numbers (floats within +-1 or integers)."
            )
        if tensor.ndim == 1:
            tensor = tensor[None]
        if tensor.ndim != 2:
            raise AudioError(f"Waveform got shape {tuple(tensor.shape)}, expected [samples] or [channels, samples].")
        if tensor.shape[0] > 2 and tensor.shape[1] <= 2:
            raise AudioError(
                f"Waveform got shape {tuple(tensor.shape)}, which looks like [samples, channels]: transpose it."
            )
        if tensor.dtype == torch.uint8:  # unsigned bytes are centred at 128
            scaled = (tensor.float() - 128) / 128
        elif tensor.dtype.is_floating_point:
            scaled = tensor.float()
        else:
            scaled = (tensor.double() / -float(torch.iinfo(tensor.dtype).min)).float()
        check_finite(scaled, rate, "The array")
        return cls(scaled.contiguous(), int(rate))

    @property
    def channels(self) -> int:
        """Number of channels, 1 or 2."""
        return int(self.samples.shape[0])

    @property
    def length(self) -> int:
        """Samples a channel."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.length / self.rate

    def resample(self, rate: int) -> Waveform:
        """The same sound at another rate (soxr, high quality); ``round(T * rate / self.rate)`` samples."""
        if rate == self.rate:
            return self
        from duotone.audio.resample import Resampler

        check_format(rate, self.channels, "The target")
        resampler = Resampler(self.rate, rate, self.channels)
        return Waveform(torch.cat([resampler.push(self.samples), resampler.finish()], dim=1), rate)

    def to_channels(self, channels: int) -> Waveform:
        """Mono doubled to stereo, or stereo averaged to mono."""
        check_format(self.rate, channels, "The target")
        if channels == self.channels:
            return self
        samples = self.samples.expand(2, -1).contiguous() if channels == 2 else self.samples.mean(0, keepdim=True)
        return Waveform(samples, self.rate)

    def numpy(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The samples as an array `[C, T]`."""
        array: np.ndarray[Any, np.dtype[np.float32]] = self.samples.numpy()
        return array
