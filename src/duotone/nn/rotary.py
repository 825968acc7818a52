"""Rotary positions (arXiv 2104.09864): queries and keys are turned by angles proportional to their positions, in each head.

The product of a query and a key then depends on the difference of their positions alone.

Legend: n tokens, A axes of position, E head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

BASE = 1e4


def turns(positions: Tensor, head: int) -> tuple[Tensor, Tensor]:
    """Positions `[n, A]` (any real numbers) -> cosines and signed sines `[n, E]`, float32, for interleaved pairs of a head.

    The pairs are divided equally between the axes; those of an axis have the frequencies ``BASE ** (-2 A i / E)`` (equation
    15 of the paper for each axis). E has to be a multiple of 2 A.
    """
    axes = positions.shape[1]
    pairs = head // 2 // axes
    frequencies = BASE ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
    angles = (positions.double()[..., None] * frequencies).flatten(1)
    cos = angles.cos().repeat_interleave(2, -1)
    sin = torch.stack([-angles.sin(), angles.sin()], -1).flatten(1)
    return cos.float(), sin.float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair ``(x0, x1)`` of x `[..., E]` to ``(x0 cos - x1 sin, x1 cos + x0 sin)``; cos and signed sin broadcast to x."""
    first, second = x.view(*x.shape[:-1], -1, 2).unbind(-1)
    swapped = torch.stack([second, first], -1).view(x.shape)  # faster than flip
    return torch.addcmul(x * cos, swapped, sin)
