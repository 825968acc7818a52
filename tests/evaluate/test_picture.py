"""Spectrograms as PNG files, and pictures of harmonics: lines where the harmonics are, one scale for all panels."""

from __future__ import annotations

import math
import struct
import zlib

import numpy as np
import pytest
import torch

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError
from duotone.evaluate.picture import LOWEST_HZ, PANEL, harmonics_picture, one_above_another, png, spectrogram, stops

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


def decoded(data: bytes) -> np.ndarray:
    """Pixels of a PNG of filter 0, checking every checksum."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    at, parts = 8, {}
    while at < len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        assert struct.unpack(">I", data[at + 8 + size : at + 12 + size])[0] == zlib.crc32(kind + body)
        parts[kind], at = body, at + 12 + size
    width, height = struct.unpack(">II", parts[b"IHDR"][:8])
    lines = np.frombuffer(zlib.decompress(parts[b"IDAT"]), np.uint8).reshape(height, 1 + 3 * width)
    assert not lines[:, 0].any() and b"IEND" in parts
    return lines[:, 1:].reshape(height, width, 3)


def test_spectrogram_shows_a_tone_where_it_is() -> None:
    time = torch.arange(48_000) / 48_000
    pixels = spectrogram(Waveform(0.5 * torch.sin(2 * torch.pi * 1_000 * time)[None], 48_000)).astype(int)
    assert pixels.shape == (*PANEL, 3)
    loudest = pixels.sum(2)[:, 50:-50].mean(1).argmax()
    place = math.log(1_000 / LOWEST_HZ) / math.log(24_000 / LOWEST_HZ)  # from the bottom, on the log axis
    assert abs(loudest - (1 - place) * PANEL[0]) < 3


def test_png_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    assert np.array_equal(decoded(png(pixels)), pixels)


def test_colours_become_brighter() -> None:
    sums = [sum(colour) for colour in stops()]
    assert sums == sorted(sums) and all(len(colour) == 3 for colour in stops())
