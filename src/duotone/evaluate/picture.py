"""Spectrograms as PNG images, without a plotting library.

Legend: H rows (high frequencies first), W columns of pixels.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from duotone.audio.waveform import Waveform

LOWEST_HZ = 40.0
RANGE_DB = 80.0
PANEL = (256, 480)  # H, W
_WINDOW = 2048
_GAP = 6
#: Dark to bright, evenly spaced; colours between are interpolated.
_STOPS = np.array(
    [
        [9, 8, 26], [44, 17, 84], [104, 28, 112], [168, 45, 104],
        [222, 80, 74], [247, 142, 56], [252, 204, 96], [253, 244, 200],
    ],
    dtype=np.float64,
)  # fmt: skip


def spectrogram(wave: Waveform) -> NDArray[np.uint8]:
    """The mean of the channels as pixels `[H, W, 3]`: 40 Hz to half the rate on a log axis, 80 dB dark to bright.

    The brightest value is a full-scale sine; a pixel shows the loudest of the bins and frames it covers.
    """
    height, width = PANEL
    mono = wave.to_channels(1).samples[0]
    hann = torch.hann_window(_WINDOW)
    hop = max(64, min(512, len(mono) // width))
    padded = torch.nn.functional.pad(mono, (0, max(0, _WINDOW - len(mono))))
    spectrum = torch.stft(padded, _WINDOW, hop, window=hann, center=True, pad_mode="constant", return_complex=True)
    level = 20 * torch.log10((spectrum.abs() * (2 / hann.sum())).clamp_min(1e-6))
    hertz = LOWEST_HZ * (wave.rate / 2 / LOWEST_HZ) ** np.linspace(0, 1, height + 1)
    rows = _loudest(level.numpy(), hertz / (wave.rate / 2) * (len(level) - 1))
    columns = _loudest(rows.T, np.linspace(0, rows.shape[1], width + 1)).T
    return _colour(np.clip(columns[::-1] / RANGE_DB + 1, 0, 1))


def _loudest(values: NDArray[np.float32], edges: NDArray[np.float64]) -> NDArray[np.float32]:
    """The maximum over the rows between consecutive edges; if both edges are in one row, that row."""
    first = np.clip(np.floor(edges[:-1]).astype(int), 0, len(values) - 1)
    last = np.clip(np.ceil(edges[1:]).astype(int), first + 1, len(values))
    return np.stack([values[a:b].max(0) for a, b in zip(first, last, strict=True)])


def _colour(share: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values from 0 to 1 -> colours."""
    position = share * (len(_STOPS) - 1)
    low = np.clip(position.astype(int), 0, len(_STOPS) - 2)
    part = (position - low)[..., None]
    mixed: NDArray[np.uint8] = np.round(_STOPS[low] * (1 - part) + _STOPS[low + 1] * part).astype(np.uint8)
    return mixed


def side_by_side(panels: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join panels `[H, W, 3]` of equal height in a row, with grey lines between them."""
    line = np.full((panels[0].shape[0], _GAP, 3), 128, np.uint8)
    row = [part for panel in panels for part in (line, panel)][1:]
    return np.concatenate(row, axis=1)


def place(hertz: float, rate: int) -> float:
    """Position of a frequency on the axis: 0 is the bottom (40 Hz), 1 the top (half the rate)."""
    return math.log(hertz / LOWEST_HZ) / math.log(rate / 2 / LOWEST_HZ)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """RGB pixels `[H, W, 3]` -> the bytes of a PNG file (ISO/IEC 15948)."""
    height, width, _ = pixels.shape

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", zlib.compress(lines, 9)) + part(b"IEND", b"")
