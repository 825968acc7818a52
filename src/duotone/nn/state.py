"""Folders of weights: config.json and safetensors files, tensors fitted into networks; PyTorch files of other programs."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from duotone.atomic import replacing, write_text
from duotone.errors import ConfigError, WeightsError

#: Weights larger than this are written in several files, as those of transformers are.
SHARD_BYTES = 16 << 20
NAME = "model.safetensors"
INDEX = NAME + ".index.json"


def read_document(path: Path, kind: str, form: str, version: int) -> dict[str, Any]:
    """The description (config.json) of a folder of weights, of this format and version; `kind` names what it describes in messages.

    Raises `WeightsError` if there is none, `ConfigError` for another content.
    """
    if not path.is_file():
        raise WeightsError(f"No {kind} at {path.parent}: it has no {path.name}. Give the folder of a saved {kind}.")
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("format") != form:
        raise ConfigError(f'{path} does not describe a {kind} of this library (expected "format": "{form}").')
    if document.get("version") != version:
        raise ConfigError(
            f"{path} has version {document.get('version')}, this version of Duotone reads {version}. Update duotone."
        )
    return document


def told_provenance(document: dict[str, Any]) -> dict[str, Any]:
    """What a description tells of where the weights come from; empty where it tells nothing."""
    found = document.get("provenance", {})
    return found if isinstance(found, dict) else {}


def read_torch_file(path: str | os.PathLike[str], what: str) -> dict[Any, Any]:
    """The dictionary in a PyTorch file of another program, whose tensors are read when they are used; `what` names it in messages.

    Reads with ``torch.load(weights_only=True)``, so that nothing executes. Raises `WeightsError` for any other file.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"No file at {file}. Give the path of {what}.")
    try:
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except Exception as error:  # torch raises half a dozen unrelated types for a bad file
        raise WeightsError(
            f"{file} is no PyTorch file of plain tensors ({type(error).__name__} while reading it). Give {what}."
        ) from error
    if not isinstance(loaded, dict):
        raise WeightsError(f"{file} holds {type(loaded).__name__}, expected a dictionary. Give {what}.")
    return loaded


def write_weights(state: dict[str, Tensor], folder: Path, limit: int = SHARD_BYTES) -> None:
    """Write tensors to `model.safetensors` in a folder, or to shards of at most `limit` bytes and an index.

    Each file is written atomically, the index last; files of an earlier division are removed after it.
    """
    from huggingface_hub import split_torch_state_dict_into_shards

    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    division = split_torch_state_dict_into_shards(plain, max_shard_size=limit)
    for file, names in division.filename_to_tensors.items():
        with replacing(folder / file) as temporary:
            save_file({name: plain[name] for name in names}, temporary, {"format": "pt"})
    if division.is_sharded:
        index = {"metadata": division.metadata, "weight_map": division.tensor_to_filename}
        write_text(folder / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
    else:
        (folder / INDEX).unlink(missing_ok=True)
    for earlier in folder.glob("model*.safetensors"):
        if earlier.name not in division.filename_to_tensors:
            earlier.unlink()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors that `write_weights` wrote. Raises `WeightsError` if files are missing or damaged."""
    if not (folder / INDEX).is_file():
        if not (folder / NAME).is_file():
            raise WeightsError(f"{folder} has no {NAME}; a folder of weights holds config.json and {NAME}.")
        return read_tensors(folder / NAME)
    state: dict[str, Tensor] = {}
    for name in shards(folder / INDEX):
        if Path(name).name != name or not (folder / name).is_file():
            raise WeightsError(f"{folder} has no {name}, which its index names. Download or export it again.")
        state |= read_tensors(folder / name)
    return state


def shards(index: Path) -> list[str]:
    """The names of the files that an index of weights names. Raises `WeightsError` for a damaged index."""
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        return sorted({str(place) for place in places.values()})
    except (ValueError, KeyError, AttributeError) as error:
        raise WeightsError(f"{index} is not an index of weights ({error}). Download or export it again.") from None


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Raises `WeightsError` for a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise WeightsError(
            f"{path} is damaged or not a safetensors file ({error}). Download or export it again."
        ) from None


def fill(network: nn.Module, state: dict[str, Tensor], where: str) -> None:
    """Copy tensors into a network. Raises `WeightsError` naming what is missing, unexpected or misshapen."""
    wanted = network.state_dict()
    missing = sorted(set(wanted) - set(state))
    unexpected = sorted(set(state) - set(wanted))
    wrong = [
        f"{name}: {tuple(state[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in sorted(set(wanted) & set(state))
        if state[name].shape != wanted[name].shape
    ]
    if missing or unexpected or wrong:
        lines = [f"{where} does not fit the configuration."]
        for title, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", wrong)):
            if names:
                lines.append(f"  {len(names)} {title}: " + "; ".join(names[:5]) + (" ..." if len(names) > 5 else ""))
        raise WeightsError("\n".join(lines))
    network.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in state.items()})


def move_parameters(module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
    """Move a network to a device, and its parameters to a number format; constants (means, scales, filters) keep theirs."""
    module.to(device=device)
    if dtype is not None:
        for p in module.parameters():
            p.data = p.data.to(dtype)
