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

import numpy as np
from numba import njit

BOUNDARY = np.int32(0x7FFFFFFF)
_DEAD = np.int32(-1)
_EMPTY = np.int64(-1)

# What stopped `run`: nothing more to do, or an array that must grow first.
DONE, PAUSED, GROW_POOL, GROW_TABLE, GROW_QUEUE, GROW_EVENTS = range(6)


@njit(cache=True)
def _slot(keys, key):  # type: ignore[no-untyped-def]
    """Where `key` stands in an open table, or the empty place where it would."""
    mask = np.uint64(len(keys) - 1)
    h = np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)
    i = (h ^ (h >> np.uint64(29))) & mask
    while keys[i] != _EMPTY and keys[i] != key:
        i = (i + np.uint64(1)) & mask
    return i


@njit(cache=True)
def rehash(keys, counts, new_keys, new_counts):  # type: ignore[no-untyped-def]
    """Move a table into a larger one."""
    for i in range(len(keys)):
        if keys[i] != _EMPTY:
            j = _slot(new_keys, keys[i])
            new_keys[j], new_counts[j] = keys[i], counts[i]


@njit(cache=True)
def _before(count, key, other_count, other_key):  # type: ignore[no-untyped-def]
    return count > other_count or (count == other_count and key < other_key)


@njit(cache=True)
def push(q_count, q_key, q_entry, size, count, key, entry):  # type: ignore[no-untyped-def]
    """Put an entry into the queue of `size` entries (a binary heap)."""
    i = size
    while i > 0:
        parent = (i - 1) >> 1
        if not _before(count, key, q_count[parent], q_key[parent]):
            break
        q_count[i], q_key[i], q_entry[i] = q_count[parent], q_key[parent], q_entry[parent]
        i = parent
    q_count[i], q_key[i], q_entry[i] = count, key, entry


@njit(cache=True)
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


@njit(cache=True)
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


@njit(cache=True, nogil=True)
def sort_buckets(symbols, lengths, tokens, starts, places, first_bucket, step):  # type: ignore[no-untyped-def]
    """Within every `step`-th bucket, bring places of equal second symbols together; equal pairs stay in order."""
    fill = np.zeros(tokens + 1, np.int64)
    most = 0
    for a in range(first_bucket, tokens, step):
        most = max(most, starts[a + 1] - starts[a])
    old = np.empty(most, places.dtype)
    touched = np.empty(tokens, np.int32)
    for a in range(first_bucket, tokens, step):
        first, last, length = starts[a], starts[a + 1], lengths[a]
        count = 0
        for i in range(first, last):
            old[i - first] = places[i]
            b = symbols[places[i] + length]
            if fill[b] == 0:
                touched[count] = b
                count += 1
            fill[b] += 1
        at = first
        for i in range(count):
            b = touched[i]
            size = fill[b]
            fill[b] = at
            at += size
        for i in range(last - first):
            b = symbols[old[i] + length]
            places[fill[b]] = old[i]
            fill[b] += 1
        for i in range(count):
            fill[touched[i]] = 0


@njit(cache=True)
def list_end(symbols, lengths, places, i, used):  # type: ignore[no-untyped-def]
    """Where the list of the pair at sorted `places[i]` ends."""
    a = symbols[places[i]]
    b = symbols[places[i] + lengths[a]]
    j = i + 1
    while j < used and symbols[places[j]] == a and symbols[places[j] + lengths[a]] == b:
        j += 1
    return j


@njit(cache=True)
def count_lists(symbols, lengths, places, used, least):  # type: ignore[no-untyped-def]
    """How many pairs occur at least `least` times in sorted `places[:used]`."""
    lists, i = 0, 0
    while i < used:
        j = list_end(symbols, lengths, places, i, used)
        lists += j - i >= least
        i = j
    return lists


@njit(cache=True)
def begin(  # type: ignore[no-untyped-def]
    symbols, lengths, places, used, least, longest, keys, counts, q_count, q_key, q_entry, e_start, e_size
):  # fmt: skip
    """The queue and the table of counts from sorted places; lists of rarer pairs are closed up. Returns their sizes."""
    size, kept, i = 0, 0, 0
    while i < used:
        j = list_end(symbols, lengths, places, i, used)
        a = symbols[places[i]]
        b = symbols[places[i] + lengths[a]]
        if j - i >= least and lengths[a] + lengths[b] < longest:
            key = (np.int64(a) << 32) | np.int64(b)
            s = _slot(keys, key)
            keys[s], counts[s] = key, j - i
            q_count[size], q_key[size], q_entry[size] = j - i, key, size
            e_start[size], e_size[size] = kept, j - i
            for m in range(i, j):
                places[kept] = places[m]
                kept += 1
            size += 1
        i = j
    for i in range(size // 2 - 1, -1, -1):
        _sink(q_count, q_key, q_entry, size, i)
    return size, kept


@njit(cache=True)
def run(  # type: ignore[no-untyped-def]
    symbols, places, keys, counts, q_count, q_key, q_entry, e_start, e_size, lengths, m_left, m_right, m_count,
    ev_symbol, ev_place, dense, touched, at, base, vocabulary, least, longest, pause,
):  # fmt: skip
    """Merge until the vocabulary is full, no pair is frequent enough, `pause` merges are made, or an array is full.

    `at`: queue size, entries, places used, table used, tokens: read and written. Returns what stopped it.
    """
    size, entries, used, filled, tokens = at[0], at[1], at[2], at[3], at[4]
    dec_l, inc_l, dec_r, inc_r = dense[0], dense[1], dense[2], dense[3]
    made, stopped = 0, DONE
    while tokens < vocabulary and size > 0:
        count, key, entry = q_count[0], q_key[0], q_entry[0]
        slot = _slot(keys, key)
        now = counts[slot]
        if now != count:
            if now >= least:
                q_count[0] = now
            else:  # it can only become rarer
                size -= 1
                q_count[0], q_key[0], q_entry[0] = q_count[size], q_key[size], q_entry[size]
            _sink(q_count, q_key, q_entry, size, 0)
            continue
        if count < least:
            break
        if made == pause:
            stopped = PAUSED
            break
        a, b = np.int32(key >> 32), np.int32(key & 0xFFFFFFFF)
        n = e_size[entry]
        if 2 * n > len(ev_place):
            stopped = GROW_EVENTS
            break
        if used + 2 * n > len(places):
            stopped = GROW_POOL
            break
        if 4 * (filled + 2 * n) > 3 * len(keys):
            stopped = GROW_TABLE
            break
        if size + 2 * n >= len(q_count) or entries + 2 * n >= len(e_start):
            stopped = GROW_QUEUE
            break
        size -= 1
        q_count[0], q_key[0], q_entry[0] = q_count[size], q_key[size], q_entry[size]
        _sink(q_count, q_key, q_entry, size, 0)

        new = np.int32(tokens)
        length_a, length_b = lengths[a], lengths[b]
        length = length_a + length_b
        lengths[new] = length
        tokens += 1
        m_left[new - base], m_right[new - base], m_count[new - base] = a, b, count
        made += 1

        start, events_l, events_r, seen_l, seen_r = e_start[entry], 0, 0, 0, 0
        half = len(ev_place) // 2
        width = len(touched) // 2
        for i in range(n):
            p = places[start + i]
            q = p + length_a
            if symbols[p] != a or symbols[q] != b:
                continue
            r = p - 1
            if symbols[r] < 0:
                r += symbols[r] + 1
            x, e = symbols[r], q + length_b
            y = symbols[e]
            symbols[q] = _DEAD
            symbols[p] = new
            symbols[e - 1] = -length
            if x != BOUNDARY:
                if dec_l[x] == 0:
                    touched[seen_l] = x
                    seen_l += 1
                dec_l[x] += 1
                if lengths[x] + length < longest:
                    inc_l[x] += 1
                    ev_symbol[events_l], ev_place[events_l] = x, r
                    events_l += 1
            if y != BOUNDARY:
                if dec_r[y] == 0:
                    touched[width + seen_r] = y
                    seen_r += 1
                dec_r[y] += 1
                if length + lengths[y] < longest:
                    inc_r[y] += 1
                    ev_symbol[half + events_r], ev_place[half + events_r] = y, p
                    events_r += 1

        inc_r[a] -= dec_l[new]  # pairs of the new token and a that a merge to their right undid at once
        for side in range(2):
            dec, inc = (dec_l, inc_l) if side == 0 else (dec_r, inc_r)
            for i in range(seen_l if side == 0 else seen_r):
                z = touched[i] if side == 0 else touched[width + i]
                if z != new or side == 1:
                    gone = (np.int64(z) << 32) | np.int64(a) if side == 0 else (np.int64(b) << 32) | np.int64(z)
                    s = _slot(keys, gone)
                    if keys[s] == gone:
                        counts[s] -= dec[z]
                dec[z] = 0
                come = inc[z]
                inc[z] = -1  # no list
                if come >= least:
                    pair = (np.int64(z) << 32) | np.int64(new) if side == 0 else (np.int64(new) << 32) | np.int64(z)
                    s = _slot(keys, pair)
                    keys[s], counts[s] = pair, come
                    filled += 1
                    e_start[entries], e_size[entries] = used, 0
                    inc[z] = entries
                    used += come
                    push(q_count, q_key, q_entry, size, come, pair, entries)
                    size += 1
                    entries += 1
            first, last = (0, events_l) if side == 0 else (half, half + events_r)
            for i in range(first, last):
                e = inc[ev_symbol[i]]
                if e >= 0:
                    p = ev_place[i]
                    # what a merge to its right undid at once is left out, so that the list has its room
                    if side == 0 or symbols[p + length] == ev_symbol[i]:
                        places[e_start[e] + e_size[e]] = p
                        e_size[e] += 1
            for i in range(seen_l if side == 0 else seen_r):
                z = touched[i] if side == 0 else touched[width + i]
                inc[z] = 0
    at[0], at[1], at[2], at[3], at[4] = size, entries, used, filled, tokens
    return stopped


@njit(cache=True)
def pair_table(left, right, base, keys, made):  # type: ignore[no-untyped-def]
    """Merges as an open table: pair -> what it becomes. Of a pair that is there twice, the first counts."""
    for i in range(len(left)):
        key = (np.int64(left[i]) << 32) | np.int64(right[i])
        s = _slot(keys, key)
        if keys[s] == _EMPTY:
            keys[s], made[s] = key, base + i


@njit(cache=True)
def inner_pairs(left, right, base, keys):  # type: ignore[no-untyped-def]
    """Pairs of base symbols that stand side by side in some token, as an open table: what is in none is cut apart."""
    first = np.empty(base + len(left), np.int32)
    last = np.empty(base + len(left), np.int32)
    for i in range(base):
        first[i] = last[i] = i
    for i in range(len(left)):
        first[base + i], last[base + i] = first[left[i]], last[right[i]]
        key = (np.int64(last[left[i]]) << 32) | np.int64(first[right[i]])
        keys[_slot(keys, key)] = key


@njit(cache=True)
def _made(keys, made, a, b):  # type: ignore[no-untyped-def]
    key = (np.int64(a) << 32) | np.int64(b)
    s = _slot(keys, key)
    return made[s] if keys[s] == key else np.int32(0x7FFFFFFF)


@njit(cache=True)
def _encode_short(ids, n, becomes, keys, made):  # type: ignore[no-untyped-def]
    """Merge `ids[:n]` in place, each time the earliest merge wherever it applies; returns how many are left."""
    for i in range(n - 1):
        becomes[i] = _made(keys, made, ids[i], ids[i + 1])
    while n > 1:
        best = becomes[0]
        for i in range(1, n - 1):
            best = min(best, becomes[i])
        if best == 0x7FFFFFFF:
            break
        to, i = 0, 0
        while i < n:
            if i + 1 < n and becomes[i] == best:
                ids[to] = best
                i += 2
            else:
                ids[to] = ids[i]
                i += 1
            becomes[to] = becomes[i - 1] if i < n else 0x7FFFFFFF
            if to > 0 and (ids[to] == best or ids[to - 1] == best):
                becomes[to - 1] = _made(keys, made, ids[to - 1], ids[to])
            to += 1
        n = to
    return n


@njit(cache=True)
def _encode_long(ids, n, keys, made):  # type: ignore[no-untyped-def]
    """The same by a queue of (merge, place) over a chain, for long pieces."""
    following, previous = np.arange(1, n + 1), np.arange(-1, n - 1)
    queue = np.empty(2 * n + 2, np.int64)
    size = 0
    for i in range(n - 1):
        new = _made(keys, made, ids[i], ids[i + 1])
        if new != 0x7FFFFFFF:
            queue[size] = (np.int64(new) << 32) | i
            size += 1
    for start in range(size // 2 - 1, -1, -1):
        _sift(queue, size, start)
    while size:
        top = queue[0]
        size -= 1
        queue[0] = queue[size]
        _sift(queue, size, 0)
        new, i = np.int32(top >> 32), top & 0xFFFFFFFF
        j = following[i]
        if ids[i] < 0 or j >= n or _made(keys, made, ids[i], ids[j]) != new:
            continue
        ids[i], ids[j] = new, -1
        k = following[j]
        following[i] = k
        if k < n:
            previous[k] = i
        for p in (previous[i], i):
            if p >= 0 and following[p] < n:
                then = _made(keys, made, ids[p], ids[following[p]])
                if then != 0x7FFFFFFF:
                    at = size
                    size += 1
                    value = (np.int64(then) << 32) | p
                    while at > 0 and queue[(at - 1) >> 1] > value:
                        queue[at] = queue[(at - 1) >> 1]
                        at = (at - 1) >> 1
                    queue[at] = value
    to = 0
    for i in range(n):
        if ids[i] >= 0:
            ids[to] = ids[i]
            to += 1
    return to


@njit(cache=True)
def _sift(queue, size, i):  # type: ignore[no-untyped-def]
    if i >= size:
        return
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


@njit(cache=True, nogil=True)
def encode(numbers, keys, made, inner, out):  # type: ignore[no-untyped-def]
    """Base symbols -> ids of tokens, into `out` (as long as `numbers`); returns how many.

    The sequence falls apart wherever two neighbours stand side by side in no token; the pieces are merged apart.
    """
    n, start, to = len(numbers), 0, 0
    short = 64
    becomes = np.empty(short + 1, np.int32)
    while start < n:
        stop = start + 1
        out[to] = numbers[start]
        while stop < n:
            key = (np.int64(numbers[stop - 1]) << 32) | np.int64(numbers[stop])
            if inner[_slot(inner, key)] != key:
                break
            out[to + stop - start] = numbers[stop]
            stop += 1
        size = stop - start
        if size > short:
            size = _encode_long(out[to : to + size], size, keys, made)
        elif size > 1:
            size = _encode_short(out[to : to + size], size, becomes, keys, made)
        to += size
        start = stop
    return to


@njit(cache=True)
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
