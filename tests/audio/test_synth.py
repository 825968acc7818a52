"""The dependency-free synthesizer."""

from __future__ import annotations

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio import synth
from duotone.audio.synth import synthesize
from duotone.errors import UsageError

RATE = 48_000


def test_the_same_seed_gives_the_same_sound_whatever_came_before() -> None:
    first = synthesize(5, 2.0)
    torch.manual_seed(123)
    random.seed(99)
    torch.rand(3)
    assert synthesize(5, 2.0).samples.equal(first.samples)
    assert not synthesize(6, 2.0).samples.equal(first.samples)


def test_it_leaves_the_global_random_state_alone() -> None:
    torch.manual_seed(1)
    expected = torch.rand(4)
    torch.manual_seed(1)
    synthesize(2, 0.5)
    assert torch.rand(4).equal(expected)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**40), st.integers(1, 30_000), st.sampled_from((8_000, 22_050, 48_000)))
def test_any_length_and_rate(seed: int, samples: int, rate: int) -> None:
    wave = synthesize(seed, samples / rate, rate)
    assert wave.samples.shape == (2, samples) and wave.samples.dtype == torch.float32 and wave.rate == rate
    assert bool(torch.isfinite(wave.samples).all())
    assert float(wave.samples.abs().max()) <= 0.9 + 1e-6


def test_pieces_are_loud_stereo_and_varied() -> None:
    waves = [synthesize(seed, 3.0) for seed in range(12)]
    levels = [20 * math.log10(float(w.samples.pow(2).mean().sqrt())) for w in waves]
    assert min(levels) > -40
    for wave in waves:
        left, right = wave.samples
        assert float((left - right).pow(2).mean()) > 1e-4 * float((left + right).pow(2).mean())
    spectra = [torch.fft.rfft(w.samples.mean(0)).abs()[:60_000].reshape(-1, 600).mean(1) for w in waves]
    close = [float(torch.cosine_similarity(a, b, dim=0)) for i, a in enumerate(spectra) for b in spectra[i + 1 :]]
    assert sum(close) / len(close) < 0.9


@pytest.mark.parametrize("voice", [synth._additive, synth._fm, synth._vibrato, synth._swept, synth._plucked])
def test_every_voice_sounds_at_its_pitch(voice: synth.Voice) -> None:
    t = torch.arange(RATE) / RATE
    hits = 0
    for seed in range(6):
        tone = voice(t, 240.0, RATE, random.Random(seed))
        assert tone.shape == t.shape and bool(torch.isfinite(tone).all())
        power = torch.fft.rfft(tone * torch.hann_window(RATE)).abs().square()
        near = sum(float(power[240 * k - 8 * k - 4 : 240 * k + 8 * k + 5].sum()) for k in range(1, 12))
        hits += near > 0.5 * float(power.sum())
    assert hits >= 4  # an inharmonic ratio of the FM voice may lie elsewhere


def test_partials_stay_below_the_nyquist_frequency() -> None:
    t = torch.arange(8_000) / 8_000
    tone = synth._swept(t, 1_500.0, 8_000, random.Random(0))
    power = torch.fft.rfft(tone * torch.hann_window(8_000)).abs().square()
    harmonic = sum(float(power[k * 1_500 - 4 : k * 1_500 + 5].sum()) for k in (1, 2))
    assert harmonic > 0.99 * float(power.sum())


def test_the_sweep_equals_its_closed_form() -> None:
    t = torch.arange(4_800, dtype=torch.float64) / RATE
    rng = random.Random(3)
    start, end, speed = rng.uniform(2, 20), rng.uniform(1, 6), rng.uniform(1, 8)
    cutoff = end + (start - end) * torch.exp(-t * speed)
    expected = sum(torch.sin(2 * math.pi * 300 * k * t) / (k * (1 + (k / cutoff) ** 4)) for k in range(1, 17))
    got = synth._swept((torch.arange(4_800) / RATE), 300.0, RATE, random.Random(3))
    assert isinstance(expected, torch.Tensor)
    assert float((got - expected).abs().max()) < 2e-3


def test_the_plucked_string_equals_its_delay_line() -> None:
    """All rounds at once by powers of the loop's response, against the loop itself."""
    rng = random.Random(8)
    loss, bright = rng.uniform(0.985, 0.999), rng.uniform(0.5, 0.95)
    line = torch.rand(100, generator=torch.Generator().manual_seed(rng.randrange(2**31))) * 2 - 1
    line -= line.mean()
    rounds = [line]
    for _ in range(30):
        line = loss * (bright * line + (1 - bright) * line.roll(1))
        rounds.append(line)
    got = synth._plucked(torch.arange(3_050) / RATE, 480.0, RATE, random.Random(8))
    torch.testing.assert_close(got, torch.cat(rounds)[:3_050], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("seconds", [0.0, -2.0, math.inf, math.nan])
def test_impossible_lengths_are_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="seconds"):
        synthesize(0, seconds)
