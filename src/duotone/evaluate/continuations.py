"""Continuations of held-out recordings by a generative model, and what they are compared with.

A model is any function from prompts to latents (`Source`): a flow's, or a language model's whose codes are decoded to latents.

Legend: R rollouts, P prompts, n chunks of a prompt, N chunks, M tokens a chunk, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from duotone.codec.contract import Codec
from duotone.codec.values import Latents
from duotone.config import SamplingConfig
from duotone.errors import AudioError, UsageError
from duotone.evaluate.compare import excerpt, named_files
from duotone.flow.model import FlowModel
from duotone.flow.sampler import Sampler
from duotone.store import Crops
from duotone.store.split import Region

#: ``source(prompts, chunks, seeds)``: prompts `[R, n, M, C]` (n may be 0) and R seeds -> continuations `[R, chunks, M, C]`, in the codec's unit scale.
Source = Callable[[Tensor, int, Sequence[int]], Tensor]
Tell = Callable[[str], object]


class Rows(Protocol):
    """Generations side by side, one for each seed: `flow.Sampler`, or anything that has its two calls."""

    def push(self, latents: Tensor) -> None:
        """Let chunks `[R, n, M, C]` enter the context."""

    def next(self) -> Any:
        """The next chunk, which enters the context; its attribute `latents` is `[R, M, C]`."""


def of_rows(make: Callable[[Sequence[int]], Rows], progress: Callable[[int, int], None] | None = None) -> Source:
    """The source that samples chunk after chunk; `progress` gets chunks done and in all, of one call."""

    def source(prompts: Tensor, chunks: int, seeds: Sequence[int]) -> Tensor:
        rows, made = make(seeds), []
        if prompts.shape[1]:
            rows.push(prompts)
        for n in range(chunks):
            made.append(rows.next().latents.float().cpu())
            if progress is not None:
                progress(n + 1, chunks)
        return torch.stack(made, 1)

    return source


def of_flow(
    model: FlowModel, settings: SamplingConfig | None = None, progress: Callable[[int, int], None] | None = None
) -> Source:
    """The source of a flow, with the settings stored in it or others."""
    return of_rows(lambda seeds: Sampler(model, seeds, settings), progress)


def roll_out(source: Source, prompts: Tensor, rollouts: int, chunks: int, batch: int = 32) -> Tensor:
    """Rollouts `[R, N, M, C]`: number i continues prompt ``i % P`` of `[P, n, M, C]` with seed i; `batch` at a time.

    Raises `UsageError` for no rollouts or chunks, or a source that gives another shape.
    """
    if rollouts < 1 or chunks < 1 or batch < 1 or not len(prompts):
        raise UsageError(f"Got {rollouts} rollouts of {chunks} chunks, {batch} at a time, and {len(prompts)} prompts; expected at least one.")  # fmt: skip
    parts = []
    for first in range(0, rollouts, batch):
        seeds = range(first, min(first + batch, rollouts))
        found = source(prompts[[i % len(prompts) for i in seeds]], chunks, seeds)
        wanted = (len(seeds), chunks, *prompts.shape[2:])
        if found.shape != wanted:
            raise UsageError(f"The source gave latents {list(found.shape)}, expected {list(wanted)}.")
        parts.append(found)
    return torch.cat(parts)


@dataclass(frozen=True)
class Recording:
    """A held-out recording: its name (``KIND/FILE``) and its latents `[N, M, C]` in the codec's unit scale."""

    name: str
    latents: Tensor

    @property
    def kind(self) -> str:
        """The first part of the name."""
        return self.name.partition("/")[0]


def encode(
    codec: Codec, folders: Mapping[str, Path], channels: int, seconds: float, limit: int | None = None, tell: Tell = lambda _: None
) -> list[Recording]:  # fmt: skip
    """Up to `seconds` from the middle of each file of some kinds. Raises `AudioError` where there is none of a kind."""
    out = []
    for name, path in named_files(folders, limit, 0).items():
        tell(f"encoding {name}")
        value = codec.encode(excerpt(path, seconds, middle=True))
        if not isinstance(value, Latents):
            raise UsageError(f"{codec.spec.model} has no latents, which a flow continues. Name a codec with latents.")
        out.append(Recording(name, value.channels(channels).detach()))
    return out


def pick(recordings: Sequence[Recording], count: int, chunks: int, seed: int = 0) -> tuple[Tensor, list[str]]:
    """Windows `[count, chunks, M, C]` and the names of their recordings, from all kinds in turn, at random places.

    No recording of a kind comes again before each of them has been taken. Raises `AudioError` where none is long enough.
    """
    long = [recording for recording in recordings if len(recording.latents) >= chunks]
    if not long:
        most = max((len(recording.latents) for recording in recordings), default=0)
        raise AudioError(
            f"The longest of {len(recordings)} recordings has {most} chunks, expected {chunks}. Give longer ones, or ask for shorter prompts "
            f"and continuations."
        )
    generator = np.random.default_rng(seed)
    queues: dict[str, list[Recording]] = {}
    windows, names = [], []
    kinds = list(dict.fromkeys(recording.kind for recording in long))
    for i in range(count):
        kind = kinds[i % len(kinds)]
        if not queues.get(kind):
            mine = [recording for recording in long if recording.kind == kind]
            queues[kind] = [mine[j] for j in generator.permutation(len(mine))]
        chosen = queues[kind].pop()
        first = int(generator.integers(len(chosen.latents) - chunks + 1))
        windows.append(chosen.latents[first : first + chunks])
        names.append(chosen.name)
    return torch.stack(windows), names


def crops(recordings: Sequence[Tensor], chunks: int, count: int, seed: int = 0) -> Tensor:
    """Random windows `[count, chunks, M, C]` of latents `[N, M, C]`, each place equally likely. Raises `UsageError` where none is long enough."""
    places = Crops([Region(i, 0, len(x)) for i, x in enumerate(recordings)], chunks)
    drawn = places.draw(np.random.default_rng(seed), count)
    return torch.stack([recordings[i][first : first + chunks] for i, first in drawn])
