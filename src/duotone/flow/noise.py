"""Noise of a generation: a function of (seed, chunk, draw) alone, whatever runs beside it and whatever was drawn before.

Draw 0 is a chunk's initial noise, draw k is added by stochastic solvers after step k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from duotone.nn.noise import normal

CONTEXT = -1  #: draw of the noise with which a finished chunk enters the context
NEGATIVE = -2  #: the same, in the negative branch of guidance


def chunk_noise(seeds: Sequence[int], chunk: int, draw: int, shape: tuple[int, ...] = (8, 64)) -> Tensor:
    """Unit Gaussian noise `[len(seeds), *shape]`, float32 on the CPU; row i depends on ``(seeds[i], chunk, draw)`` only.

    It is independent of the noise with which codecs decode under the same seed.
    """
    return torch.stack([normal(f"flow/{seed}/{chunk}/{draw}", shape) for seed in seeds])
