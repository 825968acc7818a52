"""Normalisation of the pre-tanh latents during training, so that they neither die nor saturate.

Legend: B chunks, L latents of d dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

EPS = 1e-5
_LIMIT = 3.0  # bounds of batch renormalisation's correction


class BottleneckNorm(nn.Module):
    """Batch renormalisation without affine (arXiv 1702.03275, algorithm 1): running statistics in the forward pass.

    So training computes what the exported network computes, while the gradient is that of batch normalisation.
    With `latents` given, every latent has statistics of its own `[L, d]`, else all share them `[d]`.
    """

    mean: Tensor
    var: Tensor
    updates: Tensor

    def __init__(self, dims: int, latents: int | None = None, momentum: float = 0.05) -> None:
        super().__init__()
        shape = (dims,) if latents is None else (latents, dims)
        self.over = (0, 1) if latents is None else (0,)
        self.momentum = momentum
        self.register_buffer("mean", torch.zeros(shape))
        self.register_buffer("var", torch.ones(shape))
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def forward(self, pre: Tensor) -> Tensor:
        """`[B, L, d]` -> the same shape, mean 0 and deviation 1 over the running statistics."""
        if not self.training:
            return (pre - self.mean) / torch.sqrt(self.var + EPS)
        var, mean = torch.var_mean(pre, self.over, correction=1)
        with torch.no_grad():
            self.updates += 1
            step = max(self.momentum, 1 / int(self.updates))  # the plain average until there is a past to rely on
            self.mean.lerp_(mean, step)
            self.var.lerp_(var, step)
            running = torch.sqrt(self.var + EPS)
            ratio = (torch.sqrt(var + EPS) / running).clamp(1 / _LIMIT, _LIMIT)
            shift = ((mean - self.mean) / running).clamp(-_LIMIT, _LIMIT)
        return (pre - mean) / torch.sqrt(var + EPS) * ratio + shift

    @torch.no_grad()
    def restart(self, momentum: float) -> None:
        """Forget the statistics; with momentum 0 the next ones are a plain average over all batches."""
        self.updates.zero_()
        self.momentum = momentum
