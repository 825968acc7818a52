"""The Slaney mel scale (Auditory Toolbox 1998) and filters on it."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

#: Decibels in a neper, the unit of natural logarithms of magnitudes.
DECIBEL = 20 / math.log(10)
# Linear (3 mel per 200 Hz) up to 1 kHz = 15 mel, then 27 mel for each factor of 6.4.
_LOG_STEP = math.log(6.4) / 27


def hertz_to_mel(hertz: Tensor) -> Tensor:
    """Frequencies in Hz -> mel, elementwise."""
    return torch.where(hertz < 1000, hertz * 3 / 200, 15 + torch.log(hertz.clamp_min(1000) / 1000) / _LOG_STEP)


def mel_to_hertz(mel: Tensor) -> Tensor:
    """The inverse of `hertz_to_mel`."""
    return torch.where(mel < 15, mel * 200 / 3, 1000 * torch.exp((mel - 15) * _LOG_STEP))


def mel_density(hertz: Tensor) -> Tensor:
    """Mel per Hz at these frequencies, elementwise: the derivative of `hertz_to_mel`."""
    return torch.where(hertz < 1000, torch.full_like(hertz, 3 / 200), 1 / (hertz.clamp_min(1000) * _LOG_STEP))


@lru_cache(maxsize=32)
def mel_filterbank(rate: int, n_fft: int, bands: int) -> Tensor:
    """Triangular filters `[M, F]` on the mel scale from 0 Hz to Nyquist, of unit area, float32.

    The weights of a band sum to about 1: a band's value is the mean magnitude in it. The result is kept and shared; do
    not change it in place.
    """
    top = hertz_to_mel(torch.tensor(rate / 2, dtype=torch.float64))
    edges = mel_to_hertz(torch.linspace(0, float(top), bands + 2, dtype=torch.float64))[:, None]
    bins = torch.linspace(0, rate / 2, n_fft // 2 + 1, dtype=torch.float64)[None]
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    triangles = torch.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)).clamp_min(0)
    return (triangles * 2 / (high - low) * (rate / n_fft)).float()
