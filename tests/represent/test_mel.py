"""The mel scale and filters on it, against known values and librosa."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from duotone.represent.mel import hertz_to_mel, mel_density, mel_filterbank, mel_to_hertz


def test_known_points_of_the_scale() -> None:
    assert float(hertz_to_mel(torch.tensor(1000.0))) == pytest.approx(15)
    assert float(hertz_to_mel(torch.tensor(6400.0))) == pytest.approx(42)  # 15 + 27
    assert float(mel_to_hertz(torch.tensor(42.0))) == pytest.approx(6400, rel=1e-4)


def test_the_density_is_the_derivative_of_the_scale() -> None:
    hertz = torch.tensor([50.0, 900.0, 1100.0, 5000.0, 20_000.0], dtype=torch.float64)
    slope = (hertz_to_mel(hertz + 0.5) - hertz_to_mel(hertz - 0.5)) / 1.0
    assert torch.allclose(mel_density(hertz), slope, rtol=1e-5)


def test_filters_have_unit_area_and_rising_centres() -> None:
    bank = mel_filterbank(48_000, 2048, 128)
    assert bank.shape == (128, 1025) and bool((bank >= 0).all())
    assert float((bank.sum(1) - 1).abs().max()) < 0.15  # the lowest bands hold only two or three bins
    assert float((bank[70:].sum(1) - 1).abs().max()) < 0.01
    peaks = bank.argmax(1)
    assert bool((peaks[1:] >= peaks[:-1]).all())


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
def test_filters_equal_librosas(rate: int) -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is the oracle of the mel filters: pip install librosa")
    oracle = librosa.filters.mel(sr=rate, n_fft=2048, n_mels=128) * (rate / 2048)
    assert np.abs(mel_filterbank(rate, 2048, 128).numpy() - oracle).max() < 1e-5
