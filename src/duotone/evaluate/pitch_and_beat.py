"""Does a continuation keep key and tempo: pitch classes and onset periods of two sounds, compared.

Pitch classes: strengths of spectral peaks between 65 Hz and 2.1 kHz, folded into octaves and averaged over time (the pitch class
profile of Fujishima 1999, of peaks only). Onset periods: autocorrelation of the onset strength (Ellis 2007, sections 3.1 and 3.2, without the
weighting of tempi). Neither needs to know where a beat or a key is; both are closed forms for tones and clicks.

Legend: F bins, N frames, L lags.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError
from duotone.evaluate.metrics import magnitudes
from duotone.evaluate.report import Interval, bootstrap
from duotone.represent.mel import mel_filterbank

PITCH_WINDOW = 0.17  # seconds, rounded to a power of two of samples: semitones are told apart from about 100 Hz on
LOWEST, HIGHEST = 65.4, 2093.0  # Hz: five octaves from C2
A4 = 440.0
ONSET_STEP = 0.01  # seconds
PERIODS = (0.2, 2.0)  # seconds between onsets
ALMOST = 0.9  #: of the largest autocorrelation, from which on the shortest period is taken
TOLERANCE = 0.04  #: by which periods may differ and still count as one tempo (as in MIREX)


def pitch_classes(wave: Waveform) -> Tensor:
    """Shares `[12]` of the pitch classes C, C sharp, ... B, which add up to 1; all 0 for a wave without peaks (silence).

    A frame counts by the root of its magnitudes, so that loud ones do not decide alone.
    """
    window = 2 ** round(math.log2(PITCH_WINDOW * wave.rate))
    magnitude = magnitudes(wave.to_channels(1).samples, window, window // 4)[0]  # [F, N]
    hertz = torch.linspace(0, wave.rate / 2, len(magnitude))
    inner = magnitude[1:-1]
    floor = magnitude.amax(0) * 1e-2  # 40 dB below the frame's strongest bin
    peaks = (inner > magnitude[:-2]) & (inner >= magnitude[2:]) & (inner > floor.clamp_min(1e-5))
    peaks &= ((hertz >= LOWEST * 2 ** (-1 / 24)) & (hertz <= HIGHEST))[1:-1, None]
    strength = torch.where(peaks, inner, 0).sqrt().sum(1)
    folded = torch.zeros(12).index_add_(0, _classes(hertz[1:-1]), strength)
    return folded / folded.sum().clamp_min(1e-12)


def _classes(hertz: Tensor) -> Tensor:
    """Frequencies in Hz above 0 -> pitch classes, 0 for C."""
    return (torch.log2(hertz / A4) * 12 + 9).round().long() % 12


def onset_strength(wave: Waveform) -> Tensor:
    """By how much 40 mel bands rise from frame to frame in dB, `[N]`, a frame every 10 ms."""
    hop = round(ONSET_STEP * wave.rate)
    window = 2 ** math.ceil(math.log2(3 * hop))
    magnitude = magnitudes(wave.to_channels(1).samples, window, hop)[0]
    level = 20 * torch.log10((mel_filterbank(wave.rate, window, 40) @ magnitude).clamp_min(1e-4))
    rises: Tensor = torch.diff(level, dim=1).clamp_min(0).mean(0)
    return rises


def onset_periods(wave: Waveform) -> Tensor:
    """Autocorrelation `[L]` of the onset strength at 0.2, 0.21, ... 2 s, 1 at lag 0; all 0 without onsets.

    Each lag is divided by the number of its products, so that long ones are not at a disadvantage. Raises `UsageError` for less than 4 s.
    """
    low, high = (round(seconds / ONSET_STEP) for seconds in PERIODS)
    onsets = onset_strength(wave)
    if len(onsets) < 2 * high:
        raise UsageError(
            f"Got {wave.seconds:.1f} s of sound, expected at least {2 * PERIODS[1]:g} s to see its period."
        )
    smooth = torch.hann_window(7, periodic=False)[1:-1]  # periods are no whole numbers of frames
    onsets = torch.nn.functional.conv1d(onsets[None, None], (smooth / smooth.sum())[None, None], padding=2)[0, 0]
    onsets = onsets - onsets.mean()
    power = torch.fft.rfft(onsets, n=2 * len(onsets)).abs().square()
    found: Tensor = torch.fft.irfft(power)[: high + 1]
    if float(found[0]) < 1e-9:
        return torch.zeros(high + 1 - low)
    count = len(onsets) - torch.arange(high + 1)
    scaled: Tensor = found / found[0] * len(onsets) / count
    return scaled[low:]


def strongest_period(periods: Tensor) -> float:
    """The shortest period in seconds whose autocorrelation is a local maximum near the largest one; NaN without any.

    A click every half second repeats after a second as well: the shortest of such periods is the beat's.
    """
    inner = periods[1:-1]
    tops = (inner > periods[:-2]) & (inner >= periods[2:]) & (inner > 0)
    if not bool(tops.any()):
        return math.nan
    near = tops & (inner >= ALMOST * float(inner[tops].max()))
    return PERIODS[0] + ONSET_STEP * (1 + int(near.nonzero()[0]))


def correlation(a: Tensor, b: Tensor) -> float:
    """Pearson's correlation of two vectors; NaN where one is constant."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    scale = float(a.norm() * b.norm())
    return float(a @ b) / scale if scale > 1e-12 else math.nan


def same_tempo(a: Tensor, b: Tensor) -> float:
    """1 where the strongest periods of two autocorrelations are equal, or one is double the other; else 0; NaN without periods."""
    ratio = strongest_period(a) / strongest_period(b)
    if math.isnan(ratio):
        return math.nan
    return float(any(abs(ratio / factor - 1) <= TOLERANCE for factor in (0.5, 1.0, 2.0)))


@dataclass(frozen=True)
class Heard:
    """What is compared of a sound."""

    pitch: Tensor  #: `[12]`
    periods: Tensor  #: `[L]`

    @classmethod
    def of(cls, wave: Waveform) -> Heard:
        """Listen to a sound of at least 4 s."""
        return cls(pitch_classes(wave), onset_periods(wave))


@dataclass(frozen=True)
class Match:
    """A figure of continuations against their own prompts and those of other recordings: means with intervals over continuations."""

    own: Interval
    others: Interval
    difference: Interval  #: continuation by continuation; above 0 where they keep to their own prompt


#: Name of a figure -> its value for two sounds; 1 is the best.
FIGURES: dict[str, Callable[[Heard, Heard], float]] = {
    "pitch classes": lambda a, b: correlation(a.pitch, b.pitch),
    "onset periods": lambda a, b: correlation(a.periods, b.periods),
    "same tempo": lambda a, b: same_tempo(a.periods, b.periods),
}


def matches(
    continuations: Sequence[Heard], prompts: Sequence[Heard], sources: Sequence[str], seed: int = 0
) -> dict[str, Match]:
    """Each figure of continuation i against prompt i, and against all prompts of other sources (its mean over them).

    `sources` names the recording of each prompt: prompts of one recording are alike, so they are not shuffled among each other.
    Raises `UsageError` for unequal numbers, or where a prompt has no other recording to be compared with.
    """
    if not len(continuations) == len(prompts) == len(sources) or len(set(sources)) < 2:
        raise UsageError(
            f"Got {len(continuations)} continuations of {len(prompts)} prompts from {len(set(sources))} recordings, expected equal numbers, "
            f"and two recordings or more."
        )
    out = {}
    for name, figure in FIGURES.items():
        own, others = [], []
        for i, found in enumerate(continuations):
            own.append(figure(found, prompts[i]))
            values = [figure(found, prompts[j]) for j in range(len(prompts)) if sources[j] != sources[i]]
            others.append(_mean(values))
        gaps = [a - b for a, b in zip(own, others, strict=True)]
        out[name] = Match(bootstrap(own, seed), bootstrap(others, seed), bootstrap(gaps, seed))
    return out


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not math.isnan(value)]
    return float(np.mean(defined)) if defined else math.nan
