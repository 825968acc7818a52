"""Complex spectra of mid and side <-> the values that the refinement computes with: relative to a reference, companded.

``z = (|X| / R)**p e^(i arg X)``: where R is the estimate of the magnitude, an exact estimate has magnitude 1 at every frequency and
loudness, and one noise level fits all. Nothing else of the estimate but its phases remains in z.

Legend: n frames of a chunk, F bins. z is real; mid and side, and their real and imaginary parts, are planes: `[..., 2, 2, n, F]`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from duotone.represent.stft import transform_device, window

#: Below this magnitude a number has no phase.
_TINY = 1e-15


def magnitude(z: Tensor) -> Tensor:
    """`[..., 2, 2, n, F]` -> `[..., 2, n, F]`, at least 1e-15."""
    real, imaginary = z.unbind(-3)
    return torch.addcmul(real.square(), imaginary, imaginary).clamp_min(_TINY**2).sqrt()


def scaled(z: Tensor, factor: Tensor) -> Tensor:
    """z `[..., 2, 2, n, F]` times a real factor of mid and of side `[..., 2, n, F]`."""
    return z * factor.unsqueeze(-3)


def relative(spectra: Tensor, companded: Tensor, power: float) -> Tensor:
    """Complex spectra of mid and side `[..., 2, n, F]`, ``R**p`` `[..., 2, n, F]` -> z `[..., 2, 2, n, F]`."""
    x = torch.stack([spectra.real, spectra.imag], -3)
    return scaled(x, magnitude(x) ** (power - 1) / companded)


def absolute(z: Tensor, reference: Tensor, power: float) -> Tensor:
    """z `[..., 2, 2, n, F]`, R `[..., 2, n, F]` -> complex spectra of mid and side `[..., 2, n, F]`: the inverse of `relative`."""
    x = scaled(z, magnitude(z) ** (1 / power - 1) * reference)
    return torch.complex(*x.unbind(-3))


def blend(z: Tensor, towards: Tensor, share: Tensor) -> Tensor:
    """Move magnitudes of z `[..., 2, 2, n, F]` to `towards` `[..., 2, n, F]` by a share, broadcast over the latter; phases stay."""
    return scaled(z, 1 + share * (towards / magnitude(z) - 1))


class Projection:
    """Spectra -> the nearest ones that are spectra of samples, each chunk alone (Griffin and Lim, 1984, equation 6).

    White noise loses three quarters of its energy at a hop of a quarter of the window; spectra of sound lose nothing.
    """

    def __init__(self, n_fft: int, hop: int, frames: int) -> None:
        self.n_fft, self.hop, self.pieces = n_fft, hop, n_fft // hop
        self._window = window(n_fft)
        self._weight = self._add(self._window.square().expand(frames, -1)).clamp_min(1e-14)

    def __call__(self, spectra: Tensor) -> Tensor:
        """Complex `[..., n, F]` -> complex `[..., n, F]`."""
        place = transform_device(spectra.device)
        if self._window.device != place:
            self._window, self._weight = self._window.to(place), self._weight.to(place)
        frames = torch.fft.irfft(spectra.to(place), n=self.n_fft) * self._window
        samples = self._add(frames) / self._weight
        found: Tensor = torch.fft.rfft(samples.unfold(-1, self.n_fft, self.hop) * self._window).to(spectra.device)
        return found

    def _add(self, frames: Tensor) -> Tensor:
        """Overlap-add: `[..., n, n_fft]` -> `[..., (n + pieces - 1) * hop]`."""
        parts = frames.unflatten(-1, (self.pieces, self.hop))
        after = self.pieces - 1
        sums = sum(F.pad(parts[..., i, :], (0, 0, i, after - i)) for i in range(self.pieces))
        assert isinstance(sums, Tensor)
        return sums.flatten(-2)
