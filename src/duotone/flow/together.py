"""Evaluations of several sessions in one batch, each with its own past, at its own place and its own time.

Everything but attention is the same for all rows, and runs over all of them at once; attention runs for each cache alone. So rows need not
stand at the same chunk, have equally long pasts, or ask for the same time. What a row gets is what it gets alone, up to rounding.

Legend: R rows, M tokens a chunk, C channels, D width, H heads, E head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from duotone.flow.cache import FlowCache, Pass
from duotone.flow.model import Modulation


@dataclass(frozen=True)
class Evaluation:
    """A velocity that is asked for: `FlowCache.velocity`."""

    cache: FlowCache
    x: Tensor
    t: float
    span: float
    branches: int

    def run(self) -> Tensor:
        """Compute it alone: `[branches B, M, C]`."""
        return self.cache.velocity(self.x, self.t, self.span, self.branches)

    def pass_(self) -> Pass:
        """What the network has to do."""
        return self.cache.evaluated(self.x, self.t, self.span, self.branches)


@dataclass(frozen=True)
class Appending:
    """A finished chunk that is to enter the context: `FlowCache.append`."""

    cache: FlowCache
    x: Tensor
    s: float
    eps: Tensor | None
    negative: tuple[float, Tensor] | None

    def run(self) -> None:
        """Do it alone."""
        self.cache.append(self.x, self.s, self.eps, self.negative)

    def pass_(self) -> Pass | None:
        """What the network has to do; None where that is more than one pass."""
        return self.cache.appended(self.x, self.s, self.eps, self.negative)


@torch.no_grad()
def together(asked: Sequence[Evaluation | Appending]) -> list[Tensor | None]:
    """Compute all of them, of caches of one model: a velocity `[branches B, M, C]` for each evaluation, None for each appending.

    A single one is computed as it is without this function, bit for bit. No cache may be asked twice.
    """
    if len(asked) == 1:
        return [asked[0].run()]
    passes = [each.pass_() for each in asked]
    found: list[Tensor | None] = [None] * len(asked)
    several = [i for i, each in enumerate(passes) if each is not None]
    for i in set(range(len(asked))) - set(several):
        found[i] = asked[i].run()
    if several:
        velocities = _run(asked[several[0]].cache, [each for each in passes if each is not None])
        for i, velocity in zip(several, velocities, strict=True):
            one = asked[i]
            if isinstance(one, Appending):
                one.cache.advance()
            else:
                found[i] = velocity
    return found


def _run(cache: FlowCache, passes: Sequence[Pass]) -> tuple[Tensor, ...]:
    """One pass over the rows of all: velocities of each."""
    model, counts = cache.model, [len(each.rows) for each in passes]
    turns = [model.turn(each.index, 1) for each in passes]
    turn = tuple(_spread([pair[part] for pair in turns], counts) for part in (0, 1))
    parts = _parts(passes, counts, model.config.dim)
    h = model.proj_in(torch.cat([each.rows for each in passes]))
    for layer, block in enumerate(model.blocks):
        h = block(h, parts.layers[layer], turn, partial(_attend, passes, counts, layer))
    return tuple(torch.split(model.output(h, parts.out), counts))


def _attend(passes: Sequence[Pass], counts: Sequence[int], layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention of each cache's rows `[R, M, H, E]`."""
    parts = zip(passes, q.split(list(counts)), k.split(list(counts)), v.split(list(counts)), strict=True)
    return torch.cat([each.attend(layer, *rows) for each, *rows in parts])


def _parts(passes: Sequence[Pass], counts: Sequence[int], dim: int) -> Modulation:
    """The modulation of all rows: vectors that broadcast to `[R, M, D]`."""
    first = passes[0].parts
    if all(each.parts is first for each in passes):
        return first
    return Modulation.of(_spread([each.parts.flat for each in passes], counts), dim)


def _spread(each: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """One tensor for all rows, `[R, 1 or M, D]`, of tensors `[1 or M, D]` or `[rows, 1, D]` for each cache's rows."""
    wide = [(part if part.dim() == 3 else part[None]).expand(n, -1, -1) for part, n in zip(each, counts, strict=True)]
    return torch.cat(wide)
