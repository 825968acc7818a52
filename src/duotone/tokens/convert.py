"""Codes <-> characters. The two functions at the end have the names, options and results of `codec-bpe`.

Legend: K codebooks, T frames, N characters. A text is consistent if its codebooks repeat in the order 0, 1 .. K-1.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.tokens.alphabet import UTF32, Alphabet
from duotone.tokens.patterns import Pattern, positions
from duotone.tokens.values import ByValue, Int, as_codes

Damage = Literal["drop_code", "drop_frame", "raise"]
Points = NDArray[np.uint32]


@dataclass(frozen=True, eq=False, repr=False)
class Decoded(ByValue):
    """Codes read from text or ids: complete frames `[K, T]` int64, and what was left out."""

    codes: Int
    dropped: int = 0  # characters that are not codes, or of another codebook than expected there
    first_dropped: int | None = None  # position of the first such character in the text
    begin: str = ""  # of a frame that began before the text
    end: str = ""  # of a frame that continues after the text

    def __repr__(self) -> str:
        books, frames = self.codes.shape
        hanging = len(self.begin) + len(self.end)
        return f"Decoded({books} codebooks x {frames} frames, {self.dropped} characters dropped, {hanging} hanging)"


def to_numbers(codes: Any, alphabet: Alphabet, pattern: Pattern = "frames") -> Points:
    """Codes `[K, T]` -> numbers `[K * T]` in the pattern's order. Raises `UsageError` for codes that the alphabet does not have."""
    array = as_codes(codes)
    if array.shape[0] != alphabet.codebooks:
        raise UsageError(
            f"Codes got {array.shape[0]} codebooks, the alphabet has {alphabet.codebooks}. "
            f"Choose some (codes[:{alphabet.codebooks}]) or another alphabet."
        )
    if array.size and (int(array.min()) < 0 or int(array.max()) >= alphabet.size):
        k, t = (int(i) for i in np.argwhere((array < 0) | (array >= alphabet.size))[0])
        raise UsageError(
            f"Code {int(array[k, t])} of codebook {k}, frame {t} is outside 0..{alphabet.size - 1}. "
            f"Is the codebook's size right?"
        )
    flat = np.empty((array.shape[1], array.shape[0]), np.uint32)
    for i, row in enumerate(array):  # row by row is five times as fast as over the transposed array at once
        np.add(row, alphabet.size * i, out=flat[:, i], casting="unsafe", dtype=np.int64)
    numbers = flat.reshape(-1)
    return numbers if pattern == "frames" else numbers[positions(pattern, *array.shape)]


def to_text(codes: Any, alphabet: Alphabet, pattern: Pattern = "frames") -> str:
    """Codes `[K, T]` -> a text of K * T characters. Raises `UsageError` for codes that the alphabet does not have."""
    return alphabet.text(to_numbers(codes, alphabet, pattern))


def to_codes(text: str, alphabet: Alphabet, damaged: Damage = "drop_frame", pattern: Pattern = "frames") -> Decoded:
    """A text -> its complete frames; the codes of incomplete frames at both ends are in the result.

    `damaged`: `drop_code` leaves out each code that is not of the codebook expected next (as `codec-bpe`: after a lost
    code, two frames are mixed), `drop_frame` every incomplete frame, `raise` raises `UsageError` at the first one. In
    the delay pattern a text out of order always raises an error.
    """
    points = to_points(text)
    return from_numbers(alphabet.numbers(points), alphabet, damaged, pattern, points)


def from_numbers(
    numbers: Points,
    alphabet: Alphabet,
    damaged: Damage = "drop_frame",
    pattern: Pattern = "frames",
    points: Points | None = None,
) -> Decoded:
    """Like `to_codes`, for the codes' numbers; `points` are their characters, for messages."""
    k = alphabet.codebooks
    if pattern == "delay" and k > 1:
        return _undelay(numbers, alphabet)
    if len(numbers) % k == 0:  # fast path for a text in order, without a division
        codes = _rows(numbers, alphabet)
        if not codes.size or (int(codes.min()) >= 0 and int(codes.max()) < alphabet.size):
            return Decoded(codes)
    books = books_of(numbers, alphabet)
    kept = keep(books, k, damaged, None)
    dropped, first = len(numbers) - len(kept), None
    if dropped:
        missing = np.flatnonzero(kept != np.arange(len(kept)))
        first = int(missing[0]) if len(missing) else len(kept)
        if damaged == "raise":
            what = f"number {numbers[first]}" if points is None else f"U+{int(points[first]):04X}"
            raise UsageError(
                f"Character {first} of the text, {what}, is not the code that is due there; {dropped} of "
                f'{len(numbers)} are like that. With damaged="drop_frame" the frames around them are left out.'
            )
    begin, end = hanging(books[kept], k)
    whole, rest = kept[begin : len(kept) - end], kept[len(kept) - end :]
    codes = _rows(numbers[whole], alphabet)
    return Decoded(codes, dropped, first, alphabet.text(numbers[kept[:begin]]), alphabet.text(numbers[rest]))


def _rows(numbers: Points, alphabet: Alphabet) -> Int:
    """Numbers of whole frames in order `[T * K]` -> codes `[K, T]`."""
    frames = numbers.reshape(-1, alphabet.codebooks)
    codes = np.empty((alphabet.codebooks, len(frames)), np.int64)
    for i, row in enumerate(codes):
        np.subtract(frames[:, i], alphabet.size * i, out=row, dtype=np.int64)
    return codes


def to_points(text: str) -> Points:
    """A text -> its code points `[N]`. Raises `UsageError` for other types."""
    if not isinstance(text, str):
        raise UsageError(f"Text got {type(text).__name__}, expected str. Bytes are read by FrameStream.push_bytes.")
    return np.frombuffer(text.encode(UTF32, "surrogatepass"), np.uint32)


def books_of(numbers: Points, alphabet: Alphabet) -> NDArray[np.int32]:
    """Each number's codebook `[N]`; -1 for characters that are not codes."""
    books: NDArray[np.int32] = (numbers // np.uint32(alphabet.size)).astype(np.int32)
    books[numbers >= len(alphabet)] = -1
    return books


def keep(books: NDArray[np.int32], k: int, damaged: Damage, expected: int | None) -> Int:
    """Positions of the codes to keep, given their codebooks `[N]`. `expected` is the codebook of the first, None: any."""
    return _whole_frames(books, k) if damaged == "drop_frame" else _one_by_one(books, k, expected)


def _one_by_one(books: NDArray[np.int32], k: int, expected: int | None) -> Int:
    """Keep each code whose codebook follows that of the last code kept, and leave out the others.

    The codebook expected next is the state of an automaton with K states. The text is cut into blocks, which run in
    parallel, each from all K states. Then, block by block, the final state of one selects the initial state of the next.
    """
    own = None if len(books) and int(books.min()) >= 0 else np.flatnonzero(books >= 0)
    if own is not None:
        books = books[own]
        if not len(books):
            return own
    due = int(books[0]) if expected is None else expected
    n, kind = len(books), np.int8 if k < 128 else np.int16 if k < 2**15 else np.int32
    length = max(1, int(n**0.5 / 4))  # a step is more expensive than a block
    blocks = -(-n // length)
    padded = np.full(blocks * length, -1, kind)
    padded[:n] = books
    steps = np.ascontiguousarray(padded.reshape(blocks, length).T)  # [step, block]
    states = np.empty((length + 1, k, blocks), kind)  # blocks innermost: they run in parallel
    states[0] = np.arange(k, dtype=kind)[:, None]
    true = np.empty((k, blocks), bool)
    for now, then, step in zip(states[:-1], states[1:], steps, strict=True):
        np.add(now, np.equal(now, step, out=true), out=then)
        np.multiply(then, np.not_equal(then, k, out=true), out=then)  # after the last codebook comes the first
    began = np.empty(blocks, np.int64)
    for b, end in enumerate(states[-1].T.tolist()):
        began[b], due = due, end[due]
    before = states[:-1, began, np.arange(blocks)]
    kept: Int = np.flatnonzero((before == steps).T.reshape(-1)[:n])
    return kept if own is None else own[kept]


def _whole_frames(books: NDArray[np.int32], k: int) -> Int:
    """Keep complete frames, and the ordered codes of an incomplete frame at either end of the text."""
    n = len(books)
    if not n:
        return np.zeros(0, np.int64)
    breaks = np.flatnonzero((books[1:] != (books[:-1] + 1) % k) | (books[1:] < 0) | (books[:-1] < 0)) + 1
    starts = np.concatenate([[0], breaks])
    stops = np.concatenate([breaks, [n]])
    proper = books[starts] >= 0
    begins = starts + (-books[starts]) % k  # the first code of codebook 0 of each stretch in order
    ends = stops - (books[stops - 1] + 1) % k  # behind the last of codebook K - 1
    begins[0] = begins[0] if books[0] < 0 else 0  # a frame may have begun before the text
    ends[-1] = n  # and continue after it
    lengths = np.where(proper, (ends - begins).clip(min=0), 0)
    if len(starts) == 1 and proper[0]:
        return np.arange(n)
    offsets = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
    kept: Int = np.arange(int(lengths.sum())) + offsets
    return kept


def hanging(books: NDArray[np.int32], k: int) -> tuple[int, int]:
    """Number of codes at the beginning and at the end that belong to incomplete frames, in an ordered sequence."""
    if not len(books):
        return 0, 0
    begin = min(len(books), int(-books[0] % k))
    end = 0 if begin == len(books) else int((books[-1] + 1) % k)
    return begin, end


def _undelay(numbers: Points, alphabet: Alphabet) -> Decoded:
    """Undo the delay pattern of a text that is complete or truncated at its end. Raises `UsageError` for any other."""
    k = alphabet.codebooks
    books = books_of(numbers, alphabet)
    counts = np.bincount(books[books >= 0], minlength=k)
    frames, begun = int(counts.min()), int(counts[0])
    whole, endless = (positions("delay", k, t)[: len(books)] % k for t in (begun, begun + k))
    if not (np.array_equal(books, whole) or np.array_equal(books, endless)):
        short = min(len(books), len(whole))
        at = int(np.argmax(books[:short] != whole[:short])) if short else 0
        raise UsageError(
            f"The text is not in the delay pattern of {k} codebooks (see character {at}), and where codes are missing "
            f"it cannot be told which frames the others belong to. Was it made in another pattern?"
        )
    at_book = [np.flatnonzero(books == i) for i in range(k)]
    codes = np.stack([numbers[at[:frames]] % np.uint32(alphabet.size) for at in at_book]).astype(np.int64)
    rest = np.sort(np.concatenate([at[frames:] for at in at_book]))
    return Decoded(codes, end=alphabet.text(numbers[rest]))


def _lists(codes: Int, size: int) -> Any:
    """``codes.tolist()``, faster for many codes: all codes of one value share one object."""
    return codes.tolist() if codes.size < size else [_objects(size).take(row).tolist() for row in codes]


@lru_cache(maxsize=4)
def _objects(size: int) -> NDArray[np.object_]:
    return np.arange(size).astype(object)


def codes_to_chars(
    codes: Any,
    codebook_size: int,
    copy_before_conversion: bool = True,
    unicode_offset: int | None = None,
) -> str:
    """Codes `[K, T]` -> characters, frame by frame, as `codec_bpe.codes_to_chars`.

    The input is never modified, whatever `copy_before_conversion` says. Without an offset it is 0x4E00, or 0xE000 where
    the former has no room. Raises `UsageError` for codes that are not in 0..codebook_size - 1.
    """
    array = as_codes(codes)
    return to_text(array, Alphabet.plain(array.shape[0], codebook_size, unicode_offset))


def chars_to_codes(
    chars: str,
    num_codebooks: int,
    codebook_size: int,
    drop_inconsistent_codes: bool = True,
    drop_hanging_codes: bool = True,
    return_hanging_codes_chars: bool = False,
    return_tensors: str | None = None,
    unicode_offset: int | None = None,
) -> Any:
    """Characters -> codes `[K, T]`, as `codec_bpe.chars_to_codes`: lists, or with "np", "pt" an array or a tensor.

    Raises `UsageError` where `drop_inconsistent_codes=False` meets a code out of place, `drop_hanging_codes=False` one
    that belongs to no whole frame.
    """
    if return_tensors not in (None, "np", "pt"):
        raise UsageError(f"return_tensors got {return_tensors!r}, expected None, 'np' or 'pt'.")
    alphabet = Alphabet.plain(num_codebooks, codebook_size, unicode_offset)
    told = to_codes(chars, alphabet, "drop_code" if drop_inconsistent_codes else "raise")
    if told.dropped:
        warnings.warn(
            f"{told.dropped} of {len(chars)} characters were left out, the first at position {told.first_dropped}: not "
            f"codes of {num_codebooks} x {codebook_size}, or not of the codebook that was due.",
            stacklevel=2,
        )
    if not drop_hanging_codes and (told.begin or told.end):
        raise UsageError(
            f"{len(told.begin)} codes at the beginning and {len(told.end)} at the end belong to no whole frame of "
            f"{num_codebooks} codes. Use drop_hanging_codes=True, and return_hanging_codes_chars=True to carry them on."
        )
    codes: Any = told.codes
    if return_tensors is None:
        codes = _lists(codes, codebook_size)
    elif return_tensors == "pt":
        codes = import_module("torch").from_numpy(
            codes
        )  # torch: the caller has imported it, this package does not need it
    return (codes, told.begin, told.end) if return_hanging_codes_chars else codes
