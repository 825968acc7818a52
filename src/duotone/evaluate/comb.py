"""Energy at the multiples of a codec's hop rate: decoders that repeat a pattern in every frame buzz at that rate.

Legend: T samples, F frequency bins, L spectral lines.
"""

from __future__ import annotations

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform

#: The rate that the periods are for; other waves are resampled.
RATE = 48_000
#: Periods looked for, in samples: lines at multiples of 46.875 and of 93.75 Hz.
PERIODS = (1024, 512)
#: Periods of a window, so many bins from line to line; windows overlap by half.
_BINS = 16
#: Lines up to here count.
TOP_HZ = 10_000.0
#: Levels are floored here, against a full-scale sine.
FLOOR_DB = -100.0


def comb_excess(original: Waveform, decoded: Waveform) -> float:
    """By how many dB the lines at multiples of the hop rate stand out more in the decoded wave than in the original.

    For each period of `PERIODS` `line_contrast` of both; the larger difference. 0 for equal waves, above 0 where the decoder
    added a comb, below 0 where the original has tones there that the decoder lost.
    """
    a, b = (wave.resample(RATE).to_channels(1).samples[0] for wave in (original, decoded))
    return max(float(line_contrast(b, period) - line_contrast(a, period)) for period in PERIODS)


def line_contrast(samples: Tensor, period: int) -> Tensor:
    """`[T]` -> mean over the lines up to 10 kHz of the level at a line less that midway between lines, in dB.

    Hann windows of 16 periods; powers are means over all windows of the wave, then three bins at the line against nine bins around
    the middle to the next. Noise has about 0, a tone that is no multiple of the rate adds nothing at the lines.
    """
    size = _BINS * period
    padded = torch.nn.functional.pad(samples, (0, max(0, size - len(samples))))
    window = torch.hann_window(size)
    spectra = torch.fft.rfft(padded.unfold(0, size, size // 2) * window).abs().square().mean(0)
    power = spectra * (2 / window.sum()) ** 2
    lines = min(int(TOP_HZ * period / RATE), len(power) // _BINS - 1)
    at = torch.arange(1, lines + 1)[:, None] * _BINS
    level, between = (
        _decibel(power[at + torch.arange(first, last + 1)].mean(-1)) for first, last in ((-1, 1), (4, _BINS - 4))
    )
    return (level - between).mean()


def _decibel(power: Tensor) -> Tensor:
    return 10 * torch.log10(power.clamp_min(10 ** (FLOOR_DB / 10)))
