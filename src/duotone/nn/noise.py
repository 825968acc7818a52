"""Noise that is a function of a text, so that it does not depend on what was drawn before."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import torch
from torch import Tensor


def key_of(seed: int) -> int:
    """A seed of any size or sign -> 64 bits."""
    return int.from_bytes(hashlib.blake2b(str(seed).encode(), digest_size=8).digest(), "little")


def normal(key: str, shape: tuple[int, ...]) -> Tensor:
    """Unit Gaussian noise of a shape, float32 on the CPU, by the inverse of the distribution function.

    ``z = sqrt(2) erfinv(u)`` with u uniform on the odd multiples of 2**-24 in (-1, 1), which float32 holds exactly;
    so the numbers are the same everywhere, up to the rounding of erfinv.
    """
    return _odd(key, math.prod(shape)).erfinv_().mul_(math.sqrt(2)).view(shape)


def uniform(key: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers in (0, 1) of a shape, each equally likely, float64 on the CPU: odd multiples of 2**-25."""
    return _odd(key, math.prod(shape)).double().add_(1).mul_(0.5).view(shape)


def _odd(key: str, count: int) -> Tensor:
    """Odd multiples of 2**-24 in (-1, 1), each equally likely."""
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    raw = np.random.SFC64(int.from_bytes(digest, "little")).random_raw(-(-count // 2))
    bits = torch.from_numpy(raw.astype("<u8", copy=False).view("<i4")[:count])
    return (bits >> 8).float().mul_(2).add_(1).mul_(2.0**-24)
