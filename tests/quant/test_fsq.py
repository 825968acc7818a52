"""Finite scalar quantization: arithmetic against a brute-force oracle, and round-trips."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duotone.errors import UsageError
from duotone.quant.fsq import FSQ

levels = st.lists(st.sampled_from([3, 5, 7, 11, 15]), min_size=1, max_size=4).map(tuple)


@given(levels, st.integers(0, 2**32))
def test_index_round_trip(sizes: tuple[int, ...], seed: int) -> None:
    fsq = FSQ(sizes)
    index = torch.randint(fsq.size, (50,), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(fsq.bounded_to_index(fsq.index_to_bounded(index)), index)


@given(levels, st.integers(0, 2**32))
def test_rounding_is_idempotent_and_nearest(sizes: tuple[int, ...], seed: int) -> None:
    fsq = FSQ(sizes)
    bounded = fsq.bound(3 * torch.randn(40, len(sizes), generator=torch.Generator().manual_seed(seed)))
    rounded = fsq.round(bounded)
    assert torch.allclose(fsq.round(rounded), rounded)
    step = 1 / fsq.half
    assert ((rounded - bounded).abs() <= step / 2 + 1e-6).all()
    assert torch.allclose(fsq.index_to_bounded(fsq.bounded_to_index(bounded)), rounded, atol=1e-6)


def test_every_code_in_published_order() -> None:
    fsq = FSQ((3, 5))
    want = [[a - 1, (b - 2) / 2] for b, a in itertools.product(range(5), range(3))]
    assert torch.allclose(fsq.index_to_bounded(torch.arange(15)), torch.tensor(want))


def test_bound_never_reaches_beyond_the_last_level() -> None:
    fsq = FSQ((11, 11, 11, 11))
    index = fsq.bounded_to_index(fsq.bound(torch.tensor([[1e9] * 4, [-1e9] * 4])))
    assert index.tolist() == [14640, 0]


def test_straight_through_gradient_is_the_identity() -> None:
    x = torch.rand(10, 4, requires_grad=True)
    FSQ((11,) * 4).round_straight_through(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(10, 4))


def test_values_beyond_the_bound_give_the_outermost_levels() -> None:
    fsq = FSQ((11, 5))
    assert fsq.bounded_to_index(torch.tensor([[1.7, 40.0], [-1.7, -40.0]])).tolist() == [54, 0]


@pytest.mark.parametrize("shape", [(3, 1), (3, 4), (0,), ()])
def test_another_number_of_dimensions_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"expected \[..., 2\]"):
        FSQ((11, 5)).bounded_to_index(torch.zeros(shape))
