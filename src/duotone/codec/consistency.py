"""Consistency mathematics in closed form (EDM, arXiv 2206.00364; consistency models, 2303.01469; iCT, 2310.14189)."""

from __future__ import annotations

import torch
from torch import Tensor

from duotone.config import NoiseConfig


def sigma(u: Tensor, noise: NoiseConfig) -> Tensor:
    """Noise level at position u in [0, 1] of the rho grid (EDM eq. 5): 0 -> sigma_min, 1 -> sigma_max."""
    low, high = noise.sigma_min ** (1 / noise.rho), noise.sigma_max ** (1 / noise.rho)
    level: Tensor = (low + u * (high - low)) ** noise.rho
    return level


def position(level: Tensor, noise: NoiseConfig) -> Tensor:
    """The inverse of `sigma`: the grid position of a noise level."""
    low, high = noise.sigma_min ** (1 / noise.rho), noise.sigma_max ** (1 / noise.rho)
    u: Tensor = (level ** (1 / noise.rho) - low) / (high - low)
    return u


def c_skip(level: Tensor, noise: NoiseConfig) -> Tensor:
    """Weight of the input in the output; 1 at sigma_min (consistency models, eq. 14 of appendix C)."""
    return noise.sigma_data**2 / ((level - noise.sigma_min) ** 2 + noise.sigma_data**2)


def c_out(level: Tensor, noise: NoiseConfig) -> Tensor:
    """Weight of the network in the output; 0 at sigma_min."""
    return noise.sigma_data * (level - noise.sigma_min) / torch.sqrt(level**2 + noise.sigma_data**2)


def c_in(level: Tensor, noise: NoiseConfig) -> Tensor:
    """Scale of the noisy input to unit variance (EDM, table 1)."""
    return 1 / torch.sqrt(level**2 + noise.sigma_data**2)


def renoise_scale(level: Tensor, noise: NoiseConfig) -> Tensor:
    """Standard deviation of the noise that raises an estimate from sigma_min to noise level `level`."""
    return torch.sqrt((level**2 - noise.sigma_min**2).clamp_min(0))


def schedule(steps: int, noise: NoiseConfig) -> list[float]:
    """The noise level of each of S denoising steps: sigma(1), sigma(1 - 1/S), ..."""
    positions = [torch.tensor(1 - k / steps, dtype=torch.float64, device="cpu") for k in range(steps)]
    return [float(sigma(u, noise)) for u in positions]


def pseudo_huber(a: Tensor, b: Tensor) -> Tensor:
    """``sqrt(|a - b|**2 + c**2) - c`` per example, ``c = 0.00054 sqrt(dim)`` (iCT eq. 7): `[B, ...]` -> `[B]`."""
    difference = (a - b).flatten(1)
    c = 0.00054 * difference.shape[1] ** 0.5
    loss: Tensor = torch.sqrt(difference.pow(2).sum(1) + c * c) - c
    return loss
