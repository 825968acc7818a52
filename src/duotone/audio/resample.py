"""Streaming resampling (soxr, high quality): blocks of any size give the same samples as the whole at once.

Legend: C channels, T samples in, T' samples out.
"""

from __future__ import annotations

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotone.errors import AudioError, UsageError

_QUALITY = "HQ"


def resample(block: NDArray[np.float32], source: int, target: int) -> NDArray[np.float32]:
    """A whole block `[T, C]` at another rate, about ``T * target / source`` samples."""
    if source == target:
        return block
    out: NDArray[np.float32] = soxr.resample(block, source, target, quality=_QUALITY)
    return out


class Resampler:
    """One stream from a rate to another; over its life it gives ``round(T * target / source)`` samples (at least one).

    Raises `AudioError` for rates or channels that are not above 0.
    """

    def __init__(self, source: int, target: int, channels: int) -> None:
        if min(source, target, channels) < 1:
            raise AudioError(
                f"The resampler got {channels} channels from {source} to {target} Hz, expected numbers above 0."
            )
        self.source, self.target, self.channels = source, target, channels
        self._stream = soxr.ResampleStream(source, target, channels, dtype="float32", quality=_QUALITY)
        self._in, self._out, self._finished = 0, 0, False

    def push(self, samples: Tensor) -> Tensor:
        """`[C, T]` -> the samples `[C, T']` float32 on the CPU, without gradient, that are ready (perhaps none)."""
        if self._finished:
            raise UsageError("This resampler is finished; make a new one for another stream.")
        if samples.ndim != 2 or samples.shape[0] != self.channels:
            raise AudioError(f"The resampler got shape {tuple(samples.shape)}, expected [{self.channels}, samples].")
        self._in += samples.shape[1]
        return self._run(samples, last=False)

    def finish(self) -> Tensor:
        """The remaining samples `[C, T']`, cut or zero-padded to the exact length."""
        if self._finished:
            raise UsageError("This resampler is finished; make a new one for another stream.")
        self._finished = True
        before = self._out
        rest = self._run(torch.zeros(self.channels, 0, dtype=torch.float32), last=True)
        total = max(1, round(self._in * self.target / self.source)) if self._in else 0
        wanted = max(0, total - before)
        rest = rest[:, :wanted]
        return torch.nn.functional.pad(rest, (0, wanted - rest.shape[1]))

    def _run(self, samples: Tensor, last: bool) -> Tensor:
        block = np.ascontiguousarray(samples.detach().cpu().float().numpy().T)
        out = self._stream.resample_chunk(block, last=last)
        out = np.ascontiguousarray(out.reshape(-1, self.channels).T)
        self._out += out.shape[1]
        return torch.from_numpy(out)
