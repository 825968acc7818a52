"""Discriminators of sound: they tell recordings from decoded sound by logarithmic magnitudes, in bands, with several windows.

Each window of the transform has a discriminator, and in it each band a stack of convolutions of its own: short windows show
attacks and the pulses of voices, long ones harmonics and their texture. They see no phases: the decoder makes these from
magnitudes by a rule that no gradient passes, so a discriminator of phases would win by what no training of the decoder mends.

Legend: B sounds, S samples, n frames, F bins of a band, C channels.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.represent.stft import transform_device, window

#: Where bands end, in Hz, and in how many bins of a band the first convolution advances.
_BANDS, _STRIDES = (0, 3000, 9000, 24_000), (2, 4, 8)
#: Added to magnitudes before their logarithm (-74 dB): below, decoded sound is silent by construction.
_FLOOR = 2e-4
#: The mean and half the range of such logarithms, about; so that inputs are of the order of 1.
_MIDDLE, _HALF = -6.0, 2.5
#: Slope of the activation below zero.
_LEAK = 0.1


def spectrum(sound: Tensor, size: int) -> Tensor:
    """Sounds `[B, S]` -> magnitudes `[B, n, size / 2 + 1]` with a Hann window of `size`, a quarter apart; a sine at full scale has 1."""
    place = transform_device(sound.device)
    hann = window(size, place)
    frames = sound.to(place).unfold(-1, size, size // 4) * hann
    pairs = torch.view_as_real(torch.fft.rfft(frames)) * (2 / hann.sum())
    return (pairs.square().sum(-1) + 1e-12).sqrt().to(sound.device)  # the slope of a root at 0 is infinite


def hinge(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """What discriminators minimise: ``max(0, 1 - D(real)) + max(0, 1 + D(made))``, the mean over scores, then over stacks.

    Lim and Ye, *Geometric GAN*, arXiv 1705.02894, equation 6.
    """
    both = [F.relu(1 - r).mean() + F.relu(1 + m).mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(both).mean()


def deceit(made: list[Tensor]) -> Tensor:
    """What the decoder minimises: ``-D(made)``, the mean over scores, then over stacks (arXiv 1705.02894, equation 7)."""
    return -torch.stack([m.mean() for m in made]).mean()


def feature_distance(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Mean absolute difference of inner features over the mean absolute feature of the real sound; the mean over layers.

    Feature matching (arXiv 1910.06711, equation 4), relative as in EnCodec (arXiv 2210.13438, equation 2).
    """
    shares = [(r - m).abs().mean() / r.abs().mean().clamp_min(1e-3) for r, m in zip(real, made, strict=True)]
    return torch.stack(shares).mean()


def told_apart(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Share of the scores on the right side of zero, 0 to 1; 0.5 is chance."""
    right = [(r > 0).float().mean() + (m < 0).float().mean() for r, m in zip(real, made, strict=True)]
    return torch.stack(right).mean() / 2


class BandStack(nn.Module):
    """Logarithmic magnitudes of a band `[B, n, F]` -> scores `[B, n / 4, F / (4 stride)]`, and the features of each layer."""

    def __init__(self, bins: int, stride: int, channels: int) -> None:
        super().__init__()
        c = channels
        self.first = nn.Conv2d(1, c, (3, 2 * stride + 1), (1, stride), (1, stride))
        self.place = nn.Parameter(torch.zeros(c, 1, (bins - 1) // stride + 1))  # what is usual differs over frequency
        self.inner = nn.ModuleList(
            [nn.Conv2d(c, c, (3, 5), 2, (1, 2)), nn.Conv2d(c, c, (3, 5), 2, (1, 2)), nn.Conv2d(c, c, 3, 1, 1)]
        )
        self.score = nn.Conv2d(c, 1, 3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """See the class."""
        features = [F.leaky_relu(self.first(x[:, None]) + self.place, _LEAK)]
        for layer in self.inner:
            features.append(F.leaky_relu(layer(features[-1]), _LEAK))
        return _wide(self.score(features[-1])[:, 0]), [_wide(f) for f in features]


class Discriminators(nn.Module):
    """One for each window size. Random weights of a seed; nothing of them is exported."""

    def __init__(self, rate: int, windows: tuple[int, ...], channels: int) -> None:
        super().__init__()
        self.windows = windows
        self.edges = [[min(round(hz * size / rate), size // 2) for hz in _BANDS] for size in windows]
        self.stacks = nn.ModuleList(
            BandStack(b - a, stride, channels)
            for edges in self.edges
            for (a, b), stride in zip(itertools.pairwise(edges), _STRIDES, strict=True)
        )

    def forward(self, spectra: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Magnitudes `[B, n, F]` of each window -> the scores of each window and band, and all inner features."""
        scores: list[Tensor] = []
        inner: list[Tensor] = []
        bands = [(i, band) for i, edges in enumerate(self.edges) for band in itertools.pairwise(edges)]
        logs = [(torch.log(magnitudes + _FLOOR) - _MIDDLE) / _HALF for magnitudes in spectra]
        for (i, (a, b)), stack in zip(bands, self.stacks, strict=True):
            score, features = stack(logs[i][..., a:b])
            scores.append(score)
            inner += features
        return scores, inner


def _wide(x: Tensor) -> Tensor:
    """At least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
