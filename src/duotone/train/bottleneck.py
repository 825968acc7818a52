"""Normalisation of the pre-tanh latents during training, so that they neither die nor saturate.

Legend: B chunks, L latents of d dimensions.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

EPS = 1e-5
LIMIT = 3.0  # bound of batch renormalisation's correction


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


class BottleneckNorm(nn.Module):
    """Batch renormalisation without affine (arXiv 1702.03275, algorithm 1).

    With `limit` 1 it is batch normalisation. With a larger one the forward pass takes the running statistics, as far as
    the correction stays within the limit: training computes what the exported network computes, while the gradient is
    that of batch normalisation. That is for late in training: while the encoder moves fast, running statistics lag and
    latents saturate. With `latents` given, every latent has statistics of its own `[L, d]`, else all share them `[d]`.
    """

    mean: Tensor
    var: Tensor
    updates: Tensor

    def __init__(self, dims: int, latents: int | None = None, momentum: float = 0.1) -> None:
        super().__init__()
        shape = (dims,) if latents is None else (latents, dims)
        self.over = (0, 1) if latents is None else (0,)
        self.momentum, self.limit = momentum, 1.0
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, pre: Tensor) -> Tensor:
        """`[B, L, d]` -> the same shape, mean 0 and deviation 1 over the running statistics."""
        if not self.training:
            return (pre - self.mean) / torch.sqrt(self.var + EPS)
        mean, var = self._statistics(pre)
        with torch.no_grad():
            self._follow(mean, var)
            running = torch.sqrt(self.var + EPS)
            ratio = (torch.sqrt(var + EPS) / running).clamp(1 / self.limit, self.limit)
            shift = ((mean - self.mean) / running).clamp(1 - self.limit, self.limit - 1)
        return (pre - mean) / torch.sqrt(var + EPS) * ratio + shift

    @torch.no_grad()
    def measure(self, pre: Tensor) -> None:
        """Let the running statistics follow a batch `[B, L, d]` of this process alone."""
        var, mean = torch.var_mean(pre, self.over, correction=1)
        self._follow(mean, var)

    def _follow(self, mean: Tensor, var: Tensor) -> None:
        self.updates += 1
        step = max(self.momentum, 1 / int(self.updates))  # the plain average until there is a past to rely on
        self.mean.lerp_(mean, step)
        self.var.lerp_(var, step)

    @torch.no_grad()
    def with_own_statistics(self, pre: Tensor) -> Tensor:
        """`[B, L, d]` normalised over this batch alone, leaving the running statistics as they are."""
        var, mean = torch.var_mean(pre, self.over, correction=1)
        return (pre - mean) / torch.sqrt(var + EPS)

    def _statistics(self, pre: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance over the batch of all processes, through which the gradient flows."""
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if world == 1:
            var, mean = torch.var_mean(pre, self.over, correction=1)
            return mean, var
        count = world * (pre.numel() // self.mean.numel())
        mean = _sum_over_processes(pre.sum(self.over)) / count
        squares = _sum_over_processes((pre - mean).square().sum(self.over))
        return mean, squares / (count - 1)  # in two passes, so that nothing cancels

    @torch.no_grad()
    def restart(self, momentum: float) -> None:
        """Forget the statistics; with momentum 0 the next ones are a plain average over all batches."""
        self.updates.zero_()
        self.momentum = momentum

    @torch.no_grad()
    def begin_as_identity(self, scale: float) -> None:
        """Make ``scale * norm(pre)`` equal `pre` for now: fine-tuning starts from what the weights compute."""
        self.mean.zero_()
        self.var.fill_(scale**2 - EPS)
        self.updates.fill_(round(1 / self.momentum))
