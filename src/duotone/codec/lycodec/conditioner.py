"""Token conditioner: tokens and noise level -> channels over the decoder's grid of bins and frames, or of patches.

Legend: B chunks, n tokens, V values of a token, C channels, F rows, T columns of the grid, W width of the noise features.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.codec.lycodec.stem import token_times
from duotone.config import LycodecConfig
from duotone.represent.bands import tent

_FREQUENCY_FEATURES = 32


class TokenConditioner(nn.Module):
    """``silu(u(t) g(f) + b(f))``: u is linear in the tokens around a time and in the noise level, g and b smooth in frequency."""

    times: Tensor
    frequencies: Tensor

    def __init__(self, config: LycodecConfig, channels: int, grid: tuple[int, int], width: int) -> None:
        super().__init__()
        self.tokens = nn.Linear(config.values, channels)
        self.noise = nn.Linear(width, channels)
        self.gain = nn.Linear(_FREQUENCY_FEATURES, channels)
        self.bias = nn.Linear(_FREQUENCY_FEATURES, channels)
        near = tent(config.tokens, (token_times(config, grid[1]) - 0.5).clamp(0, config.tokens - 1))
        if grid[1] < config.tokens:  # a column lasts longer than a token: the mean of those within it
            inside = tent(grid[1], (torch.arange(config.tokens) + 0.5) * grid[1] / config.tokens - 0.5)
            near = (inside / inside.sum(1, keepdim=True)).T
        self.register_buffer("times", near.contiguous(), persistent=False)  # [n, T]
        self.register_buffer("frequencies", _features(grid[0]), persistent=False)

    def forward(self, tokens: Tensor, noise: Tensor) -> Tensor:
        """Tokens `[B, n, V]`, noise features `[B, W]` -> `[B, C, F, T]`."""
        kind = self.tokens.weight.dtype
        along = self.tokens(tokens.to(kind)).transpose(1, 2) @ self.times.to(kind)  # [B, C, T]
        along = along + self.noise(noise)[:, :, None]
        features = self.frequencies.to(kind)
        gain, bias = (layer(features).T[None, :, :, None] for layer in (self.gain, self.bias))
        return F.silu(along[:, :, None] * (1 + gain) + bias)


def _features(rows: int) -> Tensor:
    """Cosines of 1, 2, .. half turns over the frequency axis, `[F, features]`; they are orthogonal."""
    place = (torch.arange(rows, dtype=torch.float32) + 0.5) / rows
    return torch.cos(math.pi * place[:, None] * torch.arange(_FREQUENCY_FEATURES))
