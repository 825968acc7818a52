"""`Waveform`: what it takes, what it refuses, and conversions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio.resample import Resampler
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError


@pytest.mark.parametrize(
    ("dtype", "full"), [(np.int16, -(2**15)), (np.int32, -(2**31)), (np.float32, -1), (np.float64, -1), (np.uint8, 0)]
)
def test_scaling(dtype: type, full: int) -> None:
    wave = Waveform.from_array(np.array([[full, full], [full, full]], dtype=dtype), 8_000)
    assert wave.samples.dtype == torch.float32
    assert torch.allclose(wave.samples, torch.full((2, 2), -1.0))


def test_shapes() -> None:
    mono = Waveform.from_array(torch.zeros(10), 8_000)
    assert (mono.channels, mono.length, mono.seconds) == (1, 10, 10 / 8_000)
    stereo = mono.to_channels(2)
    assert stereo.numpy().shape == (2, 10) and stereo.to_channels(2) is stereo
    assert torch.equal(stereo.to_channels(1).samples, mono.samples)


@pytest.mark.parametrize(
    ("values", "rate", "message"),
    [
        (np.zeros((6, 100)), 48_000, "6 channels"),
        (np.zeros((100, 2)), 48_000, None),
        (np.zeros((100, 4)), 48_000, "100 channels"),
        (np.zeros(10), 8, "rate of 8 Hz"),
        (np.zeros(10), 10**7, "rate of"),
        (np.array([0, np.nan]), 48_000, "NaN"),
        (np.array([np.inf]), 48_000, "infinite"),
        (np.zeros(4, dtype=complex), 48_000, "real"),
        (np.zeros((1, 2, 3)), 48_000, "shape"),
    ],
)
def test_what_is_refused(values: np.ndarray, rate: int, message: str | None) -> None:
    with pytest.raises(AudioError, match=message or "transpose"):
        Waveform.from_array(values, rate)


SINE = (0.3 * np.sin(np.arange(480) * 0.05)).astype(np.float32)


@pytest.mark.parametrize(
    "values",
    [
        SINE, SINE.astype(">f4"), SINE.astype(np.float64), SINE.astype(np.longdouble), SINE.astype(np.float16),
        (SINE * 32768).astype(np.int16), (SINE * 32768).astype(">i2"), (SINE * 2.0**31).astype(np.int32),
        (SINE * 128).round().astype(np.int8), ((SINE + 1) * 32768).astype(np.uint16), ((SINE + 1) * 128).astype(np.uint8),
        ((SINE.astype(np.float64) + 1) * 2**31).astype(np.uint32), np.stack([SINE, SINE]).T.copy().T,
        SINE.tolist(), torch.tensor(SINE).double(), torch.tensor(SINE).bfloat16(), torch.tensor(SINE).requires_grad_(),
        torch.tensor((SINE * 32768).astype(np.int16)), torch.tensor(((SINE + 1) * 32768).astype(np.uint16)),
    ],
)  # fmt: skip
def test_every_kind_of_array_gives_the_same_sound(values: object) -> None:
    wave = Waveform(values, 48_000)
    assert wave.samples.dtype == torch.float32 and not wave.samples.requires_grad
    assert np.abs(wave.numpy() - SINE).max() < 1e-2
    assert wave.samples.is_contiguous() and wave == Waveform.from_array(values, 48_000)


def test_a_fitting_tensor_is_kept() -> None:
    samples = torch.zeros(2, 10)
    assert Waveform(samples, 48_000).samples.data_ptr() == samples.data_ptr()


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        (np.round(SINE * 32767).astype(np.int64), "int16"), ([100, -100, 5], "32768"), (SINE.astype(np.uint64), "int16"),
        (torch.tensor([3, 4]), "int64"), ("song.wav", "read"), (b"RIFF", "read"), (Path("song.wav"), "read"),
        ([[1.0], [1.0, 2.0]], "no array"), (None, "real numbers"), (np.array(["a"]), "real numbers"),
        (np.zeros(5, bool), "real numbers"), (torch.zeros(5, dtype=torch.bool), "real numbers"), (0.5, "shape"),
    ],
)  # fmt: skip
def test_what_is_no_sound_is_told(values: object, hint: str) -> None:
    with pytest.raises(AudioError, match=hint):
        Waveform(values, 48_000)


def test_a_waveform_of_a_waveform_says_how_to_resample() -> None:
    with pytest.raises(AudioError, match="resample"):
        Waveform(Waveform(SINE, 48_000), 44_100)


def test_zeros_of_64_bits_are_silence() -> None:
    assert Waveform(np.zeros((2, 5), int), 48_000) == Waveform(torch.zeros(2, 5), 48_000)


@pytest.mark.parametrize("rate", [48_000.0, np.int32(48_000), np.float64(48_000), torch.tensor(48_000)])
def test_rates_of_many_types(rate: int) -> None:
    assert type(Waveform(SINE, rate).rate) is int and Waveform(SINE, rate).rate == 48_000


@pytest.mark.parametrize("rate", [0, -1, 44_100.5, None, "48k", math.nan, math.inf])
def test_rates_that_are_none(rate: Any) -> None:
    with pytest.raises(AudioError, match="rate"):
        Waveform(SINE, rate)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", [np.array, torch.tensor])
def test_samples_that_are_not_finite_do_not_enter(bad: float, kind: Any) -> None:
    with pytest.raises(AudioError, match=r"NaN or infinite at 0\.001 s \(sample 8\)"):
        Waveform(kind([[0.0] * 10, [0.0] * 8 + [bad, 0.0]]), 8_000)


def test_huge_samples_are_finite() -> None:
    """Their sum is not, which is looked at first."""
    assert Waveform(torch.full((1, 100), 3e38), 8_000).length == 100


def test_equality_is_of_values() -> None:
    one = Waveform(SINE, 48_000)
    assert one == Waveform(SINE.copy(), 48_000) and one is not None and one != SINE.tolist()
    assert one != Waveform(SINE, 44_100) and one != Waveform(SINE[1:], 48_000) and one != Waveform(-SINE, 48_000)
    assert one != one.to_channels(2)


def test_repr_is_a_line() -> None:
    assert repr(Waveform(SINE, 48_000)) == "Waveform(mono, 48000 Hz, 0.010 s)"
    assert repr(Waveform(torch.zeros(2, 0), 44_100)) == "Waveform(stereo, 44100 Hz, 0.000 s)"


def test_samples_made_in_inference_mode_can_be_changed_and_learned_from() -> None:
    with torch.inference_mode():
        wave = Waveform(torch.tensor(SINE)[None] * 1, 44_100)
        again = wave.resample(48_000).to_channels(2)
    for one in (wave, again):
        one.samples.mul_(0.5)
        weight = torch.ones(1, requires_grad=True)
        (one.samples * weight).sum().backward()
        assert weight.grad is not None


@pytest.mark.parametrize("kind", ["gradient", "inference", "double", "bfloat16"])
def test_the_resampler_takes_any_tensor(kind: str) -> None:
    samples = torch.tensor(SINE)[None]
    given = {
        "gradient": lambda: samples.clone().requires_grad_(),
        "inference": torch.inference_mode()(lambda: samples * 1),
        "double": samples.double,
        "bfloat16": samples.bfloat16,
    }[kind]()
    resampler = Resampler(44_100, 48_000, 1)
    got = torch.cat([resampler.push(given), resampler.finish()], dim=1)
    assert torch.allclose(
        got, Waveform(SINE, 44_100).resample(48_000).samples, atol=1e-2 if kind == "bfloat16" else 1e-6
    )


def test_another_default_type_changes_nothing() -> None:
    wave = Waveform(SINE, 44_100)
    want = wave.resample(48_000)
    torch.set_default_dtype(torch.float64)
    try:
        assert wave.resample(48_000) == want and Waveform(SINE.tolist(), 44_100) == wave
        assert synthesize(1, 0.2).samples.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize(("source", "target", "channels"), [(0, 48_000, 1), (48_000, 0, 1), (48_000, 44_100, 0)])
def test_resamplers_that_cannot_be(source: int, target: int, channels: int) -> None:
    with pytest.raises(AudioError, match="above 0"):
        Resampler(source, target, channels)


def test_the_resampler_says_which_shape_it_expects() -> None:
    with pytest.raises(AudioError, match=r"expected \[2, samples\]"):
        Resampler(44_100, 48_000, 2).push(torch.zeros(100))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([8_000, 22_050, 44_100, 48_000, 96_000]),
    st.sampled_from([16_000, 44_100, 48_000]),
    st.integers(1, 4_000),
    st.lists(st.integers(1, 900), min_size=1, max_size=6),
)
def test_blocks_resample_like_the_whole(source: int, target: int, samples: int, sizes: list[int]) -> None:
    wave = Waveform(0.3 * torch.randn(2, samples, generator=torch.Generator().manual_seed(samples)), source)
    whole = wave.resample(target)
    assert whole.length == (samples if source == target else max(1, round(samples * target / source)))
    if source == target:
        return
    resampler, pieces, start, i = Resampler(source, target, 2), [], 0, 0
    while start < samples:
        size = sizes[i % len(sizes)]
        pieces.append(resampler.push(wave.samples[:, start : start + size]))
        start, i = start + size, i + 1
    pieces.append(resampler.finish())
    assert torch.allclose(torch.cat(pieces, dim=1), whole.samples, atol=1e-6)


@pytest.mark.parametrize("target", [16_000, 44_100, 96_000])
def test_a_sine_keeps_its_level_and_pitch(target: int) -> None:
    t = torch.arange(48_000) / 48_000
    out = Waveform((0.5 * torch.sin(2 * torch.pi * 1000 * t))[None], 48_000).resample(target)
    inner = out.samples[0, target // 10 : -target // 10]
    want = 0.5 * torch.sin(2 * torch.pi * 1000 * torch.arange(target) / target)[target // 10 : -target // 10]
    assert torch.allclose(inner, want, atol=2e-3)
