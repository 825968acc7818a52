"""Unequal frequency bands: narrow where pitches and vowels are, wide above."""

from __future__ import annotations

import torch
from torch import Tensor

#: Widths of the bands in bins of a window of 2048 samples at 48 kHz, from zero, and where they end: 3, 9 and 24 kHz.
_WIDTHS = ((16, 128), (32, 384), (128, 896))


def band_edges(n_fft: int, bins: int) -> tuple[int, ...]:
    """Edges of the bands in bins: 16 wide to 3 kHz, 32 wide to 9 kHz, then 128 wide; the last ends at `bins`."""
    edges, start = [0], 0
    for width, end in _WIDTHS:
        edges += range(start + width, end + 1, width)
        start = end
    scale = n_fft / 2048
    return (*(round(edge * scale) for edge in edges), bins)


def tent(points: int, positions: Tensor) -> Tensor:
    """`[points, len(positions)]`: the weights of linear interpolation between values at 0, 1, .. points - 1."""
    return (1 - (positions[None] - torch.arange(points)[:, None]).abs()).clamp_min(0)
