"""Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon), in the number format that the device multiplies fastest.

`torch.optim.Muon` always multiplies in bfloat16, which processors without units for it do fifty times slower than float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from duotone.codec.precision import best_dtype

#: Coefficients of the odd polynomial a x + b x^3 + c x^5 that is iterated on the singular values.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_STEPS = 5
_TINY = 1e-7


class Muon(torch.optim.Optimizer):
    """Steps along the orthogonalised momentum of matrices; decoupled weight decay, Nesterov momentum.

    A step of a matrix `[A, B]` has the rate ``lr * sqrt(max(1, A / B))``. Raises `ValueError` for parameters that are no matrices.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float = 1e-3, weight_decay: float = 0.1, momentum: float = 0.95
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for p in group["params"]:
                if p.ndim != 2:
                    raise ValueError(f"Muon got a parameter of shape {list(p.shape)}, expected matrices.")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; returns what the closure does."""
        with torch.enable_grad():
            loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._step(p, p.grad, group)
        return loss

    def _step(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        state, momentum, rate = self.state[p], group["momentum"], group["lr"]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(grad)
        average: Tensor = state["momentum_buffer"].lerp_(grad, 1 - momentum)
        update = orthogonalized(grad.lerp(average, momentum))
        p.mul_(1 - rate * group["weight_decay"])
        p.add_(update, alpha=-rate * math.sqrt(max(1, p.shape[0] / p.shape[1])))


def orthogonalized(matrix: Tensor) -> Tensor:
    """A matrix with its singular values moved to between about .7 and 1.2, by five Newton-Schulz iterations."""
    x = matrix.to(best_dtype(matrix.device))
    wide = x if x.shape[0] <= x.shape[1] else x.T
    wide = wide / wide.norm().clamp_min(_TINY)
    for _ in range(_STEPS):
        gram = wide @ wide.T
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=_B, alpha=_C), wide, beta=_A)
    return (wide if x.shape[0] <= x.shape[1] else wide.T).to(matrix.dtype)
