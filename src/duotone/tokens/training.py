"""Training acoustic BPE on recordings of codes (Shen et al., arXiv 2310.14580), with the settings of `codec-bpe`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.tokens.alphabet import Alphabet
from duotone.tokens.convert import to_numbers
from duotone.tokens.patterns import Pattern
from duotone.tokens.tokenizer import AudioTokenizer, specials

if TYPE_CHECKING:
    from duotone.tokens.bpe import Merges

#: Called now and then: (tokens made, tokens wanted, a function that gives the tokenizer so far). May raise to stop.
Watch = Callable[[int, int, Callable[[], AudioTokenizer]], None]


def train_bpe(
    recordings: Iterable[Any],
    alphabet: Alphabet,
    *,
    framerate: float | None = None,
    chunk_size_secs: int | None = None,
    vocab_size: int = 30_000,
    min_frequency: int = 2,
    special_tokens: Iterable[str] | None = None,
    bos_token: str | None = None,
    eos_token: str | None = None,
    unk_token: str | None = None,
    pad_token: str | None = None,
    max_token_codebook_ngrams: int | None = None,
    pattern: Pattern = "frames",
    about: dict[str, Any] | None = None,
    watch: Watch | None = None,
    threads: int | None = None,
    resume: AudioTokenizer | None = None,
) -> AudioTokenizer:
    """Codes `[K, T]` of recordings -> a tokenizer of at most `vocab_size` tokens, merge by merge that of `codec-bpe`.

    A training word is `chunk_size_secs * framerate` frames of one recording, or a whole one. No token is longer than
    `max_token_codebook_ngrams * K` codes; at one code there is nothing to learn, and `recordings` is not read. `resume`
    takes up an interrupted training on the same recordings. Raises `UsageError` for settings that cannot be met.
    """
    tokens, roles = specials(
        special_tokens, alphabet,
        {"bos_token": bos_token, "eos_token": eos_token, "unk_token": unk_token, "pad_token": pad_token},
    )  # fmt: skip
    chunk = chunk_frames(chunk_size_secs, framerate)
    longest = None
    if max_token_codebook_ngrams is not None:
        if max_token_codebook_ngrams < 0:
            raise UsageError(f"max_token_codebook_ngrams got {max_token_codebook_ngrams}, expected 0 or more.")
        longest = max(1, max_token_codebook_ngrams * alphabet.codebooks)
    least = len(alphabet) + len(tokens)
    if vocab_size < least:
        raise UsageError(
            f"vocab_size got {vocab_size}, but {alphabet.codebooks} x {alphabet.size} codes and {len(tokens)} special "
            f"tokens are {least}. Give that, and as many more as tokens are to be learned (10000, say)."
        )
    if resume is not None and resume.alphabet != alphabet:
        raise UsageError("The training to be resumed had another alphabet. Start a new one.")
    settings = {
        "vocab_size": vocab_size, "min_frequency": min_frequency, "chunk_size_secs": chunk_size_secs,
        "max_token_codebook_ngrams": max_token_codebook_ngrams,
    }  # fmt: skip
    notes = {"framerate": framerate, "training": settings, **(about or {})}

    def made(merges: Merges) -> AudioTokenizer:
        return AudioTokenizer(alphabet, merges, tokens, roles, pattern, notes)

    from duotone.tokens.bpe import train

    words: Iterator[NDArray[np.uint32]] = iter(())
    if longest != 1:
        words = (word for codes in recordings for word in words_of(codes, alphabet, chunk, pattern))

    def look(merges: Callable[[], Merges]) -> None:
        assert watch is not None
        now = merges()
        watch(least + len(now), vocab_size, lambda: made(now))

    merges = train(
        words, len(alphabet), vocab_size - len(tokens), min_frequency, longest, None if watch is None else look,
        threads, None if resume is None else resume.merges,
    )  # fmt: skip
    return made(merges)


def chunk_frames(chunk_size_secs: float | None, framerate: float | None) -> int | None:
    """Frames of a training word. Raises `UsageError` for less than a second, or without a frame rate."""
    if chunk_size_secs is None:
        return None
    if framerate is None:
        raise UsageError("chunk_size_secs needs the codec's frame rate: give framerate (frames a second).")
    if chunk_size_secs < 1:
        raise UsageError(f"chunk_size_secs got {chunk_size_secs}, expected at least 1.")
    return int(chunk_size_secs * framerate)


def words_of(codes: Any, alphabet: Alphabet, chunk: int | None, pattern: Pattern) -> Iterator[NDArray[np.uint32]]:
    """The training words of one recording `[K', T]`, of its first K codebooks."""
    codes = np.asarray(codes)[: alphabet.codebooks]
    step = chunk or max(1, codes.shape[1])
    for start in range(0, codes.shape[1], step):
        yield to_numbers(codes[:, start : start + step], alphabet, pattern)
