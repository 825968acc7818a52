"""Noise drawn per (seed, chunk, draw), so that nothing else about a decoding changes it.

Draw 0 starts a chunk from sigma_max, draw k re-noises it after step k, draw -1 is its time prompt.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from duotone.config import CoDiCodecConfig

#: ``noise(chunk, draw) -> [4, F, T]`` of unit variance.
Noise = Callable[[int, int], Tensor]

TIME_PROMPT = -1


def seeded_noise(seed: int, config: CoDiCodecConfig) -> Noise:
    """Unit Gaussian noise from a counter-based generator (Philox) keyed by (seed, chunk, draw)."""
    shape = (2 * config.audio_channels, config.bins, config.frames)

    def draw(chunk: int, index: int) -> Tensor:
        key = hashlib.blake2b(f"{seed}/{chunk}/{index}".encode(), digest_size=16).digest()
        generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
        return torch.from_numpy(generator.standard_normal(shape, dtype=np.float32))

    return draw
