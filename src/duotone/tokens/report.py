"""Measure how much a tokenizer compresses codes, for several vocabulary sizes and n-gram limits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from duotone.tokens.alphabet import Alphabet
from duotone.tokens.tokenizer import AudioTokenizer
from duotone.tokens.training import train_bpe
from duotone.tokens.values import as_codes


@dataclass(frozen=True)
class Report:
    """Compression of some recordings, and the tokens that occurred in them."""

    codes: int
    tokens: int
    single: int  # tokens of a single code
    used: int  # different tokens that occurred
    vocabulary: int
    longest: tuple[tuple[int, int], ...]  # (codes, how often) of the longest tokens that occurred

    @property
    def codes_per_token(self) -> float:
        """The compression; 1 means none."""
        return self.codes / max(1, self.tokens)

    @property
    def single_share(self) -> float:
        """Share of tokens that are a single code."""
        return self.single / max(1, self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "codes": self.codes, "tokens": self.tokens, "codes_per_token": self.codes_per_token,
            "single_share": self.single_share, "used": self.used, "vocabulary": self.vocabulary,
            "longest": [list(pair) for pair in self.longest],
        }  # fmt: skip


def report(tokenizer: AudioTokenizer, recordings: Iterable[Any], longest: int = 5) -> Report:
    """Tokenize recordings of codes `[K, T]` and count."""
    counts = np.zeros(len(tokenizer.alphabet) + len(tokenizer.merges), np.int64)
    codes = 0
    for recording in recordings:
        codes += as_codes(recording).size
        own = tokenizer.own(tokenizer.encode(recording))
        counts += np.bincount(own, minlength=len(counts))
    lengths, seen = tokenizer.lengths, np.flatnonzero(counts)
    order = seen[np.argsort(-lengths[seen], kind="stable")][:longest]
    return Report(
        codes, int(counts.sum()), int(counts[: len(tokenizer.alphabet)].sum()), len(seen), len(tokenizer),
        tuple((int(lengths[i]), int(counts[i])) for i in order),
    )  # fmt: skip


@dataclass(frozen=True)
class Advice:
    """Compression of held-out recordings, for one vocabulary size and one limit of frames a token (`ngrams`)."""

    vocabulary: int
    ngrams: int | None
    codes_per_token: float
    single_share: float


def advise(
    training: Sequence[Any],
    held_out: Sequence[Any],
    alphabet: Alphabet,
    vocabularies: Sequence[int],
    ngrams: Sequence[int | None] = (1, 2, 4, None),
    **settings: Any,
) -> list[Advice]:
    """Compression for several vocabulary sizes and n-gram limits.

    Each limit is trained once; smaller vocabularies use its first merges. Sizes for which no pairs were left to merge are
    left out.
    """
    out = []
    for limit in ngrams:
        whole = train_bpe(
            training,
            alphabet,
            vocab_size=max(vocabularies),
            max_token_codebook_ngrams=limit,
            pad_token="<pad>",
            **settings,
        )
        for size in sorted(vocabularies):
            part = whole.first(size)
            if len(part) < size and size != min(vocabularies):
                continue  # there was nothing more to learn
            told = report(part, held_out)
            out.append(Advice(len(part), limit, told.codes_per_token, told.single_share))
    return out
