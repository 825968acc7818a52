"""Does a model repeat what it was trained on: distances of chunks to the nearest chunk of the training collection.

A copy that begins elsewhere in a chunk than the original is not found; what is found is at the grid of chunks.

Legend: n chunks, d values of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from duotone.errors import UsageError

BLOCK = 8192  # training chunks at a time
RARE = 0.01  #: the share of held-out chunks that count as nearest


@dataclass(frozen=True)
class Distances:
    """Distances to the nearest training chunk, root mean square over a chunk's values in deviations of the data."""

    median: float
    rare: float  #: the quantile `RARE`
    least: float
    count: int

    @classmethod
    def of(cls, found: Tensor) -> Distances:
        """Of distances `[n]`."""
        return cls(float(found.median()), float(found.quantile(RARE)), float(found.min()), len(found))


@dataclass(frozen=True)
class Copying:
    """Generated chunks beside held-out real ones, which cannot be copies."""

    generated: Distances
    held_out: Distances
    nearer: float  #: share of generated chunks that are nearer than the `RARE` quantile of held-out ones; `RARE` where alike
    training: int  #: chunks they were compared with

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def nearest(x: Tensor, training: Iterable[Tensor]) -> Tensor:
    """Root mean square distance of chunks `[n, d]` to the nearest of the training chunks, given in parts `[m, d]`; `[n]`.

    Raises `UsageError` without training chunks.
    """
    squares, best, seen = x.square().sum(1), torch.full((len(x),), float("inf")), 0
    for part in training:
        for block in part.split(BLOCK):
            apart = squares[:, None] + block.square().sum(1) - 2 * x @ block.T
            best = torch.minimum(best, apart.amin(1))
            seen += len(block)
    if not seen:
        raise UsageError(
            "Got no training chunks, expected at least one. Give a store of what the model was trained on."
        )
    return (best.clamp_min(0) / x.shape[1]).sqrt()


def copying(generated: Tensor, held_out: Tensor, training: Iterable[Tensor]) -> Copying:
    """Of generated `[n, d]`, held-out `[m, d]` and training chunks (in parts), all in deviations of the data."""
    seen = 0

    def counted() -> Iterable[Tensor]:
        nonlocal seen
        for part in training:
            seen += len(part)
            yield part

    both = nearest(torch.cat([generated, held_out]), counted())
    ours, real = both[: len(generated)], both[len(generated) :]
    limit = float(real.quantile(RARE))
    return Copying(Distances.of(ours), Distances.of(real), float((ours < limit).float().mean()), seen)
