"""Checkpoints: RUN/checkpoints/step-N, a folder of safetensors and JSON, written whole or not at all.

All randomness is a function of (seed, step) (see `draws` and `data`), so the step is the state of the generators and
the place in the data too.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from duotone.errors import WeightsError
from duotone.train.schedule import EMA

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
_STEP = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class State:
    """What a checkpoint holds besides tensors."""

    step: int
    bad_steps: int = 0
    seconds: float = 0.0  # spent training so far


def folder(run: Path) -> Path:
    """Where a run's checkpoints are."""
    return run / "checkpoints"


def steps(run: Path) -> list[int]:
    """The steps that have a complete checkpoint, ascending."""
    root = folder(run)
    found = [_STEP.fullmatch(p.name) for p in root.iterdir() if p.is_dir()] if root.is_dir() else []
    return sorted(int(match[1]) for match in found if match)


def save(
    run: Path,
    state: State,
    model: nn.Module,
    ema: EMA,
    optimizers: Sequence[torch.optim.Optimizer],
    *,
    keep: int = 2,
    main: bool = True,
) -> None:
    """Write a checkpoint: into a temporary folder, flushed to the disk, then renamed. All processes call it, `main` writes.

    Of older ones the newest `keep` and the best by validation stay. Raises `OSError` when the disk is full; what was
    there before is untouched then.
    """
    weights = get_model_state_dict(model, options=_FULL)
    average = ema.full()
    found = [get_optimizer_state_dict(model, optimizer, options=_FULL) for optimizer in optimizers]
    if not main:
        return
    root = folder(run)
    root.mkdir(parents=True, exist_ok=True)
    temporary = root / ".writing"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        _write(weights, temporary / "model.safetensors")
        _write(average, temporary / "ema.safetensors")
        plain = []
        for i, whole in enumerate(found):
            tensors, rest = _flatten(whole)
            _write(tensors, temporary / f"optimizer-{i}.safetensors")
            plain.append(rest)
        about = {"step": state.step, "bad_steps": state.bad_steps, "seconds": state.seconds,
                 "ema_updates": ema.updates, "optimizers": plain}  # fmt: skip
        with (temporary / "state.json").open("w", encoding="utf-8") as file:
            json.dump(about, file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    target = root / f"step-{state.step:09d}"
    if target.exists():  # the same step again, after a resume from an older one
        shutil.rmtree(target)
    os.rename(temporary, target)
    _prune(run, keep)


def load(run: Path, model: nn.Module, ema: EMA, optimizers: Sequence[torch.optim.Optimizer]) -> State:
    """Restore the newest checkpoint of a run that can be read; `State(0)` if there is none.

    Raises `WeightsError` when it belongs to another recipe, or when there are checkpoints but none can be read.
    """
    there = steps(run)
    problems = []
    for step in reversed(there):
        place = folder(run) / f"step-{step:09d}"
        try:
            return _restore(place, model, ema, optimizers)
        except (OSError, SafetensorError, json.JSONDecodeError, KeyError) as error:
            problems.append(f"{place.name}: {error}")
    if problems:
        raise WeightsError(
            f"No checkpoint of {run} can be read ({'; '.join(problems)}). Restore one, or start a new run."
        )
    return State(0)


def best(run: Path) -> dict[str, Any] | None:
    """``{"step": ..., "loss": ...}`` of the best validation so far; None before the first."""
    path = run / "best.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def record_best(run: Path, step: int, loss: float) -> None:
    """Remember that the checkpoint of this step has the lowest validation loss, and drop the one before it."""
    temporary = run / ".best.writing"
    temporary.write_text(json.dumps({"step": step, "loss": loss}), encoding="utf-8")
    os.replace(temporary, run / "best.json")


def _restore(place: Path, model: nn.Module, ema: EMA, optimizers: Sequence[torch.optim.Optimizer]) -> State:
    about = json.loads((place / "state.json").read_text(encoding="utf-8"))
    weights, average = load_file(place / "model.safetensors"), load_file(place / "ema.safetensors")
    tensors = [load_file(place / f"optimizer-{i}.safetensors") for i in range(len(about["optimizers"]))]
    if len(tensors) != len(optimizers):
        raise WeightsError(f"{place} was made with another optimizer. Use another --out, or the same recipe.")
    try:
        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))
        ema.load_full(average, about["ema_updates"])
        for optimizer, values, plain in zip(optimizers, tensors, about["optimizers"], strict=True):
            whole = _unflatten(values, plain)
            set_optimizer_state_dict(model, optimizer, whole, options=StateDictOptions(full_state_dict=True))
    except (RuntimeError, KeyError) as error:
        raise WeightsError(
            f"{place} belongs to another recipe: {error}. Use another --out, or the same recipe."
        ) from None
    return State(about["step"], about["bad_steps"], about["seconds"])


def _write(tensors: Mapping[str, Any], path: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _prune(run: Path, keep: int) -> None:
    kept = set(steps(run)[-keep:])
    record = best(run)
    if record is not None:
        kept.add(record["step"])
    for step in steps(run):
        if step not in kept:
            shutil.rmtree(folder(run) / f"step-{step:09d}")


def _flatten(whole: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Optimizer state keyed by parameter name -> tensors ``name|key``, and plain values."""
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"param_groups": whole["param_groups"], "state": {}}
    for name, entry in whole["state"].items():
        plain["state"][name] = {k: v for k, v in entry.items() if not isinstance(v, Tensor)}
        tensors |= {f"{name}|{k}": v for k, v in entry.items() if isinstance(v, Tensor)}
    return tensors, plain


def _unflatten(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, dict[str, Any]] = {name: dict(entry) for name, entry in plain["state"].items()}
    for key, tensor in tensors.items():
        name, _, kind = key.rpartition("|")
        state[name][kind] = tensor
    return {"state": state, "param_groups": plain["param_groups"]}
