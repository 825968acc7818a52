"""Pitch and contrast of harmonics, and the comb at the hop rate, against signals whose figures are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.evaluate.comb import comb_excess, line_contrast
from duotone.evaluate.harmonics import VOICED, _frames, contrast, harmonics, pitch

RATE = 48_000
TIME = torch.arange(2 * RATE, dtype=torch.float64) / RATE


def tone(hertz: float, count: int = 15) -> Tensor:
    """Harmonics that fall with their number, 20 dB below full scale."""
    parts = [torch.sin(2 * math.pi * k * hertz * TIME + k) / k for k in range(1, count + 1) if k * hertz < 20_000]
    return 0.1 * torch.stack(parts).sum(0).float()


def noise(seed: int = 0) -> Tensor:
    return 0.1 * torch.randn(2 * RATE, generator=torch.Generator().manual_seed(seed))


def falling(seed: int = 0) -> Tensor:
    """Noise that falls by 12 dB an octave above 300 Hz."""
    hertz = torch.fft.rfftfreq(2 * RATE, 1 / RATE)
    return torch.fft.irfft(torch.fft.rfft(noise(seed)) / (1 + hertz / 300) ** 2)


def wave(*channels: Tensor, rate: int = RATE) -> Waveform:
    return Waveform(torch.stack(channels), rate)


def at_ratio(x: Tensor, other: Tensor, decibel: float) -> Tensor:
    """`x` plus `other` at `decibel` below it."""
    return x + other * (x.square().mean() / other.square().mean()).sqrt() * 10 ** (-decibel / 20)


@settings(max_examples=20)
@given(st.floats(72, 990), st.sampled_from([1, 2, 15]), st.sampled_from([44_100, 48_000]))
def test_the_pitch_of_a_tone_is_found_within_a_thousandth(hertz: float, count: int, rate: int) -> None:
    found, strength = pitch(_frames(wave(tone(hertz * RATE / rate, count), rate=rate)), rate)
    assert float((found / hertz - 1).abs().max()) < 1e-3 and float(strength.min()) > 0.95


def test_noise_and_silence_have_no_pitch() -> None:
    for samples in (noise(), falling(), torch.zeros(2 * RATE), torch.full((2 * RATE,), 0.5), 1e-4 * tone(200)):
        _, strength = pitch(_frames(wave(samples)), RATE)
        assert float(strength.max()) < VOICED
        result = harmonics(wave(samples), wave(tone(200)))
        assert result.share == 0 and math.isnan(result.difference)


def test_pitch_of_a_glide_in_noise_agrees_with_yin() -> None:
    librosa = pytest.importorskip("librosa")
    glide = torch.sin(2 * math.pi * torch.cumsum(150 + 60 * TIME, 0) / RATE).float()
    samples = at_ratio(glide + 0.5 * torch.sin(2 * torch.asin(glide)), noise(3), 15)
    ours, strength = pitch(_frames(wave(samples)), RATE)
    theirs = librosa.yin(samples.numpy(), fmin=70, fmax=1000, sr=RATE, frame_length=4096, hop_length=1024, center=False)
    both = (strength >= VOICED).numpy()[: len(theirs)]
    assert both.mean() > 0.5
    assert np.median(np.abs(ours.numpy()[: len(theirs)][both] / theirs[: len(both)][both] - 1)) < 0.005


def test_a_clean_tone_stands_out_and_noise_does_not() -> None:
    for hertz in (82.0, 147.0, 440.0, 930.0):
        assert harmonics(wave(tone(hertz)), wave(tone(hertz))).original > 40
        for samples in (noise(), falling()):
            frames = _frames(wave(samples))
            assert abs(float(contrast(frames, RATE, torch.full((len(frames),), hertz)).median())) < 1.5


@settings(max_examples=10)
@given(st.integers(0, 100))
def test_nothing_changes_between_a_wave_and_itself_or_a_copy_at_another_gain(seed: int) -> None:
    piece = synthesize(seed, 1.0)
    same = harmonics(piece, piece)
    assert math.isnan(same.difference) or same.difference == 0
    quieter = harmonics(piece, Waveform(0.5 * piece.samples, piece.rate))
    assert math.isnan(quieter.difference) or abs(quieter.difference) < 1e-3


def test_noise_takes_contrast_away_decibel_by_decibel() -> None:
    x = tone(220)
    lost = [harmonics(wave(x), wave(at_ratio(x, noise(), ratio))).difference for ratio in (60, 40, 20, 10, 0)]
    assert lost == sorted(lost, reverse=True) and abs(lost[0]) < 0.1
    assert lost[2] - lost[3] == pytest.approx(10, abs=0.5)  # where the noise fills the gaps
    assert harmonics(wave(x), wave(falling(1))).decoded == pytest.approx(0, abs=1.5)


def test_frames_without_a_pitch_do_not_count() -> None:
    half = torch.cat([tone(220)[:RATE], noise()[:RATE]])
    other = torch.cat([tone(220)[:RATE], falling()[:RATE]])
    result = harmonics(wave(half), wave(other))
    assert 0.4 < result.share < 0.55 and result.difference == 0


def test_a_short_wave_is_one_frame() -> None:
    assert harmonics(wave(tone(220)[:100]), wave(tone(220)[:100])).share in (0.0, 1.0)


def pulses(period: int) -> Tensor:
    out = torch.zeros(2 * RATE)
    out[::period] = 1
    return out


@pytest.mark.parametrize("period", [1024, 512])
def test_pulses_at_the_hop_rate_are_noticed_at_minus_20_db(period: int) -> None:
    for clean, least in ((tone(220), 10.0), (falling(), 1.0), (synthesize(4, 2.0).samples.mean(0), 1.0)):
        clean = clean[: 2 * RATE]
        buzzing = at_ratio(clean, pulses(period)[: len(clean)], 20)
        assert comb_excess(wave(clean), wave(buzzing)) > least
        assert comb_excess(wave(clean), wave(clean)) == 0


def test_pulses_at_another_rate_are_no_comb() -> None:
    clean = falling()
    assert comb_excess(wave(clean), wave(at_ratio(clean, pulses(777), 20))) < 0.5
    assert abs(comb_excess(wave(clean), wave(falling(9)))) < 0.5


def test_other_noise_has_no_comb_and_one_of_the_original_is_not_held_against_a_decoder() -> None:
    assert abs(float(line_contrast(noise(5), 1024))) < 0.2
    buzzing = at_ratio(falling(), pulses(1024), 20)
    assert comb_excess(wave(buzzing), wave(buzzing)) == 0
    assert comb_excess(wave(buzzing), wave(falling())) <= 0.5
    assert line_contrast(buzzing, 1024) > 1


def test_a_comb_is_seen_at_another_sample_rate_and_in_a_short_wave() -> None:
    clean = falling()
    buzzing = at_ratio(clean, pulses(1024), 10)
    other = [Waveform(x[None], RATE).resample(44_100) for x in (clean, buzzing)]
    assert comb_excess(*other) > 1
    assert math.isfinite(comb_excess(wave(clean[:50]), wave(buzzing[:50])))
