"""A streaming decoder for text or ids from a model: returns each frame as soon as it is complete."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.tokens.alphabet import Alphabet
from duotone.tokens.convert import Damage, Points, books_of, from_numbers, keep, to_points
from duotone.tokens.values import Int

if TYPE_CHECKING:
    from duotone.tokens.tokenizer import AudioTokenizer


class FrameStream:
    """Push text, bytes or token ids, get the frames `[K, n]` that they complete; together they equal `to_codes` of the whole.

    `dropped` counts the codes left out so far. Codes have to come frame by frame: raises `UsageError` for a tokenizer of
    another pattern, whose sequences can only be decoded as a whole.
    """

    def __init__(
        self, alphabet: Alphabet, damaged: Damage = "drop_frame", tokenizer: AudioTokenizer | None = None
    ) -> None:
        if tokenizer is not None and tokenizer.pattern != "frames" and alphabet.codebooks > 1:
            raise UsageError(
                f"A stream of frames got a tokenizer of the pattern {tokenizer.pattern!r}, expected frames. Decode its "
                f"whole sequences with tokenizer.decode."
            )
        self.alphabet, self.damaged, self.tokenizer = alphabet, damaged, tokenizer
        self.dropped = 0
        self._waiting: Points = np.zeros(0, np.uint32)  # of an incomplete frame
        self._due: int | None = None  # the codebook that comes next, once the first code has been seen
        self._skip = 0  # codes still to come of a frame that began before the text
        self._bytes = codecs.getincrementaldecoder("utf-8")()

    def push(self, text: str) -> Int:
        """A piece of text -> the frames that it completes."""
        return self._add(self.alphabet.numbers(to_points(text)))

    def push_bytes(self, data: bytes) -> Int:
        """UTF-8 bytes, cut anywhere -> the frames that they complete. Raises `UsageError` for other bytes."""
        try:
            return self.push(self._bytes.decode(data))
        except UnicodeDecodeError as error:
            raise UsageError(f"The stream is not UTF-8: {error}.") from None

    def push_ids(self, ids: Any) -> Int:
        """Push one or several token ids; ids that are not audio count as dropped. Raises `UsageError` without a tokenizer."""
        if self.tokenizer is None:
            raise UsageError("A stream of ids needs to know the tokens: FrameStream(..., tokenizer=tokenizer).")
        return self._add(self.tokenizer.numbers(ids))

    def finish(self) -> int:
        """End the stream; returns how many codes of an incomplete frame are left over."""
        left, self._waiting = len(self._waiting), self._waiting[:0]
        return left

    def _add(self, numbers: Points) -> Int:
        k = self.alphabet.codebooks
        books = books_of(numbers, self.alphabet)
        if self.damaged == "drop_frame":
            return self._add_frames(numbers, books)
        if self._due is None and np.any(books >= 0):
            self._due = int(books[np.argmax(books >= 0)])
            self._skip = -self._due % k
        kept = keep(books, k, "drop_code", self._due)
        if self.damaged == "raise" and len(kept) < len(numbers):
            missing = np.flatnonzero(kept != np.arange(len(kept)))
            raise UsageError(
                f"Code {missing[0] if len(missing) else len(kept)} of what was pushed "
                f'is not of {k} x {self.alphabet.size}, or not of the codebook due. Use damaged="drop_frame" to go on.'
            )
        self.dropped += len(numbers) - len(kept)
        if len(kept):
            self._due = (int(books[kept[-1]]) + 1) % k
        passed = min(self._skip, len(kept))
        self._skip -= passed
        return self._whole(np.concatenate([self._waiting, numbers[kept[passed:]]]))

    def _add_frames(self, numbers: Points, books: NDArray[np.int32]) -> Int:
        k, before = self.alphabet.codebooks, len(self._waiting)
        numbers = np.concatenate([self._waiting, numbers])
        books = np.concatenate([np.arange(before, dtype=np.int32), books])
        kept = keep(books, k, "drop_frame", None)
        at_zero = np.flatnonzero(books[kept] == 0)
        began_before = int(at_zero[0]) if len(at_zero) else len(kept)
        self.dropped += len(numbers) - len(kept)
        if self._due is not None:
            self.dropped += began_before
        elif len(kept):
            self._due = 0
        return self._whole(numbers[kept[began_before:]])

    def _whole(self, numbers: Points) -> Int:
        """The complete frames of codes in order; the rest is kept for the next push."""
        whole = len(numbers) - len(numbers) % self.alphabet.codebooks
        self._waiting = numbers[whole:]
        return from_numbers(numbers[:whole], self.alphabet).codes
