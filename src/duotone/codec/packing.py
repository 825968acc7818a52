"""Codes and latents <-> bytes.

Codes of a record are the digits of one integer in base `size`: n codes take ``ceil(n log2(size) / 8)`` bytes, so 512
codes of 14 641 take 886 bytes for 885.6 bytes of information. Latents are 16-bit integers, ``round(32767 v)``: finer
than float16 at the same size, most of all near +-1 where the user's layout (atanh) stretches them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LATENT_SCALE = 32767


def packed_size(count: int, size: int) -> int:
    """Bytes that `count` codes below `size` take."""
    largest: int = size**count - 1
    return -(-largest.bit_length() // 8)


def _group(size: int) -> int:
    """How many digits fit a signed 64-bit integer together."""
    digits = 1
    while size ** (digits + 1) < 1 << 63:
        digits += 1
    return digits


def pack_codes(codes: NDArray[np.int64], size: int) -> bytes:
    """Codes `[n]`, each in 0..size-1, -> bytes (little-endian integer, first code the lowest digit)."""
    digits = _group(size)
    padded = np.zeros(-(-len(codes) // digits) * digits, np.int64)
    padded[: len(codes)] = codes
    groups = padded.reshape(-1, digits) @ (size ** np.arange(digits, dtype=np.int64))
    number, base = 0, size**digits
    for group in reversed(groups.tolist()):
        number = number * base + group
    return number.to_bytes(packed_size(len(codes), size), "little")


def unpack_codes(data: bytes, count: int, size: int) -> NDArray[np.int64]:
    """The inverse of `pack_codes`. Raises `ValueError` when the bytes hold a number beyond `count` digits."""
    digits = _group(size)
    number, base = int.from_bytes(data, "little"), size**digits
    groups = np.zeros(-(-count // digits), np.int64)
    for i in range(len(groups)):
        number, groups[i] = divmod(number, base)
    codes = (groups[:, None] // size ** np.arange(digits, dtype=np.int64) % size).reshape(-1)
    if number or codes[count:].any():
        raise ValueError(f"the bytes hold more than {count} codes below {size}")
    return codes[:count]


def pack_latents(values: NDArray[np.float32]) -> bytes:
    """Bounded values of any shape -> two bytes each."""
    return np.round(values.clip(-1, 1) * LATENT_SCALE).astype("<i2").tobytes()


def unpack_latents(data: bytes) -> NDArray[np.float32]:
    """The inverse of `pack_latents`, flat; strictly inside (-1, 1)."""
    limit = 1 - 2.0**-16
    values = np.frombuffer(data, "<i2").astype(np.float32) / LATENT_SCALE
    return values.clip(-limit, limit).astype(np.float32)
