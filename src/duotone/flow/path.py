"""The path from data to noise: straight lines, with noise at t = 1 (rectified flow, arXiv 2209.03003, 2210.02747)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from duotone.errors import UsageError

TimeDistribution = Literal["logit-normal", "uniform"]


def interpolate(x: Tensor, eps: Tensor, t: Tensor | float) -> Tensor:
    """``x_t = (1 - t) x + t eps``; t broadcasts to x."""
    return (1 - t) * x + t * eps


def velocity(x: Tensor, eps: Tensor) -> Tensor:
    """``dx_t / dt = eps - x``, the target of the regression; it has no weight per t."""
    return eps - x


def denoised(x_t: Tensor, v: Tensor, t: Tensor | float) -> Tensor:
    """The data that a velocity points to: ``x = x_t - t v``."""
    return x_t - t * v


def noise_of(x_t: Tensor, v: Tensor, t: Tensor | float) -> Tensor:
    """The noise that a velocity comes from: ``eps = x_t + (1 - t) v``."""
    return x_t + (1 - t) * v


def sample_times(
    shape: tuple[int, ...],
    distribution: TimeDistribution = "logit-normal",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Training times in (0, 1): ``sigmoid(N(0, 1))`` (arXiv 2403.03206, section 3.1), or uniform.

    Raises `UsageError` for another distribution.
    """
    if distribution == "logit-normal":
        return torch.randn(shape, generator=generator, device=device).sigmoid()
    if distribution == "uniform":
        return torch.rand(shape, generator=generator, device=device)
    raise UsageError(f"Got the distribution of times {distribution!r}, expected 'logit-normal' or 'uniform'.")
