"""Learning-rate schedules and weight averaging, counted in optimizer steps."""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from duotone.train.settings import OptimSection


def rate_factor(step: int, steps: int, optim: OptimSection) -> float:
    """The factor of the learning rate at `step` (from 0): linear warm-up, then the schedule."""
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    left = max(1, steps - optim.warmup_steps)
    progress = min(1.0, (step - optim.warmup_steps) / left)
    if optim.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if optim.schedule == "cooldown":
        return min(1.0, (1 - progress) / max(optim.cooldown_share, 1e-9))
    return 1.0


class EMA:
    """Exponential moving average of weights with warm-up: decay_n = min(decay, (1+n)/(10+n))."""

    def __init__(self, module: nn.Module, decay: float, names: Collection[str] | None = None) -> None:
        """Average the parameters with these names, or all."""
        self.decay, self.updates = decay, 0
        self.shadow = {
            name: p.detach().clone() for name, p in module.named_parameters() if names is None or name in names
        }

    def factor(self) -> float:
        """The decay of the next update."""
        return min(self.decay, (1 + self.updates) / (10 + self.updates))

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update every average with the module's weights."""
        values: list[Tensor] = [p for name, p in module.named_parameters() if name in self.shadow]
        torch._foreach_lerp_(list(self.shadow.values()), values, 1 - self.factor())
        self.updates += 1

    def full(self) -> dict[str, Tensor]:
        """The averages, unsharded (if they are sharded over processes, all processes must call this)."""
        return {name: t.full_tensor() if isinstance(t, DTensor) else t for name, t in self.shadow.items()}

    @torch.no_grad()
    def load_full(self, full: dict[str, Tensor], updates: int) -> None:
        """The inverse of `full`. Raises `KeyError` for other names, `RuntimeError` for other shapes."""
        for name, t in self.shadow.items():
            value = full[name].to(t.device)
            t.copy_(distribute_tensor(value, t.device_mesh, t.placements) if isinstance(t, DTensor) else value)
        self.updates = updates
