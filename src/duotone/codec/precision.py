"""Number formats of codecs: which one decoding is fastest in."""

from __future__ import annotations

import torch


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 if the device has matrix units for it (CUDA, AMX, AVX512-BF16), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return torch.float32
