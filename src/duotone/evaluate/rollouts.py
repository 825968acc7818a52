"""Statistics of long rollouts of a flow model around some of their chunks, against those of real latents.

They tell whether a model that hears only itself keeps to the distribution of its data: deviations that shrink or grow,
means that drift, Fréchet distances that rise from position to position.

Legend: R rollouts (or real crops), W chunks of a window, M tokens a chunk, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.config import SamplingConfig
from duotone.errors import UsageError
from duotone.evaluate.frechet import frechet_distance
from duotone.evaluate.metrics import magnitudes
from duotone.flow.model import FlowModel
from duotone.flow.sampler import Sampler

#: Latents `[W, M, C]` in the codec's unit scale -> sound.
Decode = Callable[[Tensor], Waveform]
POSITIONS = (16, 128, 1000)
WINDOW = 32  # chunks around each position


@dataclass(frozen=True)
class Row:
    """What was measured of some chunks; deviations and means are in units of the data's deviation, channel by channel."""

    name: str  #: "generated", "real" (the other half), "shuffled", or the name of other crops
    position: int | None  #: the chunk in the middle of the window; None for real chunks
    chunks: int
    deviation: float  #: root mean square over the channels of the standard deviation; of real chunks 1
    mean: float  #: root mean square over the channels of the mean's gap to the real chunks
    worst_mean: float  #: the largest gap of a channel
    frechet: float  #: of chunks `[M C]`, to the first half of the real ones
    frechet_steps: float  #: of differences of consecutive chunks `[M C]`, which tell whether chunks follow each other as real ones do
    centroid: float | None = None  #: mean spectral centroid of decoded windows in Hz, where they were decoded


def roll(
    model: FlowModel,
    rollouts: int = 64,
    positions: Sequence[int] = POSITIONS,
    window: int = WINDOW,
    settings: SamplingConfig | None = None,
    prompts: Tensor | None = None,
    batch: int = 16,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, Tensor]:
    """Windows `[R, W, M, C]` of rollouts around each position, in the codec's unit scale.

    A window is chunks ``position - W / 2`` to ``position + W / 2 - 1`` after the prompt (the first W, where it would begin before
    them). Rollout i has the seed i and continues `prompts[i]` (`[R, n, M, C]`), or nothing; chunks outside windows are not kept. `batch`
    rollouts run side by side. `progress` gets chunks done and in all. Raises `UsageError` for no rollouts or positions, or other
    prompts.
    """
    if rollouts < 1 or window < 2 or not positions or min(positions) < 0:
        raise UsageError(
            f"Got {rollouts} rollouts, windows of {window} chunks around {list(positions)}; expected at least one rollout, 2 chunks "
            f"and one position, none below 0."
        )
    if prompts is not None and len(prompts) != rollouts:
        raise UsageError(f"Got {len(prompts)} prompts for {rollouts} rollouts, expected one for each.")
    starts = {position: max(0, position - window // 2) for position in positions}
    length = max(starts.values()) + window
    parts: dict[int, list[Tensor]] = {position: [] for position in positions}
    for first in range(0, rollouts, batch):
        seeds = range(first, min(first + batch, rollouts))
        sampler = Sampler(model, seeds, settings)
        if prompts is not None:
            sampler.push(prompts[first : first + len(seeds)])
        kept: dict[int, list[Tensor]] = {position: [] for position in positions}
        for n in range(length):
            latents = sampler.next().latents.cpu()
            for position, start in starts.items():
                if start <= n < start + window:
                    kept[position].append(latents)
            if progress is not None:
                progress(first * length + (n + 1) * len(seeds), rollouts * length)
        for position, chunks in kept.items():
            parts[position].append(torch.stack(chunks, 1))
    return {position: torch.cat(part) for position, part in parts.items()}


def statistics(
    windows: dict[int, Tensor],
    real: Tensor,
    seed: int = 0,
    decode: Decode | None = None,
    heard: int = 8,
    others: Mapping[str, Tensor] | None = None,
) -> list[Row]:
    """The rows of rollouts' windows (see `roll`), of the other half of the real crops `[R, W, M, C]`, of these shuffled, and of `others`.

    Windows, real crops and each of `others` (crops by name) may differ in W, since chunks are pooled.

    Distances are to the first half of the real crops (even rows), after dividing by the real deviation of each channel. A Fréchet
    distance from a limited number of chunks is above zero even for equal distributions: that of the real halves says how far, for
    its own number of chunks. *Shuffled* takes each of a chunk's values from another real chunk, which keeps deviations and means and
    loses everything that belongs together. With `decode`, spectral centroids of the first `heard` windows are measured. Raises `UsageError` for fewer than four real crops.
    """
    if real.dim() != 4 or len(real) < 4:
        raise UsageError(f"Got real crops {list(real.shape)}, expected [R, W, M, C] with at least 4 crops.")
    others = others or {}
    found = [*windows.values(), real, *others.values()]
    if any(w.dim() != 4 or w.shape[1] < 2 or w.shape[2:] != real.shape[2:] for w in found):
        shapes = ", ".join(str(list(w.shape)) for w in found)
        raise UsageError(f"Got windows and crops {shapes}, expected W of 2 or more, and the same M and C.")
    mean, deviation = real.mean((0, 1, 2)), real.std((0, 1, 2)).clamp_min(1e-6)
    scaled = (real - mean) / deviation
    halves = scaled[::2], scaled[1::2]
    rows = [_row("generated", position, (w - mean) / deviation, halves[0]) for position, w in windows.items()]
    rows += [_row("real", None, halves[1], halves[0]), _row("shuffled", None, shuffled(halves[1], seed), halves[0])]
    rows += [_row(name, None, (x - mean) / deviation, halves[0]) for name, x in others.items()]
    if decode is None:
        return rows
    latents = [*windows.values(), real[1::2], shuffled(real[1::2], seed), *others.values()]
    return [
        replace(row, centroid=fmean(spectral_centroid(decode(one)) for one in x[:heard]))
        for row, x in zip(rows, latents, strict=True)
    ]


def spectral_centroid(wave: Waveform) -> float:
    """The mean frequency of a wave in Hz, weighted by magnitude, over windows of 2048 samples."""
    magnitude = magnitudes(wave.to_channels(1).samples, 2048, 512)[0].double()
    frequencies = torch.linspace(0, wave.rate / 2, len(magnitude), dtype=torch.float64)
    return float((frequencies[:, None] * magnitude).sum() / magnitude.sum().clamp_min(1e-12))


def shuffled(x: Tensor, seed: int = 0) -> Tensor:
    """Chunks `[R, W, M, C]` whose every value (token and channel) comes from another chunk, by a permutation of its own."""
    flat = x.flatten(0, 1).flatten(1)
    order = torch.rand(flat.shape, generator=torch.Generator().manual_seed(seed)).argsort(0)
    return flat.gather(0, order).reshape(x.shape)


def to_dict(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows as plain JSON values; numbers that are not finite, of rollouts that ran away, are null."""
    return [
        {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(row).items()}
        for row in rows
    ]


def _row(name: str, position: int | None, x: Tensor, reference: Tensor) -> Row:
    """The statistics of scaled chunks `[R, W, M, C]`."""
    means = x.mean((0, 1, 2))
    finite = bool(torch.isfinite(x).all())
    return Row(
        name,
        position,
        len(x) * x.shape[1],
        float(x.std((0, 1, 2)).square().mean().sqrt()),
        float(means.square().mean().sqrt()),
        float(means.abs().max()),
        frechet_distance(x.flatten(0, 1).flatten(1), reference.flatten(0, 1).flatten(1)) if finite else math.nan,
        frechet_distance(_steps(x), _steps(reference)) if finite else math.nan,
    )


def _steps(x: Tensor) -> Tensor:
    """Differences of consecutive chunks inside windows, `[R (W - 1), M C]`."""
    return x.diff(dim=1).flatten(0, 1).flatten(1)
