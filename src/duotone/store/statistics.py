"""Mean and deviation of each channel over a collection, in any order of the recordings. Does not import torch.

A recording's moments are computed in blocks of fixed length, in float64, by two passes (the mean, then the squared deviations
from it). Moments are joined as in Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for computing sample
variances" (1979), equation 2.1, with sums that are rounded once (`math.fsum`): so their order changes no bit of the result.

Legend: N chunks, M vectors of a chunk, C channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duotone.spec import UNIT_SCALE

#: Chunks whose moments are computed together. Part of the result's definition: other blocks round differently.
BLOCK = 1024
#: Channels that are taken where they divide a chunk: those of published generators of CoDiCodec's latents.
USUAL_CHANNELS = 64


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of each channel `[C]` in the layout for generative models, over all recordings."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    count: int  #: values a channel


@dataclass(frozen=True)
class Moments:
    """Number of values a channel, their mean `[C]` and the sum of squared deviations from it `[C]`, float64."""

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[np.float32], bounded: bool, channels: int) -> Moments:
        """Moments of a recording's latents `[N, *latent]`, in the layout of `to_channels`."""
        parts = []
        for first in range(0, len(values), BLOCK):
            rows = to_channels(values[first : first + BLOCK], bounded, channels)
            wide = rows.reshape(-1, channels).astype(np.float64)
            mean = wide.mean(0)
            parts.append(cls(len(wide), mean, np.square(wide - mean).sum(0)))
        return cls.join(parts)

    @classmethod
    def join(cls, parts: Sequence[Moments]) -> Moments:
        """The moments of all values together. The order of the parts does not change the result."""
        if len(parts) == 1:
            return parts[0]
        count = sum(part.count for part in parts)
        mean = _sums(part.count * part.mean for part in parts) / count
        apart = [part.count * np.square(part.mean - mean) for part in parts]
        return cls(count, mean, _sums([*(part.squares for part in parts), *apart]))

    def statistics(self) -> Statistics:
        """Mean and (population) standard deviation."""
        deviation = np.sqrt(self.squares / self.count)
        return Statistics(tuple(self.mean.tolist()), tuple(deviation.tolist()), self.count)


def to_channels(values: NDArray[np.float32], bounded: bool, channels: int) -> NDArray[np.float32]:
    """Latents `[N, *latent]` -> `[N, M, C]`, as `Latents.channels` does: with roughly unit variance if they are bounded."""
    each = np.ascontiguousarray(values, dtype=np.float32).reshape(len(values), -1, channels)
    if not bounded:
        return each
    edge = np.float32(1) - np.finfo(np.float32).eps
    scaled: NDArray[np.float32] = np.arctanh(np.clip(each, -edge, edge)) / np.float32(UNIT_SCALE)
    return scaled


def usual_channels(shape: tuple[int, ...]) -> int:
    """The default number of channels: 64 if it divides a chunk's values and is more than the last dimension."""
    size = int(np.prod(shape))
    return USUAL_CHANNELS if size % USUAL_CHANNELS == 0 and shape[-1] < USUAL_CHANNELS else shape[-1]


def _sums(rows: Iterable[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Sum of rows `[C]`, each channel rounded once."""
    return np.array([math.fsum(column) for column in np.stack(list(rows)).T])
