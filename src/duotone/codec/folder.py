"""Folders of our codecs' weights: `config.json` (format, configuration, provenance) and `model.safetensors`.

Nothing executes on load. The configuration's `family` says which network the weights are for.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from duotone.atomic import write_text
from duotone.config import Config
from duotone.nn.state import read_document, read_weights, write_weights

FORMAT = "duotone-codec"
VERSION = 1


@dataclass(frozen=True)
class Folder:
    """What a folder of weights says of them."""

    path: Path
    config: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def where(self) -> str:
        """The configuration's file, for messages."""
        return str(self.path / "config.json")

    def weights(self) -> dict[str, Tensor]:
        """All tensors. Raises `WeightsError`."""
        return read_weights(self.path)


def write_folder(
    folder: str | os.PathLike[str],
    network: nn.Module,
    config: Config,
    provenance: dict[str, Any],
    dtype: torch.dtype | None = None,
    extras: dict[str, Tensor] | None = None,
) -> None:
    """Write a network and its configuration (large weights in shards), each file atomically.

    `dtype` converts the parameters (for example to bfloat16), not the constants: means and scales.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    state = dict(network.state_dict())
    if dtype is not None:
        state |= {name: p.to(dtype) for name, p in network.named_parameters()}
    write_weights(state | (extras or {}), target)
    document = {"format": FORMAT, "version": VERSION, "config": config.to_dict(), "provenance": provenance}
    write_text(target / "config.json", json.dumps(document, indent=2, sort_keys=True) + "\n")


def read_folder(folder: str | os.PathLike[str]) -> Folder:
    """Read the description of a folder written by `write_folder`. Raises `WeightsError` or `ConfigError`."""
    source = Path(folder).absolute()
    document = read_document(source / "config.json", "codec", FORMAT, VERSION)
    return Folder(source, document.get("config", {}), document.get("provenance", {}))
