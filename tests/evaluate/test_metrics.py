"""Metrics against closed forms: known noise, known gains, known spectra."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError
from duotone.evaluate import metrics
from duotone.represent.mel import mel_filterbank

RATE = 48_000
DISTANCES = [
    metrics.log_mel_distance, metrics.multi_resolution_stft, metrics.log_spectral_distance, metrics.dac_mel_loss,
    metrics.dac_stft_distance,
]  # fmt: skip


def noise(seed: int, length: int = RATE, channels: int = 1, level: float = 0.1) -> Waveform:
    generator = torch.Generator().manual_seed(seed)
    return Waveform(level * torch.randn(channels, length, generator=generator), RATE)


def sine(hertz: float, level: float = 1.0, length: int = RATE) -> Waveform:
    time = torch.arange(length, dtype=torch.float64) / RATE
    return Waveform((level * torch.sin(2 * math.pi * hertz * time)).float()[None], RATE)


def orthogonal(x: torch.Tensor, n: torch.Tensor) -> torch.Tensor:
    """`n` without its mean and without its part along `x`, with the power of `x`."""
    x, n = x.double() - x.double().mean(), n.double() - n.double().mean()
    n = n - (n * x).sum() / (x * x).sum() * x
    return n * (x.square().sum() / n.square().sum()).sqrt()


@settings(max_examples=25, deadline=None)
@given(st.floats(-40, 60), st.floats(0.01, 100))
def test_si_sdr_is_the_ratio_of_powers_whatever_the_scale(decibel: float, scale: float) -> None:
    x = noise(1, 4096)
    wrong = orthogonal(x.samples[0], noise(2, 4096).samples[0]) * 10 ** (-decibel / 20)
    y = Waveform((scale * (x.samples.double() + wrong)).float(), RATE)
    assert metrics.si_sdr(x, y) == pytest.approx(decibel, abs=0.02)


def test_si_sdr_of_plain_noise_of_known_power_and_of_a_shifted_zero_line() -> None:
    x, n = noise(3, 200_000), noise(4, 200_000, level=0.01)  # 20 dB apart
    assert metrics.si_sdr(x, Waveform(x.samples + n.samples, RATE)) == pytest.approx(20, abs=0.1)
    assert metrics.si_sdr(x, Waveform(x.samples + 0.5, RATE)) == metrics.SI_SDR_LIMIT


def test_si_sdr_has_limits_and_says_when_it_is_undefined() -> None:
    x = noise(5)
    silence = Waveform(torch.zeros_like(x.samples), RATE)
    assert metrics.si_sdr(x, x) == metrics.SI_SDR_LIMIT
    assert metrics.si_sdr(x, Waveform(-0.3 * x.samples, RATE)) == metrics.SI_SDR_LIMIT  # polarity is a scale
    assert math.isnan(metrics.si_sdr(x, silence)) and math.isnan(metrics.si_sdr(silence, x))
    half_silent = Waveform(torch.cat([x.samples, silence.samples]), RATE)
    assert metrics.si_sdr(
        half_silent, Waveform(half_silent.samples + noise(6, level=0.01).samples, RATE)
    ) == pytest.approx(20, abs=0.2)


@pytest.mark.parametrize("distance", DISTANCES)
def test_distances_are_zero_for_identity_and_grow_with_noise(distance) -> None:
    x = noise(7, channels=2)
    rough = noise(8, channels=2)
    assert distance(x, x) == 0
    values = [distance(x, Waveform(x.samples + a * rough.samples, RATE)) for a in (0.01, 0.1, 0.3, 1.0, 3.0)]
    assert values == sorted(values) and values[0] > 0


@pytest.mark.parametrize("distance", [*DISTANCES, metrics.si_sdr])
def test_stereo_is_the_mean_of_its_channels(distance) -> None:
    x, y = noise(9, channels=2), noise(10, channels=2, level=0.05)
    y = Waveform(x.samples + y.samples * torch.tensor([[1.0], [4.0]]), RATE)
    single = [distance(Waveform(x.samples[c : c + 1], RATE), Waveform(y.samples[c : c + 1], RATE)) for c in (0, 1)]
    assert distance(x, y) == pytest.approx(sum(single) / 2, rel=1e-4)
    assert single[0] != pytest.approx(single[1], rel=1e-2)


@pytest.mark.parametrize("gain_db", [-12.0, 6.0])
def test_a_gain_is_read_off_by_every_log_distance(gain_db: float) -> None:
    x = noise(11)
    gain = 10 ** (gain_db / 20)
    y = Waveform(gain * x.samples, RATE)
    assert metrics.log_mel_distance(x, y) == pytest.approx(abs(gain_db), abs=1e-3)
    assert metrics.log_spectral_distance(x, y) == pytest.approx(abs(gain_db), abs=1e-2)
    # spectral convergence |1 - g|, log magnitude |ln g|
    assert metrics.multi_resolution_stft(x, y) == pytest.approx(abs(1 - gain) + abs(math.log(gain)), abs=1e-3)


def test_si_sdr_does_not_change_when_both_waves_are_upsampled() -> None:
    x, n = noise(14), noise(15, level=0.03)
    y = Waveform(x.samples + n.samples, RATE)
    assert metrics.si_sdr(x.resample(96_000), y.resample(96_000)) == pytest.approx(metrics.si_sdr(x, y), abs=0.05)


def test_a_full_scale_sine_has_magnitude_one_and_silence_the_floor() -> None:
    spectrum = metrics.magnitudes(sine(RATE / 2048 * 100).samples, 2048, 512)[0, :, 10]
    assert int(spectrum.argmax()) == 100 and float(spectrum[100]) == pytest.approx(1, abs=1e-3)
    x = noise(12)
    silence = Waveform(torch.zeros_like(x.samples), RATE)
    expected = float(
        (metrics._decibel(metrics.magnitudes(x.samples, 2048, 512)) - metrics.FLOOR_DB).square().mean(-2).sqrt().mean()
    )
    assert metrics.log_spectral_distance(x, silence) == pytest.approx(expected)


def test_a_single_sample_can_be_compared() -> None:
    x, y = Waveform(torch.ones(1, 1), RATE), Waveform(torch.zeros(1, 1), RATE)
    for distance in DISTANCES:
        assert distance(x, x) == 0 and 0 < distance(x, y) < math.inf


@pytest.mark.parametrize("shift", [-700, -1, 0, 1, 312, 2000])
def test_delay_finds_a_known_shift(shift: int) -> None:
    x = noise(13, 20_000, channels=2)
    assert metrics.delay(x, Waveform(torch.roll(x.samples, shift, dims=1), RATE)) == shift


def test_dac_losses_of_a_gain_by_hand() -> None:
    """Well above the floor a gain of g changes every log10 magnitude by log10 g, and every magnitude by its (g - 1)th part."""
    x = noise(20, level=0.3)
    y = Waveform(2 * x.samples, RATE)
    filters = [mel_filterbank(RATE, *sizes) for sizes in metrics.DAC_MEL]
    filled = sum(
        float((each.sum(1) > 0).float().mean()) for each in filters
    )  # narrow bands of short windows have no bin
    assert 6 < filled < 7
    assert metrics.dac_mel_loss(x, y) == pytest.approx(filled * math.log10(2), rel=1e-4)
    log_part = 2 * 2 * math.log10(2)  # two windows of powers
    linear_part = sum(
        float(torch.stft(x.samples, n, n // 4, window=torch.hann_window(n), return_complex=True).abs().mean())
        for n in (2048, 512)
    )
    assert metrics.dac_stft_distance(x, y) == pytest.approx(log_part + linear_part, rel=1e-4)


def test_dac_mel_loss_equals_the_formula_with_librosas_filters() -> None:
    librosa = pytest.importorskip("librosa")
    x, y = synthesize(1, 0.5), synthesize(2, 0.5)
    total = 0.0
    for window, bands in metrics.DAC_MEL:
        filters = librosa.filters.mel(sr=RATE, n_fft=window, n_mels=bands, fmin=0.0, fmax=None)
        logs = []
        for wave in (x, y):
            spectrum = librosa.stft(wave.numpy(), n_fft=window, hop_length=window // 4, center=True, pad_mode="reflect")
            logs.append(np.log10(np.maximum(filters @ np.abs(spectrum), 1e-5)))
        total += float(np.abs(logs[0] - logs[1]).mean())
    assert metrics.dac_mel_loss(x, y) == pytest.approx(total, rel=1e-3)


def test_signed_metrics_point_at_zero_and_need_a_pair() -> None:
    signed = {key for key, metric in metrics.METRICS.items() if metric.signed}
    assert signed == {"harmonics", "comb"}
    assert [metrics.METRICS[key].arrow for key in ("harmonics", "log_mel", "stoi")] == ["→0", "↓", "↑"]
    x = noise(21, 8192)
    for key in signed:
        with pytest.raises(AudioError, match="samples"):
            metrics.METRICS[key](x, noise(21, 4096))


def test_silence_has_no_delay() -> None:
    silence = Waveform(torch.zeros(2, 1000), RATE)
    assert metrics.delay(silence, silence) == metrics.delay(noise(16, 1000, 2), silence) == 0


@pytest.mark.parametrize(
    ("other", "hint"),
    [
        (Waveform(torch.zeros(2, 100), 44_100), "resample"),
        (Waveform(torch.zeros(1, 100), RATE), "to_channels"),
        (Waveform(torch.zeros(2, 99), RATE), "Align"),
    ],
)
def test_pairs_that_do_not_match_are_refused_with_advice(other: Waveform, hint: str) -> None:
    with pytest.raises(AudioError, match=hint):
        metrics.measure(Waveform(torch.zeros(2, 100), RATE), other)


def test_samples_that_became_nan_in_place_are_refused() -> None:
    broken = Waveform(torch.zeros(2, 100), RATE)
    broken.samples[:, 3] = math.nan
    with pytest.raises(AudioError, match="decoded wave holds a sample that is NaN"):
        metrics.measure(Waveform(torch.zeros(2, 100), RATE), broken)


def test_nothing_cannot_be_compared() -> None:
    nothing = Waveform(torch.zeros(2, 0), RATE)
    with pytest.raises(AudioError, match="nothing to compare"):
        metrics.si_sdr(nothing, nothing)


def test_side_level_by_hand() -> None:
    t = torch.arange(48_000) / 48_000
    mid, side = torch.sin(2 * torch.pi * 200 * t), torch.sin(2 * torch.pi * 300 * t)

    def stereo(width: float) -> Waveform:
        return Waveform(0.3 * torch.stack([mid + width * side, mid - width * side]), 48_000)

    assert metrics.side_level_error(stereo(0.5), stereo(0.5)) == 0
    assert metrics.side_level_error(stereo(0.5), stereo(0.05)) == pytest.approx(20, abs=0.01)
    assert math.isnan(metrics.side_level_error(stereo(1).to_channels(1), stereo(1).to_channels(1)))


def test_ild_of_a_channel_turned_down() -> None:
    g = torch.Generator().manual_seed(0)
    wave = Waveform(0.2 * torch.randn(2, 48_000, generator=g), 48_000)
    quieter = Waveform(wave.samples * torch.tensor([[1.0], [0.5]]), 48_000)
    assert metrics.ild_error(wave, wave) == 0
    assert metrics.ild_error(wave, quieter) == pytest.approx(6.02, abs=0.01)
    assert math.isnan(
        metrics.ild_error(Waveform(torch.zeros(2, 9_000), 48_000), Waveform(torch.zeros(2, 9_000), 48_000))
    )


def test_stoi_falls_with_noise() -> None:
    pytest.importorskip("pystoi")
    g = torch.Generator().manual_seed(0)
    t = torch.arange(48_000) / 16_000
    voice = torch.sin(2 * torch.pi * 150 * t) * (1 + torch.sin(2 * torch.pi * 3 * t)) + 0.3 * torch.sin(
        2 * torch.pi * 900 * t
    )
    wave = Waveform(0.2 * voice[None], 16_000)
    values = [
        metrics.stoi(wave, Waveform(wave.samples + s * torch.randn(1, 48_000, generator=g), 16_000))
        for s in (0, 0.05, 0.5)
    ]
    assert values[0] == pytest.approx(1, abs=1e-6) and values[0] > values[1] > values[2]
    short = Waveform(wave.samples[:, :800].contiguous(), 16_000)
    assert math.isnan(metrics.stoi(short, short))


def test_pesq_knows_a_perfect_copy() -> None:
    pytest.importorskip("pesq")
    wave = synthesize(3, 2.0)
    assert metrics.pesq(wave, wave) > 4.5
    assert math.isnan(metrics.pesq(Waveform(torch.zeros(1, 16_000), 16_000), Waveform(torch.zeros(1, 16_000), 16_000)))
