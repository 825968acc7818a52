"""From decoded pieces to the ear: crossfades, gain without clicks, and a limiter.

Legend: c channels, T samples of a piece.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

GLIDE = 0.01  #: seconds in which the gain reaches a new value
CEILING = 1.0  #: samples never exceed it
_BLOCK = 64  # samples between the limiter's gains
_RELEASE = 0.2  # seconds in which the limiter's reduction falls to 1/e


def crossfade(old: Tensor, new: Tensor, samples: int) -> Tensor:
    """Old `[c, T]` fades into new over the first `samples` samples with constant power: gains cos and sin of a quarter turn."""
    count = min(samples, new.shape[1])
    turn = torch.arange(count, dtype=torch.float32) * (math.pi / 2 / max(1, count))
    mixed = old[:, :count] * turn.cos() + new[:, :count] * turn.sin()
    return torch.cat([mixed, new[:, count:]], 1)


class Gain:
    """A gain that glides linearly to each new value, from the first sample of a piece on."""

    def __init__(self, value: float, rate: int) -> None:
        self.value, self.rate = value, rate

    def apply(self, samples: Tensor, target: float, added: Tensor | None = None) -> Tensor:
        """`[c, T]` times the gain, plus `added` `[T]` where oscillators move it; it never falls below 0."""
        start, self.value = self.value, target
        if start == target == 1 and added is None:
            return samples
        count = samples.shape[1]
        share = (torch.arange(count, dtype=torch.float32) / max(1.0, GLIDE * self.rate)).clamp(max=1)
        gain = start + (target - start) * share
        return samples * (gain if added is None else (gain + added).clamp_min(0))


class Limiter:
    """Keeps peaks below `CEILING` with gains that all channels share; below it, samples pass unchanged.

    Each block of 64 samples needs a gain; between blocks it is interpolated, so that it falls before a peak, and it recovers exponentially.
    A piece's first block can only be reduced from its beginning on: what then still exceeds the ceiling is clipped.
    """

    def __init__(self, rate: int) -> None:
        self.gain = 1.0  #: at the end of the last piece
        self._keep = math.exp(-_BLOCK / (_RELEASE * rate))

    def apply(self, samples: Tensor) -> Tensor:
        """Samples `[c, T]` -> the same, limited."""
        count = samples.shape[1]
        if count == 0 or (self.gain == 1 and float(samples.abs().max()) <= CEILING):
            return samples
        blocks = -(-count // _BLOCK)
        padded = torch.nn.functional.pad(samples.abs().amax(0), (0, blocks * _BLOCK - count))
        needed = (CEILING / padded.view(blocks, _BLOCK).amax(1).clamp_min(CEILING)).tolist()
        edges = [self.gain]
        for i in range(blocks):
            following = needed[i + 1] if i + 1 < blocks else 1.0
            recovered = 1 - (1 - edges[-1]) * self._keep
            edges.append(min(needed[i], following, recovered if recovered < 1 - 1e-4 else 1.0))
        self.gain = edges[-1]
        edge = torch.tensor(edges)
        share = torch.arange(_BLOCK, dtype=torch.float32) / _BLOCK
        gain = torch.lerp(edge[:-1, None], edge[1:, None], share).flatten()[:count]
        return (samples * gain).clamp(-CEILING, CEILING)
