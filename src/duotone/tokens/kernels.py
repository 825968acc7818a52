"""Byte-pair training over one long array of symbols, with a list of positions for every pair; compiled by Numba.

Legend: N places. `symbols` holds a token's id at its first place and, where it is longer, minus its length at its last:
so both neighbours of a token are found at once. Words are separated by `BOUNDARY`, one stands at either end.

What is computed is what the trainer of Hugging Face `tokenizers` computes, merge by merge: the pair with the highest
count, of equals that with the smaller ids; counts include overlaps (a run of four has three pairs).

No two merges spell the same token, so none has to be looked for. Say (c, d) came to spell what e = (a, b) spells, split
elsewhere. Where c d stands, nothing had crossed its outer edges (tokens only grow), and neither where e arose; inside, the
same symbols had met the same merges in the same order. So there, too, a b stood when e was merged, and became e.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

BOUNDARY = np.int32(0x7FFFFFFF)
_DEAD = np.int32(-1)
_EMPTY = np.int64(-1)
_HIGH = np.int64(1 << 32)  # a pair (a, b) of ids is the key a * _HIGH + b

# What stopped `run`: nothing more to do, as many merges as it was to make, or arrays that must grow first.
DONE, PAUSED, GROW = range(3)

# Compilation takes seconds, and goes by the number of statements and of functions times the types they are called with.
# So nothing is allocated in here, counters begin as np.int64(0) (a plain 0 is a type of its own), and functions that
# only kernels call have no entry for Python and no cache of their own: they are part of what calls them.
_WITHOUT: dict[str, Any] = {"no_cfunc_wrapper": True}  # an entry for C, which nothing here uses
_NO_PYTHON: dict[str, Any] = {"no_cpython_wrapper": True}
_kernel = njit(cache=True, nogil=True, **_WITHOUT)
_inner = njit(**_WITHOUT, **_NO_PYTHON)


@_inner
def _slot(keys, key):  # type: ignore[no-untyped-def]
    """Where `key` stands in an open table, or the empty place where it would."""
    mask = np.uint64(len(keys) - 1)
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    i = (h ^ (h >> np.uint64(29))) & mask
    while keys[i] != _EMPTY and keys[i] != key:
        i = (i + np.uint64(1)) & mask
    return i


@_kernel
def rehash(keys, counts, new_keys, new_counts):  # type: ignore[no-untyped-def]
    """Move a table into a larger one."""
    for i in range(len(keys)):
        if keys[i] != _EMPTY:
            j = _slot(new_keys, keys[i])
            new_keys[j] = keys[i]
            new_counts[j] = counts[i]


@_inner
def _before(count, key, other_count, other_key):  # type: ignore[no-untyped-def]
    return count > other_count or (count == other_count and key < other_key)


@_inner
def _push(q_count, q_key, q_entry, size, count, key, entry):  # type: ignore[no-untyped-def]
    """Put an entry into the queue of `size` entries (a binary heap)."""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if not _before(count, key, q_count[parent], q_key[parent]):
            break
        q_count[i], q_key[i], q_entry[i] = q_count[parent], q_key[parent], q_entry[parent]
        i = parent
    q_count[i], q_key[i], q_entry[i] = count, key, entry


@_inner
def _sink(q_count, q_key, q_entry, size, i):  # type: ignore[no-untyped-def]
    """Let the entry at `i` sink to its place."""
    count, key, entry = q_count[i], q_key[i], q_entry[i]
    while True:
        child = 2 * i + 1
        if child >= size:
            break
        if child + 1 < size and _before(q_count[child + 1], q_key[child + 1], q_count[child], q_key[child]):
            child += 1
        if not _before(q_count[child], q_key[child], count, key):
            break
        q_count[i], q_key[i], q_entry[i] = q_count[child], q_key[child], q_entry[child]
        i = child
    q_count[i], q_key[i], q_entry[i] = count, key, entry


@_kernel
def bucket(symbols, lengths, tokens, starts, places):  # type: ignore[no-untyped-def]
    """Places of all pairs by their first symbol: `starts` `[tokens + 1]` gets each bucket's beginning in `places`."""
    n = len(symbols)
    for i in range(tokens + 1):
        starts[i] = 0
    for p in range(n - 1):
        a = symbols[p]
        if 0 <= a < BOUNDARY and symbols[p + lengths[a]] != BOUNDARY:
            starts[a + 1] += 1
    for i in range(tokens):
        starts[i + 1] += starts[i]
    for p in range(n - 1):
        a = symbols[p]
        if 0 <= a < BOUNDARY and symbols[p + lengths[a]] != BOUNDARY:
            places[starts[a]] = p
            starts[a] += 1
    for i in range(tokens, 0, -1):
        starts[i] = starts[i - 1]
    starts[0] = 0


@_kernel
def sort_buckets(  # type: ignore[no-untyped-def]
    symbols, lengths, tokens, starts, places, first_bucket, step, least, old, fill, touched
):  # fmt: skip
    """Within every `step`-th bucket, bring places of equal second symbols together; equal pairs stay in order.

    `old` has room for the largest bucket, `fill` (zeros) and `touched` for every token. Returns how many pairs occur at
    least `least` times.
    """
    lists = np.int64(0)
    for a in range(first_bucket, tokens, step):
        first = starts[a]
        size = starts[a + 1] - first
        length = lengths[a]
        count = np.int64(0)
        for i in range(size):
            p = places[first + i]
            old[i] = p
            b = symbols[p + length]
            if fill[b] == 0:
                touched[count] = b
                count += 1
            fill[b] += 1
        at = first
        for i in range(count):
            b = touched[i]
            n = fill[b]
            lists += n >= least
            fill[b] = at
            at += n
        for i in range(size):
            p = old[i]
            b = symbols[p + length]
            places[fill[b]] = p
            fill[b] += 1
        for i in range(count):
            fill[touched[i]] = 0
    return lists


@_kernel
def begin(  # type: ignore[no-untyped-def]
    symbols, lengths, places, used, least, longest, keys, counts, q_count, q_key, q_entry, e_start, e_size
):  # fmt: skip
    """The queue and the table of counts from sorted places; lists of rarer pairs are closed up. Returns their sizes."""
    size = np.int64(0)
    kept = np.int64(0)
    i = np.int64(0)
    while i < used:
        a = symbols[places[i]]
        length = lengths[a]
        b = symbols[places[i] + length]
        j = i + 1
        while j < used and symbols[places[j]] == a and symbols[places[j] + length] == b:
            j += 1
        count = j - i
        if count >= least and length + lengths[b] < longest:
            key = a * _HIGH + b
            s = _slot(keys, key)
            keys[s], counts[s] = key, count
            q_count[size], q_key[size], q_entry[size] = count, key, size
            e_start[size], e_size[size] = kept, count
            for m in range(i, j):
                places[kept] = places[m]
                kept += 1
            size += 1
        i = j
    for i in range(size // 2 - 1, -1, -1):
        _sink(q_count, q_key, q_entry, size, i)
    return size, kept


@_kernel
def run(  # type: ignore[no-untyped-def]
    symbols, places, keys, counts, q_count, q_key, q_entry, e_start, e_size, lengths, m_left, m_right, m_count,
    ev_symbol, ev_place, change, touched, at, base, vocabulary, least, longest, pause,
):  # fmt: skip
    """Merge until the vocabulary is full, no pair is frequent enough, `pause` merges are made, or an array is full.

    `at`: queue size, entries, places used, table used, tokens: read and written; then what a merge has seen and noted on
    either side. `change` `[2, tokens, 2]`: by side and neighbour, pairs that go and pairs that come. Returns what
    stopped it.
    """
    size = at[0]
    entries = at[1]
    used = at[2]
    filled = at[3]
    tokens = at[4]
    seen = at[5:7]
    noted = at[7:9]
    top = np.int64(0)
    made = np.int64(0)
    stopped = DONE
    while tokens < vocabulary and size > 0:
        count = q_count[0]
        key = q_key[0]
        entry = q_entry[0]
        now = counts[_slot(keys, key)]
        n = e_size[entry]
        if now == count:
            if count < least:
                break
            if made == pause:
                stopped = PAUSED
                break
            room = 2 * n
            if (
                room > ev_place.size
                or used + room > places.size
                or 4 * (filled + room) > 3 * keys.size
                or size + room >= q_count.size
                or entries + room >= e_start.size
            ):
                stopped = GROW
                break
        if now == count or now < least:  # taken; or too rare, and it can only become rarer
            size -= 1
            q_count[0], q_key[0], q_entry[0] = q_count[size], q_key[size], q_entry[size]
        else:
            q_count[0] = now
        _sink(q_count, q_key, q_entry, size, top)
        if now != count:
            continue

        a = np.int32(key >> 32)
        b = np.int32(key & 0xFFFFFFFF)
        new = np.int32(tokens)
        length_a = lengths[a]
        length_b = lengths[b]
        length = length_a + length_b
        lengths[new] = length
        m_left[new - base], m_right[new - base], m_count[new - base] = a, b, count
        tokens += 1
        made += 1

        start = e_start[entry]
        for side in range(2):
            seen[side] = 0
            noted[side] = 0
        for i in range(n):
            p = places[start + i]
            q = p + length_a
            if symbols[p] != a or symbols[q] != b:
                continue
            r = p - 1
            if symbols[r] < 0:
                r += symbols[r] + 1
            e = q + length_b
            symbols[q] = _DEAD
            symbols[p] = new
            symbols[e - 1] = -length
            for side in range(2):  # left: the pair of the neighbour at r and this; right: of this and the one at e
                z = symbols[e if side else r]
                if z != BOUNDARY:
                    if change[side, z, 0] == 0:
                        touched[side, seen[side]] = z
                        seen[side] += 1
                    change[side, z, 0] += 1
                    if lengths[z] + length < longest:
                        change[side, z, 1] += 1
                        ev_symbol[side, noted[side]] = z
                        ev_place[side, noted[side]] = p if side else r
                        noted[side] += 1

        change[1, a, 1] -= change[0, new, 0]  # pairs of the new token and a that a merge to their right undid at once
        for side in range(2):
            for i in range(seen[side]):
                z = touched[side, i]
                if side or z != new:
                    gone = b * _HIGH + z if side else z * _HIGH + a
                    s = _slot(keys, gone)
                    if keys[s] == gone:
                        counts[s] -= change[side, z, 0]
                change[side, z, 0] = 0
                come = change[side, z, 1]
                change[side, z, 1] = -1  # no list
                if come >= least:
                    pair = new * _HIGH + z if side else z * _HIGH + new
                    s = _slot(keys, pair)
                    keys[s], counts[s] = pair, come
                    filled += 1
                    e_start[entries], e_size[entries] = used, 0
                    change[side, z, 1] = entries
                    used += come
                    _push(q_count, q_key, q_entry, size, come, pair, entries)
                    size += 1
                    entries += 1
            for i in range(noted[side]):
                z = ev_symbol[side, i]
                e = change[side, z, 1]
                if e >= 0:
                    p = ev_place[side, i]
                    # what a merge to its right undid at once is left out, so that the list has its room
                    if side == 0 or symbols[p + length] == z:
                        places[e_start[e] + e_size[e]] = p
                        e_size[e] += 1
            for i in range(seen[side]):
                change[side, touched[side, i], 1] = 0
    at[0] = size
    at[1] = entries
    at[2] = used
    at[3] = filled
    at[4] = tokens
    return stopped


@_kernel
def tables(left, right, base, edges, keys, made, inner):  # type: ignore[no-untyped-def]
    """Merges as open tables: pair -> what it becomes; and pairs of base symbols that stand side by side in some token.

    What is not in the second is cut apart. Of a merge that is there twice, the first counts. `edges` `[2, ids]`: the first
    and last symbol of each id, given for those below `base`.
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
    """The same for all of a long piece, by a queue of (merge, place) over a chain of places before and after."""
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

    The sequence falls apart wherever two neighbours stand side by side in no token; the pieces are merged apart. Returns
    where the piece that was left begins and ends, and where its symbols were put.
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
    """Tokens of one word into its stretch of an array of symbols."""
    p = 0
    for token in ids:
        n = lengths[token]
        symbols[p] = token
        for q in range(p + 1, p + n - 1):
            symbols[q] = _DEAD
        if n > 1:
            symbols[p + n - 1] = -n
        p += n
