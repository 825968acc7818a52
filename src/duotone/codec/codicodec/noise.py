"""Noise that depends only on (seed, chunk, draw).

Draw 0 is a chunk's initial noise at sigma_max, draw k is added to it after step k, draw -1 is for its time prompt.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from duotone.config import CoDiCodecConfig

#: ``noise(chunk, draw) -> [4, F, T]`` of unit variance.
Noise = Callable[[int, int], Tensor]

TIME_PROMPT = -1


def seeded_noise(seed: int, config: CoDiCodecConfig) -> Noise:
    """Unit Gaussian noise for (seed, chunk, draw), by the inverse of the distribution function.

    ``z = sqrt(2) erfinv(u)`` with u uniform on the odd multiples of 2**-24 in (-1, 1), which float32 holds exactly;
    so the numbers are the same everywhere, up to the rounding of erfinv.
    """
    shape = (2 * config.audio_channels, config.bins, config.frames)

    def draw(chunk: int, index: int) -> Tensor:
        key = hashlib.blake2b(f"{seed}/{chunk}/{index}".encode(), digest_size=16).digest()
        raw = np.random.SFC64(int.from_bytes(key, "little")).random_raw(-(-math.prod(shape) // 2))
        bits = torch.from_numpy(raw.astype("<u8", copy=False).view("<i4")[: math.prod(shape)])
        uniform = (bits >> 8).float().mul_(2).add_(1).mul_(2.0**-24)
        return uniform.erfinv_().mul_(math.sqrt(2)).view(shape)

    return draw
