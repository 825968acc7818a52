"""Gaussian noise that is a function of a text, so that it does not depend on what was drawn before."""

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
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    raw = np.random.SFC64(int.from_bytes(digest, "little")).random_raw(-(-math.prod(shape) // 2))
    bits = torch.from_numpy(raw.astype("<u8", copy=False).view("<i4")[: math.prod(shape)])
    uniform = (bits >> 8).float().mul_(2).add_(1).mul_(2.0**-24)
    return uniform.erfinv_().mul_(math.sqrt(2)).view(shape)
