"""Features of noise levels, which condition a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor


def level_features(level: Tensor, width: int) -> Tensor:
    """Noise levels `[B]` -> `[B, width]`, float32: sines, then cosines, of ``ln(sigma) / 4 * 10000 ** (-i / (width/2 - 1))``."""
    half = width // 2
    rates = 10_000.0 ** (-torch.arange(half, device=level.device, dtype=torch.float32) / (half - 1))
    angles = (level.float().log() / 4)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
