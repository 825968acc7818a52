"""3x3 convolutions by the C kernels: Winograd's F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308).

In float32 on CPUs: a quarter of the multiplications of the plain convolution and its gradients. In inference, norm,
activation and residual sum are computed while a tile is in the cache. Results differ from PyTorch's by rounding
(relative error about 3e-6). The kernels and the derivation: `kernels/convolution.c`.

Legend: B batch, C channels, H height, W width.
"""

from __future__ import annotations

import ctypes
import functools
from ctypes import c_double, c_int, c_int64, c_uint64, c_void_p
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.grad import conv2d_weight

from duotone.nn import native

_POINTS = 36
_COLUMNS = 2  # number of adjacent vectors in a packed panel of kernels
_WIDE = 256 * 256  # input times output channels; with more, the sums over 36 points do not fit into the cache
#: G of the paper, for the points 0, 1, -1, 2, -2 and infinity.
_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


class _Convolution(ctypes.Structure):
    _fields_ = [(name, c_void_p) for name in ("x", "kernels", "scale", "shift", "residual", "out")] + [
        (name, c_int64) for name in ("batch", "height", "width", "inputs", "outputs", "activation")
    ]


class _Norm(ctypes.Structure):
    _fields_ = [
        *((name, c_void_p) for name in ("x", "other", "weight", "blended", "scale", "shift")),
        *((name, c_int64) for name in ("batch", "places", "channels", "groups", "weight_stride", "other_stride")),
        ("epsilon", c_double),
    ]


class Kernel:
    """A convolution's weights in the layout of the C kernels, packed again whenever the weights have changed.

    Every call compares a checksum of the weights, so that changes through `.data`, NumPy or shared memory are also
    detected. It reads the weights once, which takes less than 1% of the time of encoding or decoding.
    """

    def __init__(self) -> None:
        self._kept: tuple[tuple[object, ...], Tensor] | None = None

    def __deepcopy__(self, memo: object) -> Kernel:
        return Kernel()

    def __reduce__(self) -> tuple[type[Kernel], tuple[()]]:
        return Kernel, ()

    def packed(self, weight: Tensor, lanes: int) -> Tensor:
        """Weights `[O, C, 3, 3]` -> G g G' as panels of columns, `[36, O * C]`."""
        key = (weight.shape, weight.stride(), lanes, checksum(weight))
        kept = self._kept
        if kept is None or kept[0] != key:
            self._kept = kept = (key, pack(weight.detach(), lanes))
        return kept[1]


def checksum(weight: Tensor) -> int:
    """64 bits that change when any number of the weights or their order in memory does."""
    if not weight.is_contiguous(memory_format=torch.channels_last):
        weight = weight.contiguous()
    function = native.loaded().duotone_checksum
    function.restype = c_uint64
    found: int = function(c_void_p(weight.data_ptr()), c_int64(weight.numel()), c_int(torch.get_num_threads()))
    return found


def pack(weight: Tensor, lanes: int) -> Tensor:
    """G g G' of weights `[O, C, 3, 3]`, in panels of two vectors of output channels (the last may have one)."""
    outputs, inputs = weight.shape[:2]
    points = (_both() @ weight.permute(2, 3, 1, 0).reshape(9, -1)).view(_POINTS, inputs, outputs)
    panels = [p.reshape(_POINTS, -1) for p in torch.split(points, _COLUMNS * lanes, dim=2)]
    return torch.cat(panels, dim=1)


@functools.cache
def _both() -> Tensor:
    """G in both directions at once: 9 values of a kernel -> 36 points."""
    g = torch.tensor(_G, dtype=torch.float64, device="cpu")
    return torch.kron(g, g).float()


def applies(x: Tensor, *convs: nn.Module) -> bool:
    """Whether the kernels can take this feature map `[B, C, H, W]` through these convolutions.

    Not where one is wrapped, parametrized or hooked, and not for other devices and formats than float32 on CPUs.
    """
    if not all(native.only_weight(conv, nn.Conv2d) for conv in convs):
        return False
    weights: list[Tensor] = [conv.weight for conv in convs]  # type: ignore[misc]
    lib = native.kernels_for(x, *weights)
    if lib is None:
        return False
    widths = [x.shape[1], *(weight.shape[0] for weight in weights)]
    return x.numel() > 0 and not any(width % lib.duotone_lanes() for width in widths)


def norm(
    x: Tensor, groups: int, weight: Tensor, epsilon: float, other: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Group norm as scale and shift of each channel, ``[B, C]`` twice, of ``(x + other) / sqrt(2)`` or x itself.

    weight `[C]`, `[1, C]` or `[B, C]`. Returns (the feature map that is normed, scale, shift).
    """
    lib = native.loaded()
    x = x.contiguous(memory_format=torch.channels_last)
    blended = x
    if other is not None:
        if other.shape != x.shape or other.dtype != x.dtype:
            raise AssertionError(f"feature maps to blend differ: {list(x.shape)} and {list(other.shape)}")
        if not other[:1].is_contiguous(memory_format=torch.channels_last):  # examples may have gaps between them
            other = other.contiguous(memory_format=torch.channels_last)
        blended = torch.empty_like(x)
    b, c, h, w = x.shape
    weight = (weight.reshape(c) if weight.numel() == c else weight.expand(b, c)).contiguous()
    scale, shift = x.new_empty(b, c), x.new_empty(b, c)
    job = _Norm(
        _pointer(x), _pointer(other), _pointer(weight), _pointer(blended), _pointer(scale), _pointer(shift),
        b, h * w, c, groups, c if weight.dim() == 2 else 0, 0 if other is None else other.stride(0), epsilon,
    )  # fmt: skip
    _check(lib.duotone_norm(ctypes.byref(job), c_int(torch.get_num_threads())))
    return blended, scale, shift


def convolve(
    x: Tensor,
    kernel: Kernel,
    weight: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    silu: bool = False,
    overwrite: bool = False,
) -> Tensor:
    """``residual + silu(conv3x3(x * scale + shift))`` with a border of zeros; `[B, C, H, W]` -> `[B, O, H, W]`.

    With `overwrite` the result takes the residual's place.
    """
    lib = native.loaded()
    x = x.contiguous(memory_format=torch.channels_last)
    b, c, h, w = x.shape
    outputs = weight.shape[0]
    packed = kernel.packed(weight, lib.duotone_lanes())
    if residual is not None:
        residual = residual.contiguous(memory_format=torch.channels_last)
    if residual is not None and overwrite:
        out = residual
    else:
        out = torch.empty((b, outputs, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    job = _Convolution(
        _pointer(x), _pointer(packed), _pointer(scale), _pointer(shift), _pointer(residual), _pointer(out),
        b, h, w, c, outputs, int(silu),
    )  # fmt: skip
    _check(lib.duotone_convolve(ctypes.byref(job), c_int(torch.get_num_threads())))
    return out


class _Differentiable(torch.autograd.Function):
    """The convolution and its gradients, computed by the kernels."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(x, weight)
        return convolve(x, Kernel(), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        above = above.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = convolve(above, Kernel(), weight.flip(2, 3).transpose(0, 1))
        if ctx.needs_input_grad[1] and weight.shape[0] * weight.shape[1] <= _WIDE:
            of_weight = _gradient(x, above)
        elif ctx.needs_input_grad[1]:
            of_weight = conv2d_weight(x, weight.shape, above, padding=1)
        return of_x, of_weight


def _gradient(x: Tensor, above: Tensor) -> Tensor:
    """The weights' gradient `[O, C, 3, 3]` from input `[B, C, H, W]` and the output's gradient `[B, O, H, W]`."""
    b, inputs, h, w = x.shape
    outputs = above.shape[1]
    points = x.new_empty(_POINTS, inputs * outputs)
    job = _Convolution(_pointer(x), None, None, None, _pointer(above), _pointer(points), b, h, w, inputs, outputs, 0)
    _check(native.loaded().duotone_convolve_gradient(ctypes.byref(job), c_int(torch.get_num_threads())))
    gradient = (_both().T @ points).view(3, 3, inputs, outputs).permute(3, 2, 0, 1)
    return gradient.contiguous(memory_format=torch.channels_last)


def conv3x3(x: Tensor, conv: nn.Conv2d) -> Tensor:
    """The plain convolution with a border of zeros, by the kernels where they apply: `[B, C, H, W]` -> `[B, O, H, W]`.

    Differentiable once by the kernels, else as often as PyTorch's.
    """
    if not applies(x, conv):
        plain: Tensor = conv(x)
        return plain
    out: Tensor = _Differentiable.apply(x, conv.weight)  # type: ignore[no-untyped-call]
    return out


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _check(failed: int) -> None:
    if failed:
        raise MemoryError("Not enough memory for a convolution. Decode fewer chunks at a time (a smaller batch).")
