"""Load and save flow models: Duotone's safetensors folders, and published CoDiCodec-Flow checkpoints.

A folder holds `config.json` (format, configuration, provenance) and `model.safetensors`. Nothing executes on load.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotone.atomic import write_text
from duotone.config import FlowConfig, flow_preset
from duotone.errors import ConfigError, WeightsError
from duotone.flow.model import FlowModel
from duotone.nn.state import fill, read_document, read_torch_file, read_weights, told_provenance, write_weights

FORMAT = "duotone-flow"
VERSION = 1
HEAD = 64  #: width of a head in published checkpoints


def random(config: FlowConfig | str, seed: int = 0) -> FlowModel:
    """A model as training starts it, in evaluation mode: `config` is a preset's name or a configuration. Its velocities are zero.

    Raises `ConfigError` for unknown names. The generator of the process is left as it was.
    """
    sizes = flow_preset(config) if isinstance(config, str) else config
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FlowModel(sizes).eval()


def save(
    model: FlowModel,
    folder: str | os.PathLike[str],
    dtype: torch.dtype | None = None,
    provenance: dict[str, Any] | None = None,
) -> None:
    """Write `config.json` and `model.safetensors` into a folder, each atomically; `dtype` converts the weights (e.g. bfloat16).

    `provenance` replaces the model's own.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    state = dict(model.state_dict())
    if dtype is not None:
        state = {name: tensor if name in _STATISTICS else tensor.to(dtype) for name, tensor in state.items()}
    write_weights(state, target)
    document = {
        "format": FORMAT,
        "version": VERSION,
        "config": model.config.to_dict(),
        "provenance": model.provenance if provenance is None else provenance,
    }
    write_text(target / "config.json", json.dumps(document, indent=2, sort_keys=True) + "\n")


def load(folder: str | os.PathLike[str]) -> FlowModel:
    """Read a folder written by `save`, as float32 on the CPU in evaluation mode. Raises `WeightsError` or `ConfigError`."""
    source = Path(folder)
    document = read_document(source / "config.json", "flow", FORMAT, VERSION)
    config = FlowConfig.parse(document.get("config", {}), str(source / "config.json"))
    model = _empty(config)
    fill(model, read_weights(source), str(source))
    model.provenance = told_provenance(document)
    return model.eval()


def import_published(path: str | os.PathLike[str], averaged: bool = True) -> FlowModel:
    """Read a published CoDiCodec-Flow checkpoint (`ema.pt`, `last.pt`); its sizes are those of its tensors.

    Takes the moving average of the weights, or with `averaged` off the last ones (entry `model`). Such models were trained
    without a window. Reads with ``torch.load(weights_only=True)``. Raises `WeightsError` for any other file.
    """
    file = Path(path)
    loaded = read_torch_file(file, "a published checkpoint, ema.pt or last.pt")
    entry = "ema" if averaged else "model"
    found = loaded.get(entry)
    if not isinstance(found, dict):
        raise WeightsError(f"{file} has no entry {entry!r}; it has {', '.join(map(str, loaded)) or 'none'}.")
    state = {
        re.sub("^(params|buffers)[.]", "", name): tensor.float()
        for name, tensor in found.items()
        if isinstance(name, str) and isinstance(tensor, Tensor) and not name.startswith("__")
    }
    model = _empty(_sizes(state, file))
    fill(model, state, str(file))
    model.provenance = {"weights": f"imported from {file.name}"}
    return model.eval()


def is_published(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a published CoDiCodec-Flow checkpoint: a PyTorch file with an entry `ema` of tensors; their data are not read."""
    try:
        found = read_torch_file(path, "a published checkpoint").get("ema")
    except WeightsError:
        return False
    return isinstance(found, dict) and any(isinstance(tensor, Tensor) for tensor in found.values())


_STATISTICS = ("lat_mean", "lat_std")


def _sizes(state: dict[str, Tensor], file: Path) -> FlowConfig:
    """The configuration that tensors of a published layout belong to."""
    try:
        dim, channels = state["proj_in.weight"].shape
        condition = state["cond_mlp.0.weight"].shape[1]
    except (KeyError, ValueError):
        raise WeightsError(
            f"{file} has no tensors proj_in.weight and cond_mlp.0.weight of two dimensions, as published flows have."
        ) from None
    layers = {int(found[1]) for found in (re.match(r"blocks\.(\d+)\.", name) for name in state) if found}
    values = {
        "dim": dim, "layers": len(layers), "heads": dim // HEAD, "head": HEAD, "condition": condition, "channels": channels,
        "context_chunks": None,
    }  # fmt: skip
    try:
        return FlowConfig.parse(values, str(file))
    except ConfigError as error:
        raise WeightsError(f"{file} has tensors of sizes that are not supported: {error}") from None


def _empty(config: FlowConfig) -> FlowModel:
    with torch.device("meta"):
        model = FlowModel(config)
    return model.to_empty(device="cpu")


def fingerprint(model: FlowModel) -> str:
    """16 hexadecimal digits of a hash over the configuration and every weight in float32."""
    digest = hashlib.blake2b(model.config.to_json().encode(), digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()
