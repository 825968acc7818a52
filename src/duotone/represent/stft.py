"""Waves <-> companded complex spectra, for any window length and hop.

Legend: B batch, c wave channels, C spectrum channels (2c: real and imaginary part of each wave channel), F bins,
T frames, S samples. Frame i covers samples ``[i*hop, i*hop + n_fft)``; nothing is centred or padded.

Fourier transforms are computed on the CPU for devices other than CPU and CUDA: others (mps) lack complex operations.
The samples or spectra travel there and back; companding and everything else stays on the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from duotone.errors import ConfigError

_COMPLEX_DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class Stft:
    """A short-time Fourier transform with a periodic Hann window, whose values are companded.

    `n_fft` samples a frame, `hop` samples between frames, the lowest `bins` bins kept (the others are zero in the
    inverse). Raises `ConfigError` for values from which no waveform can be reconstructed.
    """

    n_fft: int
    hop: int
    bins: int
    compand_scale: float
    compand_power: float

    def __post_init__(self) -> None:
        if not 0 < self.hop < self.n_fft:
            raise ConfigError(
                f"The hop got {self.hop} samples, expected 1 to {self.n_fft - 1}: a Hann window is zero at its edge, so "
                f"frames of {self.n_fft} samples have to overlap."
            )
        if not 0 < self.bins <= self.n_fft // 2 + 1:
            raise ConfigError(
                f"The spectrum got {self.bins} bins, expected 1 to {self.n_fft // 2 + 1} for {self.n_fft} samples a frame."
            )


def window(n_fft: int, device: torch.device | None = None) -> Tensor:
    """The periodic Hann window `[n_fft]`, float32."""
    return torch.hann_window(n_fft, periodic=True, device=device, dtype=torch.float32)


def dual_window(n_fft: int, hop: int, device: torch.device | None = None) -> Tensor:
    """Synthesis window `[n_fft]`: Hann over the sum of the squares of all Hann windows that cover a sample.

    Its products with the Hann window, `hop` apart, add up to 1: overlap-adding windowed frames gives the wave back
    (Griffin and Lim, 1984, equation 6).
    """
    hann = window(n_fft, device)
    count = -(-n_fft // hop)  # frames that cover a sample
    total = F.pad(hann**2, (0, count * hop - n_fft)).view(count, hop).sum(0)
    return hann / total.repeat(count)[:n_fft]


def compand(x: Tensor, stft: Stft) -> Tensor:
    """``scale * sign(x) * |x|**power``, each real number on its own; the gradient at 0 is 0."""
    magnitude = x.abs()
    if x.requires_grad:  # the slope of the power at 0 is infinite
        magnitude = magnitude.clamp_min(1e-45)
    return stft.compand_scale * x.sign() * magnitude**stft.compand_power


def expand(y: Tensor, stft: Stft) -> Tensor:
    """The inverse of `compand`."""
    return y.sign() * (y.abs() / stft.compand_scale) ** (1 / stft.compand_power)


def transform_device(device: torch.device) -> torch.device:
    """Where Fourier transforms for a device are computed: there, or on the CPU."""
    return device if device.type in _COMPLEX_DEVICES else torch.device("cpu")


def to_spectrum(samples: Tensor, stft: Stft) -> Tensor:
    """Samples `[B, c, (T-1)*hop + n_fft]` -> companded spectrum `[B, 2c, F, T]`, float32, on the same device."""
    place = transform_device(samples.device)
    frames = samples.float().to(place).unfold(-1, stft.n_fft, stft.hop) * window(stft.n_fft, place)
    spectrum = torch.view_as_real(torch.fft.rfft(frames, dim=-1)[..., : stft.bins])  # [B, c, T, F, 2]
    b, c, t, f, _ = spectrum.shape
    return compand(spectrum.to(samples.device).permute(0, 1, 4, 3, 2).reshape(b, 2 * c, f, t), stft)


def to_frames(spectrum: Tensor, stft: Stft) -> Tensor:
    """Companded spectrum `[B, 2c, F, T]` -> windowed frames `[B, c, T, n_fft]` to overlap-add, on the same device."""
    b, c, f, t = spectrum.shape
    place = transform_device(spectrum.device)
    pairs = expand(spectrum.float(), stft).reshape(b, c // 2, 2, f, t).permute(0, 1, 4, 3, 2)
    kept = torch.view_as_complex(pairs.contiguous().to(place))
    full = F.pad(kept, (0, stft.n_fft // 2 + 1 - f))
    frames: Tensor = torch.fft.irfft(full, n=stft.n_fft, dim=-1) * dual_window(stft.n_fft, stft.hop, place)
    return frames.to(spectrum.device)


class OverlapAdd:
    """Overlap-adds windowed frames to samples; keeps the sums to which later frames will be added.

    Any hop from 1 to `n_fft`. Frames pushed in several calls give the same numbers, bit for bit, as in one. Gradients
    flow through `push` and `finish` (they are 0 where a sample is clamped).
    """

    def __init__(self, n_fft: int, hop: int, channels: int) -> None:
        self.n_fft, self.hop, self.channels = n_fft, hop, channels
        self.tail: Tensor | None = None

    def push(self, frames: Tensor) -> Tensor:
        """Frames `[c, T, n_fft]` -> the next samples `[c, T*hop]`, clamped to +-1."""
        c, t, _ = frames.shape
        pieces = -(-self.n_fft // self.hop)  # of `hop` samples in a frame; the last may be shorter
        parts = F.pad(frames, (0, pieces * self.hop - self.n_fft)).view(c, t, pieces, self.hop)
        sums = frames.new_zeros(c, t + pieces - 1, self.hop)
        if self.tail is not None:
            sums[:, : pieces - 1] = self.tail
        for i in reversed(range(pieces)):  # older frames before newer ones, however frames are divided into pushes
            sums[:, i : i + t] += parts[:, :, i]
        self.tail = sums[:, t:].clone()
        return sums[:, :t].reshape(c, t * self.hop).clamp(-1, 1)

    def finish(self) -> Tensor:
        """The last ``n_fft - hop`` samples `[c, n_fft - hop]`, which fade out; `[c, 0]` if nothing was pushed."""
        if self.tail is None:
            return torch.zeros(self.channels, 0, dtype=torch.float32, device="cpu")
        tail, self.tail = self.tail, None
        return tail.flatten(1)[:, : self.n_fft - self.hop].clamp(-1, 1)


def to_samples(spectrum: Tensor, stft: Stft) -> Tensor:
    """Companded spectrum `[2c, F, T]` -> samples `[c, (T-1)*hop + n_fft]`, clamped to +-1, fading in and out."""
    add = OverlapAdd(stft.n_fft, stft.hop, spectrum.shape[0] // 2)
    body = add.push(to_frames(spectrum[None], stft)[0])
    return torch.cat([body, add.finish()], dim=-1)
