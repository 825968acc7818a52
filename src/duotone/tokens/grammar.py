"""Keeps a language model to well-formed frames while it writes audio tokens.

A token holds some codes; the next one has to begin with the codebook that is then due, and sound may end only with a
whole frame. Works as a `LogitsProcessor` of transformers, without importing it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.tokens.tokenizer import AudioTokenizer


class FrameGrammar:
    """Which ids may come next. Inside sound only audio tokens that fit, and `end` between frames; outside, anything else.

    Sound lies between the special tokens `start` and `end`. With `start` None it begins at once, with `end` None it goes on
    for ever. `vocabulary` is the number of the model's logits.
    """

    def __init__(
        self, tokenizer: AudioTokenizer, vocabulary: int, start: str | None = None, end: str | None = None
    ) -> None:
        if tokenizer.pattern != "frames" and tokenizer.alphabet.codebooks > 1:
            raise UsageError(
                f"A grammar of frames got a tokenizer of the pattern {tokenizer.pattern!r}, expected frames."
            )
        self.codebooks = k = tokenizer.alphabet.codebooks
        self.start = None if start is None else tokenizer.id_of(start)
        self.end = None if end is None else tokenizer.id_of(end)
        ids, (ends, spelt) = tokenizer.audio_ids, tokenizer.spelling
        highest = max(int(ids.max()), self.start or 0, self.end or 0)
        if highest >= vocabulary:
            raise UsageError(
                f"The model has {vocabulary} logits, but the tokenizer's ids go up to {highest}. Make room first: "
                f"model.resize_token_embeddings({highest + 1})."
            )
        self.lengths = np.zeros(vocabulary, np.int64)
        self.lengths[ids] = tokenizer.lengths
        first = spelt[ends - tokenizer.lengths] // tokenizer.alphabet.size
        self._allowed = np.zeros((k + 1, vocabulary), bool)  # the last row: outside of sound
        for book in range(k):
            self._allowed[book, ids[first == book]] = True
        self._allowed[k] = True
        self._allowed[k, ids] = False
        if self.end is not None:
            self._allowed[0, self.end] = True
            self._allowed[k, self.end] = False
        self._penalties: dict[Any, list[Any]] = {}

    def due(self, ids: Any) -> int | None:
        """Ids so far `[M]` -> the codebook due next; None outside of sound."""
        ids = np.asarray(ids, np.int64)
        begin = 0
        if self.start is not None:
            starts = np.flatnonzero(ids == self.start)
            if not len(starts):
                return None
            begin = int(starts[-1]) + 1
        if self.end is not None and np.any(ids[begin:] == self.end):
            return None
        inside = (ids[begin:] >= 0) & (ids[begin:] < len(self.lengths))
        return int(self.lengths[ids[begin:][inside]].sum() % self.codebooks)

    def allowed(self, ids: Any) -> NDArray[np.bool_]:
        """Ids so far `[M]` -> which ids may come next, `[vocabulary]`."""
        due = self.due(ids)
        row: NDArray[np.bool_] = self._allowed[self.codebooks if due is None else due]
        return row

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Ids `[B, M]` and logits `[B, vocabulary]`, tensors -> the logits, minus infinity for what may not come."""
        place = (scores.device, scores.dtype)
        if place not in self._penalties:
            rows = np.where(self._allowed, 0.0, -np.inf)
            self._penalties[place] = [scores.new_tensor(row.tolist()) for row in rows]
        out = scores.clone()
        for i, row in enumerate(input_ids.tolist()):
            due = self.due(row)
            out[i] += self._penalties[place][self.codebooks if due is None else due]
        return out
