"""Does music that goes on for minutes drift: level, spectrum and latents of each minute of long rollouts.

Legend: R rollouts, N chunks, M tokens a chunk, C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError
from duotone.evaluate.report import Interval, bootstrap
from duotone.evaluate.rollouts import spectral_centroid


@dataclass(frozen=True)
class Minute:
    """A minute of rollouts; latents in deviations of the data, channel by channel."""

    minute: int  #: the first is 1
    deviation: float  #: root mean square over the channels of the standard deviation; of real chunks 1
    mean: float  #: root mean square over the channels of the mean
    worst_mean: float  #: the largest mean of a channel
    level: Interval | None = None  #: dBFS, over rollouts
    centroid: Interval | None = None  #: Hz, over rollouts

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def latent_minutes(x: Tensor, mean: Tensor, deviation: Tensor, chunk_seconds: float) -> list[Minute]:
    """The whole minutes of rollouts `[R, N, M, C]`, given mean and deviation `[C]` of the data. Raises `UsageError` for less than one."""
    scaled = (x - mean) / deviation
    return [
        Minute(i, float(part.std((0, 1, 2)).square().mean().sqrt()), float(gaps.square().mean().sqrt()), float(gaps.abs().max()))
        for i, part in enumerate(_minutes(scaled, 60 / chunk_seconds, 1), start=1)
        for gaps in [part.mean((0, 1, 2))]
    ]  # fmt: skip


def heard_minutes(waves: Sequence[Waveform], seed: int = 0) -> list[tuple[Interval, Interval]]:
    """Level in dBFS and spectral centroid in Hz of each whole minute, with intervals over the waves of equal length."""
    levels, centroids = [], []
    for wave in waves:
        parts = _minutes(wave.samples, 60 * wave.rate, 1)
        levels.append([float(10 * torch.log10(part.square().mean().clamp_min(1e-12))) for part in parts])
        centroids.append([spectral_centroid(Waveform.of_checked(part.contiguous(), wave.rate)) for part in parts])
    columns = (list(zip(*rows, strict=True)) for rows in (levels, centroids))
    return [(bootstrap(list(a), seed), bootstrap(list(b), seed)) for a, b in zip(*columns, strict=True)]


def slope(values: Sequence[float]) -> float:
    """The slope of the least-squares line through values of consecutive minutes; 0 for a single one."""
    if len(values) < 2:
        return 0.0
    steps = np.arange(len(values)) - (len(values) - 1) / 2
    centred = np.asarray(values) - fmean(values)
    return float(steps @ centred / (steps @ steps))


def _minutes(x: Tensor, length: float, dim: int) -> list[Tensor]:
    """The whole minutes along a dimension, of `length` places each (not a whole number)."""
    count = int(x.shape[dim] / length + 1e-9)
    if not count:
        raise UsageError(f"Got rollouts of {x.shape[dim] / length:.2f} minutes, expected at least one minute.")
    edges = [round(i * length) for i in range(count + 1)]
    return [x.narrow(dim, a, b - a) for a, b in itertools.pairwise(edges)]
