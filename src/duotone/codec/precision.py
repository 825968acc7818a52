"""Number formats of codecs: which one decoding is fastest in, and moving a network to one."""

from __future__ import annotations

import torch
from torch import nn

from duotone.codec.contract import as_dtype
from duotone.nn.state import move_parameters


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the device has matrix units for it (CUDA, AMX, AVX512-BF16), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return torch.float32


def move_network(network: nn.Module, encoder: nn.Module, device: torch.device, dtype: torch.dtype | str | None) -> None:
    """Move a codec's network to a device and number format.

    "auto": the encoder, which is a part of the network, in float32, so that codes are the same everywhere, and the rest
    in the fastest format of the device. Constants (means, scales, filters) keep their format.
    """
    if dtype != "auto":
        move_parameters(network, device, as_dtype(dtype))
        return
    network.to(device=device)
    encoding = {id(p) for p in encoder.parameters()}
    for p in network.parameters():
        p.data = p.data.to(torch.float32 if id(p) in encoding else best_dtype(device))
