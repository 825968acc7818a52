"""Finite scalar quantization (Mentzer et al., arXiv 2309.15505), odd levels only.

Legend: d dimensions; n_i levels of dimension i; h_i = (n_i - 1) / 2 half-levels.
Three scales: *pre* (any real z), *bounded* (-1, 1), *code* (integers -h..h).

NaN has no code and is not checked here; `Latents` checks the values that it is given.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from duotone.errors import UsageError

#: Share by which the bound stays below 1, so that rounding never reaches a level beyond the last.
_MARGIN = 1e-3


class Rounding:
    """The bound, and rounding to levels, of values that each have a number of levels. Shapes are `[..., d]`."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        self.levels = levels
        self.half = torch.tensor([(n - 1) // 2 for n in levels], device="cpu")

    def bound(self, z: Tensor) -> Tensor:
        """Pre -> bounded: ``h (1 - 1e-3) tanh(z) / h`` in each dimension; |result| < 1."""
        return torch.tanh(z) * (1 - _MARGIN)

    def round(self, bounded: Tensor) -> Tensor:
        """Bounded -> the nearest level, still on the bounded scale."""
        half = self.half.to(bounded)
        return torch.round(bounded * half) / half

    def round_straight_through(self, bounded: Tensor) -> Tensor:
        """`round` whose gradient is that of the identity."""
        return bounded + (self.round(bounded) - bounded).detach()


class FSQ(Rounding):
    """Rounding and index arithmetic of one codebook. Holds no weights; shapes are `[..., d]`."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__(levels)
        self.size = math.prod(levels)
        self.basis = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))], device="cpu")

    def bounded_to_index(self, bounded: Tensor) -> Tensor:
        """Bounded `[..., d]` -> index int64 `[...]`: ``sum_i (code_i + h_i) prod_{j<i} n_j``, in integers.

        Finite values only. Those beyond (-1, 1) give the outermost level. Raises `UsageError` for another number of
        dimensions than d.
        """
        if bounded.shape[-1:] != self.half.shape:
            raise UsageError(
                f"Quantising got values of shape {list(bounded.shape)}, expected [..., {len(self.levels)}]."
            )
        half = self.half.to(bounded.device)
        code = torch.round(bounded.float() * half).to(torch.int64).clamp(-half, half)
        return ((code + half) * self.basis.to(bounded.device)).sum(-1)

    def index_to_bounded(self, index: Tensor) -> Tensor:
        """Index int64 `[...]`, from 0 to below `size` -> bounded float32 `[..., d]`."""
        n = torch.tensor(self.levels, device=index.device)
        code = (index[..., None] // self.basis.to(index.device)) % n - self.half.to(index.device)
        return code.float() / self.half.to(index.device)
