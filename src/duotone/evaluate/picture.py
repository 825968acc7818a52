"""Spectrograms as PNG images, without a plotting library.

Legend: H rows (high frequencies first), W columns of pixels.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
import torch
from numpy.typing import NDArray

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError

LOWEST_HZ = 40.0
RANGE_DB = 80.0
PANEL = (256, 480)  # H, W
#: Of pictures of harmonics: highest frequency, range of levels, length of the window.
HARMONICS_TOP_HZ, HARMONICS_DB, HARMONICS_SECONDS = 5000.0, 70.0, 0.085
_WINDOW = 2048
_GAP = 6


def spectrogram(wave: Waveform) -> NDArray[np.uint8]:
    """The mean of the channels as pixels `[H, W, 3]`: 40 Hz to half the rate on a log axis, 80 dB dark to bright.

    The brightest value is a full-scale sine; a pixel shows the loudest of the bins and frames it covers.
    """
    hertz = LOWEST_HZ * (wave.rate / 2 / LOWEST_HZ) ** np.linspace(0, 1, PANEL[0] + 1)
    return _colour(np.clip(_levels(wave, _WINDOW, hertz) / RANGE_DB + 1, 0, 1))


def harmonics_picture(original: Waveform, decoded: Sequence[Waveform]) -> NDArray[np.uint8]:
    """The original above decoded waves as pixels, 0 to 5 kHz on a linear axis: harmonics are lines at equal distances.

    All panels have one scale of time and brightness: 70 dB, the brightest is the original's loudest pixel. Raises `UsageError` for
    waves of another rate or length than the original's.
    """
    for wave in decoded:
        if (wave.rate, wave.length) != (original.rate, original.length):
            raise UsageError(
                f"The picture got waves of {wave.length} samples at {wave.rate} Hz and {original.length} at {original.rate} Hz, "
                f"expected one length and rate. Decode with restore=True, which gives those of the original."
            )
    hertz = np.linspace(0, min(HARMONICS_TOP_HZ, original.rate / 2), PANEL[0] + 1)
    window = 2 ** round(math.log2(HARMONICS_SECONDS * original.rate))
    levels = [_levels(wave, window, hertz) for wave in (original, *decoded)]
    brightest = levels[0].max()
    return one_above_another([_colour(np.clip((x - brightest) / HARMONICS_DB + 1, 0, 1)) for x in levels])


def _levels(wave: Waveform, window: int, hertz: NDArray[np.float64]) -> NDArray[np.float32]:
    """Levels in dB `[H, W]` of the mean of the channels, high frequencies first; `hertz` are the edges of the rows, upwards.

    A pixel has the level of the loudest of the bins and frames it covers.
    """
    width = PANEL[1]
    mono = wave.to_channels(1).samples[0]
    hann = torch.hann_window(window)
    hop = max(64, min(512, len(mono) // width))
    padded = torch.nn.functional.pad(mono, (0, max(0, window - len(mono))))
    spectrum = torch.stft(padded, window, hop, window=hann, center=True, pad_mode="constant", return_complex=True)
    level = 20 * torch.log10((spectrum.abs() * (2 / hann.sum())).clamp_min(1e-6))
    rows = _loudest(level.numpy(), hertz / (wave.rate / 2) * (len(level) - 1))
    columns: NDArray[np.float32] = _loudest(rows.T, np.linspace(0, rows.shape[1], width + 1)).T[::-1]
    return columns


def _loudest(values: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.float32]:
    """The maximum over the rows between consecutive edges; if both edges are in one row, that row."""
    first = np.clip(np.floor(edges[:-1]).astype(int), 0, len(values) - 1)
    last = np.clip(np.ceil(edges[1:]).astype(int), first + 1, len(values))
    return np.stack([values[a:b].max(0) for a, b in zip(first, last, strict=True)])


def _colour(share: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values from 0 to 1 -> colours."""
    colours = np.array(stops(), dtype=np.float64)
    position = share * (len(colours) - 1)
    low = np.clip(position.astype(int), 0, len(colours) - 2)
    part = (position - low)[..., None]
    mixed: NDArray[np.uint8] = np.round(colours[low] * (1 - part) + colours[low + 1] * part).astype(np.uint8)
    return mixed


def side_by_side(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join panels `[H, W, 3]` of equal height in a row, with grey lines between them."""
    line = np.full((panels[0].shape[0], _GAP, 3), 128, np.uint8)
    row = [part for panel in panels for part in (line, panel)][1:]
    return np.concatenate(row, axis=1)


def one_above_another(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join panels `[H, W, 3]` of equal width in a column, with grey lines between them."""
    turned: NDArray[np.uint8] = side_by_side([panel.transpose(1, 0, 2) for panel in panels]).transpose(1, 0, 2)
    return turned


def stops() -> list[list[int]]:
    """The colours of spectrograms, dark to bright, evenly spaced: red, green and blue from 0 to 255; between them one interpolates."""
    found: list[list[int]] = json.loads(
        (files("duotone.evaluate") / "assets" / "shared" / "colours.json").read_text(encoding="utf-8")
    )
    return found


def png(pixels: NDArray[np.uint8]) -> bytes:
    """RGB pixels `[H, W, 3]` -> the bytes of a PNG file (ISO/IEC 15948)."""
    height, width, _ = pixels.shape

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines, 9)) + part(b"IEND", b"")
