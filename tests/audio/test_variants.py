"""Variants of pieces: bands, rooms and widths."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio.collection import PEAK, master
from duotone.audio.synth import synthesize
from duotone.audio.variants import CHANCES, Variant, apply, band_limit, draw, reverberate, room
from duotone.audio.waveform import Waveform

RATE = 48_000


def noise(seconds: float = 1.0, seed: int = 0) -> torch.Tensor:
    return 0.2 * torch.randn(2, round(seconds * RATE), generator=torch.Generator().manual_seed(seed))


def energy(samples: torch.Tensor, low: float, high: float) -> float:
    power = torch.fft.rfft(samples * torch.hann_window(samples.shape[1])).abs().square()
    hertz = torch.arange(power.shape[1]) * RATE / samples.shape[1]
    return float(power[:, (hertz >= low) & (hertz < high)].sum())


def test_the_default_changes_nothing() -> None:
    wave = synthesize(1, 0.5)
    assert apply(wave, Variant()).samples.equal(wave.samples) and Variant().describe() == {}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.sampled_from([3400.0, 7500.0, 5000.0, 14_000.0]), st.sampled_from([0.0, 300.0]))
def test_a_band_limited_piece_has_no_energy_above_its_limit_even_after_mastering(
    seed: int, high: float, low: float
) -> None:
    wave = apply(Waveform(noise(seed=seed), RATE), Variant(low=low, high=high))
    for each in (wave, master(wave)):
        whole = energy(each.samples, 0, 24_000)
        assert energy(each.samples, high + 20, 24_000) < 1e-7 * whole  # -70 dB
        assert energy(each.samples, 2 * low + 20, 0.9 * high) > 0.5 * whole
    if low:
        assert energy(wave.samples, 20, 0.9 * low) < 1e-7 * energy(wave.samples, 0, 24_000)


def test_sound_inside_the_band_is_untouched() -> None:
    tone = torch.sin(2 * torch.pi * 1000 * torch.arange(RATE) / RATE).expand(2, -1)
    torch.testing.assert_close(
        band_limit(tone, RATE, 0.0, 7500.0)[:, 5000:-5000], tone[:, 5000:-5000], rtol=0, atol=2e-3
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0, 1), st.sampled_from([0.0, 6000.0]), st.sampled_from([0.0, 0.4]))
def test_width_scales_the_side_and_mono_is_mono(seed: int, width: float, high: float, decay: float) -> None:
    wave = Waveform(noise(0.3, seed), RATE)
    wide = apply(wave, Variant(high=high, decay=decay, wet=0.3, seed=seed)).samples
    changed = apply(wave, Variant(high=high, decay=decay, wet=0.3, seed=seed, width=width)).samples
    torch.testing.assert_close(changed.mean(0), wide.mean(0), rtol=0, atol=1e-5)
    torch.testing.assert_close(changed[0] - changed[1], width * (wide[0] - wide[1]), rtol=0, atol=1e-5)
    mono = apply(wave, Variant(high=high, decay=decay, wet=0.3, seed=seed, width=0.0))
    for each in (mono, master(mono)):
        assert each.samples[0].equal(each.samples[1])


@pytest.mark.parametrize("decay", [0.2, 0.6, 1.4])
def test_a_room_decays_by_sixty_decibels_in_its_time(decay: float) -> None:
    response = room(RATE, decay, 3)
    torch.testing.assert_close(response.square().sum(1), torch.ones(2))
    assert response.equal(room(RATE, decay, 3)) and not response.equal(room(RATE, decay, 4))
    # Schroeder's backward integral between -5 and -25 dB gives a third of the decay time (ISO 3382).
    left = response.square().sum(0).flip(0).cumsum(0).flip(0)
    level = 10 * torch.log10(left / left[0])
    fifth, twentyfifth = (int((level > floor).sum()) for floor in (-5, -25))
    assert 0.35 * decay < 3 * (twentyfifth - fifth) / RATE < 1.15 * decay
    assert not response[0].equal(response[1])


def test_a_room_sounds_after_the_source_and_silence_stays_silent() -> None:
    click = torch.zeros(2, RATE)
    click[:, 1000] = 1.0
    wet = reverberate(click, RATE, 0.5, 0.4, 0)
    assert float(wet[:, :990].abs().max()) < 1e-6 and float(wet[:, 3000:8000].square().sum()) > 1e-4
    assert not reverberate(torch.zeros(2, 100), RATE, 0.5, 0.4, 0).any()


@pytest.mark.parametrize("kind", list(CHANCES))
def test_variants_come_as_often_as_said(kind: str) -> None:
    drawn = [draw(random.Random(seed), kind) for seed in range(2000)]
    assert drawn == [draw(random.Random(seed), kind) for seed in range(2000)]
    counts = Counter(
        name
        for v in drawn
        for name, there in (
            ("limit", v.high > 0), ("room", v.decay > 0), ("mono", v.width == 0), ("narrow", 0 < v.width < 1),
        )
        if there
    )  # fmt: skip
    for name, chance in CHANCES[kind].items():
        assert counts[name] / 2000 == pytest.approx(chance, abs=0.035)
    assert sum(not v.describe() for v in drawn) > 500


def test_peaks_stay_below_the_limit_whatever_the_variant() -> None:
    for seed in range(12):
        kind = ("music", "speech", "synth")[seed % 3]
        wave = master(apply(synthesize(seed, 0.5), draw(random.Random(seed), kind)))
        assert float(wave.samples.abs().max()) <= PEAK + 1e-6 and wave.length == RATE // 2
