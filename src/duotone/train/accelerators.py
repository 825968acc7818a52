"""Set up Hugging Face Accelerate: devices, number formats, processes, trackers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from duotone.errors import ConfigError, UsageError
from duotone.train.recipe import TrainRecipe
from duotone.train.settings import TrainSection
from duotone.train.task import Objective

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState


def processes(settings: TrainSection) -> PartialState:
    """The number of processes of this run, and the index of this one.

    Raises `UsageError` when accelerate is not installed, `ConfigError` for a device that is not there.
    """
    try:
        from accelerate import PartialState
    except ImportError:
        raise UsageError("Training needs Hugging Face Accelerate. Install it: pip install 'duotone[train]'.") from None

    wanted = settings.device
    missing = (wanted == "cuda" and not torch.cuda.is_available()) or (
        wanted == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise ConfigError(f"train.device got {wanted}, but PyTorch sees no such device here. Use train.device=auto.")
    return PartialState(cpu=wanted == "cpu")


def own_positions(settings: TrainSection) -> range:
    """The positions of this process's examples in a step's batch. Raises `ConfigError` unless the batch divides evenly."""
    state = processes(settings)
    total, world, passes = settings.batch_size, state.num_processes, settings.accumulation
    if total % (world * passes):
        raise ConfigError(
            f"train.batch_size got {total}, expected a multiple of {world * passes} "
            f"({world} processes x train.accumulation {passes})."
        )
    own = total // world
    return range(state.process_index * own, (state.process_index + 1) * own)


def make_accelerator(recipe: TrainRecipe, objective: Objective, run: Path) -> Accelerator:
    """Make the `Accelerator` for a recipe and an objective. Raises the errors of `processes`."""
    processes(recipe.train)
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    settings = recipe.train
    AcceleratorState._reset_state()  # a second run in the same process may use another number format
    try:
        accelerator = Accelerator(
            cpu=settings.device == "cpu",
            mixed_precision="bf16" if _dtype(settings, objective) == torch.bfloat16 else "no",
            gradient_accumulation_steps=settings.accumulation,
            log_with=list(settings.trackers) or None,
            project_dir=run,
        )
        if settings.trackers:
            accelerator.init_trackers("duotone", config=_flat(recipe.to_dict()))
    except (ImportError, ValueError) as error:
        raise UsageError(f"A tracker of train.trackers={list(settings.trackers)} cannot start: {error}") from None
    return accelerator


def anyone(flag: bool, accelerator: Accelerator) -> bool:
    """Whether the flag is set in at least one process."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum")
    return bool(total > 0)


def _dtype(settings: TrainSection, objective: Objective) -> torch.dtype:
    """The number format to compute in: the recipe's, or with `auto` the objective's choice for the device."""
    if settings.precision != "auto":
        return torch.bfloat16 if settings.precision == "bfloat16" else torch.float32
    wanted = settings.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return objective.wanted_dtype(torch.device(wanted))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten to dotted keys and plain values, for trackers."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return out
