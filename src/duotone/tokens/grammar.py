"""Restricts a language model to complete frames while it generates audio tokens.

A token contains one or more codes. The next token has to begin with the codebook that comes next, and audio may end only
after a complete frame, or after a complete group of frames if the codec decodes only whole groups. Works as a `LogitsProcessor` of transformers,
without importing it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.tokens.tokenizer import AudioTokenizer
from duotone.tokens.values import as_ids


class FrameGrammar:
    """Computes which ids may come next: in audio, tokens that continue it and, between frames, `end`; else all other ids.

    Audio is enclosed by the special tokens `start` and `end`. With `start` None it begins at once, with `end` None it never
    ends. `vocabulary` is the number of the model's logits. With `group`, audio consists of groups of that many frames
    (`codec.spec.steps`: one chunk of the codec): no token spans two groups, and `end` comes only between groups. Train the model on such sequences (``duotone tokens dataset --grid chunk``).
    """

    def __init__(
        self,
        tokenizer: AudioTokenizer,
        vocabulary: int,
        start: str | None = None,
        end: str | None = None,
        group: int | None = None,
    ) -> None:
        if tokenizer.pattern != "frames" and tokenizer.alphabet.codebooks > 1:
            raise UsageError(
                f"A grammar of frames got a tokenizer of the pattern {tokenizer.pattern!r}, expected frames."
            )
        if group is not None and group < 1:
            raise UsageError(
                f"group got {group}, expected 1 or more frames. Leave it out where frames are decoded singly."
            )
        self.codebooks = tokenizer.alphabet.codebooks
        self.group = group
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
        self._first = np.full(vocabulary, -1, np.int64)  # the codebook of an id's first code; -1: not audio
        self._first[ids] = spelt[ends - tokenizer.lengths] // tokenizer.alphabet.size
        self._rows: dict[int | None, NDArray[np.bool_]] = {}
        self._penalties: dict[Any, Any] = {}

    def written(self, ids: Any) -> int | None:
        """Ids so far `[M]` -> number of codes since the last start of audio; None outside of audio."""
        ids = as_ids(ids)
        begin = 0
        if self.start is not None:
            starts = np.flatnonzero(ids == self.start)
            if not len(starts):
                return None
            begin = int(starts[-1]) + 1
        if self.end is not None and np.any(ids[begin:] == self.end):
            return None
        inside = (ids[begin:] >= 0) & (ids[begin:] < len(self.lengths))
        return int(self.lengths[ids[begin:][inside]].sum())

    def due(self, ids: Any) -> int | None:
        """Ids so far `[M]` -> the codebook that comes next; None outside of audio."""
        written = self.written(ids)
        return None if written is None else written % self.codebooks

    def allowed(self, ids: Any) -> NDArray[np.bool_]:
        """Ids so far `[M]` -> which ids may come next, `[vocabulary]`."""
        row: NDArray[np.bool_] = self._row(self._place(ids)).copy()
        return row

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Ids `[B, M]` and logits `[B, vocabulary]`, tensors or arrays -> the logits, minus infinity for ids that are not allowed.

        Raises `UsageError` for another number of logits.
        """
        if scores.shape[-1] != len(self.lengths):
            raise UsageError(
                f"The grammar got {scores.shape[-1]} logits, but was made for {len(self.lengths)}. Make it with "
                f"vocabulary={scores.shape[-1]}."
            )
        out = scores.clone() if hasattr(scores, "clone") else np.array(scores)
        for i, ids in enumerate(input_ids.tolist()):
            out[i] += self._penalty(self._place(ids), scores)
        return out

    def _place(self, ids: Any) -> int | None:
        """Number of codes since the last complete frame, or group of frames; None outside of audio. The allowed ids
        depend only on this number."""
        written = self.written(ids)
        return None if written is None else written % (self.codebooks * (self.group or 1))

    def _row(self, place: int | None) -> NDArray[np.bool_]:
        """Which ids are allowed after this number of codes."""
        if place not in self._rows:
            row = self._first < 0
            if place is not None:
                row = self._first == place % self.codebooks
                if self.group is not None:
                    row &= self.lengths <= self.codebooks * self.group - place
            if self.end is not None:
                row[self.end] = place == 0
            self._rows[place] = row
        return self._rows[place]

    def _penalty(self, place: int | None, scores: Any) -> Any:
        """The term to add to the logits, with their library, dtype and device; cached."""
        key = getattr(scores, "device", None), scores.dtype, place
        if key not in self._penalties:
            values = np.where(self._row(place), 0.0, -np.inf)
            tensor = hasattr(scores, "new_tensor")
            self._penalties[key] = scores.new_tensor(values) if tensor else values.astype(scores.dtype)
        return self._penalties[key]
