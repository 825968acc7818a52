"""Codes of a codec <-> the frames of numbers that its tokenizer sees.

A codebook of finite scalar quantization is the product of its levels: the index 14640 of the bundled codec stands for four digits of
11 levels. A frame may hold each code as one number, or as several, each of the next digits::

    parts = 1   14641 numbers            one number a code: the fewest tokens, the largest vocabulary
    parts = 2     121 + 121 numbers      neighbouring levels share statistics
    parts = 4      11 + 11 + 11 + 11

Legend: K rows of codes (codebooks of all streams), S steps, F = K * parts numbers a frame.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.spec import CodecSpec
from duotone.tokens.alphabet import Alphabet

Int = NDArray[np.int64]


def base(spec: CodecSpec, parts: int) -> int:
    """How many values a number has. Raises `UsageError` for codes that cannot be divided so."""
    name = spec.model or spec.family
    if not spec.codebooks:
        raise UsageError(f"{name} has no codes; a language model needs a codec of tokens. A flow takes its latents.")
    if len(set(spec.codebooks)) > 1:
        raise UsageError(f"{name} has codebooks of the sizes {spec.codebooks}; expected equal ones.")
    if parts == 1:
        return spec.codebooks[0]
    levels = spec.levels or ()
    sizes = {math.prod(levels[i : i + len(levels) // parts]) for i in range(0, len(levels), len(levels) // parts or 1)}
    if len(levels) % parts or len(sizes) != 1:
        raise UsageError(
            f"parts got {parts}, which does not divide the levels of {name} ({list(levels) or 'none'}) into equal parts. Use 1."
        )
    return sizes.pop()


def alphabet(spec: CodecSpec, parts: int) -> Alphabet:
    """The tokenizer's alphabet: F codebooks of `base` numbers. Raises `UsageError` as `base` does."""
    return Alphabet(len(spec.codebooks) * parts, base(spec, parts))


def to_frames(codes: Any, spec: CodecSpec, parts: int) -> Int:
    """Codes `[K, S]` -> frames `[F, S]`: row ``k * parts + i`` holds the i-th part of codebook k, the lowest digits first."""
    codes, size = np.asarray(codes, np.int64), base(spec, parts)
    places = size ** np.arange(parts, dtype=np.int64)
    found: Int = (codes[:, None] // places[:, None] % size).reshape(len(codes) * parts, codes.shape[1])
    return found


def from_frames(frames: Any, spec: CodecSpec, parts: int) -> Int:
    """The inverse of `to_frames`."""
    frames = np.asarray(frames, np.int64)
    places = base(spec, parts) ** np.arange(parts, dtype=np.int64)
    found: Int = (frames.reshape(len(frames) // parts, parts, frames.shape[1]) * places[:, None]).sum(1)
    return found
