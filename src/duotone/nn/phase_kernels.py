"""Phases and spectra by the C kernel (`kernels/phases.c`); where it does not apply, `represent.phases` computes the same.

Legend: n frames, F bins.
"""

from __future__ import annotations

from ctypes import c_double, c_int64, c_void_p

import torch
from torch import Tensor

from duotone.nn import native
from duotone.represent import phases


def integrate(magnitudes: Tensor, turns: Tensor, n_fft: int, hop: int) -> Tensor:
    """`represent.phases.integrate`: magnitudes `[n + 2, F]`, turns `[F]` -> turns `[n, F]`."""
    lib = native.kernels_for(magnitudes)
    if lib is None or len(magnitudes) < 3:
        return phases.integrate(magnitudes, turns, n_fft, hop)
    bins = magnitudes.shape[1]
    if turns.shape != (bins,) or turns.dtype != torch.int32 or bins < 2:
        raise AssertionError(f"expected int32 turns of {bins} bins, got {turns.dtype} {list(turns.shape)}")
    magnitudes, turns = magnitudes.contiguous(), turns.contiguous()
    log = phases.logarithms(magnitudes)
    out = torch.empty(len(magnitudes) - 2, bins, dtype=torch.int32)
    lib.duotone_phases_scratch.restype = c_int64
    scratch = torch.empty(lib.duotone_phases_scratch(c_int64(bins)), dtype=torch.float32)
    lib.duotone_phases(
        *(c_void_p(t.data_ptr()) for t in (magnitudes, log, turns, out, scratch)), c_int64(len(out)), c_int64(bins),
        c_int64(n_fft), c_int64(hop), c_double(phases.delay_slope(n_fft, hop)), c_double(phases.DELAY_BOUND),
    )  # fmt: skip
    return out


def polar(magnitudes: Tensor, turns: Tensor) -> Tensor:
    """`represent.phases.polar`: magnitudes `[n, F]`, turns `[n, F]` -> complex spectra `[n, F]`."""
    lib = native.kernels_for(magnitudes)
    if lib is None or magnitudes.numel() == 0:
        return phases.polar(magnitudes, turns)
    if turns.shape != magnitudes.shape or turns.dtype != torch.int32 or not turns.is_cpu:
        raise AssertionError(f"expected int32 turns {list(magnitudes.shape)}, got {turns.dtype} {list(turns.shape)}")
    magnitudes, turns = magnitudes.contiguous(), turns.contiguous()
    out = torch.empty(magnitudes.shape, dtype=torch.complex64)
    pointers = (c_void_p(t.data_ptr()) for t in (magnitudes, turns, out))
    lib.duotone_polar(*pointers, c_int64(magnitudes.numel()))
    return out


#: For `PhaseGradient` and `Reconstruction`.
KERNELS = phases.Kernels(integrate, polar)
