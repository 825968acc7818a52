"""The four parts of a task that the training loop needs: examples, an objective, a validation, an export.

`loop.fit` trains a task and does not depend on models or kinds of data. New kinds of tasks are registered as sections of
the recipe (see `sections`); the loop needs no change.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from duotone.errors import ConfigError
from duotone.train.checkpoint import State
from duotone.train.draws import Draws
from duotone.train.optimizers import Optimizers, make_optimizers
from duotone.train.settings import OptimSection

#: A batch: tensors by name, each with the examples along its first dimension.
Batch = dict[str, Tensor]


class Examples(ABC):
    """The source of batches. Example `position` of `step` is a function of (seed, step, position) alone."""

    #: Threads that `read_ahead` may call `batch` from.
    workers: int = 1

    @abstractmethod
    def batch(self, step: int, positions: range) -> Batch:
        """The examples at these positions of a step's batch. Called from several threads at once."""

    def status(self) -> dict[str, float]:
        """Counts for the log: files left out and crops drawn again so far."""
        return {}


class Objective(nn.Module, ABC):
    """Computes the loss of a batch. Owns all networks that are trained, also those that are not exported."""

    @abstractmethod
    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Batch, training progress in [0, 1], the step's randomness -> the loss, and values `[n]` for `summarise`."""

    def summarise(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Metrics for the log from the values of the steps since the last record; by default the mean of each."""
        return {name: float(value.mean()) for name, value in values.items()}

    def health(self, batch: Batch) -> dict[str, float]:
        """Metrics on a batch that are too expensive to compute at every step."""
        return {}

    def errors(self, batch: Batch, seed: int = 0) -> dict[str, float]:
        """One-step errors on a batch of validation, with noise that is a function of the seed."""
        return {}

    def wanted_dtype(self, device: torch.device) -> torch.dtype:
        """The number format that ``train.precision=auto`` computes in on a device; weights stay in float32."""
        return torch.float32

    def optimizers(self, optim: OptimSection) -> Optimizers:
        """The optimizers, by name of their group; the gradients of a group are clipped together.

        An objective with several networks can use a group for each. One backward pass computes the gradients of all
        groups; inside `frozen` a network contributes to another's loss without getting gradients from it.
        """
        return {"main": make_optimizers(optim, self)}

    def averaged(self) -> list[str]:
        """Names of the parameters whose moving averages are used for validation and export."""
        return [name for name, p in self.named_parameters() if p.requires_grad]

    def after_step(self) -> None:
        """Called after the weights were updated, for state that follows them (such as a teacher's average in buffers)."""

    def save_memory(self) -> None:
        """Turn gradient checkpointing on. Raises `ConfigError` where the objective has none."""
        raise ConfigError(
            f"train.gradient_checkpointing got true, but {type(self).__name__} has none. Set it to false."
        )

    def compile_parts(self) -> None:
        """Compile the networks. Raises `ConfigError` where the objective cannot."""
        raise ConfigError(f"train.compile got true, but {type(self).__name__} cannot be compiled. Set it to false.")


class Validation(ABC):
    """Metrics on examples that are not trained on."""

    @abstractmethod
    def __call__(self, done: int, weights: dict[str, Tensor]) -> dict[str, Any]:
        """Metrics of the averaged weights after `done` steps; ``validation_loss`` chooses the best checkpoint."""


#: Writes what the training was for, from the averaged weights and the state of the run.
Export = Callable[[dict[str, Tensor], State], None]


@dataclass(frozen=True)
class Task:
    """The four parts, and a description of the data for the run's record."""

    examples: Examples
    objective: Objective
    export: Export
    target: Path  #: what the export writes
    validation: Validation | None = None
    data: dict[str, Any] = field(default_factory=dict)  #: what the data is; a run is resumed with the same only
    skipped: list[str] = field(default_factory=list)  #: a line for each source that was left out


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Inside this context a module's parameters get no gradients; gradients still flow through it to its input."""
    learning = [p for p in module.parameters() if p.requires_grad]
    for p in learning:
        p.requires_grad_(False)
    try:
        yield
    finally:
        for p in learning:
            p.requires_grad_(True)
