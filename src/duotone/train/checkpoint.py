"""Checkpoints: a folder of safetensors and JSON, written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from duotone.errors import WeightsError
from duotone.train.schedule import EMA

_NAME = "checkpoint"


def save(run: Path, step: int, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> None:
    """Write RUN/checkpoint atomically: into a temporary folder, then a rename; the one before is kept until then."""
    temporary, target, old = run / f".{_NAME}.new", run / _NAME, run / f".{_NAME}.old"
    for leftover in (temporary, old):
        shutil.rmtree(leftover, ignore_errors=True)
    temporary.mkdir(parents=True)
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    save_file(state, temporary / "model.safetensors")
    save_file({k: v.cpu().contiguous() for k, v in ema.shadow.items()}, temporary / "ema.safetensors")
    tensors, plain = _flatten(optimizer.state_dict())
    save_file(tensors, temporary / "optimizer.safetensors")
    about = {"step": step, "ema_updates": ema.updates, "optimizer": plain}
    (temporary / "state.json").write_text(json.dumps(about), encoding="utf-8")
    if target.exists():
        os.rename(target, old)
    os.rename(temporary, target)
    shutil.rmtree(old, ignore_errors=True)


def load(run: Path, model: nn.Module, ema: EMA, optimizer: torch.optim.Optimizer) -> int:
    """Restore the last checkpoint of a run and return the step to go on with, 0 if there is none."""
    folder = run / _NAME
    if not folder.is_dir() and (run / f".{_NAME}.old").is_dir():  # killed between the two renames
        folder = run / f".{_NAME}.old"
    if not folder.is_dir():
        return 0
    try:
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except RuntimeError as error:
        raise WeightsError(
            f"{folder} belongs to another recipe: {error}. Use another --out, or the same recipe."
        ) from None
    about = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    for name, tensor in load_file(folder / "ema.safetensors").items():
        ema.shadow[name].copy_(tensor)
    ema.updates = about["ema_updates"]
    optimizer.load_state_dict(_unflatten(load_file(folder / "optimizer.safetensors"), about["optimizer"]))
    return int(about["step"])


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {"param_groups": state["param_groups"], "state": {}}
    for index, entry in state["state"].items():
        plain["state"][str(index)] = {k: v for k, v in entry.items() if not isinstance(v, Tensor)}
        tensors |= {f"{index}.{k}": v.detach().cpu().contiguous() for k, v in entry.items() if isinstance(v, Tensor)}
    return tensors, plain


def _unflatten(tensors: dict[str, Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {int(index): dict(entry) for index, entry in plain["state"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state[int(index)][key] = tensor
    return {"state": state, "param_groups": plain["param_groups"]}
