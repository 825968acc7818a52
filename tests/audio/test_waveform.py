"""`Waveform`: what it takes, what it refuses, and conversions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio.resample import Resampler
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


def test_a_bare_array_is_refused() -> None:
    with pytest.raises(AudioError, match="from_array"):
        Waveform(torch.zeros(10), 48_000)
    with pytest.raises(AudioError, match="float32"):
        Waveform(torch.zeros(1, 10, dtype=torch.float64), 48_000)


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
