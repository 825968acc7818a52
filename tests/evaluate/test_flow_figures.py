"""Figures of continuations against closed forms: tones, clicks, steps, copies, drifts that are known."""

from __future__ import annotations

import math

import pytest
import torch

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError
from duotone.evaluate.copying import copying, nearest
from duotone.evaluate.drift import heard_minutes, latent_minutes, slope
from duotone.evaluate.joints import FIGURES, joints, jumps
from duotone.evaluate.pitch_and_beat import (
    Heard,
    correlation,
    matches,
    onset_periods,
    pitch_classes,
    same_tempo,
    strongest_period,
)

RATE = 24_000
C, E, G, A = 0, 4, 7, 9


def tones(*hertz: float, seconds: float = 4.5) -> Waveform:
    time = torch.arange(round(seconds * RATE), dtype=torch.float64) / RATE
    return Waveform(sum(0.2 * torch.sin(2 * math.pi * f * time) for f in hertz)[None].float(), RATE)  # type: ignore[union-attr]


def clicks(period: float, seconds: float = 8.0, weak: float = 1.0, seed: int = 0) -> Waveform:
    """Bursts of noise of 20 ms; every second one has the share `weak` of the strength."""
    g = torch.Generator().manual_seed(seed)
    samples = 1e-4 * torch.randn(round(seconds * RATE), generator=g)
    for i in range(int((seconds - 0.05) / period)):
        start = round(i * period * RATE)
        samples[start : start + 480] += (weak if i % 2 else 1.0) * 0.3 * torch.randn(480, generator=g)
    return Waveform(samples[None], RATE)


def test_pitch_classes_of_tones() -> None:
    assert int(pitch_classes(tones(440.0)).argmax()) == A and float(pitch_classes(tones(440.0))[A]) > 0.99
    for octave in (110.0, 220.0, 1760.0):
        assert float(pitch_classes(tones(octave))[A]) > 0.95
    triad = pitch_classes(tones(261.63, 329.63, 392.0))
    assert sorted(triad.argsort(descending=True)[:3].tolist()) == [C, E, G]
    assert float(triad[[C, E, G]].sum()) > 0.95 and float(triad.sum()) == pytest.approx(1)
    assert float(pitch_classes(Waveform(torch.zeros(2, RATE), RATE)).sum()) == 0
    assert float(pitch_classes(tones(5000.0)).sum()) < 1e-6  # above what is looked at


def test_pitch_classes_do_not_depend_on_loudness_and_rate() -> None:
    wave = tones(261.63, 392.0)
    quiet = Waveform(0.05 * wave.samples, RATE)
    torch.testing.assert_close(pitch_classes(quiet), pitch_classes(wave), atol=1e-3, rtol=0)
    assert correlation(pitch_classes(wave.resample(48_000)), pitch_classes(wave)) > 0.99


@pytest.mark.parametrize("period", [0.3, 0.5, 0.613])
def test_periods_of_clicks(period: float) -> None:
    found = onset_periods(clicks(period))
    assert strongest_period(found) == pytest.approx(period, abs=0.01)
    lags = [round((k * period - 0.2) / 0.01) for k in (1, 2)]
    assert all(float(found[lag - 1 : lag + 2].max()) > 0.8 for lag in lags)  # each period and its double
    between = round((1.5 * period - 0.2) / 0.01)
    assert float(found[between]) < 0.1


def test_tempo_is_compared_up_to_an_octave() -> None:
    half, quarter, other = (onset_periods(clicks(period)) for period in (0.5, 0.25, 0.36))
    assert same_tempo(half, quarter) == same_tempo(quarter, half) == same_tempo(half, half) == 1
    assert same_tempo(half, other) == 0
    silence = onset_periods(Waveform(torch.zeros(1, 5 * RATE), RATE))
    assert float(silence.abs().max()) == 0 and math.isnan(same_tempo(silence, half))
    assert correlation(half, onset_periods(clicks(0.5, seed=3))) > 0.95 > 0.5 > correlation(half, other)
    with pytest.raises(UsageError, match="at least 4 s"):
        onset_periods(clicks(0.5, seconds=2.0))


def test_matches_compare_with_prompts_of_other_recordings_only() -> None:
    def heard(root: float, period: float) -> Heard:
        return Heard(pitch_classes(tones(root, root * 1.5)), onset_periods(clicks(period)))

    songs = [heard(261.63, 0.5), heard(261.63, 0.5), heard(311.13, 0.36), heard(369.99, 0.43)]
    found = matches(songs, songs, ["a", "a", "b", "c"])
    for match in found.values():
        assert match.own.mean == pytest.approx(1) and match.others.mean < 0.3
        assert match.difference.low > 0.5 and match.own.count == 4
    for match in matches(songs, [songs[3], songs[2], songs[0], songs[2]], list("abcd")).values():
        assert match.difference.mean < 0.2  # those of others
    with pytest.raises(UsageError, match="two recordings"):
        matches(songs, songs, ["a"] * 4)
    with pytest.raises(UsageError, match="equal numbers"):
        matches(songs, songs[:2], list("abcd"))


CHUNK = 6_000


def noise(chunks: int, seed: int = 0) -> torch.Tensor:
    return 0.1 * torch.randn(chunks * CHUNK, generator=torch.Generator().manual_seed(seed))


def test_noise_has_no_joints() -> None:
    found = joints([Waveform(noise(8, seed)[None], RATE) for seed in range(8)], CHUNK)
    assert tuple(found) == FIGURES
    for figure in found.values():
        assert abs(figure.excess.mean) < 1 and figure.excess.low < 0.3 and figure.excess.high > -0.3


def test_a_step_of_the_waveform_is_a_click() -> None:
    wave = tones(200.0, seconds=2.0)
    steps = wave.samples + 0.05 * (torch.arange(wave.length) // CHUNK % 2)
    found = joints([Waveform(steps.float(), RATE)], CHUNK)
    assert found["click, dB"].excess.mean > 15 and found["level, dB"].excess.mean < 3
    assert abs(joints([wave], CHUNK)["click, dB"].excess.mean) < 1


def test_a_change_of_level_or_of_spectrum_is_found_where_it_is() -> None:
    samples = noise(6)
    samples[3 * CHUNK :] *= 10 ** (-12 / 20)
    wave = Waveform(samples[None], RATE)
    there, elsewhere = (joints([wave], CHUNK, only)["level, dB"].joints.mean for only in (3, 2))
    assert there == pytest.approx(12, abs=1.5) and elsewhere < 2
    halves = torch.cat([tones(300.0, seconds=0.75).samples, tones(2500.0, seconds=0.75).samples], 1)
    found = joints([Waveform(halves, RATE)], CHUNK, only=3)
    assert found["spectrum, dB"].excess.mean > 5 and found["level, dB"].excess.mean < 1
    with pytest.raises(UsageError, match="from both ends"):
        jumps(wave, [10])


def test_copies_are_nearer_than_what_is_new() -> None:
    g = torch.Generator().manual_seed(0)
    training, real, fresh = (torch.randn(n, 64, generator=g) for n in (500, 400, 400))
    wanted = torch.cdist(real, training).amin(1) / 8
    torch.testing.assert_close(nearest(real, [training[:200], training[200:]]), wanted, atol=1e-4, rtol=1e-4)
    honest = copying(fresh, real, [training])
    assert honest.training == 500 and honest.nearer < 0.05
    assert honest.generated.median == pytest.approx(honest.held_out.median, rel=0.05)
    copied = copying(training[:200] + 0.01 * torch.randn(200, 64, generator=g), real, [training])
    assert copied.nearer == 1 and copied.generated.median < 0.02 and copied.held_out.least > 0.5
    assert copied.to_dict()["generated"]["count"] == 200
    with pytest.raises(UsageError, match="no training chunks"):
        nearest(real, [])


def test_drift_by_minutes() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4, 100, 2, 3, generator=g)
    x[:, 50:] = 0.5 * x[:, 50:] + torch.tensor([2.0, 0.0, 0.0])
    minutes = latent_minutes(3 * x + 1, torch.ones(3), torch.full((3,), 3.0), 60 / 24.6)
    assert [m.minute for m in minutes] == [1, 2, 3, 4]
    assert minutes[0].deviation == pytest.approx(1, abs=0.1) and minutes[3].deviation == pytest.approx(0.5, abs=0.05)
    assert minutes[0].mean < 0.2 and minutes[3].worst_mean == pytest.approx(2, abs=0.15)
    assert minutes[3].mean == pytest.approx(2 / 3**0.5, abs=0.1)
    with pytest.raises(UsageError, match="at least one minute"):
        latent_minutes(x, torch.zeros(3), torch.ones(3), 0.1)
    low = Waveform(
        tones(1000.0, seconds=120.0).samples * torch.tensor([1.0] * 60 + [0.1] * 60).repeat_interleave(RATE), RATE
    )
    (first, centroid), (second, _) = heard_minutes([low])
    assert first.mean - second.mean == pytest.approx(20, abs=0.1) and centroid.mean == pytest.approx(1000, abs=60)
    assert first.mean == pytest.approx(20 * math.log10(0.2 / 2**0.5), abs=0.1)
    assert slope([1.0, 3.0, 5.0]) == pytest.approx(2) and slope([7.0]) == 0
