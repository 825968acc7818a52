"""Byte-pair training on sequences of base symbols: the merges that Hugging Face `tokenizers` finds, only sooner.

That trainer goes through every word a merge occurs in, so its time grows with the length of words; here a merge costs
its occurrences. Counts have 64 bits. What is computed is told in `kernels`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.tokens import kernels as k

_PAUSE = 256  # merges between two looks at what the user wants
_SHORT = 64  # pieces up to this many symbols are encoded without a queue

#: Called with a function that gives the merges made so far.
Watch = Callable[[Callable[[], "Merges"]], None]


@dataclass(frozen=True)
class Merges:
    """What was learned, in order: `left[i]` and `right[i]`, which stood together `count[i]` times, become ``base + i``.

    Ids below `base` are the symbols themselves.
    """

    base: int
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    count: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.left)


def train(
    words: Iterable[NDArray[Any]],
    base: int,
    vocabulary: int,
    min_frequency: int = 2,
    longest: int | None = None,
    watch: Watch | None = None,
    threads: int | None = None,
    known: Merges | None = None,
) -> Merges:
    """Learn merges until there are `vocabulary` tokens, or no pair is as frequent as `min_frequency`.

    `words` are sequences of symbols below `base`; no merge crosses from one to the next, nor makes a token of more than
    `longest` symbols. `watch` is called now and then with the merges so far and may raise; with `known` ones of the same
    words and settings it goes on from there. Raises `UsageError` for symbols out of range.
    """
    if min_frequency < 1:
        raise UsageError(f"min_frequency got {min_frequency}, expected at least 1.")
    symbols = _join(words, base)
    state = _State(symbols, base, vocabulary, min_frequency, longest, threads or os.cpu_count() or 1, known)
    while not state.advance():
        if watch is not None:
            watch(state.merges)
    return state.merges()


def _join(words: Iterable[NDArray[Any]], base: int) -> NDArray[np.int32]:
    """All words in one array, boundaries between them and at both ends."""
    parts: list[NDArray[np.int32]] = []
    size, pool = 1, np.empty(1 << 16, np.int32)
    pool[0] = k.BOUNDARY
    for word in words:
        if not len(word):
            continue
        if int(word.min()) < 0 or int(word.max()) >= base:
            raise UsageError(f"A word holds symbols {int(word.min())}..{int(word.max())}, expected 0..{base - 1}.")
        while size + len(word) + 1 > len(pool):
            parts.append(pool[:size])
            pool, size = np.empty(max(1 << 22, len(word) + 1), np.int32), 0
        pool[size : size + len(word)] = word
        pool[size + len(word)] = k.BOUNDARY
        size += len(word) + 1
    parts.append(pool[:size])
    out = np.empty(sum(map(len, parts)), np.int32)
    at = 0
    for i, part in enumerate(parts):
        out[at : at + len(part)] = part
        at += len(part)
        parts[i] = part[:0]
    return out


class Encoder:
    """Sequences of base symbols -> ids, by merges: what Hugging Face `tokenizers` computes, identically."""

    def __init__(self, merges: Merges) -> None:
        self.base = merges.base
        size = 1 << max(4, (2 * len(merges)).bit_length())
        self._keys, self._made = np.full(size, -1, np.int64), np.zeros(size, np.int32)
        self._inner = np.full(size, -1, np.int64)
        edges = np.tile(np.arange(merges.base + len(merges), dtype=np.int32), (2, 1))
        k.tables(merges.left, merges.right, merges.base, edges, self._keys, self._made, self._inner)

    def __call__(self, numbers: NDArray[Any]) -> NDArray[np.int32]:
        """`[N]` symbols below `base` -> `[M]` ids, M <= N. May run in threads."""
        numbers = np.ascontiguousarray(numbers, np.int32)
        out = np.empty(len(numbers), np.int32)
        becomes = np.empty(_SHORT, np.int32)
        start = to = 0
        while start < len(numbers):
            start, stop, to = k.encode(numbers, start, to, self._keys, self._made, self._inner, out, becomes)
            if stop > start:
                n = stop - start
                chain, queue = np.empty((2, n), np.int64), np.empty(2 * n, np.int64)
                to += int(k.encode_long(out[to : to + n], self._keys, self._made, chain, queue))
                start = stop
        ids: NDArray[np.int32] = out[:to].copy()
        return ids


class _State:
    """All arrays of a training, growing as they must."""

    def __init__(
        self, symbols: NDArray[np.int32], base: int, vocabulary: int, least: int, longest: int | None, threads: int,
        known: Merges | None = None,
    ) -> None:  # fmt: skip
        self.symbols, self.base, self.vocabulary, self.least = symbols, base, max(vocabulary, base), least
        self.longest = np.iinfo(np.int64).max if longest is None else longest + 1
        place = np.int32 if len(symbols) < 2**31 else np.int64
        most = self.vocabulary + 1
        self.lengths = np.ones(most, np.int32)
        self.left, self.right = np.zeros((2, most), np.int32)
        self.count = np.zeros(most, np.int64)
        self.change = np.zeros((2, most, 2), np.int64)
        self.touched = np.zeros((2, most), np.int32)
        tokens = base if known is None else self._replay(known)

        starts = np.zeros(tokens + 1, np.int64)
        self.places = np.empty(max(1, len(symbols)), place)
        k.bucket(symbols, self.lengths, tokens, starts, self.places)
        used = int(starts[tokens])
        largest = int(np.diff(starts).max(initial=0))

        def sort(t: int) -> int:
            old, fill, touched = np.empty(largest, place), np.zeros(tokens + 1, np.int64), np.empty(tokens, np.int32)
            return int(
                k.sort_buckets(
                    symbols, self.lengths, tokens, starts, self.places, t, threads, least, old, fill, touched
                )
            )

        with ThreadPoolExecutor(threads) as pool:  # buckets are apart, and the kernel lets go of the interpreter
            lists = sum(pool.map(sort, range(threads)))
        self._table(max(1 << 12, 1 << (4 * lists).bit_length()))
        self._queue(max(1 << 12, 2 * lists), max(1 << 12, 2 * lists))
        size, kept = k.begin(
            symbols, self.lengths, self.places, used, least, self.longest, self.keys, self.counts, self.q_count,
            self.q_key, self.q_entry, self.e_start, self.e_size,
        )  # fmt: skip
        self.at = np.array([size, size, kept, size, tokens, 0, 0, 0, 0], np.int64)
        self.ev_symbol, self.ev_place = np.empty((2, 1 << 11), np.int32), np.empty((2, 1 << 11), place)

    def _replay(self, known: Merges) -> int:
        """Apply merges of an earlier, interrupted training; returns the number of tokens."""
        n, base = min(len(known), self.vocabulary - self.base), self.base
        known = Merges(base, known.left[:n], known.right[:n], known.count[:n])
        self.left[:n], self.right[:n], self.count[:n] = known.left, known.right, known.count
        for i in range(n):
            self.lengths[base + i] = self.lengths[known.left[i]] + self.lengths[known.right[i]]
        encoder, edges = Encoder(known), np.flatnonzero(self.symbols == k.BOUNDARY)
        for first, last in zip(edges[:-1] + 1, edges[1:], strict=True):
            k.lay_out(encoder(self.symbols[first:last]), self.lengths, self.symbols[first:last])
        return base + n

    @property
    def tokens(self) -> int:
        return int(self.at[4])

    def _table(self, size: int) -> None:
        self.keys, self.counts = np.full(size, -1, np.int64), np.zeros(size, np.int64)

    def _queue(self, queue: int, entries: int) -> None:
        self.q_count, self.q_key, self.q_entry = (np.empty(queue, t) for t in (np.int64, np.int64, np.int32))
        self.e_start, self.e_size = np.empty(entries, np.int64), np.empty(entries, np.int32)

    def advance(self) -> bool:
        """Make some merges; whether that was all."""
        why = k.run(
            self.symbols, self.places, self.keys, self.counts, self.q_count, self.q_key, self.q_entry, self.e_start,
            self.e_size, self.lengths, self.left, self.right, self.count, self.ev_symbol, self.ev_place, self.change,
            self.touched, self.at, self.base, self.vocabulary, self.least, self.longest, _PAUSE,
        )  # fmt: skip
        if why == k.GROW:
            self._grow(2 * int(self.e_size[self.q_entry[0]]))
        return bool(why == k.DONE)

    def _grow(self, need: int) -> None:
        """Make room for the next merge, which needs so much, wherever there is too little."""
        size, entries, used, filled = self.at[:4].tolist()
        if need > self.ev_place.size:
            self.ev_symbol, self.ev_place = (np.empty((2, need), a.dtype) for a in (self.ev_symbol, self.ev_place))
        if used + need > len(self.places):
            self.places = _grown(self.places, used, need)
        if 4 * (filled + need) > 3 * len(self.keys):
            old = self.keys, self.counts
            self._table(2 * len(old[0]) if need < len(old[0]) // 4 else 1 << (4 * need + len(old[0])).bit_length())
            k.rehash(*old, self.keys, self.counts)
        if size + need >= len(self.q_count) or entries + need >= len(self.e_start):
            self.q_count, self.q_key, self.q_entry = (
                _grown(a, size, need + 2) for a in (self.q_count, self.q_key, self.q_entry)
            )
            self.e_start, self.e_size = (_grown(a, entries, need + 2) for a in (self.e_start, self.e_size))

    def merges(self) -> Merges:
        """What was learned so far."""
        n = self.tokens - self.base
        return Merges(self.base, self.left[:n].copy(), self.right[:n].copy(), self.count[:n].copy())


def _grown(array: NDArray[Any], used: int, need: int) -> NDArray[Any]:
    """A larger copy with room for `need` more than `used`."""
    out = np.empty(max(used + need, used + used // 2) + 16, array.dtype)
    out[:used] = array[:used]
    return out
