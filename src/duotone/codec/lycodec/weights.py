"""Load and save a Lycodec's weights, in the folders of all our codecs."""

from __future__ import annotations

import os

import torch

from duotone.codec.batches import whole_number
from duotone.codec.folder import read_folder, write_folder
from duotone.codec.lycodec.codec import Lycodec
from duotone.codec.lycodec.network import LycodecNetwork
from duotone.config import LycodecConfig
from duotone.errors import UsageError
from duotone.nn.state import fill


def save_lycodec(codec: Lycodec, folder: str | os.PathLike[str], dtype: torch.dtype | None = None) -> None:
    """Write `config.json` and `model.safetensors` into a folder; `dtype` converts the parameters (for example to bfloat16)."""
    write_folder(folder, codec.network, codec.config, codec.provenance, dtype)


def load_lycodec(folder: str | os.PathLike[str], n_quantizers: int | None = None) -> Lycodec:
    """Read a folder written by `save_lycodec`, as float32 on the CPU. Raises `WeightsError` or `ConfigError`.

    `n_quantizers` is the number of codebooks to use, those of one or more whole groups: a rung of the ladder of rates. Raises
    `UsageError` for another number.
    """
    found = read_folder(folder)
    config = LycodecConfig.parse(found.config, found.where)
    groups = None if n_quantizers is None else _groups(n_quantizers, config)
    network = LycodecNetwork(config)
    fill(network, found.weights(), str(found.path))
    return Lycodec(network, name=found.path.name, provenance=found.provenance, groups=groups)


def _groups(n_quantizers: int, config: LycodecConfig) -> int:
    each = len(config.codebook_levels) // config.groups
    groups, rest = divmod(whole_number(n_quantizers, "n_quantizers"), each)
    if rest or not 1 <= groups <= config.groups:
        known = ", ".join(str(each * (i + 1)) for i in range(config.groups))
        raise UsageError(f"n_quantizers got {n_quantizers}, expected the codebooks of whole groups: one of {known}.")
    return groups
