"""Guards that tests put around code: devices that are not there, and what such devices do not compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NoDoubleNoComplex(TorchDispatchMode):
    """Raises `AssertionError` for every operation that gives a float64 or complex tensor on a device of this type.

    Apple's GPUs (mps) have no float64 and lack operations on complex numbers.
    """

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(
        self, function: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if not isinstance(tensor, Tensor) or tensor.device.type != self.device:
                continue
            if tensor.dtype == torch.float64 or tensor.is_complex():
                raise AssertionError(f"{function} gives {tensor.dtype} on {self.device}")
        return out


@contextmanager
def like_mps() -> Iterator[str]:
    """The name of a device without float64 and complex numbers; inside, tensors have shape, format and device only.

    PyTorch cannot stand in for mps itself where it is compiled without it; "meta" takes the same ways in our code.
    """
    with FakeTensorMode(allow_non_fake_inputs=True), NoDoubleNoComplex("meta"):
        yield "meta"


def moved(module: nn.Module, device: str) -> nn.Module:
    """A module whose parameters and buffers are new ones on a device; for use inside `like_mps`."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                new = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
                part._parameters[name] = nn.Parameter(new, requires_grad=parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device=device)
    return module
