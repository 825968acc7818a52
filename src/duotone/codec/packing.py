"""Codes and latents <-> bytes.

The codes of a record are the digits of one integer, the first code being the lowest digit: n codes below `size` take
``ceil(n log2(size) / 8)`` bytes, so 512 codes of 14 641 take 886 bytes for 885.6 bytes of information. With codebooks of
different sizes the digits have these sizes in turn (mixed radix).

Bounded latents are 16-bit integers, ``round(32767 v)``: more precise than float16 at the same size, above all near +-1,
where the layout for generative models (atanh) has a large slope. Unbounded latents are float16.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

LATENT_SCALE = 32767


def packed_size(count: int, sizes: int | tuple[int, ...]) -> int:
    """Bytes needed for `count` codes of codebooks of `sizes` in turn (`count` is a multiple of the number of codebooks)."""
    turn = (sizes,) if isinstance(sizes, int) else sizes
    largest: int = math.prod(turn) ** (count // len(turn)) - 1
    return -(-largest.bit_length() // 8)


def _group(size: int) -> int:
    """How many digits fit into one signed 64-bit integer."""
    digits = 1
    while size ** (digits + 1) < 1 << 63:
        digits += 1
    return digits


def pack_codes(codes: NDArray[np.int64], sizes: int | tuple[int, ...]) -> bytes:
    """Codes `[n]`, each below its codebook's size, -> bytes (little-endian integer, first code the lowest digit)."""
    if not isinstance(sizes, int):
        if len(set(sizes)) > 1:
            return _pack_mixed(codes, sizes)
        sizes = sizes[0]
    digits = _group(sizes)
    padded = np.zeros(-(-len(codes) // digits) * digits, np.int64)
    padded[: len(codes)] = codes
    groups = padded.reshape(-1, digits) @ (sizes ** np.arange(digits, dtype=np.int64))
    number, base = 0, sizes**digits
    for group in reversed(groups.tolist()):
        number = number * base + group
    return number.to_bytes(packed_size(len(codes), sizes), "little")


def unpack_codes(data: bytes, count: int, sizes: int | tuple[int, ...]) -> NDArray[np.int64]:
    """The inverse of `pack_codes`. Raises `ValueError` when the bytes hold a number beyond `count` digits."""
    if not isinstance(sizes, int):
        if len(set(sizes)) > 1:
            return _unpack_mixed(data, count, sizes)
        sizes = sizes[0]
    digits = _group(sizes)
    number, base = int.from_bytes(data, "little"), sizes**digits
    groups = np.zeros(-(-count // digits), np.int64)
    for i in range(len(groups)):
        number, groups[i] = divmod(number, base)
    codes = (groups[:, None] // sizes ** np.arange(digits, dtype=np.int64) % sizes).reshape(-1)
    if number or codes[count:].any():
        raise ValueError(f"the bytes hold more than {count} codes below {sizes}")
    return codes[:count]


def _pack_mixed(codes: NDArray[np.int64], sizes: tuple[int, ...]) -> bytes:
    number = 0
    turns = len(codes) // len(sizes)
    for code, size in zip(reversed(codes.tolist()), reversed(sizes * turns), strict=True):
        number = number * size + code
    return number.to_bytes(packed_size(len(codes), sizes), "little")


def _unpack_mixed(data: bytes, count: int, sizes: tuple[int, ...]) -> NDArray[np.int64]:
    number = int.from_bytes(data, "little")
    codes = np.zeros(count, np.int64)
    for i in range(count):
        number, codes[i] = divmod(number, sizes[i % len(sizes)])
    if number:
        raise ValueError(f"the bytes hold more than {count} codes below {sizes}")
    return codes


def pack_latents(values: NDArray[np.float32], bounded: bool = True) -> bytes:
    """Values of any shape -> two bytes each. Raises `ValueError` for unbounded values beyond float16."""
    if bounded:
        return np.round(values.clip(-1, 1) * LATENT_SCALE).astype("<i2").tobytes()
    largest = float(np.abs(values).max(initial=0))
    if largest > float(np.finfo(np.float16).max):
        raise ValueError(f"latents reach {largest:.4g}, beyond the 65504 that float16 holds")
    return values.astype("<f2").tobytes()


def unpack_latents(data: bytes, bounded: bool = True) -> NDArray[np.float32]:
    """The inverse of `pack_latents`, as a flat array; bounded values are strictly inside (-1, 1)."""
    if not bounded:
        return np.frombuffer(data, "<f2").astype(np.float32)
    limit = 1 - 2.0**-16
    values = np.frombuffer(data, "<i2").astype(np.float32) / LATENT_SCALE
    return values.clip(-limit, limit).astype(np.float32)
