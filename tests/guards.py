"""Guards that tests put around code: devices that are not there, and what such devices do not compute."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only


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


class There(Tensor):
    """A tensor of the stand-in: it says that it is on the device "meta", and has its numbers in a tensor on the CPU."""

    numbers: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, numbers: Tensor) -> There:
        made: There = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, numbers.shape, strides=numbers.stride(), storage_offset=numbers.storage_offset(), dtype=numbers.dtype,
            device=torch.device("meta"), requires_grad=numbers.requires_grad,
        )  # fmt: skip
        made.numbers = numbers
        return made

    @classmethod
    def __torch_dispatch__(
        cls, function: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _computed(function, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:
        return f"There({self.numbers!r})"


#: Operations that real devices do on tensors of two places; indices may be on the CPU.
MIXED = ("aten::_to_copy", "aten::copy_", "aten::index")


def _computed(function: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """An operation on the stand-in's numbers; what it gives is there, too, unless it moves tensors away."""
    target, name = kwargs.get("device"), function._schema.name
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = any(isinstance(tensor, There) for tensor in tensors)
    if here and name not in MIXED:
        others = [tensor for tensor in tensors if not isinstance(tensor, There) and tensor.dim()]
        assert not others, f"{function} got tensors on meta and on cpu"
    plain_args, plain = tree_map_only(There, lambda tensor: tensor.numbers, (args, kwargs))
    out = function(*plain_args, **(plain if target is None else {**plain, "device": "cpu"}))
    if name == "aten::copy_":
        here = isinstance(args[0], There)
    elif target is not None:
        here = torch.device(target).type == "meta"
    if not here:
        return out

    def checked(tensor: Tensor) -> Tensor:
        double = tensor.dtype == torch.float64 or tensor.is_complex()
        assert not double, f"{function} gives {tensor.dtype} on meta"
        return There(tensor)

    wrapped = tree_map_only(Tensor, checked, out)
    inside = any(isinstance(tensor, There) for tensor in tensors)
    return return_and_correct_aliasing(function, args, kwargs, wrapped) if inside else wrapped


class _Made(TorchFunctionMode):
    """`torch.tensor`, and a list as an index, make tensors where dispatch modes do not see it."""

    def __torch_function__(
        self, function: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.tensor and kwargs.get("device") is not None:
            return function(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        if function is Tensor.__getitem__ and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]))
        return function(*args, **kwargs)


class _StandIn(TorchDispatchMode):
    def __torch_dispatch__(
        self, function: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return _computed(function, args, kwargs or {})


@contextmanager
def stand_in() -> Iterator[str]:
    """The name of a device that computes as the CPU does, but has neither float64 nor complex numbers, as mps.

    Inside, tensors may be moved there and back; an operation on tensors of both places is an `AssertionError`, as on any device.
    """
    autocast = torch.autocast

    def known(device: str, *args: Any, **kwargs: Any) -> Any:  # PyTorch has no autocast for "meta"
        return autocast("cpu" if device == "meta" else device, *args, **kwargs)

    def inference(mode: bool = True) -> Any:  # its tensors cannot have a class of their own
        return torch.no_grad() if mode else torch.enable_grad()

    patched = mock.patch.multiple(torch, autocast=known, inference_mode=inference)
    with patched, _Made(), _StandIn():
        yield "meta"


def placed(module: nn.Module, device: str) -> nn.Module:
    """A module with its parameters and buffers moved to the stand-in; ``Module.to`` cannot change their class."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.detach().to(device), parameter.requires_grad)
        for name, buffer in part._buffers.items():
            if buffer is not None:
                part._buffers[name] = buffer.to(device)
    return module
