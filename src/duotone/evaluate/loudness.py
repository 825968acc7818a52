"""Loudness by ITU-R BS.1770-5, and versions of one recording brought to equal loudness.

Legend: C channels, T samples, F frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform

#: The two filters of the K weighting at 48 kHz, (b, a) each: BS.1770-5, tables 1 and 2.
_SHELF = ((1.53512485958697, -2.69169618940638, 1.19839281085285), (1.0, -1.69065929318241, 0.73248077421585))
_HIGH_PASS = ((1.0, -2.0, 1.0), (1.0, -1.99004745483398, 0.99007225036621))
_RATE = 48_000
_OFFSET = -0.691  # makes a 997 Hz sine of full scale in one channel -3.01 LKFS
#: Full scale that gains leave room for: rounding to 16 bits must not clip.
CEILING = 0.999


def loudness(wave: Waveform) -> float:
    """Loudness in LKFS over the whole recording (BS.1770-5, equation 2, without gating); -inf for silence.

    Without gating, since versions of one recording have their pauses in the same places.
    """
    samples = wave.resample(_RATE).samples
    if samples.shape[1] == 0:
        return -math.inf
    size = 1 << max(12, samples.shape[1].bit_length())  # room for the filters' response after the end
    spectrum = torch.fft.rfft(samples, size).abs() * _k_weighting(size)
    spectrum[:, 1:-1] *= math.sqrt(2)  # Parseval: each frequency between stands for two
    power = float(spectrum.double().square().sum()) / size / samples.shape[1]
    return _OFFSET + 10 * math.log10(power) if power > 0 else -math.inf


def _k_weighting(size: int) -> Tensor:
    """Magnitude `[F]` of the K weighting at the frequencies of an FFT of `size` at 48 kHz."""
    z = torch.exp(-2j * math.pi * torch.arange(size // 2 + 1, dtype=torch.float64) / size)
    weighting = torch.ones_like(z)
    for b, a in (_SHELF, _HIGH_PASS):
        weighting = weighting * (b[0] + z * (b[1] + z * b[2])) / (a[0] + z * (a[1] + z * a[2]))
    return weighting.abs().float()


def matched(waves: Sequence[Waveform]) -> tuple[list[Waveform], list[float]]:
    """Bring versions of a recording to the loudness of the first; returns them and the gains in dB.

    If one of them would exceed full scale, all become quieter by the same amount. Silence is left as it is.
    """
    levels = [loudness(wave) for wave in waves]
    gains = [levels[0] - level if math.isfinite(level) and math.isfinite(levels[0]) else 0.0 for level in levels]
    peaks = [
        float(wave.samples.abs().max()) * 10 ** (gain / 20) if wave.length else 0.0
        for wave, gain in zip(waves, gains, strict=True)
    ]
    room = min(0.0, 20 * math.log10(CEILING / max(*peaks, CEILING)))
    gains = [gain + room for gain in gains]
    scaled = [Waveform(wave.samples * 10 ** (gain / 20), wave.rate) for wave, gain in zip(waves, gains, strict=True)]
    return scaled, gains
