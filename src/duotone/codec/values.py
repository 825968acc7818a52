"""The two values that travel: `Latents` (continuous) and `Codes` (discrete), with their particulars.

Legend: N chunks, L latents a chunk, d dimensions a latent, K codebooks, S steps.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from duotone.config import Framing
from duotone.errors import UsageError
from duotone.quant.fsq import FSQ


@dataclass(frozen=True)
class Particulars:
    """What must be known of an encoding besides its numbers.

    `rate` and `samples` are the codec's (after resampling); `source_*` describe the sound that came in.
    """

    fingerprint: str
    rate: int
    samples: int
    framing: Framing
    chunk_samples: int
    latents: int
    levels: tuple[int, ...]
    source_rate: int
    source_channels: int
    source_samples: int

    def with_samples(self, samples: int, source_samples: int | None = None) -> Particulars:
        """The same particulars for another length (in samples at the codec's rate, and at the source's)."""
        if source_samples is None:
            source_samples = samples if self.source_rate == self.rate else round(samples * self.source_rate / self.rate)
        return dataclasses.replace(self, samples=samples, source_samples=source_samples)


@dataclass(frozen=True)
class Latents:
    """Continuous latents `[N, L, d]`, float32, bounded in (-1, 1), before any rounding."""

    values: Tensor
    about: Particulars

    def __post_init__(self) -> None:
        want = (self.about.latents, len(self.about.levels))
        if self.values.ndim != 3 or tuple(self.values.shape[1:]) != want:
            raise UsageError(
                f"Latents got values of shape {tuple(self.values.shape)}, expected [N, {want[0]}, {want[1]}]."
            )

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def codes(self) -> Codes:
        """Round each value to its FSQ level: the discrete face of the same encoding."""
        indices = FSQ(self.about.levels).bounded_to_index(self.values)
        return Codes(indices.reshape(1, -1), self.about)

    def channels(self, channels: int = 64) -> Tensor:
        """The layout for generative models: `[N, L*d/channels, channels]`, unit scale (``atanh(v)/0.8``)."""
        width = len(self.about.levels)
        if channels < width or channels % width or (self.about.latents * width) % channels:
            raise UsageError(
                f"channels={channels} does not divide the {self.about.latents} latents x {width} dimensions "
                f"of a chunk; take a multiple of {width} such as 64."
            )
        edge = 1 - torch.finfo(torch.float32).eps
        return torch.atanh(self.values.float().clamp(-edge, edge)).reshape(len(self), -1, channels) / 0.8

    @classmethod
    def from_channels(cls, values: Tensor, about: Particulars) -> Latents:
        """The inverse of `channels`: any `[N, M, channels]` with ``M*channels == L*d`` (`tanh(0.8*v)`)."""
        size = about.latents * len(about.levels)
        if values.ndim != 3 or values.shape[1] * values.shape[2] != size:
            raise UsageError(f"from_channels got shape {tuple(values.shape)}, expected [N, M, C] with M*C = {size}.")
        bounded = torch.tanh(0.8 * values.float()).reshape(values.shape[0], about.latents, len(about.levels))
        return cls(bounded, about)


@dataclass(frozen=True)
class Codes:
    """Discrete tokens `[K, S]`, int64; CoDiCodec has K = 1 codebook and S = 128 N steps."""

    indices: Tensor
    about: Particulars

    def __post_init__(self) -> None:
        size = FSQ(self.about.levels).size
        if self.indices.ndim != 2 or self.indices.dtype != torch.int64 or self.indices.shape[1] % self.about.latents:
            raise UsageError(
                f"Codes got {self.indices.dtype} of shape {tuple(self.indices.shape)}, expected int64 "
                f"[K, S] with S a multiple of {self.about.latents}."
            )
        if self.indices.numel() and not (int(self.indices.min()) >= 0 and int(self.indices.max()) < size):
            raise UsageError(
                f"Codes reach from {int(self.indices.min())} to {int(self.indices.max())}, expected 0 to {size - 1}."
            )

    def __len__(self) -> int:
        return int(self.indices.shape[1]) // self.about.latents

    def latents(self) -> Latents:
        """The bounded values that these codes stand for."""
        fsq = FSQ(self.about.levels)
        return Latents(fsq.index_to_bounded(self.indices).reshape(len(self), self.about.latents, -1), self.about)
