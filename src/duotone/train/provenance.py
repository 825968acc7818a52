"""The part of exported weights' provenance that every task has: recipe, steps, machine, time."""

from __future__ import annotations

import os
import platform
from typing import Any

import torch

from duotone.train import checkpoint
from duotone.train.sections import Parts


def provenance(parts: Parts, state: checkpoint.State) -> dict[str, Any]:
    """What a run did until this state, as plain JSON values."""
    return {
        "recipe": parts.recipe,
        **({"changes": parts.changes} if parts.changes else {}),
        "steps": state.step,
        "examples": state.step * parts.train.batch_size,
        "bad_steps": state.bad_steps,
        "best_validation": checkpoint.best(parts.run),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "minutes": round(state.seconds / 60, 1),
    }
