"""Byte-pair training over one long array of symbols, with a list of positions for every pair; compiled by Numba.

Legend: N positions ("places" in names). `symbols` holds a token's id at its first position and, if it is longer, minus its
length at its last, so that both neighbours of a token are found directly. `BOUNDARY` separates words and is at both ends.

The result equals that of the trainer of Hugging Face `tokenizers`, merge by merge: the pair with the highest count, among
equal counts the one with the smaller ids; counts include overlaps (a run of four equal symbols has three pairs).

No two merges make the same sequence of symbols, so a token is never looked up by its symbols. Suppose that (c, d) and an
earlier merge e = (a, b) did. Where c d stands, no merge has crossed the outer edges of the sequence (tokens only grow), and
where e was made, neither. Inside, both places had the same symbols, and so the same merges in the same order. So a b stood
there too when e was merged, and became e.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

BOUNDARY = np.int32(0x7FFFFFFF)
_DEAD = np.int32(-1)
_EMPTY = np.int64(-1)
_HIGH = np.int64(1 << 32)  # a pair (a, b) of ids is the key a * _HIGH + b

# What stopped `run`: nothing more to do, as many merges as it was to make, or arrays that must grow first.
DONE, PAUSED, GROW = range(3)


def pair(left: NDArray[np.int32], right: NDArray[np.int32]) -> NDArray[np.int64]:
    """The keys of pairs."""
    keys: NDArray[np.int64] = left * _HIGH + right
    return keys


def unpair(keys: NDArray[np.int64]) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Left and right of pairs."""
    return (keys >> 32).astype(np.int32), (keys & (_HIGH - 1)).astype(np.int32)


# Compilation takes seconds; its time grows with the number of statements, and of functions times the types that they are
# called with. So nothing is allocated here, counters begin as np.int64(0) (a plain 0 has a type of its own), and functions
# that only kernels call have no entry for Python and no cache of their own: they are compiled into their callers.
_WITHOUT: dict[str, Any] = {"no_cfunc_wrapper": True}  # an entry for C, which nothing here uses
_NO_PYTHON: dict[str, Any] = {"no_cpython_wrapper": True}
_kernel = njit(cache=True, nogil=True, **_WITHOUT)
_inner = njit(**_WITHOUT, **_NO_PYTHON)


@_inner
def _slot(keys, key):  # type: ignore[no-untyped-def]
    """The place of `key` in a hash table with open addressing, or the empty place where it belongs."""
    mask = np.uint64(len(keys) - 1)
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    i = (h ^ (h >> np.uint64(29))) & mask
    while keys[i] != _EMPTY and keys[i] != key:
        i = (i + np.uint64(1)) & mask
    return i


@_inner
def _settle(tree, counts, keys, entry):  # type: ignore[no-untyped-def]
    """Update the tree after `entry` changed: each node up to the root holds the better of its two children.

    The better entry has the higher count, or the same count and the smaller key.
    """
    i = (tree.size >> 1) + entry
    while i > 1:
        first, best = tree[i ^ 1], tree[i]
        if counts[first] > counts[best] or (counts[first] == counts[best] and keys[first] < keys[best]):
            best = first
        i >>= 1
        if best != entry and tree[i] == best:
            break
        tree[i] = best


@_kernel
def bucket(symbols, lengths, at, places):  # type: ignore[no-untyped-def]
    """Sort the places of pairs by their first symbol: each is written at `at[symbol]`, which is then increased.

    With empty `places` they are only counted.
    """
    for p in range(len(symbols) - 1):
        a = symbols[p]
        if 0 <= a < BOUNDARY and symbols[p + lengths[a]] != BOUNDARY:
            if places.size:
                places[at[a]] = p
            at[a] += 1


@_kernel
def sort_buckets(  # type: ignore[no-untyped-def]
    symbols, lengths, tokens, starts, places, kept, first_bucket, step, least, longest, old, fill, touched
):  # fmt: skip
    """Within every `step`-th bucket, bring places of equal second symbols together; equal pairs stay in order.

    Pairs that occur less than `least` times or would become too long are left out; `kept` gets how many places of each
    bucket remain, at its beginning. The last place p of each pair's list is written as ~p. `old` has room for the
    largest bucket, `fill` (zeros) and `touched` for every token.
    """
    for a in range(first_bucket, tokens, step):
        first = starts[a]
        size = starts[a + 1] - first
        length = lengths[a]
        seen = np.int64(0)
        for i in range(size):
            p = places[first + i]
            old[i] = p
            b = symbols[p + length]
            if fill[b] == 0:
                touched[seen] = b
                seen += 1
            fill[b] += 1
        at = first
        for i in range(seen):
            b = touched[i]
            n = fill[b]
            fill[b] = _EMPTY
            if n >= least and length + lengths[b] < longest:
                fill[b] = at
                at += n
        kept[a] = at - first
        for i in range(size):
            p = old[i]
            b = symbols[p + length]
            if fill[b] != _EMPTY:
                places[fill[b]] = p
                fill[b] += 1
        for i in range(seen):
            at = fill[touched[i]]
            fill[touched[i]] = 0
            if at != _EMPTY:
                places[at - 1] = ~places[at - 1]


@_kernel
def run(  # type: ignore[no-untyped-def]
    symbols, lengths, places, tree, e_key, e_count, e_start, e_size, m_key, m_count, ev_symbol, ev_place, come, touched,
    at, base, vocabulary, least, longest, pause,
):  # fmt: skip
    """Merge until the vocabulary is full, no pair is frequent enough, `pause` merges are made, or an array is full.

    Entries `e_*` are pairs and their lists of places. At some of these places the pair may have been merged into other
    tokens since, so counts are upper bounds. `tree` gives the entry with the highest one; its list is filtered and counted,
    and it is merged if its count is still the highest. `ev_*`: the neighbours of each merged pair, and its place. `come`
    (zeros, one a token): how often a token stands beside the new one. `at`: numbers of entries, of places used and of
    tokens, read and written. Returns why it stopped.
    """
    entries = at[0]
    used = at[1]
    tokens = at[2]
    made = np.int64(0)
    stopped = DONE
    while tokens < vocabulary:
        entry = np.int64(tree[1])
        key = e_key[entry]
        count = e_count[entry]
        if count < least:
            break
        a = np.int32(key >> 32)
        b = np.int32(key & 0xFFFFFFFF)
        length_a = lengths[a]
        start = e_start[entry]
        n = np.int64(0)
        for i in range(start, start + e_size[entry]):
            p = places[i]
            if symbols[p] == a and symbols[p + length_a] == b:
                places[start + n] = p
                n += 1
        e_size[entry] = n
        taken = n == count
        if taken:
            if made == pause:
                stopped = PAUSED
                break
            room = 2 * n
            if n > ev_place.size or used + room > places.size or entries + room > e_key.size:
                stopped = GROW
                break
            n = 0
        e_count[entry] = n
        _settle(tree, e_count, e_key, entry)
        if not taken:
            continue

        new = np.int32(tokens)
        length = length_a + lengths[b]
        lengths[new] = length
        m_key[tokens - base], m_count[tokens - base] = key, count
        tokens += 1
        made += 1

        events = np.int64(0)
        for i in range(start, start + count):
            p = places[i]
            q = p + length_a
            if symbols[p] != a or symbols[q] != b:  # one in a run of equal symbols, whose half is taken
                continue
            left = symbols[p - 1]
            if left < 0:
                left = symbols[p + left]
            ev_symbol[0, events], ev_symbol[1, events], ev_place[events] = left, symbols[p + length], p
            events += 1
            symbols[q] = _DEAD
            symbols[p] = new
            symbols[p + length - 1] = -length

        for side in range(2):  # left: pairs of a neighbour and the new token; right: of that and a neighbour
            seen = np.int64(0)
            for i in range(events):
                z = ev_symbol[side, i]
                if z != BOUNDARY and lengths[z] + length < longest:
                    if come[z] == 0:
                        touched[seen] = z
                        seen += 1
                    come[z] += 1
            for i in range(seen):
                z = touched[i]
                n = come[z]
                come[z] = 0
                if n >= least:
                    e_key[entries] = new * _HIGH + z if side else z * _HIGH + new
                    e_count[entries], e_start[entries], e_size[entries] = n, used, 0
                    _settle(tree, e_count, e_key, entries)
                    come[z] = ~entries  # its list
                    entries += 1
                    used += n
            for i in range(events):
                z = ev_symbol[side, i]
                if z != BOUNDARY and come[z] < 0:
                    entry = ~come[z]
                    p = ev_place[i]
                    places[e_start[entry] + e_size[entry]] = p if side else p - lengths[z]
                    e_size[entry] += 1
            for i in range(seen):
                come[touched[i]] = 0
    at[0] = entries
    at[1] = used
    at[2] = tokens
    return stopped


@_kernel
def tables(left, right, base, edges, keys, made, inner):  # type: ignore[no-untyped-def]
    """Fill two hash tables: the token that each merged pair becomes, and the pairs of symbols side by side in some token.

    Between two symbols that are not in the second table, a sequence can be cut. Of two merges of the same pair the first
    counts. `edges` `[2, ids]`: the first and last symbol of each id, given for those below `base`.
    """
    for i in range(left.size):
        a = left[i]
        b = right[i]
        new = base + i
        key = a * _HIGH + b
        s = _slot(keys, key)
        if keys[s] == _EMPTY:
            keys[s], made[s] = key, new
        edges[0, new], edges[1, new] = edges[0, a], edges[1, b]
        key = edges[1, a] * _HIGH + edges[0, b]
        inner[_slot(inner, key)] = key


@_inner
def _made(keys, made, a, b):  # type: ignore[no-untyped-def]
    key = a * _HIGH + b
    s = _slot(keys, key)
    return made[s] if keys[s] == key else BOUNDARY


@_inner
def _encode_short(ids, n, becomes, keys, made):  # type: ignore[no-untyped-def]
    """Merge `ids[:n]` in place, each time the earliest merge wherever it applies; returns how many are left."""
    for i in range(n - 1):
        becomes[i] = _made(keys, made, ids[i], ids[i + 1])
    while n > 1:
        best = becomes[0]
        for i in range(1, n - 1):
            if becomes[i] < best:
                best = becomes[i]
        if best == BOUNDARY:
            break
        to = np.int64(0)
        i = np.int64(0)
        while i < n:
            if i + 1 < n and becomes[i] == best:
                ids[to] = best
                i += 2
            else:
                ids[to] = ids[i]
                i += 1
            becomes[to] = becomes[i - 1] if i < n else BOUNDARY
            if to > 0 and (ids[to] == best or ids[to - 1] == best):
                becomes[to - 1] = _made(keys, made, ids[to - 1], ids[to])
            to += 1
        n = to
    return n


@_kernel
def encode_long(ids, keys, made, chain, queue):  # type: ignore[no-untyped-def]
    """Like `_encode_short`, for a long piece: with a heap of (merge, position) and a linked list of positions."""
    n = np.int64(ids.size)
    size = np.int64(0)
    top = np.int64(0)
    for i in range(n):
        chain[0, i] = i - 1
        chain[1, i] = i + 1
        if i + 1 < n:
            new = _made(keys, made, ids[i], ids[i + 1])
            if new != BOUNDARY:
                queue[size] = new * _HIGH + i
                size += 1
    for i in range(size // 2 - 1, -1, -1):
        _sift(queue, i, size)
    while size:
        new = np.int32(queue[0] >> 32)
        i = queue[0] & 0xFFFFFFFF
        size -= 1
        queue[0] = queue[size]
        _sift(queue, top, size)
        j = chain[1, i]
        if ids[i] < 0 or j >= n or _made(keys, made, ids[i], ids[j]) != new:
            continue
        ids[i] = new
        ids[j] = -1
        k = chain[1, j]
        chain[1, i] = k
        if k < n:
            chain[0, k] = i
        for side in range(2):
            p = i if side else chain[0, i]
            if p >= 0 and chain[1, p] < n:
                then = _made(keys, made, ids[p], ids[chain[1, p]])
                if then != BOUNDARY:
                    value = then * _HIGH + p
                    at = size
                    size += 1
                    while at > 0 and queue[(at - 1) >> 1] > value:
                        queue[at] = queue[(at - 1) >> 1]
                        at = (at - 1) >> 1
                    queue[at] = value
    for i in range(n):
        if ids[i] >= 0:
            ids[size] = ids[i]
            size += 1
    return size


@_inner
def _sift(queue, i, size):  # type: ignore[no-untyped-def]
    value = queue[i]
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and queue[child + 1] < queue[child]:
            child += 1
        if queue[child] >= value:
            break
        queue[i] = queue[child]
        i = child
    queue[i] = value


@_kernel
def encode(numbers, start, to, keys, made, inner, out, becomes):  # type: ignore[no-untyped-def]
    """Base symbols from `start` on -> ids of tokens, into `out` from `to` on, up to the first piece too long for `becomes`.

    The sequence is cut between symbols that stand side by side in no token; each piece is merged by itself. Returns where
    the piece that is too long begins and ends, and where in `out` its symbols were written.
    """
    while start < numbers.size:
        stop = start + 1
        out[to] = numbers[start]
        while stop < numbers.size:
            key = numbers[stop - 1] * _HIGH + numbers[stop]
            if inner[_slot(inner, key)] != key:
                break
            out[to + stop - start] = numbers[stop]
            stop += 1
        size = stop - start
        if size > becomes.size:
            return start, stop, to
        if size > 1:
            size = _encode_short(out[to:], size, becomes, keys, made)
        to += size
        start = stop
    return start, start, to


@_kernel
def lay_out(ids, lengths, symbols):  # type: ignore[no-untyped-def]
    """Write the tokens of one word into its part of the array of symbols."""
    p = 0
    for token in ids:
        n = lengths[token]
        symbols[p] = token
        for q in range(p + 1, p + n - 1):
            symbols[q] = _DEAD
        if n > 1:
            symbols[p + n - 1] = -n
        p += n
