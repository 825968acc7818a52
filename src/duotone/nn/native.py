"""Loads the C kernels and decides for which tensors they replace PyTorch's operations.

PyTorch computes the same without them, more slowly; ``DUOTONE_NATIVE=0`` turns them off.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.autograd import forward_ad
from torch.jit._trace import is_tracing
from torch.utils._python_dispatch import _get_current_dispatch_mode

from duotone.config import cache_folder
from duotone.nn import build

_declined = False


def compiler() -> str | None:
    """The C compiler: $CC, or the first installed one of cc, gcc, clang; None without any."""
    names = [os.environ["CC"]] if os.environ.get("CC") else ["cc", "gcc", "clang"]
    return next((found for found in map(shutil.which, names) if found), None)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The kernels, or None if they are turned off, there is no compiler, or (with a warning) it failed."""
    if os.environ.get("DUOTONE_NATIVE", "1") == "0" or platform.system() != "Linux":
        return None
    cc = compiler()
    if cc is None:
        return None
    try:
        return build.load(cc, cache_folder())
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", None) or str(error)).strip().splitlines() or [str(error)]
        first = next((line for line in said if "error" in line), said[0])
        warnings.warn(
            f"Duotone's kernels could not be compiled with {cc} ({first}): PyTorch's convolutions "
            "are used, which are slower. Set CC to another compiler, or DUOTONE_NATIVE=0 to do without.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None


@contextmanager
def declined() -> Iterator[None]:
    """Inside this context PyTorch computes everything, in all threads: for comparisons and counting operations."""
    global _declined
    before, _declined = _declined, True
    try:
        yield
    finally:
        _declined = before


def kernels_for(*tensors: Tensor) -> ctypes.CDLL | None:
    """The kernels, if there are any and they can take these tensors (`plain`)."""
    return library() if plain(*tensors) else None


def plain(*tensors: Tensor) -> bool:
    """Whether these tensors are plain ones of float32 on the CPU, and nobody asked for PyTorch's own operations.

    Not under autocast, and not where PyTorch has to see each operation: compilation, tracing, dispatch modes (counters
    of operations, fake tensors), `torch.func` transforms and forward-mode derivatives.
    """
    if _declined or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
        return False
    if is_tracing() or _get_current_dispatch_mode() is not None:
        return False
    return all(map(_plain, tensors))


def _plain(t: Tensor) -> bool:
    """Whether a tensor is completely described by the float32 numbers in its memory."""
    return (
        t.dtype == torch.float32
        and type(t) in (Tensor, nn.Parameter)
        and t.is_cpu
        and t.layout == torch.strided
        and not t.is_neg()
        and not is_functorch_wrapped_tensor(t)
        and forward_ad.unpack_dual(t).tangent is None
    )


def only_weight(layer: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a layer does no more than `kind` with its weight: it is not wrapped, parametrized or hooked."""
    hooks = (layer._forward_hooks, layer._forward_pre_hooks, layer._backward_hooks, layer._backward_pre_hooks)
    return type(layer) is kind and not any(hooks)


def loaded() -> ctypes.CDLL:
    """The kernels; call only after `kernels_for` has returned them."""
    lib = library()
    if lib is None:
        raise AssertionError("the C kernels were called where there are none; ask `kernels_for` first")
    return lib
