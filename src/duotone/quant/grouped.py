"""Grouped FSQ: values in groups, each with its own number of levels and its own codebooks.

The first groups alone are a coarser encoding of the same values: a ladder of rates from one set of weights, if training
leaves out the last groups at random (`first_groups`).

Legend: d values in all, K codebooks, G groups.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from duotone.quant.fsq import FSQ, Rounding


class GroupedFSQ(Rounding):
    """FSQ of several codebooks side by side: codebook k has the next ``len(codebooks[k])`` values. Holds no weights."""

    def __init__(self, codebooks: tuple[tuple[int, ...], ...]) -> None:
        super().__init__(tuple(n for levels in codebooks for n in levels))
        self.width = len(self.levels)
        #: Consecutive codebooks with equal levels are computed together.
        self.runs = [(FSQ(levels), len(list(same))) for levels, same in groupby(codebooks)]

    @property
    def sizes(self) -> tuple[int, ...]:
        """Size of each codebook."""
        return tuple(fsq.size for fsq, count in self.runs for _ in range(count))

    def bounded_to_index(self, bounded: Tensor) -> Tensor:
        """Bounded `[..., d]` -> indices int64 `[..., K]`; see `FSQ.bounded_to_index`."""
        parts = bounded.split([len(fsq.levels) * count for fsq, count in self.runs], -1)
        return torch.cat(
            [
                fsq.bounded_to_index(part.unflatten(-1, (count, len(fsq.levels))))
                for part, (fsq, count) in zip(parts, self.runs, strict=True)
            ],
            -1,
        )

    def index_to_bounded(self, index: Tensor) -> Tensor:
        """Indices int64 `[..., K]` -> bounded float32 `[..., d]`."""
        parts = index.split([count for _, count in self.runs], -1)
        return torch.cat(
            [fsq.index_to_bounded(part).flatten(-2) for part, (fsq, _) in zip(parts, self.runs, strict=True)], -1
        )


def first_groups(values: Tensor, groups: int, kept: Tensor) -> Tensor:
    """Values `[B, ..., d]` in G equal groups -> the same with 0 (the middle level) beyond the first `kept` `[B]` groups of each example."""
    group = torch.arange(values.shape[-1], device=values.device) // (values.shape[-1] // groups)
    there = group < kept.to(values.device).view(-1, *[1] * (values.dim() - 1))
    return torch.where(there, values, torch.zeros_like(values))
