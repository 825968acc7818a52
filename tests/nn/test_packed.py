"""Linear layers with packed weights give what the layer gives, also after its weight has changed."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from duotone.nn import native, packed


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(24,), (1, 8, 24), (2, 3, 4, 24), (40, 24)])
@torch.no_grad()
def test_packed_is_linear(bias: bool, shape: tuple[int, ...]) -> None:
    layer, x = nn.Linear(24, 10, bias=bias), torch.randn(shape)
    torch.testing.assert_close(packed.linear(layer, x), layer(x), rtol=0, atol=1e-5)
    strided = torch.randn(*shape[:-1], 48)[..., ::2]
    torch.testing.assert_close(packed.linear(layer, strided), layer(strided), rtol=0, atol=1e-5)


@torch.no_grad()
def test_changed_weights_are_seen() -> None:
    layer, x = nn.Linear(24, 10), torch.randn(2, 24)
    before = packed.linear(layer, x)
    layer.weight.mul_(2)
    torch.testing.assert_close(packed.linear(layer, x) - layer.bias, 2 * (before - layer.bias))
    layer.weight = nn.Parameter(torch.zeros(10, 24))
    torch.testing.assert_close(packed.linear(layer, x), layer.bias.expand(2, 10))
    layer.load_state_dict(nn.Linear(24, 10).state_dict())
    torch.testing.assert_close(packed.linear(layer, x), layer(x))


@torch.no_grad()
def test_copies_of_a_layer_make_their_own() -> None:
    layer, x = nn.Linear(24, 10), torch.randn(2, 24)
    wanted = packed.linear(layer, x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(packed.linear(other, x), wanted)
        other.weight.zero_()
        assert not torch.equal(packed.linear(other, x), wanted)
    assert torch.equal(packed.linear(layer, x), wanted)


def test_gradients_hooks_and_formats_go_through_the_layer() -> None:
    layer, x = nn.Linear(24, 10), torch.randn(2, 24)
    packed.linear(layer, x).sum().backward()
    assert layer.weight.grad is not None
    seen: list[int] = []
    handle = layer.register_forward_hook(lambda *_: seen.append(1))
    with torch.no_grad():
        packed.linear(layer, x)
        handle.remove()
        assert seen == [1]
        with native.declined():
            assert torch.equal(packed.linear(layer, x), layer(x))
        assert packed.linear(layer.bfloat16(), x.bfloat16()).dtype == torch.bfloat16
