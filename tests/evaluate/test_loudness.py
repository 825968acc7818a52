"""Loudness: reference levels of BS.1770, scipy's filters as an oracle, and versions brought to one loudness."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import lfilter

from duotone.audio.waveform import Waveform
from duotone.evaluate import loudness as module
from duotone.evaluate.loudness import CEILING, loudness, matched


def sine(hertz: float, rate: int = 48_000, seconds: float = 2.0, channels: int = 1) -> Waveform:
    time = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    return Waveform(torch.sin(2 * math.pi * hertz * time).float()[None].repeat(channels, 1), rate)


def test_a_sine_of_full_scale_at_997_hz_has_minus_3_lkfs() -> None:
    assert loudness(sine(997)) == pytest.approx(-3.01, abs=0.02)  # BS.1770-5, annex 1
    assert loudness(sine(997, channels=2)) == pytest.approx(0.0, abs=0.02)
    assert loudness(sine(997, rate=44_100)) == pytest.approx(-3.01, abs=0.02)
    assert loudness(Waveform(0.5 * sine(997).samples, 48_000)) == pytest.approx(-3.01 - 6.02, abs=0.02)


def test_loudness_is_that_of_the_filters_run_over_time() -> None:
    samples = np.random.default_rng(0).standard_normal((2, 48_000)) * 0.1
    padded = np.pad(samples, ((0, 0), (0, 8_000)))  # the response rings on
    for b, a in (module._SHELF, module._HIGH_PASS):
        padded = lfilter(b, a, padded)
    expected = -0.691 + 10 * math.log10(float((padded**2).sum()) / samples.shape[1])
    assert loudness(Waveform(samples.astype(np.float32), 48_000)) == pytest.approx(expected, abs=1e-3)


def test_low_frequencies_count_less_and_high_ones_more() -> None:
    assert loudness(sine(30)) < loudness(sine(997)) - 5 and loudness(sine(8_000)) > loudness(sine(997)) + 3


def test_versions_become_equally_loud_and_none_exceeds_full_scale() -> None:
    waves = [sine(400), Waveform(0.01 * sine(400).samples, 48_000), Waveform(0.3 * sine(3_000).samples, 48_000)]
    waves[1].samples[0, 5] = 0.2  # a peak that its gain lifts above full scale
    scaled, gains = matched(waves)
    levels = [loudness(wave) for wave in scaled]
    assert max(levels) - min(levels) < 0.02
    assert max(float(wave.samples.abs().max()) for wave in scaled) == pytest.approx(CEILING, rel=1e-4)
    assert gains[0] < -10 and gains[1] > gains[0]


def test_silence_is_left_alone() -> None:
    silence = Waveform(torch.zeros(2, 100), 48_000)
    assert loudness(silence) == -math.inf and loudness(Waveform(torch.zeros(1, 0), 8_000)) == -math.inf
    scaled, gains = matched([sine(400), silence])
    assert gains[1] == gains[0] and not scaled[1].samples.any()
    assert matched([silence, silence])[1] == [0.0, 0.0]
