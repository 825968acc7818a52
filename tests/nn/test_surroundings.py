"""Layers in the surroundings that users put them in: autocast, hooks, transforms, strides, other default dtypes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

from duotone.nn import native
from duotone.nn.conv import ConvBlock, Down, ScaledGroupNorm, Up
from duotone.nn.transformer import Layer, ScaledLayerNorm

CHANNELS = 32  # wide enough for the kernels of every processor


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    native.library.cache_clear()
    yield
    native.library.cache_clear()


def alive(module: nn.Module, seed: int = 0) -> nn.Module:
    """The module with random weights, none of them zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(0.2 * torch.randn(p.shape, generator=generator) + (p.dim() == 1))
    return module.eval()


def random(*shape: int, seed: int) -> Tensor:
    """Float32 on the CPU, whatever the defaults are."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32, device="cpu")


def feature_map(batch: int = 2) -> Tensor:
    return random(batch, CHANNELS, 12, 8, seed=1)


def condition(batch: int) -> Tensor:
    return random(batch, 16, seed=2)


def distance(got: Tensor, want: Tensor) -> float:
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm())


def run_block(module: nn.Module, conditions: int) -> Tensor:
    other = feature_map().flip(0)
    out: Tensor = module(feature_map(), condition(conditions), other)
    return out


def run_layer(module: nn.Module, conditions: int) -> Tensor:
    x = random(2, 9, CHANNELS, seed=3)
    past = module(x, condition(conditions), None)[1]
    out: Tensor = module(x, condition(conditions), past, slice(2, 7))[0]
    return out


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module, int], Tensor]]] = {
    "group norm": (lambda: ScaledGroupNorm(CHANNELS, 16), lambda m, n: m(feature_map(), condition(n))),
    "layer norm": (lambda: ScaledLayerNorm(CHANNELS, 16), lambda m, n: m(feature_map()[:, 0, :8].repeat(1, 1, 4), condition(n))),
    "block": (lambda: ConvBlock(CHANNELS, 16), run_block),
    "down": (lambda: Down(CHANNELS, 2 * CHANNELS, (2, 2)), lambda m, n: m(feature_map())),
    "up": (lambda: Up(CHANNELS, CHANNELS // 2, (2, 2)), lambda m, n: m(feature_map())),
    "layer": (lambda: Layer(CHANNELS, 2, 2, 16), run_layer),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("conditions", [1, 2])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_gives_the_numbers_of_float32_without_warnings(
    name: str, conditions: int, gradients: bool, dtype: torch.dtype
) -> None:
    make, run = CASES[name]
    module = alive(make())
    with torch.set_grad_enabled(gradients):
        want = run(module, conditions)
        with warnings.catch_warnings(), torch.autocast("cpu", dtype):
            warnings.simplefilter("error")
            got = run(module, conditions)
    assert distance(got, want) < 0.02


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("gradients", [False, True])
def test_other_defaults_of_pytorch_change_nothing(name: str, gradients: bool) -> None:
    make, run = CASES[name]
    module = alive(make())
    with torch.set_grad_enabled(gradients):
        want = run(module, 1)
        torch.set_default_dtype(torch.float64)
        try:
            other_dtype = run(module, 1)
        finally:
            torch.set_default_dtype(torch.float32)
        with torch.device("meta"):
            other_device = run(module, 1)
    assert other_dtype.dtype == torch.float32 and torch.equal(other_dtype, want)
    assert other_device.device.type == "cpu" and torch.equal(other_device, want)


@pytest.mark.parametrize("name", ["block", "layer"])
def test_weights_and_inputs_of_any_strides(name: str) -> None:
    make, run = CASES[name]
    module = alive(make())
    with torch.no_grad():
        want = run(module, 2)
        for p in module.parameters():
            p.data = p.data.repeat_interleave(2, dim=0)[::2]
        assert distance(run(module, 2), want) < 1e-5
    if name == "block":
        x = feature_map()
        wide = torch.stack([x, x], dim=-1).flatten(-2)[..., ::2]
        for given in (
            wide,
            x.transpose(2, 3).contiguous().transpose(2, 3),
            x.contiguous(memory_format=torch.channels_last),
        ):
            with torch.no_grad():
                assert distance(module(given, condition(2)), module(x, condition(2))) < 1e-5
            assert distance(module(given, condition(2)), module(x, condition(2))) < 1e-5


@pytest.mark.parametrize("name", ["block", "layer"])
def test_inference_mode_and_inputs_that_want_gradients(name: str) -> None:
    make, run = CASES[name]
    module = alive(make())
    with torch.no_grad():
        want = run(module, 1)
    with torch.inference_mode():
        assert torch.equal(run(module, 1), want)
        assert torch.equal(run(copy.deepcopy(module), 1), want)  # weights that do not count their changes
    if name == "block":
        x = feature_map().requires_grad_()
        with torch.no_grad():
            assert torch.equal(module(x, condition(1), feature_map().flip(0)), want)
        out = module(x, condition(1), feature_map().flip(0))
        assert distance(out.detach(), want) < 1e-5
        assert x.requires_grad and torch.autograd.grad(out.sum(), x)[0].isfinite().all()


def test_parts_of_another_dtype_are_left_to_pytorch() -> None:
    block, layer = alive(ConvBlock(CHANNELS, None)), alive(Layer(CHANNELS, 2, 2, None))
    x, tokens = feature_map(), torch.randn(1, 5, CHANNELS)
    with torch.no_grad():
        want = block(x), layer(tokens, None, None)[0]
        block.norm.weight.data = block.norm.weight.data.double()  # type: ignore[union-attr]
        layer.attention.q_gain.data = layer.attention.q_gain.data.double()  # type: ignore[union-attr]
        assert distance(block(x), want[0]) < 1e-5
        assert distance(layer(tokens, None, None)[0], want[1]) < 1e-5


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("gradients", [False, True])
def test_transforms_and_traces_see_every_operation(gradients: bool) -> None:
    block = alive(ConvBlock(CHANNELS, None))
    x, other = feature_map(), feature_map().flip(0)
    with torch.set_grad_enabled(gradients):
        for traced in (make_fx(block)(x), torch.jit.trace(block, (x,), check_trace=False)):
            with torch.no_grad():
                assert distance(traced(other), block(other)) < 1e-5


def test_derivatives_of_torch_func_are_those_of_autograd() -> None:
    block = alive(ConvBlock(CHANNELS, None))
    x = feature_map()

    def loss(weights: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(block, weights, (x,)).square().sum()
        return out

    weights = dict(block.named_parameters())
    got = torch.func.grad(loss)(weights)
    with native.declined():
        want = torch.autograd.grad(loss(weights), list(weights.values()))
    for name, gradient in zip(weights, want, strict=True):
        assert distance(got[name], gradient) < 1e-4


def test_forward_derivatives_are_not_lost() -> None:
    block = alive(ConvBlock(CHANNELS, None))
    x, direction = feature_map(), feature_map().flip(1)
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        slope = torch.autograd.forward_ad.unpack_dual(block(dual)).tangent
        assert slope is not None
    step = 1e-3
    with torch.no_grad(), native.declined():
        want = (block(x + step * direction) - block(x - step * direction)) / (2 * step)
    assert distance(slope, want) < 1e-2


def test_a_layer_that_does_more_than_its_weight_says_is_called() -> None:
    x, hooked, wrapped = feature_map(), alive(ConvBlock(CHANNELS)), alive(ConvBlock(CHANNELS))
    torch.nn.utils.parametrizations.weight_norm(wrapped.conv1)  # type: ignore[arg-type]
    seen: list[Tensor] = []
    for layer in (hooked.norm, hooked.conv1, hooked.conv2):
        layer.register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[union-attr]
    with torch.no_grad():
        wrapped.conv1.parametrizations.weight.original0.mul_(2)  # type: ignore[union-attr, operator]
        out, got = hooked(x), wrapped(x)
        with native.declined():
            want = wrapped(x)
    assert torch.equal(got, want)
    assert len(seen) == 3
    with torch.no_grad():  # what a hook was given is not overwritten afterwards
        assert torch.equal(seen[1], hooked.conv1(seen[0])) and torch.equal(x + seen[2], out)  # type: ignore[operator]


def test_hooks_on_gradients_are_called() -> None:
    block = alive(ConvBlock(CHANNELS))
    seen: list[object] = []
    block.conv1.register_full_backward_hook(lambda module, inputs, outputs: seen.append(inputs))  # type: ignore[union-attr, arg-type, return-value]
    block(feature_map().requires_grad_()).sum().backward()
    assert len(seen) == 1


class Adapted(nn.Module):
    """A linear layer with an addition of low rank, as fine-tuning wraps layers."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner, self.weight = inner, inner.weight
        self.low = nn.Linear(inner.in_features, inner.out_features, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x) + self.low(x)
        return out


@pytest.mark.parametrize("wanted", [None, slice(0), slice(2, 5)])
def test_wrapped_attention_layers_are_called_for_some_tokens_too(wanted: slice | None) -> None:
    layer = alive(Layer(CHANNELS, 2, 2, None))
    layer.attention.qkv = Adapted(layer.attention.qkv)  # type: ignore[union-attr, arg-type]
    seen: list[Tensor] = []
    layer.attention.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))  # type: ignore[union-attr]
    x = torch.randn(2, 6, CHANNELS, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        got, own = layer(x, None, None, wanted)
        whole, kept = layer(x, None, None)
        kept_output = layer.attention.qkv(layer.attention_norm(x))  # type: ignore[union-attr, operator]
    want = whole if wanted is None else whole[:, wanted]
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(own[1], kept[1], rtol=1e-5, atol=1e-6)
    assert torch.equal(seen[0], kept_output)
