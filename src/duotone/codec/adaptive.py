"""Levels of a quantiser <-> fewer bytes: a range coder whose frequencies follow what came before in the same record.

Values are in order of time: value k of a token (`period` values) resembles value k of the token before. So a value is coded by
its distance from that one, with a two-sided geometric distribution over the levels. Its width is one of `BINS`, chosen by the
mean of absolute distances: that of the same value over past tokens (which fades with a factor 7/8), and, counted
twice, that of all values of this token so far and of the token before: attacks change all values, held tones none.

Every record begins anew, with nothing of the records before it; so it can be lost without harm to others. All arithmetic
is that of integers: the bytes are the same on every machine. Sums fit into 64 bits.

Range coder: Martin, "Range encoding", 1979, without carries (Subbotin): a number of the interval [low, low + range) is written
byte by byte as soon as a byte is settled. Compiled in C where there is a compiler (`nn/kernels/adaptive.c`), 60 times as fast.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Fixed point of distances, and the distance that is supposed before anything is known.
ONE = 4096
START = ONE * 3 // 2
#: Widths of distributions; the mean distance of the first, and the factor from one to the next.
BINS, NARROWEST, WIDER = 24, 0.05, math.sqrt(math.sqrt(2))
#: The sum of the frequencies of a distribution stays below.
_TOTAL = 1 << 16
#: Values may have at most so many levels.
MOST_LEVELS = 255
_TOP, _BOTTOM, _MASK = 1 << 56, 1 << 48, (1 << 64) - 1


class Tables(NamedTuple):
    """The distributions for a number of levels n."""

    cumulative: NDArray[np.uint32]  #: `[BINS, n, n + 1]`: cumulative frequencies of the levels around each level
    bounds: NDArray[np.int32]  #: `[BINS - 1]`: from this mean distance on (in 1 / ONE) the next bin


@cache
def tables(levels: int) -> Tables:
    """The distributions of `levels` levels: ``ratio ** distance``, and a small share evenly.

    Two-sided geometric with mean absolute distance m: ``ratio = (sqrt(1 + m^2) - 1) / m``. Square roots are exact everywhere.
    """
    cumulative = np.zeros((BINS, levels, levels + 1), np.uint32)
    largest = _TOTAL * 7 // 8 // levels
    mean, bounds = NARROWEST, []
    for b in range(BINS):
        ratio = round(65536 * (math.sqrt(1 + mean * mean) - 1) / mean)
        weights = [largest]
        for _ in range(levels - 1):
            weights.append(weights[-1] * ratio >> 16)
        frequencies = [w + (largest >> 8) + 1 for w in weights]
        for level in range(levels):
            around = [frequencies[abs(x - level)] for x in range(levels)]
            cumulative[b, level] = [0, *itertools.accumulate(around)]
        bounds.append(round(ONE * mean * math.sqrt(WIDER)))
        mean *= WIDER
    return Tables(cumulative, np.array(bounds[:-1], np.int32))


def encode(values: NDArray[np.int64], period: int, levels: int) -> bytes:
    """Values `[n]` from 0 to levels - 1 -> bytes; 0 to 7 zero bytes that may follow are left out."""
    assert 1 <= levels <= MOST_LEVELS
    lib = _kernels()
    if lib is None:
        return plain_encode(values.tolist(), period, levels)
    found = tables(levels)
    given, size = np.ascontiguousarray(values, np.int32), 3 * len(values) + 16
    scratch, out = np.empty(2 * period, np.int32), np.empty(size, np.uint8)
    written = lib.duotone_adaptive_encode(
        _at(given), ctypes.c_int64(len(given)), ctypes.c_int32(period), ctypes.c_int32(levels), _at(found.cumulative),
        _at(found.bounds), ctypes.c_int32(BINS), _at(scratch), _at(out), ctypes.c_int64(size),
    )  # fmt: skip
    assert written >= 0
    return out[:written].tobytes()


def decode(data: bytes, count: int, period: int, levels: int) -> NDArray[np.int64]:
    """The inverse of `encode`, `[count]`. Raises `ValueError` for bytes that it does not give."""
    lib = _kernels()
    if lib is None:
        values, read = plain_decode(data, count, period, levels)
    else:
        found, given = tables(levels), np.frombuffer(data, np.uint8)
        scratch, out = np.empty(2 * period, np.int32), np.empty(count, np.int32)
        read = lib.duotone_adaptive_decode(
            _at(given), ctypes.c_int64(len(given)), ctypes.c_int64(count), ctypes.c_int32(period), ctypes.c_int32(levels),
            _at(found.cumulative), _at(found.bounds), ctypes.c_int32(BINS), _at(scratch), _at(out),
        )  # fmt: skip
        values = out.astype(np.int64)
    if read < len(data):  # also -1: a place beyond all levels
        raise ValueError(f"the bytes hold something else than {count} values below {levels}")
    return values


def plain_encode(values: list[int], period: int, levels: int) -> bytes:
    """`encode` without the kernel."""
    model, out = _Model(period, levels), bytearray()
    low, span = 0, _MASK
    for value in values:
        row = model.row()
        span //= row[-1]
        low += span * row[value]
        span *= row[value + 1] - row[value]
        while (span := _settled(low, span)) < 0:
            span = -span
            out.append(low >> 56)
            low, span = (low << 8) & _MASK, (span << 8) & _MASK
        model.update(value)
    for count in range(1, 9):  # the shortest number of the interval
        mask = _MASK >> 8 * count
        number = (low + mask) & ~mask
        if low <= number < low + span and number <= _MASK:
            break
    return bytes(out) + number.to_bytes(8, "big")[:count]


def plain_decode(data: bytes, count: int, period: int, levels: int) -> tuple[NDArray[np.int64], int]:
    """`decode` without the kernel: the values, and the bytes read (zeros beyond the end count), -1 for impossible bytes."""
    model, values = _Model(period, levels), np.zeros(count, np.int64)
    source: Iterator[int] = itertools.chain(data, itertools.repeat(0))
    low, span, read = 0, _MASK, 8
    code = int.from_bytes(bytes(itertools.islice(source, 8)), "big")
    for i in range(count):
        row = model.row()
        span //= row[-1]
        place = (code - low) // span
        if not 0 <= place < row[-1]:
            return values, -1
        value = next(x for x in range(levels) if row[x + 1] > place)
        low += span * row[value]
        span *= row[value + 1] - row[value]
        while (span := _settled(low, span)) < 0:
            span = -span
            code = (code << 8 | next(source)) & _MASK
            low, span, read = (low << 8) & _MASK, (span << 8) & _MASK, read + 1
        model.update(value)
        values[i] = value
    return values, read


def _settled(low: int, span: int) -> int:
    """The span, negative where the first byte of all numbers in [low, low + span) is settled.

    A small interval across a border is narrowed to the part before the border, whose first bytes are settled.
    """
    if (low ^ ((low + span) & _MASK)) < _TOP:
        return -span
    if span >= _BOTTOM:
        return span
    return -(-low & (_BOTTOM - 1))


class _Model:
    """How large distances are, and what follows from that for the next value."""

    def __init__(self, period: int, levels: int) -> None:
        self.rows, self.bounds = tables(levels).cumulative.tolist(), tables(levels).bounds.tolist()
        self.usual, self.before = [START] * period, [levels // 2] * period
        self.quiet, self.total, self.k, self.first = START, 0, 0, True

    def row(self) -> list[int]:
        """Cumulative frequencies of the next value."""
        local = (self.quiet + self.total) // (self.k + 1)
        mean = (self.usual[self.k] + 2 * local) // 3
        found: list[int] = self.rows[sum(bound <= mean for bound in self.bounds)][self.before[self.k]]
        return found

    def update(self, value: int) -> None:
        """Go on to the next value."""
        k = self.k
        distance = START if self.first else abs(value - self.before[k]) * ONE
        self.usual[k] += (distance >> 3) - (self.usual[k] >> 3)
        self.before[k] = value
        self.total += distance
        self.k += 1
        if self.k == len(self.before):
            self.quiet, self.total, self.k, self.first = self.total // self.k, 0, 0, False


def _kernels() -> ctypes.CDLL | None:
    from duotone.nn import native  # imports torch, which files of other versions do not need

    lib = native.library()
    if lib is not None:
        for function in (lib.duotone_adaptive_encode, lib.duotone_adaptive_decode):
            function.restype = ctypes.c_int64
    return lib


def _at(array: NDArray[np.generic]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
