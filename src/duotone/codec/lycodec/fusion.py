"""Tokens of the decoder from values and their rounding: ``z_disc + alpha MLP(z_cont - z_disc)``.

Codes have no residual; MLP(0) = 0, so their tokens are the levels themselves. A predictor can estimate the residual from the
levels, where there is none: quality of the continuous face at no more bits, as far as levels tell it.

Legend: B chunks, n tokens, V values of a token.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.config import LycodecConfig
from duotone.quant.grouped import GroupedFSQ


class Fusion(nn.Module):
    """The hybrid fusion, with a learned alpha. The MLP has no biases."""

    def __init__(self, config: LycodecConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.values, config.fusion_units, bias=False)
        self.down = nn.Linear(config.fusion_units, config.values, bias=False)
        self.alpha = nn.Parameter(torch.ones(()))

    def forward(self, levels: Tensor, residual: Tensor) -> Tensor:
        """Levels and residual `[B, n, V]` -> tokens `[B, n, V]`."""
        out: Tensor = levels + self.alpha * self.down(F.gelu(self.up(residual.to(self.up.weight.dtype))))
        return out


class ResidualPredictor(nn.Module):
    """Levels -> the residual that was probably rounded away, within half a level."""

    half_step: Tensor

    def __init__(self, config: LycodecConfig, fsq: GroupedFSQ) -> None:
        super().__init__()
        self.up = nn.Linear(3 * config.values, config.predictor_units)
        self.down = nn.Linear(config.predictor_units, config.values)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)
        self.register_buffer("half_step", 0.5 / fsq.half.float(), persistent=False)

    def forward(self, levels: Tensor) -> Tensor:
        """Levels `[B, n, V]` -> residual `[B, n, V]`, from those of the token, the one before and the one after."""
        x = levels.to(self.up.weight.dtype)
        near = torch.cat([F.pad(x, (0, 0, 1, 0))[:, :-1], x, F.pad(x, (0, 0, 0, 1))[:, 1:]], -1)
        return torch.tanh(self.down(F.gelu(self.up(near)))) * self.half_step.to(x.dtype)
