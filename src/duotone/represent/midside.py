"""Left and right <-> mid and side: ``M = (L + R) / 2``, ``S = (L - R) / 2``; left is M + S, right M - S."""

from __future__ import annotations

import torch
from torch import Tensor


def to_mid_side(samples: Tensor, dim: int = -2) -> Tensor:
    """Left and right `[..., 2, T]` -> mid and side `[..., 2, T]`; `dim` is the axis of the channels."""
    left, right = samples.unbind(dim)
    return torch.stack([(left + right) / 2, (left - right) / 2], dim)


def from_mid_side(samples: Tensor, dim: int = -2) -> Tensor:
    """The inverse of `to_mid_side`."""
    mid, side = samples.unbind(dim)
    return torch.stack([mid + side, mid - side], dim)
