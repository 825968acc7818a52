"""Training acoustic BPE on recordings of codes (Shen et al., arXiv 2310.14580), with the settings of `codec-bpe`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.tokens.alphabet import Alphabet
from duotone.tokens.convert import to_numbers
from duotone.tokens.patterns import Pattern
from duotone.tokens.tokenizer import AudioTokenizer, specials
from duotone.tokens.values import as_codes

if TYPE_CHECKING:
    from duotone.tokens.bpe import Merges

#: Called now and then: (tokens made, tokens wanted, a function that gives the tokenizer so far). May raise to stop.
Watch = Callable[[int, int, Callable[[], AudioTokenizer]], None]


def train_bpe(
    recordings: Iterable[Any],
    alphabet: Alphabet,
    *,
    framerate: float | None = None,
    chunk_size_secs: float | None = None,
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
    """Train a tokenizer of at most `vocab_size` tokens on codes `[K, T]`, with the same merges as `codec-bpe`.

    A training word is `chunk_size_secs * framerate` frames of one recording, or a whole one. No token is longer than
    `max_token_codebook_ngrams * K` codes; with a limit of one code nothing is merged, and `recordings` is not read.
    `resume` continues an interrupted training on the same recordings. `shortfall` says why a vocabulary is smaller than
    requested. Raises `UsageError` for invalid settings, and for codes that the alphabet does not have.
    """
    from duotone.tokens.bpe import train

    framerate = None if framerate is None else float(framerate)
    if framerate is not None and not 0 < framerate < math.inf:
        raise UsageError(f"framerate got {framerate}, expected a finite number of frames a second above 0.")
    roles = {"bos_token": bos_token, "eos_token": eos_token, "unk_token": unk_token, "pad_token": pad_token}
    tokens, named = specials(special_tokens, alphabet, roles)
    chunk, longest = chunk_frames(chunk_size_secs, framerate), _longest(max_token_codebook_ngrams, alphabet)
    _check(vocab_size, len(tokens), alphabet, resume)
    settings = {
        "vocab_size": vocab_size, "min_frequency": min_frequency, "chunk_size_secs": chunk_size_secs,
        "max_token_codebook_ngrams": max_token_codebook_ngrams,
    }  # fmt: skip
    notes = {"framerate": framerate, "training": settings, **(about or {})}

    def made(merges: Merges) -> AudioTokenizer:
        return AudioTokenizer(alphabet, merges, tokens, named, pattern, notes)

    def look(merges: Callable[[], Merges]) -> None:
        assert watch is not None
        now = merges()
        watch(len(alphabet) + len(tokens) + len(now), vocab_size, lambda: made(now))

    merges = train(
        iter(()) if longest == 1 else _words(recordings, alphabet, chunk, pattern), len(alphabet),
        vocab_size - len(tokens), min_frequency, longest, None if watch is None else look, threads,
        None if resume is None else resume.merges,
    )  # fmt: skip
    return made(merges)


def shortfall(tokenizer: AudioTokenizer) -> str | None:
    """A sentence that says why a trained tokenizer has fewer tokens than requested; None if it has them all."""
    noted = tokenizer.about.get("training")
    settings: dict[str, Any] = noted if isinstance(noted, dict) else {}
    asked = settings.get("vocab_size")
    if asked is None or len(tokenizer) >= asked:
        return None
    limit, least = settings.get("max_token_codebook_ngrams"), settings.get("min_frequency", 1)
    start = f"The vocabulary has {len(tokenizer)} tokens instead of {asked}: "
    if _longest(limit, tokenizer.alphabet) == 1:
        return f"{start}with max_token_codebook_ngrams {limit}, each code is a token and nothing is merged."
    times = "at all" if least == 1 else f"{least} times (min_frequency)"
    within = (
        ""
        if limit is None
        else f" and are together no longer than {limit} frame{'s' * (limit != 1)} (max_token_codebook_ngrams)"
    )
    advice = ["More recordings", *(["a lower min_frequency"] if least > 1 else [])]
    advice += [] if limit is None else ["a higher max_token_codebook_ngrams"]
    return (
        f"{start}no two tokens are left that stand side by side {times}{within}. {' or '.join(advice)} would add some."
    )


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
    codes = as_codes(codes)[: alphabet.codebooks]
    step = chunk or max(1, codes.shape[1])
    for start in range(0, codes.shape[1], step):
        yield to_numbers(codes[:, start : start + step], alphabet, pattern)


def _words(
    recordings: Iterable[Any], alphabet: Alphabet, chunk: int | None, pattern: Pattern
) -> Iterator[NDArray[np.uint32]]:  # fmt: skip
    """The training words of all recordings; an error says which recording is the reason."""
    if getattr(recordings, "ndim", None) == 2:
        raise UsageError("recordings got one array of codes, expected several. For one recording, pass [codes].")
    for i, codes in enumerate(recordings):
        try:
            yield from words_of(codes, alphabet, chunk, pattern)
        except UsageError as error:
            raise UsageError(f"Recording {i} (counted from 0): {error}") from None


def _longest(ngrams: int | None, alphabet: Alphabet) -> int | None:
    """Codes of the longest token, 1 where nothing is merged. Raises `UsageError` for a negative limit."""
    if ngrams is None:
        return None
    if ngrams < 0:
        raise UsageError(f"max_token_codebook_ngrams got {ngrams}, expected 0 or more.")
    return max(1, ngrams * alphabet.codebooks)


def _check(vocab_size: int, special_tokens: int, alphabet: Alphabet, resume: AudioTokenizer | None) -> None:
    """Raise `UsageError` for a vocabulary that is too small, or another alphabet than that of an earlier training."""
    asked: Any = vocab_size
    if not isinstance(asked, Integral):
        raise UsageError(f"vocab_size got {vocab_size!r}, expected a whole number.")
    least = len(alphabet) + special_tokens
    if vocab_size < least:
        raise UsageError(
            f"vocab_size got {vocab_size}, but {alphabet.codebooks} x {alphabet.size} codes and {special_tokens} special "
            f"tokens are {least}. Give that, and as many more as tokens are to be learned (10000, say)."
        )
    if resume is not None and resume.alphabet != alphabet:
        raise UsageError("The training to be resumed had another alphabet. Start a new one.")
