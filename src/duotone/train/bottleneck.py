"""A loss term that keeps each latent's mean and standard deviation over the batch near fixed values.

Without it, latents collapse to the zero level or saturate at the bound. If they are normalised over the batch, their scale
is not constrained, and drifts (LOG.md, 2026-11-21). A loss term adds no layers, so the trained network is exported unchanged.

Legend: B chunks, L latents of d dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

EPS = 1e-6


def spread_loss(pre: Tensor, target: float) -> Tensor:
    """Pre-tanh `[B, L, d]`: mean over latents and dimensions of ``mean**2 + (deviation - target)**2`` over the batch.

    The variance and mean terms of VICReg (arXiv 2105.04906), the former as a target. Over the batch of all processes.
    """
    mean, var = batch_statistics(pre)
    return (mean.square() + (torch.sqrt(var + EPS) - target).square()).mean()


def batch_statistics(pre: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance `[L, d]` over the batch of all processes, with gradients."""
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    if world == 1:
        var, mean = torch.var_mean(pre, 0, correction=1)
        return mean, var
    count = world * len(pre)
    mean = _sum_over_processes(pre.sum(0)) / count
    squares = _sum_over_processes((pre - mean).square().sum(0))
    return mean, squares / (count - 1)  # in two passes, to avoid cancellation


class _Sum(torch.autograd.Function):
    """The sum of a tensor over all processes; so is its gradient, since each process uses the sum."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


def _sum_over_processes(value: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(value)  # type: ignore[no-untyped-call]
    return total
