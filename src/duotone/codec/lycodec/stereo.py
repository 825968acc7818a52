"""Stereo head: an explicit estimate of level and time differences, which training compares with the sound's.

It is told to the decoder too, added to the tokens.

Legend: B chunks, n tokens, V values of a token, S bands.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.config import LycodecConfig

#: Decibels that are 1 in the head's level differences.
LEVEL_UNIT_DB = 20.0
#: Seconds that are 1 in its time difference: about that of a sound from the side of a head.
TIME_UNIT = 1e-3


class Stereo(NamedTuple):
    """What the head estimates of each token."""

    level: Tensor  #: level of left above right (ILD) `[B, n, S]`, in units of 20 dB
    time: Tensor  #: by how much left is later than right (ITD) `[B, n]`, in units of 1 ms
    side: Tensor  #: level of side above mid (the side residual) `[B, n, S]`, in units of 20 dB


class StereoHead(nn.Module):
    """Tokens -> `Stereo` and its embedding."""

    def __init__(self, config: LycodecConfig) -> None:
        super().__init__()
        self.bands = config.stereo_bands
        self.inner = nn.Linear(config.values, 256)
        self.out = nn.Linear(256, 2 * self.bands + 1)
        self.embed = nn.Linear(2 * self.bands + 1, config.values)

    def forward(self, tokens: Tensor) -> tuple[Stereo, Tensor]:
        """Tokens `[B, n, V]` -> the estimate, float32, and what is added to the tokens `[B, n, V]`."""
        x = self.out(F.gelu(self.inner(tokens.to(self.inner.weight.dtype))))
        level, time, side = x.float().split([self.bands, 1, self.bands], -1)
        return Stereo(level, time[..., 0], side), self.embed(torch.tanh(x))
