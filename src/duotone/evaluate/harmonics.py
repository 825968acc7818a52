"""How far harmonics stand out: energy at the harmonics of the original's pitch against the energy between them.

Legend: T samples, N frames, F frequency bins, K harmonics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform

#: Length of a frame: harmonics 70 Hz apart are then six bins apart, and a Hann window's main lobe covers four.
FRAME_SECONDS = 4096 / 48_000
LOWEST_HZ, HIGHEST_HZ = 70.0, 1000.0
#: Harmonics counted, and the frequency that they have to stay below.
HARMONICS, TOP_HZ = 10, 5000.0
#: Smallest normalised autocorrelation of a frame that counts as having a pitch (1: exactly periodic; noise has about 0.3).
VOICED = 0.75
#: What an octave downwards has to gain in autocorrelation to be preferred (Boersma 1993, "octave cost").
OCTAVE_COST = 0.02
#: Frames under this level (dB against a full-scale sine) have no pitch.
QUIET_DB = -60.0
#: Levels are floored this far below the frame's strongest harmonic: what lies lower is not heard beside it.
RANGE_DB = 60.0


@dataclass(frozen=True)
class Harmonics:
    """Medians over the frames with a pitch, in dB: contrast of the original, of the decoded wave, and of decoded - original.

    `share` is the share of all frames that have a pitch; without any, the medians are NaN.
    """

    original: float
    decoded: float
    difference: float
    share: float


def harmonics(original: Waveform, decoded: Waveform) -> Harmonics:
    """Compare the contrast of harmonics in two waves of equal rate and length, at the pitch of the original.

    Both are the mean of their channels; frames last 85 ms and advance by a quarter.
    """
    first, second = (_frames(wave) for wave in (original, decoded))
    hertz, strength = pitch(first, original.rate)
    voiced = strength >= VOICED
    if not bool(voiced.any()):
        return Harmonics(math.nan, math.nan, math.nan, 0.0)
    a, b = (contrast(frames[voiced], original.rate, hertz[voiced]) for frames in (first, second))
    first_median, second_median, change = (float(values.median()) for values in (a, b, b - a))
    return Harmonics(first_median, second_median, change, float(voiced.float().mean()))


def pitch(frames: Tensor, rate: int) -> tuple[Tensor, Tensor]:
    """Windowed frames `[N, T]` -> frequency in Hz `[N]` and strength `[N]` (0: quiet or without any period; 1: periodic).

    The autocorrelation of the frame below 5 kHz, divided by that of the window; its highest maximum between the periods of
    1000 and 70 Hz, with a small preference for short periods (Boersma 1993, *Accurate short-term analysis of the
    fundamental frequency and the harmonics-to-noise ratio of a sampled sound*, IFA Proceedings 17).
    """
    size = frames.shape[-1]
    power = torch.fft.rfft(frames, 2 * size).abs().square()
    hertz = torch.linspace(0, rate / 2, size + 1)
    heard = (hertz > LOWEST_HZ / 2) & (hertz < TOP_HZ)
    correlation = torch.fft.irfft(power * heard, 2 * size)
    window = torch.hann_window(size)
    own = torch.fft.irfft(torch.fft.rfft(window, 2 * size).abs().square(), 2 * size)
    first, last = int(rate / HIGHEST_HZ), int(rate / LOWEST_HZ) + 1
    lags = torch.arange(first - 1, last + 2)
    level = correlation[:, :1].clamp_min(1e-20)
    curve = (correlation / level)[:, lags] / (own / own[0])[lags]
    left, centre, right = curve[:, :-2], curve[:, 1:-1], curve[:, 2:]
    peak = (centre >= left) & (centre > right)
    # parabola through the maximum and its neighbours
    bend = (left - 2 * centre + right).clamp_max(-1e-9)
    shift = (0.5 * (left - right) / bend).clamp(-0.5, 0.5)
    height = (centre - 0.25 * (left - right) * shift).clamp_max(1)
    period = lags[1:-1] + shift
    score = torch.where(peak, height - OCTAVE_COST * torch.log2(LOWEST_HZ / rate * period), torch.tensor(-math.inf))
    best = score.argmax(-1, keepdim=True)
    found = peak.any(-1) & (power.sum(-1) > _quiet_power(window))
    strength = torch.where(found, height.gather(1, best)[:, 0], torch.zeros(len(frames)))
    return rate / period.gather(1, best)[:, 0], strength


def contrast(frames: Tensor, rate: int, hertz: Tensor) -> Tensor:
    """Windowed frames `[N, T]` and their pitch `[N]` -> how far harmonics stand out `[N]`, in dB.

    Mean over the first ten harmonics below 5 kHz of the level in the three bins around a harmonic, less the mean of the
    levels in the three bins around the middles to both neighbours; noise of any smooth spectrum has about 0.
    """
    size = frames.shape[-1]
    power = torch.fft.rfft(frames).abs().square()
    halves = torch.arange(2, 2 * HARMONICS + 2)  # at harmonics where even, in the middle between two where odd
    centre = hertz[:, None] * halves * (size / (2 * rate))
    bins = (centre.round().long()[..., None] + torch.arange(-1, 2)).clamp(0, power.shape[-1] - 1)
    energy = power.gather(1, bins.flatten(1)).unflatten(1, bins.shape[1:]).sum(-1)
    at, between = energy[:, 0::2], energy[:, 1::2]
    counted = hertz[:, None] * torch.arange(1, HARMONICS + 1) < TOP_HZ
    floor = torch.where(counted, at, torch.zeros(())).amax(-1, keepdim=True).clamp_min(1e-12) * 10 ** (-RANGE_DB / 10)
    at, between = (10 * torch.log10(torch.maximum(part, floor)) for part in (at, between))
    below = torch.cat([between[:, :1], between[:, :-1]], dim=1)  # under the first harmonic: only what lies above it
    standing = torch.where(counted, at - (below + between) / 2, torch.zeros(()))
    return standing.sum(-1) / counted.sum(-1)


def _frames(wave: Waveform) -> Tensor:
    """The mean of the channels, cut into windowed frames `[N, T]` that advance by a quarter."""
    size = 2 * round(wave.rate * FRAME_SECONDS / 2)
    mono = wave.to_channels(1).samples[0]
    mono = torch.nn.functional.pad(mono, (0, max(0, size - len(mono))))
    return mono.unfold(0, size, size // 4) * torch.hann_window(size)


def _quiet_power(window: Tensor) -> float:
    """The sum of `power` in `pitch` for a sine at the level under which frames have no pitch."""
    return 10 ** (QUIET_DB / 10) / 2 * float(window.square().sum()) * len(window)
