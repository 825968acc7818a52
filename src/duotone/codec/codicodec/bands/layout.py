"""The frequency layout of the bands frontend: bands, harmonics of pitches, and maps between frequency scales.

All are constants of a configuration. Legend: F bins, K pitches, M mel bands.
"""

from __future__ import annotations

import torch
from torch import Tensor

from duotone.config import BandsConfig
from duotone.represent import bands
from duotone.represent.bands import tent
from duotone.represent.mel import hertz_to_mel, mel_density

#: Mel bands of the features of left, right and side, and of the mel loss.
MEL_BANDS = 128
#: Mel bands of the features of left, right and side after pooling.
POOLED_BANDS = 48
#: Harmonics of the source-filter head lie below this frequency, in Hz.
HIGHEST_HARMONIC = 16_000.0
#: Bins below 9 kHz, of a window of 2048 samples at 48 kHz.
_FINE_BINS = 384


def band_edges(config: BandsConfig) -> tuple[int, ...]:
    """Edges of the bands in bins, see `represent.bands`; the Nyquist bin belongs to the last."""
    return bands.band_edges(config.n_fft, config.bins)


def fine_bins(config: BandsConfig) -> int:
    """Where the widest bands begin, in bins: 9 kHz. Below, a band of the heads has more units."""
    return _FINE_BINS * config.n_fft // 2048


def bin_frequencies(config: BandsConfig) -> Tensor:
    """Frequencies of the bins `[F]` in Hz."""
    return torch.linspace(0, config.rate / 2, config.bins, dtype=torch.float32)


def mel_tent(points: int, config: BandsConfig) -> Tensor:
    """`[points, F]`: linear interpolation from points equally spaced on the mel scale to bins."""
    mel = hertz_to_mel(bin_frequencies(config))
    return tent(points, mel / mel[-1] * (points - 1))


def mel_pooling(points: int) -> Tensor:
    """`[MEL_BANDS, points]`: means over mel bands with triangular weights."""
    pool = tent(points, torch.arange(MEL_BANDS, dtype=torch.float32) * (points - 1) / (MEL_BANDS - 1))
    return (pool / pool.sum(1, keepdim=True)).T.contiguous()


def bin_weights(config: BandsConfig) -> Tensor:
    """What each bin counts in a loss `[F]`, of mean about 1: 35% evenly, 65% by the density of the mel scale."""
    density = mel_density(bin_frequencies(config))
    return 0.35 + 0.65 * density / density.mean()


def pitch_frequencies(config: BandsConfig) -> Tensor:
    """Fundamental frequencies `[K]` in Hz, equally spaced on a logarithmic scale."""
    return config.lowest_pitch * 2 ** (torch.arange(config.pitches, dtype=torch.float32) / config.pitches_per_octave)


def combs(config: BandsConfig) -> Tensor:
    """`[K, F]` magnitudes of a sum of harmonics of each pitch, as a Hann window shows them: main lobes of two bins each side."""
    bins, rows = torch.arange(config.bins), []
    for f in pitch_frequencies(config).tolist():
        centres = (
            torch.arange(1, int(HIGHEST_HARMONIC / f) + 1, dtype=torch.float32)[:, None]
            * f
            / config.rate
            * config.n_fft
        )
        d = bins[None] - centres
        # The transform of a Hann window is sinc(d) / (1 - d^2), whose limit at |d| = 1 is a half.
        lobe = torch.where((d.abs() - 1).abs() < 1e-3, torch.full_like(d, 0.5), (torch.sinc(d) / (1 - d * d)).abs())
        rows.append(torch.where(d.abs() < 2, lobe, torch.zeros_like(lobe)).square().sum(0).sqrt())
    return torch.stack(rows) if rows else torch.zeros(0, config.bins, dtype=torch.float32)


def listening_combs(config: BandsConfig) -> Tensor:
    """`[F, K]` weights of the salience of each pitch: its harmonics, the lower ones more, below about 9 kHz; each sums to 1."""
    scale, bins = config.n_fft / 2048, torch.arange(config.bins, dtype=torch.float32)
    weights = (bins < 400 * scale) / (1 + bins / (60 * scale))
    rows = combs(config) * weights
    return (rows / rows.sum(1, keepdim=True)).T.contiguous()
