"""Byte-pair training on sequences of base symbols: the same merges as Hugging Face `tokenizers`, in less time.

That trainer scans every word that a merge occurs in, so its time grows with the length of the words. Here the time of a
merge is proportional to its number of occurrences. Counts have 64 bits. The algorithm is described in `kernels`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.tokens import kernels as k
from duotone.tokens.values import ByValue

_PAUSE = 256  # merges between two calls of `watch`
_SHORT = 64  # pieces up to this many symbols are encoded without a queue

#: Called during training, with a function that gives the merges made so far. May raise to stop.
Watch = Callable[[Callable[[], "Merges"]], None]


@dataclass(frozen=True, eq=False, repr=False)
class Merges(ByValue):
    """The learned merges, in order: the tokens `left[i]` and `right[i]` become the token ``base + i``.

    Ids below `base` are the symbols themselves. `count[i]`: how often the pair occurred in training; it is
    not saved with a tokenizer and ignored in comparisons.
    """

    base: int
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    count: NDArray[np.int64] = field(compare=False)

    def __repr__(self) -> str:
        return f"Merges({len(self)} of {self.base} symbols)"

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

    `words` are sequences of symbols below `base`; no merge joins symbols of two words, or makes a token of more than
    `longest` symbols. `watch` is called every few hundred merges. `known` are the merges of an interrupted training on the
    same words with the same settings, which is resumed. Raises `UsageError` for symbols out of range.
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
    """All words in one array, with boundaries between them and at both ends."""
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
    """Encodes sequences of base symbols by merges, to the same ids as Hugging Face `tokenizers`."""

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
    """The arrays of a training, which grow as needed."""

    def __init__(
        self, symbols: NDArray[np.int32], base: int, vocabulary: int, least: int, longest: int | None, threads: int,
        known: Merges | None = None,
    ) -> None:  # fmt: skip
        vocabulary = min(vocabulary, base + len(symbols))  # each merge leaves a symbol less
        self.symbols, self.base, self.vocabulary, self.least = symbols, base, max(vocabulary, base), least
        self.longest = np.iinfo(np.int64).max if longest is None else longest + 1
        place = np.int32 if len(symbols) < 2**31 else np.int64
        most = self.vocabulary + 1
        self.lengths = np.ones(most, np.int32)
        self.key, self.count = np.zeros((2, most), np.int64)
        self.come, self.touched = np.zeros(most, np.int64), np.zeros(most, np.int32)
        self.e_key, self.e_count, self.e_start = np.zeros((3, 0), np.int64)
        self.e_size, self.tree = np.zeros(0, place), np.zeros(0, np.int32)
        self.ev_symbol, self.ev_place = np.empty((2, 1 << 11), np.int32), np.empty(1 << 11, place)
        self.at = np.zeros(3, np.int64)
        tokens = base if known is None else self._replay(known)

        starts = np.zeros(tokens + 1, np.int64)
        k.bucket(symbols, self.lengths, starts[1:], np.empty(0, place))
        largest = int(starts.max())
        np.cumsum(starts, out=starts)
        self.places = np.empty(max(1, int(starts[-1])), place)
        k.bucket(symbols, self.lengths, starts[:-1].copy(), self.places)
        kept = np.zeros(tokens, np.int64)

        def sort(t: int) -> None:
            old, fill, touched = np.empty(largest, place), np.zeros(tokens + 1, np.int64), np.empty(tokens, np.int32)
            k.sort_buckets(
                symbols, self.lengths, tokens, starts, self.places, kept, t, threads, least, self.longest, old, fill,
                touched,
            )  # fmt: skip

        sort(
            tokens
        )  # an empty call, so that Numba compiles this kernel here, and the next one while the buckets are sorted
        with ThreadPoolExecutor(threads + 1) as pool:  # buckets are independent, and the kernel releases the GIL
            compiled = pool.submit(self._run, 0)
            list(pool.map(sort, range(threads)))
            used = self._close_up(starts, kept)
            lists = self._first_lists(used)
            compiled.result()
        self.at[:] = lists, used, tokens

    def _close_up(self, starts: NDArray[np.int64], kept: NDArray[np.int64]) -> int:
        """Make the remaining positions of all buckets contiguous; returns their number."""
        used = 0
        for first, n in zip(starts.tolist(), kept.tolist(), strict=False):
            self.places[used : used + n] = self.places[first : first + n]
            used += n
        return used

    def _first_lists(self, used: int) -> int:
        """Make an entry for each list of sorted positions; returns the number of entries."""
        ends = np.flatnonzero(self.places[:used] < 0)
        self.places[ends] = ~self.places[ends]
        n, size, p = len(ends), np.diff(ends, prepend=-1), self.places[ends]
        first = self.symbols[p]
        self._entries(n)
        self.e_key[:n] = k.pair(first, self.symbols[p + self.lengths[first]])
        self.e_count[:n] = self.e_size[:n] = size
        self.e_start[:n] = ends + 1 - size
        self._plant()
        return n

    def _replay(self, known: Merges) -> int:
        """Apply merges of an earlier, interrupted training; returns the number of tokens."""
        n, base = min(len(known), self.vocabulary - self.base), self.base
        known = Merges(base, known.left[:n], known.right[:n], known.count[:n])
        self.key[:n], self.count[:n] = k.pair(known.left, known.right), known.count
        for i in range(n):
            self.lengths[base + i] = self.lengths[known.left[i]] + self.lengths[known.right[i]]
        encoder, edges = Encoder(known), np.flatnonzero(self.symbols == k.BOUNDARY)
        for first, last in zip(edges[:-1] + 1, edges[1:], strict=True):
            k.lay_out(encoder(self.symbols[first:last]), self.lengths, self.symbols[first:last])
        return base + n

    def _entries(self, need: int) -> None:
        size = max(1 << 12, 1 << need.bit_length())
        self.e_key, self.e_count, self.e_start, self.e_size = (
            _grown(a, size) for a in (self.e_key, self.e_count, self.e_start, self.e_size)
        )

    def _plant(self) -> None:
        """Build the tree over all entries level by level: each node holds the better of its two children."""
        level = np.arange(len(self.e_key), dtype=np.int32)
        self.tree = np.concatenate([level, level])
        while len(level) > 1:
            one, other = level[::2], level[1::2]
            more, same = (f(self.e_count[other], self.e_count[one]) for f in (np.greater, np.equal))
            level = np.where(more | (same & (self.e_key[other] < self.e_key[one])), other, one)
            self.tree[len(level) : 2 * len(level)] = level

    def advance(self) -> bool:
        """Make some merges; returns whether the training is finished."""
        why = self._run(self.vocabulary)
        if why == k.GROW:
            self._grow(2 * int(self.e_size[self.tree[1]]))
        return why == k.DONE

    def _run(self, vocabulary: int) -> int:
        why: int = k.run(
            self.symbols, self.lengths, self.places, self.tree, self.e_key, self.e_count, self.e_start, self.e_size,
            self.key, self.count, self.ev_symbol, self.ev_place, self.come, self.touched, self.at, self.base, vocabulary,
            self.least, self.longest, _PAUSE,
        )  # fmt: skip
        return why

    def _grow(self, need: int) -> None:
        """Enlarge the arrays that are too small for the next merge, which adds up to `need` places and entries."""
        entries, used, _ = self.at.tolist()
        if need > 2 * len(self.ev_place):
            self.ev_symbol, self.ev_place = np.empty((2, need), np.int32), np.empty(need, self.ev_place.dtype)
        if used + need > len(self.places):
            self.places = _grown(self.places, max(used + need, used + used // 2))
        if entries + need > len(self.e_key):
            self._entries(entries + need)
            self._plant()

    def merges(self) -> Merges:
        """The merges learned so far."""
        n = int(self.at[2]) - self.base
        return Merges(self.base, *k.unpair(self.key[:n]), self.count[:n].copy())


def _grown(array: NDArray[Any], size: int) -> NDArray[Any]:
    """A copy with capacity `size`."""
    out = np.zeros(size, array.dtype)
    out[: len(array)] = array
    return out
