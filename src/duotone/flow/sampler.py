"""Chunk after chunk of latents: sample the next one, and let it (or what stands in its place) enter the context.

Legend: B rows, n chunks, M tokens a chunk, C channels.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duotone.config import SamplingConfig
from duotone.errors import UsageError
from duotone.flow.cache import FlowCache
from duotone.flow.guidance import asked, prepare
from duotone.flow.model import FlowModel
from duotone.flow.noise import CONTEXT, NEGATIVE, chunk_noise
from duotone.flow.schedule import times
from duotone.flow.solvers import Solution, driven, solving
from duotone.flow.together import Appending, Evaluation


@dataclass(frozen=True)
class Chunk:
    """A sampled chunk: latents `[B, M, C]` in the codec's unit scale, its index, and what it cost."""

    latents: Tensor
    index: int
    steps: int
    evaluations: int


class Sampler:
    """B generations side by side, one for each seed; each chunk depends on the seed, its index and the chunks before it.

    `settings` (default: those stored with the model) may be replaced between chunks. Raises `UsageError` as `FlowCache` does.
    """

    def __init__(
        self,
        model: FlowModel,
        seeds: Sequence[int] = (0,),
        settings: SamplingConfig | None = None,
        context: int | None = None,
        exact: bool = False,
    ) -> None:
        self.model, self.seeds = model, check_seeds(seeds)
        self.settings = model.config.sampling if settings is None else settings
        self.cache = FlowCache(model, len(self.seeds), context, exact=exact)

    def push(self, latents: Tensor) -> None:
        """Let finished chunks enter the context: a prompt, what `next` gave, or what stands in its place.

        `[B, n, M, C]`, or `[n, M, C]` for all rows, in the codec's unit scale. Raises `UsageError` for other shapes.
        """
        self.entering(latents).run()

    def entering(self, latents: Tensor) -> Appending:
        """The same, as something to be computed."""
        if latents.dim() == 3:
            latents = latents.expand(len(self.seeds), *latents.shape)
        x, settings = self.model.normalize(latents), self.settings
        noisy = settings.guidance != 1 and settings.guidance_branch == "noisy"
        if noisy:
            self.cache.branch(2)
        level = settings.context_noise
        eps = self._context_noise(x.shape[1], CONTEXT) if level else None
        negative = (settings.guidance_noise, self._context_noise(x.shape[1], NEGATIVE)) if noisy else None
        return Appending(self.cache, x, level, eps, negative)

    def next(self, push: bool = True) -> Chunk:
        """Sample the chunk after the context; with `push` it enters the context at once."""
        chunk = driven(self.sampling(), Evaluation.run)
        if push:
            self.push(chunk.latents[:, None])
        return chunk

    def sampling(self) -> Generator[Evaluation, Tensor, Chunk]:
        """Sample the chunk after the context, asking for each evaluation; it does not enter the context."""
        settings, index, cache = self.settings, self.cache.index, self.cache
        prepare(cache, settings)
        method = solving(
            settings.solver, self._noise(index, 0), times(settings.steps, settings.shift, settings.t_min),
            lambda step: self._noise(index, step),
        )  # fmt: skip
        try:
            point = next(method)
            while True:
                point = method.send((yield from asked(cache, settings, point)))
        except StopIteration as end:
            solution: Solution = end.value
        return Chunk(self.model.denormalize(solution.x), index, solution.steps, solution.evaluations)

    def state(self) -> dict[str, Tensor]:
        """The context, as copies; seeds and settings are the caller's."""
        return self.cache.state()

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a state, for the same model, number of seeds and context. Raises `UsageError` for any other."""
        self.cache.restore(state)

    def _noise(self, index: int, draw: int) -> Tensor:
        shape = (self.model.config.tokens, self.model.config.channels)
        return self.settings.temperature * chunk_noise(self.seeds, index, draw, shape).to(self.model.device)

    def _context_noise(self, count: int, draw: int) -> Tensor:
        shape = (self.model.config.tokens, self.model.config.channels)
        first = self.cache.index
        return torch.stack([chunk_noise(self.seeds, first + i, draw, shape) for i in range(count)], 1)


def check_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Seeds as a tuple. Raises `UsageError` without any, or for what is no whole number."""
    if not seeds or any(isinstance(seed, bool) or not isinstance(seed, int) for seed in seeds):
        raise UsageError(f"Got the seeds {list(seeds)!r}, expected at least one whole number.")
    return tuple(seeds)
