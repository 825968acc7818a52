"""Long continuations as latents, so that what is measured of a flow's rollouts is measured of a language model's in the same way.

Legend: R rollouts, n chunks, M tokens a chunk, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from duotone.codec.values import Codes, Latents
from duotone.config import LMSampling
from duotone.errors import UsageError
from duotone.lm.frames import Int
from duotone.lm.model import LanguageModel
from duotone.lm.sampler import LMSampler
from duotone.spec import CodecSpec


@dataclass(frozen=True)
class LatentsChunk:
    """A drawn chunk as latents `[R, M, C]` in the codec's unit scale."""

    latents: Tensor


class LatentRows:
    """An `LMSampler` with the calls of `flow.Sampler`: latents in, latents out, as the codec rounds them."""

    def __init__(
        self, model: LanguageModel, seeds: Sequence[int] = (0,), sampling: LMSampling | None = None, channels: int = 64
    ) -> None:
        self.spec, self.channels = model.spec, channels
        self.sampler = LMSampler(model, seeds, sampling)

    def push(self, latents: Tensor) -> None:
        """Let chunks enter the context: `[R, n, M, C]`, or `[n, M, C]` for all rows."""
        if latents.dim() == 3:
            self.sampler.push(to_codes(latents, self.spec))
        else:
            self.sampler.push(np.stack([to_codes(row, self.spec) for row in latents]))

    def next(self) -> LatentsChunk:
        """Draw the chunk after the context, and let it enter the context."""
        rows = self.sampler.next().codes
        return LatentsChunk(torch.stack([to_latents(row, self.spec, self.channels)[0] for row in rows]))


def continued(
    model: LanguageModel,
    prompts: Sequence[Latents | Codes | None],
    chunks: int,
    seeds: Sequence[int] | None = None,
    sampling: LMSampling | None = None,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> list[Codes]:
    """Continue each prompt (None: from nothing) by `chunks` chunks of codes; `.latents()` of each is its other face.

    Rollout i has the seed `seeds[i]`, by default i; `batch` of them run side by side. `progress` gets chunks done and in all. Raises
    `CodecMismatchError` for prompts of another codec, `UsageError` for other numbers of seeds or chunks.
    """
    seeds = range(len(prompts)) if seeds is None else seeds
    if len(seeds) != len(prompts) or chunks < 1 or batch < 1:
        raise UsageError(
            f"Got {len(prompts)} prompts, {len(seeds)} seeds, {chunks} chunks and a batch of {batch}; expected a seed for each prompt, and at "
            f"least one chunk and row."
        )
    for prompt in prompts:
        if prompt is not None:
            model.check(prompt.spec)
    found: list[Codes] = []
    for first in range(0, len(prompts), batch):
        part, own = prompts[first : first + batch], list(seeds[first : first + batch])
        sampler = LMSampler(model, own, sampling)
        _prompt(sampler, part)
        drawn = []
        for n in range(chunks):
            drawn.append(sampler.next().codes)
            if progress is not None:
                progress(first * chunks + (n + 1) * len(own), len(prompts) * chunks)
        found += [Codes(torch.from_numpy(row), model.spec) for row in np.concatenate(drawn, 2)]
    return found


def _prompt(sampler: LMSampler, prompts: Sequence[Latents | Codes | None]) -> None:
    """Let prompts of any lengths enter the context of their rows; the longest decides the index of the next chunk."""
    lengths = {0 if prompt is None else len(prompt) for prompt in prompts}
    if len(lengths) > 1:
        raise UsageError(f"Prompts have {sorted(lengths)} chunks, expected equal lengths. Continue them one by one.")
    rows = [prompt.codes().numpy() for prompt in prompts if prompt is not None]
    if rows:
        sampler.push(np.stack(rows))


def to_codes(latents: Tensor, spec: CodecSpec) -> Int:
    """Latents `[n, M, C]` in the codec's unit scale -> the codes `[K, n * S]` that they are rounded to."""
    return Latents.from_channels(latents.cpu(), spec).codes().numpy()


def to_latents(codes: Int, spec: CodecSpec, channels: int = 64) -> Tensor:
    """Codes `[K, n * S]` -> latents `[n, M, C]` in the codec's unit scale."""
    return Codes(torch.from_numpy(np.ascontiguousarray(codes)), spec).latents().channels(channels)
