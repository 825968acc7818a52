"""RMS norms, with what follows them, and SwiGLU in one pass each, with the C kernels (`kernels/transformer.c`), for inference.

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


def modulated_norm(x: Tensor, scale: Tensor, shift: Tensor, epsilon: float) -> Tensor:
    """x `[..., n, D]`, RMS-normalised, times scale plus shift: vectors `[..., 1, D]`, or one for all `[1, D]`.

    Ask `shares` for both vectors first.
    """
    x, size = x.contiguous(), x.shape[-1]
    rows, scale, shift = x.numel() // size, scale.reshape(-1, size), shift.reshape(-1, size)
    out = torch.empty_like(x)
    native.loaded().duotone_modulated_norm(
        c_void_p(x.data_ptr()), c_void_p(scale.data_ptr()), c_void_p(shift.data_ptr()), c_void_p(out.data_ptr()),
        c_int64(rows), c_int64(size), c_int64(rows // len(scale)), c_int64(scale.stride(0)), c_int64(shift.stride(0)),
        c_double(epsilon), c_int(torch.get_num_threads()),
    )  # fmt: skip
    return out


def shares(x: Tensor, vectors: Tensor) -> bool:
    """Whether there is one of the vectors for all of x `[..., n, D]`, or one for each `[n, D]` of it, whose values are adjacent."""
    each = vectors.dim() == x.dim() and vectors.shape[:-1] == (*x.shape[:-2], 1)
    return vectors.shape[-1] == x.shape[-1] and vectors.stride(-1) == 1 and (each or vectors.numel() == x.shape[-1])


def turned_norm_(x: Tensor, heads: int, cos: Tensor, sin: Tensor, epsilon: float) -> None:
    """In place: the first heads of x `[..., D]`, contiguous, RMS-normalised, then turned (`rotary.rotate`).

    Cosines and signed sines `[..., E]` have the last of x's dimensions before D, without gaps; ask `turns` first.
    """
    size = cos.shape[-1]
    native.loaded().duotone_turned_norm(
        c_void_p(x.data_ptr()), c_void_p(cos.data_ptr()), c_void_p(sin.data_ptr()), c_int64(x.numel() // x.shape[-1]),
        c_int64(x.shape[-1]), c_int64(heads), c_int64(size), c_int64(cos.numel() // size), c_double(epsilon),
        c_int(torch.get_num_threads()),
    )  # fmt: skip


def turns(x: Tensor, cos: Tensor, sin: Tensor) -> bool:
    """Whether the rows of x `[..., D]` are turned by cosines and sines `[..., E]` one after another, again and again."""
    last = x.shape[x.dim() - cos.dim() : -1]
    return cos.shape == sin.shape and cos.shape[:-1] == last and all(t.is_contiguous() for t in (x, cos, sin))


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
