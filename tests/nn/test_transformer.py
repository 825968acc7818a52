"""A transformer that is asked for some tokens gives those of the whole, and the same keys and values."""

from __future__ import annotations

import pytest
import torch

from duotone.codec.codicodec.network import initialise_dead_ends
from duotone.nn.transformer import Transformer


@pytest.mark.parametrize("wanted", [slice(5), slice(3, 7), slice(0), slice(9)])
@pytest.mark.parametrize("right", [False, True])
def test_wanted_tokens_are_those_of_the_whole(wanted: slice, right: bool) -> None:
    torch.manual_seed(0)
    transformer = Transformer(18, 16, 2, 2, 3, condition=16)
    initialise_dead_ends(transformer, 0.2)
    left, x, cond = torch.randn(2, 9, 16), torch.randn(2, 9, 16), torch.randn(1, 16)
    past = transformer(left, cond)[1] if right else None
    whole, kept = transformer(x, cond, past, 9 if right else 0)
    some, kept_of_some = transformer(x, cond, past, 9 if right else 0, wanted=wanted)
    torch.testing.assert_close(some, whole[:, wanted], rtol=1e-5, atol=1e-6)
    for one, other in zip(kept, kept_of_some, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_gradients_through_wanted_tokens_are_those_of_the_whole() -> None:
    torch.manual_seed(0)
    transformer = Transformer(9, 16, 2, 2, 2)
    initialise_dead_ends(transformer, 0.2)
    x = torch.randn(2, 9, 16)
    found = []
    for checkpointing in (False, True):
        transformer.checkpointing = checkpointing
        for out in (transformer(x)[0][:, 2:6], transformer(x, wanted=slice(2, 6))[0]):
            found.append(torch.autograd.grad(out.square().sum(), list(transformer.parameters())))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
