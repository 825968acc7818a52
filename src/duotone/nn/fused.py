"""RMS norm and SwiGLU in one pass each, with the C kernels (`kernels/transformer.c`), for inference.

Callers ask `applies` first; where it is false, PyTorch computes the same.
"""

from __future__ import annotations

from ctypes import c_double, c_int, c_int64, c_void_p

import torch
from torch import Tensor

from duotone.nn import native


def applies(x: Tensor, size: int, *gains: Tensor) -> bool:
    """Whether the kernels can take these tokens, made of vectors of `size` values, and gains; never with gradients."""
    lib = None if torch.is_grad_enabled() else native.kernels_for(x, *gains)
    return lib is not None and size % lib.duotone_lanes() == 0 and x.numel() > 0


def rms_norm_(x: Tensor, gain: Tensor, first: int, heads: int, epsilon: float) -> None:
    """In place: the heads in ``x[..., first : first + heads * E]`` RMS-normalised, times gain `[E]`.

    x `[B, n, D]`, contiguous; equation 4 of arXiv 1910.07467.
    """
    size = len(gain)
    if not x.is_contiguous() or first + heads * size > x.shape[-1]:
        raise AssertionError(f"expected contiguous rows of at least {first + heads * size}, got {list(x.shape)}")
    gain = gain.contiguous()
    native.loaded().duotone_rms_norm(
        c_void_p(x.data_ptr() + first * x.element_size()), c_void_p(gain.data_ptr()),
        c_int64(x.numel() // x.shape[-1]), c_int64(x.shape[-1]), c_int64(heads), c_int64(size), c_double(epsilon),
        c_int(torch.get_num_threads()),
    )  # fmt: skip


def swiglu(x: Tensor) -> Tensor:
    """Gate and value `[..., 2 m]` -> ``value * silu(gate)`` `[..., m]`; arXiv 2002.05202."""
    x = x.contiguous()
    size = x.shape[-1] // 2
    out = x.new_empty(*x.shape[:-1], size)
    native.loaded().duotone_swiglu(
        c_void_p(x.data_ptr()), c_void_p(out.data_ptr()), c_int64(out.numel() // size), c_int64(size),
        c_int(torch.get_num_threads()),
    )  # fmt: skip
    return out
