"""Feature maps <-> sequences of flattened patches that cover them exactly.

Legend: B batch, C channels, F frequency, T time, P = F/f * T/t patches, frequency-major.
"""

from __future__ import annotations

import torch
from torch import Tensor


def to_patches(x: Tensor, size: tuple[int, int]) -> Tensor:
    """`[B, C, F, T]` -> `[B, P, C * f * t]`."""
    b, c, f, t = x.shape
    rows, columns = f // size[0], t // size[1]
    cut = x.reshape(b, c, rows, size[0], columns, size[1])
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(b, rows * columns, c * size[0] * size[1])


def from_patches(patches: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """The inverse of `to_patches`, for a grid of F/f x T/t patches."""
    b = patches.shape[0]
    cut = patches.reshape(b, *grid, -1, *size).permute(0, 3, 1, 4, 2, 5)
    return cut.reshape(b, -1, grid[0] * size[0], grid[1] * size[1])


def grid_positions(grid: tuple[int, int], step: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """Positions (frequency, time) `[P, 2]` of the middles of patches; `step` is the distance of neighbours on each axis."""
    rows, columns = ((torch.arange(n, dtype=torch.float32) + 0.5) * d for n, d in zip(grid, step, strict=True))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).flatten(0, 1)
