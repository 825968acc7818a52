"""Noise that depends only on (seed, chunk, draw).

Draw 0 is a chunk's initial noise at sigma_max, draw k is added to it after step k, draw -1 is for its time prompt.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from duotone.config import BandsConfig, CoDiCodecConfig
from duotone.nn.noise import normal

#: ``noise(chunk, draw) -> [4, F, T]`` of unit variance.
Noise = Callable[[int, int], Tensor]

TIME_PROMPT = -1


def seeded_noise(seed: int, config: CoDiCodecConfig | BandsConfig) -> Noise:
    """Unit Gaussian noise for (seed, chunk, draw); `duotone.nn.noise.normal` tells how it is made."""
    shape = (2 * config.audio_channels, config.bins, config.frames)
    return lambda chunk, draw: normal(f"{seed}/{chunk}/{draw}", shape)
