"""Rotary positions in two halves of a head: the position inside the chunk, and the index of the chunk.

Legend: N chunks, M tokens a chunk, E head width.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotone.nn.rotary import BASE


def rotation(first: int, chunks: int, tokens: int, head: int) -> tuple[Tensor, Tensor]:
    """Cosines and signed sines `[N, M, E]` of chunks `first` ..., for interleaved pairs of a head (arXiv 2104.09864, equation 34).

    The first half of the pairs turns by the position in the chunk, the second by the chunk's index, each with frequencies
    ``BASE ** (-i / (E/4))``. Angles are computed in double precision with numpy, so that they are right for any index; only
    the float32 results become tensors (on the CPU).
    """
    cos, sin = _tables(first, chunks, tokens, head)
    return torch.from_numpy(cos), torch.from_numpy(sin)


@functools.lru_cache(maxsize=64)
def _tables(first: int, chunks: int, tokens: int, head: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    quarter = head // 4
    frequencies = BASE ** (-np.arange(quarter) / quarter)
    angles = np.empty((chunks, tokens, 2 * quarter))
    angles[..., :quarter] = np.arange(tokens)[None, :, None] * frequencies
    angles[..., quarter:] = np.arange(first, first + chunks)[:, None, None] * frequencies
    cos = np.repeat(np.cos(angles), 2, -1)
    sin = np.stack([-np.sin(angles), np.sin(angles)], -1).reshape(cos.shape)
    return cos.astype(np.float32), sin.astype(np.float32)
