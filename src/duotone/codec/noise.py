"""Noise that depends only on (seed, chunk, draw).

Draw 0 is a chunk's initial noise at sigma_max, draw k is added to it after step k.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from duotone.errors import UsageError
from duotone.nn.noise import normal

#: ``noise(chunk, draw) -> [4, F, T]`` of unit variance.
Noise = Callable[[int, int], Tensor]


def seeded_noise(seed: int, shape: tuple[int, ...]) -> Noise:
    """Unit Gaussian noise of a shape for (seed, chunk, draw); `duotone.nn.noise.normal` tells how it is made."""
    return lambda chunk, draw: normal(f"{seed}/{chunk}/{draw}", shape)


def drawn(noise: Noise, chunk: int, draw: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Unit noise on a device, float32. Raises `UsageError` where `noise` gives another shape."""
    found = torch.as_tensor(noise(chunk, draw))
    if found.shape != shape:
        raise UsageError(f"noise gave shape {tuple(found.shape)}, expected {shape}.")
    return found.to(device, torch.float32)
