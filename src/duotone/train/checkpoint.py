"""Checkpoints: RUN/checkpoints/step-N, a folder of safetensors and JSON, written completely or not at all.

A folder holds the weights, their averages, a file for each optimizer, and `state.json` with everything that is not a tensor.

All randomness is a function of (seed, step) (see `draws` and `data`), so the step also
determines the state of the generators and the position in the data.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
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

from duotone.atomic import replacing_folder, sweep, write_json
from duotone.errors import WeightsError
from duotone.train.optimizers import Optimizers
from duotone.train.schedule import EMA

_FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)
_STEP = re.compile(r"step-(\d{9})")


@dataclass(frozen=True)
class State:
    """The content of a checkpoint besides tensors."""

    step: int
    bad_steps: int = 0
    seconds: float = 0.0  # time spent in training so far


def folder(run: Path) -> Path:
    """The folder of a run's checkpoints."""
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
    optimizers: Optimizers,
    *,
    keep: int = 2,
    main: bool = True,
) -> None:
    """Write a checkpoint: into a temporary folder, flushed to the disk, then renamed. All processes call it, `main` writes.

    Of the older checkpoints, the newest `keep` and the best by validation are kept. Raises `OSError` if the disk is full;
    existing checkpoints are unchanged then.
    """
    weights = get_model_state_dict(model, options=_FULL)
    average = ema.full()
    found = {name: _state_of(model, optimizer) for name, optimizer in _named(optimizers).items()}
    if not main:
        return
    root = folder(run)
    root.mkdir(parents=True, exist_ok=True)
    with replacing_folder(root / f"step-{state.step:09d}") as temporary:
        _write(weights, temporary / "model.safetensors")
        _write(average, temporary / "ema.safetensors")
        plain = {}
        for name, whole in found.items():
            tensors, plain[name] = _flatten(whole)
            _write(tensors, temporary / f"optimizer-{name}.safetensors")
        about = {"step": state.step, "bad_steps": state.bad_steps, "seconds": state.seconds,
                 "ema_updates": ema.updates, "optimizers": plain}  # fmt: skip
        (temporary / "state.json").write_text(json.dumps(about), encoding="utf-8")
    _prune(run, keep)


def load(run: Path, model: nn.Module, ema: EMA, optimizers: Optimizers) -> State:
    """Restore the newest checkpoint of a run that can be read; `State(0)` if there is none.

    Learning rates and other settings of the optimizers are not restored; the recipe sets them. Raises `WeightsError`
    when the checkpoint belongs to another recipe, or when there are checkpoints but none can be read.
    """
    there = steps(run)
    problems = []
    for step in reversed(there):
        place = folder(run) / f"step-{step:09d}"
        try:
            return _restore(place, model, ema, _named(optimizers))
        except (OSError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
            problems.append(f"{place.name}: {error}")
    if problems:
        raise WeightsError(
            f"No checkpoint of {run} can be read ({'; '.join(problems)}). Restore one, or start a new run."
        )
    return State(0)


def tidy(run: Path) -> None:
    """Remove temporary files of killed processes; call it while holding the run's lock."""
    if folder(run).is_dir():
        sweep(folder(run))


def best(run: Path) -> dict[str, Any] | None:
    """``{"step": ..., "loss": ...}`` of the best validation so far; None before the first, or if the file is damaged."""
    try:
        found = json.loads((run / "best.json").read_bytes())
        return {"step": int(found["step"]), "loss": float(found["loss"])}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def record_best(run: Path, step: int, loss: float) -> None:
    """Record that the checkpoint of this step has the lowest validation loss, and remove the previous best one."""
    write_json(run / "best.json", {"step": step, "loss": loss}, indent=None)


def _named(optimizers: Optimizers) -> dict[str, torch.optim.Optimizer]:
    """Give every optimizer a unique name: its group's name and a number."""
    return {f"{name}-{i}": optimizer for name, several in optimizers.items() for i, optimizer in enumerate(several)}


def _state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state by parameter name; empty for an optimizer that has made no step."""
    if not optimizer.state:
        return {"state": {}, "param_groups": []}
    return get_optimizer_state_dict(model, optimizer, options=_FULL)


def _restore(place: Path, model: nn.Module, ema: EMA, optimizers: dict[str, torch.optim.Optimizer]) -> State:
    about = json.loads((place / "state.json").read_bytes())
    weights, average = load_file(place / "model.safetensors"), load_file(place / "ema.safetensors")
    saved = about["optimizers"]
    if isinstance(saved, list):  # earlier versions numbered them
        saved = {str(i): plain for i, plain in enumerate(saved)}
        optimizers = {str(i): optimizer for i, optimizer in enumerate(optimizers.values())}
    tensors = {name: load_file(place / f"optimizer-{name}.safetensors") for name in saved}
    if tensors.keys() != optimizers.keys():
        raise WeightsError(
            f"{place} has the optimizers {', '.join(tensors)}, the recipe {', '.join(optimizers)}. "
            f"Use another --out, or the same optim.name."
        )
    try:
        set_model_state_dict(model, dict(weights), options=StateDictOptions(full_state_dict=True))
        ema.load_full(average, about["ema_updates"])
        for name, optimizer in optimizers.items():
            _restore_optimizer(model, optimizer, _unflatten(tensors[name], saved[name]))
    except (RuntimeError, KeyError) as error:
        raise WeightsError(
            f"{place} belongs to another recipe: {error}. Use another --out, or the same recipe."
        ) from None
    return State(about["step"], about["bad_steps"], about["seconds"])


def _restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, whole: dict[str, Any]) -> None:
    """Restore an optimizer's state for the parameters that have one; its settings remain those of the recipe."""
    if not whole["state"]:
        return
    settings = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    options = StateDictOptions(full_state_dict=True, strict=False)
    set_optimizer_state_dict(model, optimizer, whole, options=options)
    for group, own in zip(optimizer.param_groups, settings, strict=True):
        group.update(own)
    for name, p in model.named_parameters():  # PyTorch would add a step that was never made
        if name not in whole["state"]:
            optimizer.state.pop(p, None)


def _write(tensors: Mapping[str, Any], path: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, path)


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
