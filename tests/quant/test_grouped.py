"""Grouped FSQ: codebooks side by side, with levels of their own, and the ladder of groups."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from duotone.quant.fsq import FSQ
from duotone.quant.grouped import GroupedFSQ, first_groups

books = st.lists(st.lists(st.sampled_from([3, 5, 11, 15]), min_size=1, max_size=3), min_size=1, max_size=5)


@given(books, st.integers(0, 99))
def test_each_codebook_is_an_fsq_of_its_own_values(levels: list[list[int]], seed: int) -> None:
    grouped = GroupedFSQ(tuple(map(tuple, levels)))
    z = 2 * torch.randn(7, grouped.width, generator=torch.Generator().manual_seed(seed))
    bounded = grouped.bound(z)
    index, start = grouped.bounded_to_index(bounded), 0
    for k, own in enumerate(levels):
        fsq, part = FSQ(tuple(own)), slice(start, start + len(own))
        assert torch.equal(index[:, k], fsq.bounded_to_index(bounded[:, part])) and grouped.sizes[k] == fsq.size
        assert torch.equal(grouped.round(bounded)[:, part], fsq.round(bounded[:, part]))
        start += len(own)
    values = grouped.index_to_bounded(index)
    assert torch.equal(values, grouped.round(bounded)) and torch.equal(grouped.bounded_to_index(values), index)


def test_groups_differ_from_plain_fsq_when_levels_do() -> None:
    """With equal levels everywhere groups change nothing; with their own they do."""
    x = torch.linspace(-0.99, 0.99, 41)[:, None].expand(-1, 2)
    equal, own = GroupedFSQ(((11,), (11,))), GroupedFSQ(((15,), (7,)))
    assert torch.equal(equal.round(x), FSQ((11, 11)).round(x))
    assert [len(own.round(x)[:, i].unique()) for i in (0, 1)] == [15, 7]


def test_first_groups_are_kept_and_the_others_zero() -> None:
    x = torch.ones(3, 2, 8)
    out = first_groups(x, 4, torch.tensor([1, 3, 4]))
    assert out.sum(-1)[:, 0].tolist() == [2, 6, 8] and not out[0, :, 2:].any() and torch.equal(out[2], x[2])


def test_gradients_stop_at_dropped_groups() -> None:
    x = torch.ones(2, 8, requires_grad=True)
    first_groups(x, 4, torch.tensor([1, 4])).sum().backward()
    assert x.grad is not None and x.grad.sum(-1).tolist() == [2, 8]
