"""Pictures of harmonics: lines where the harmonics are, one scale for all panels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError
from duotone.evaluate.picture import PANEL, harmonics_picture, one_above_another, spectrogram

RATE = 48_000
TIME = torch.arange(2 * RATE) / RATE


def tone(level: float = 0.1) -> Waveform:
    return Waveform(level * sum(torch.sin(2 * math.pi * 500 * k * TIME) for k in range(1, 11))[None], RATE)


def test_ten_harmonics_are_ten_lines_at_equal_distances() -> None:
    pixels = harmonics_picture(tone(), [])
    assert pixels.shape == (*PANEL, 3)
    bright = pixels.astype(int).sum(2)[:, 50:-50].mean(1)[::-1]  # from 0 Hz upwards
    lines = [
        int(bright[max(0, row - 12) : row + 13].argmax()) + max(0, row - 12)
        for row in (int(k * 25.6) for k in range(1, 10))
    ]
    assert np.allclose(lines, [k * 25.6 - 0.5 for k in range(1, 10)], atol=1.5)
    assert bright[lines].min() > 2 * bright[[int((k + 0.5) * 25.6) for k in range(1, 9)]].max()


def test_panels_share_the_scale_of_the_original() -> None:
    pixels = harmonics_picture(tone(), [tone(), tone(0.01), Waveform(torch.zeros(1, 2 * RATE), RATE)])
    height = PANEL[0]
    panels = [pixels[i * (height + 6) : i * (height + 6) + height].astype(int) for i in range(4)]
    assert np.array_equal(panels[0], panels[1])
    assert panels[2].max(axis=(0, 1)).sum() < panels[0].max(axis=(0, 1)).sum()
    assert (panels[3] == panels[3][0, 0]).all()


def test_waves_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UsageError, match="one length and rate"):
        harmonics_picture(tone(), [Waveform(torch.zeros(1, 100), RATE)])


def test_a_column_of_panels_keeps_them() -> None:
    a, b = spectrogram(tone()), spectrogram(tone(0.01))
    column = one_above_another([a, b])
    assert np.array_equal(column[: PANEL[0]], a) and np.array_equal(column[-PANEL[0] :], b)
