"""`Waveform`: samples and their sample rate.

Legend: C channels (1 or 2), T samples.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotone.audio.formats import check_format, not_finite
from duotone.errors import AudioError


def check_finite(samples: Tensor, rate: int, what: str, start: int = 0) -> None:
    """Raise `AudioError` naming the first sample that is NaN or infinite; `start` is the block's place in the file."""
    if torch.isfinite(samples.sum()):  # much faster than to look at each
        return
    bad = ~torch.isfinite(samples).all(0)
    if bad.any():
        raise not_finite(what, int(bad.nonzero()[0]) + start, rate)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Waveform:
    """Audio: `samples` `[C, T]` float32, nominally within +-1, and their `rate` in Hz.

    Takes arrays, tensors and lists of numbers, `[T]` (mono) or `[C, T]`, C 1 or 2; T may be 0 (the end of a stream).
    The samples become a float32 tensor on the CPU without a gradient; such a tensor is not copied.
    Integers are scaled by the width of their type, so that int16 and int32 at full scale are +-1 (unsigned ones are
    centred). 64-bit integers (also lists of integers) have no known scale and raise an error. Raises
    `AudioError` for other shapes, kinds and rates, and for samples that are not finite.
    """

    samples: Tensor
    rate: int

    def __init__(self, samples: Any, rate: int) -> None:
        with torch.inference_mode(False):
            samples = _samples(samples)
        rate = _rate(rate)
        if samples.ndim == 2 and samples.shape[0] > 2 and samples.shape[1] <= 2:
            raise AudioError(
                f"Waveform got shape {tuple(samples.shape)}, which looks like [samples, channels]: transpose it (x.T)."
            )
        if samples.ndim == 1:
            samples = samples[None]
        if samples.ndim != 2:
            raise AudioError(f"Waveform got shape {tuple(samples.shape)}, expected [samples] or [channels, samples].")
        check_format(rate, int(samples.shape[0]), "The waveform")
        check_finite(samples, rate, "The waveform")
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "rate", rate)

    @classmethod
    def from_array(cls, values: Any, rate: int) -> Waveform:
        """The same as ``Waveform(values, rate)``."""
        return cls(values, rate)

    @classmethod
    def of_checked(cls, samples: Tensor, rate: int) -> Waveform:
        """From samples `[C, T]` that are known to be valid; they are kept unchanged, with their gradients."""
        wave = object.__new__(cls)
        object.__setattr__(wave, "samples", samples)
        object.__setattr__(wave, "rate", rate)
        return wave

    def __eq__(self, other: object) -> bool:
        """Whether rate and all samples are the same."""
        if not isinstance(other, Waveform):
            return NotImplemented
        return self.rate == other.rate and torch.equal(self.samples, other.samples)

    def __repr__(self) -> str:
        channels = "mono" if self.channels == 1 else "stereo"
        return f"Waveform({channels}, {self.rate} Hz, {self.seconds:.3f} s)"

    @property
    def channels(self) -> int:
        """Number of channels, 1 or 2."""
        return int(self.samples.shape[0])

    @property
    def length(self) -> int:
        """Number of samples per channel."""
        return int(self.samples.shape[1])

    @property
    def seconds(self) -> float:
        """Duration in seconds."""
        return self.length / self.rate

    def resample(self, rate: int) -> Waveform:
        """The same audio at another rate (soxr, high quality); ``round(T * rate / self.rate)`` samples."""
        rate = _rate(rate)
        if rate == self.rate:
            return self
        from duotone.audio.resample import Resampler

        check_format(rate, self.channels, "The target")
        resampler = Resampler(self.rate, rate, self.channels)
        return Waveform(torch.cat([resampler.push(self.samples), resampler.finish()], dim=1), rate)

    def to_channels(self, channels: int) -> Waveform:
        """Convert mono to stereo by duplication, or stereo to mono by averaging."""
        check_format(self.rate, channels, "The target")
        if channels == self.channels:
            return self
        samples = self.samples.expand(2, -1).contiguous() if channels == 2 else self.samples.mean(0, keepdim=True)
        return Waveform(samples, self.rate)

    def numpy(self) -> NDArray[np.float32]:
        """The samples as an array `[C, T]`."""
        array: NDArray[np.float32] = self.samples.numpy()
        return array


def _rate(rate: Any) -> int:
    """Check a sample rate: a whole number of Hz, of any numeric type."""
    try:
        number = int(rate)
        if number == rate:
            return number
    except (TypeError, ValueError, OverflowError):
        pass
    raise AudioError(f"The rate is {rate!r}, expected a whole number of Hz, for example 48000.")


def _samples(values: Any) -> Tensor:
    """Float32 samples on the CPU, without gradient and not an inference tensor."""
    if isinstance(values, Tensor):
        if values.layout is not torch.strided or values.is_meta or values.is_nested:
            raise AudioError(
                f"Waveform got a {values.layout} tensor on {values.device}, expected a dense one that holds values."
            )
        tensor = values.detach().cpu()
        if tensor.dtype.is_floating_point:
            samples = tensor.to(torch.float32).contiguous()
            return samples.clone() if samples.is_inference() else samples
        return torch.from_numpy(_scaled(_array(tensor)))
    return torch.from_numpy(_scaled(_array(values)))


def _array(values: Any) -> NDArray[Any]:
    if isinstance(values, Waveform):
        raise AudioError("Waveform got a Waveform already. Its rate is changed with wave.resample(rate).")
    if isinstance(values, str | bytes | os.PathLike):
        raise AudioError(
            f"Waveform got {type(values).__name__}, expected samples. Files are read with duotone.read(path)."
        )
    try:
        return np.asarray(values)
    except (TypeError, ValueError) as error:
        raise AudioError(
            f"Waveform got {type(values).__name__}, which is no array of numbers ({error}). "
            f"Expected samples [samples] or [channels, samples]."
        ) from None


def _scaled(array: NDArray[Any]) -> NDArray[np.float32]:
    """A copy in float32; integers of up to 32 bits are scaled by the width of their type."""
    kind, bits = array.dtype.kind, 8 * array.dtype.itemsize
    if kind == "f":
        with np.errstate(over="ignore"):
            return np.array(array, np.float32, order="C")
    if kind not in "iu":
        raise AudioError(
            f"Waveform got {array.dtype} samples, expected real numbers (floats within +-1, or integers of 8 to 32 bits)."
        )
    if array.size == 0:
        return np.zeros(array.shape, np.float32)
    if bits == 64:
        if kind == "i" and not array.any():
            return np.zeros(array.shape, np.float32)
        peak = max(abs(int(array.min())), abs(int(array.max())))
        raise AudioError(
            f"Waveform got {array.dtype} samples up to {peak}, whose full scale is unknown. Give them as int16 or "
            f"int32, or as floats within +-1: for 16-bit values, array.astype('int16') or array / 32768."
        )
    half = float(1 << (bits - 1))
    values = array.astype(np.float64)
    return ((values - half if kind == "u" else values) / half).astype(np.float32, order="C")
