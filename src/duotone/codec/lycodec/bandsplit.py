"""Band-split head: small convolutions at full resolution, one below and one above a border, which mend what patches leave.

It belongs to the network F, before the scaling that makes f(x, sigma_min) = x: after it, f would no longer be x there.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.config import LycodecConfig


class BandSplitHead(nn.Module):
    """``x + conv3x3(silu(conv3x3(x)))``, with other weights below the border than above it."""

    def __init__(self, config: LycodecConfig) -> None:
        super().__init__()
        self.border = round(config.split_hz * config.n_fft / config.rate)
        channels = config.split_channels
        self.inner = nn.ModuleList(nn.Conv2d(4, channels, 3, padding=1) for _ in range(2))
        self.outer = nn.ModuleList(nn.Conv2d(channels, 4, 3, padding=1) for _ in range(2))
        for layer in self.outer:
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 4, F, T]` -> the same shape."""
        parts = [x[:, :, : self.border], x[:, :, self.border :]]
        mended = [
            part + outer(F.silu(inner(part)))
            for part, inner, outer in zip(parts, self.inner, self.outer, strict=True)
            if part.shape[2]
        ]
        return torch.cat(mended, 2)
