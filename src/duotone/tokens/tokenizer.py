"""Acoustic BPE tokenizers: codes -> ids -> codes, saved to folders that Hugging Face libraries can load.

Legend: K codebooks, T frames, N codes, M ids. Own numbering: the codes' numbers, then merges; `ids` maps it to the ids.
"""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.tokens import tokenizer_files
from duotone.tokens.alphabet import Alphabet
from duotone.tokens.convert import Damage, Decoded, from_numbers, to_numbers
from duotone.tokens.patterns import Pattern
from duotone.tokens.tokenizer_files import ROLES
from duotone.tokens.values import ByValue, Int, as_ids

if TYPE_CHECKING:
    from duotone.tokens.bpe import Encoder, Merges


@dataclass(frozen=True, eq=False, repr=False)
class AudioTokenizer(ByValue):
    """A tokenizer of special tokens, then one token per code, then merges in the order they were learned."""

    alphabet: Alphabet
    merges: Merges
    special_tokens: tuple[str, ...] = ()
    roles: dict[str, str] = field(default_factory=dict)  # of ROLES: which special token it is
    pattern: Pattern = "frames"
    about: dict[str, Any] = field(default_factory=dict)  # codec, frame rate, settings of the training
    ids: Int | None = None  # where it was read from elsewhere: own numbering -> id
    special_ids: tuple[int, ...] | None = None  # likewise, of the special tokens

    def __repr__(self) -> str:
        parts = [
            f"{self.alphabet.codebooks} codebooks x {self.alphabet.size} codes", f"{len(self.merges)} merges",
            f"{len(self.special_tokens)} special tokens",
        ]  # fmt: skip
        if isinstance(self.about.get("framerate"), (int, float)):
            parts.append(f"{self.about['framerate']:g} frames/s")
        if self.about.get("codec") is not None:
            parts.append(str(self.about["codec"]))
        return f"AudioTokenizer({', '.join(parts)})"

    def __len__(self) -> int:
        return len(self.special_tokens) + len(self.alphabet) + len(self.merges)

    @cached_property
    def audio_ids(self) -> Int:
        """Own numbering -> id."""
        if self.ids is not None:
            return self.ids
        return np.arange(len(self.special_tokens), len(self), dtype=np.int64)

    @cached_property
    def _own(self) -> Int:
        """id -> own numbering; -1 for special tokens."""
        own = np.full(int(self.audio_ids.max()) + 1, -1, np.int64)
        own[self.audio_ids] = np.arange(len(self.audio_ids))
        return own

    @cached_property
    def _encoder(self) -> Encoder:
        from duotone.tokens.bpe import Encoder

        return Encoder(self.merges)

    @cached_property
    def spelling(self) -> tuple[Int, NDArray[np.uint32]]:
        """The end of each token's codes in the second array, which holds the code numbers of all tokens."""
        base = len(self.alphabet)
        spelt: list[NDArray[np.uint32]] = list(np.arange(base, dtype=np.uint32)[:, None])
        for a, b in zip(self.merges.left.tolist(), self.merges.right.tolist(), strict=True):
            spelt.append(np.concatenate([spelt[a], spelt[b]]))
        return np.cumsum([len(s) for s in spelt]), np.concatenate(spelt)

    @property
    def lengths(self) -> Int:
        """Number of codes in each token, in own numbering."""
        return np.diff(self.spelling[0], prepend=0)

    def id_of(self, special_token: str) -> int:
        """The id of a special token. Raises `UsageError` if it is none."""
        if special_token not in self.special_tokens:
            raise UsageError(
                f"{special_token!r} is not a special token of the tokenizer, which has {list(self.special_tokens)}. "
                f"Train it with --special-tokens {special_token}."
            )
        place = self.special_tokens.index(special_token)
        return place if self.special_ids is None else self.special_ids[place]

    def encode(self, codes: Any) -> Int:
        """Codes `[K, T]` -> ids `[M]`, as the saved tokenizer gives them for the text of the codes, without bos and eos."""
        return self.audio_ids[self.encode_numbers(to_numbers(codes, self.alphabet, self.pattern))]

    def encode_numbers(self, numbers: NDArray[Any]) -> NDArray[np.int32]:
        """Numbers of codes `[N]` -> tokens in own numbering `[M]`."""
        return self._encoder(numbers)

    def encode_batch(self, recordings: Sequence[Any], threads: int | None = None) -> list[Int]:
        """`encode` of many recordings, in threads."""
        self._encoder, self.audio_ids  # noqa: B018 - made once, before the threads
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return list(pool.map(self.encode, recordings))

    def own(self, ids: Any) -> Int:
        """Ids `[M]` -> own numbering; -1 for ids that are not audio."""
        ids = as_ids(ids)
        inside = (ids >= 0) & (ids < len(self._own))
        return np.where(inside, self._own[np.where(inside, ids, 0)], -1)

    def first(self, size: int) -> AudioTokenizer:
        """The tokenizer that training with `vocab_size=size` would have given: with the first merges, and ids in order."""
        n = max(0, size - len(self.special_tokens) - len(self.alphabet))
        m = self.merges
        return replace(self, merges=replace(m, left=m.left[:n], right=m.right[:n], count=m.count[:n]), ids=None)

    def numbers(self, ids: Any) -> NDArray[np.uint32]:
        """Ids `[M]` -> numbers of codes `[N]`; an id that is not audio gives one number outside the alphabet."""
        own = self.own(ids)
        ends, spelt = self.spelling
        sizes = np.where(own >= 0, self.lengths[own], 1)
        starts = np.where(own >= 0, ends[own] - self.lengths[own], len(spelt))
        before = np.cumsum(sizes) - sizes
        where = np.arange(int(sizes.sum())) - np.repeat(before - starts, sizes)
        out: NDArray[np.uint32] = np.append(spelt, np.uint32(0xFFFFFFFF))[np.minimum(where, len(spelt))]
        return out

    def decode(self, ids: Any, damaged: Damage = "drop_frame") -> Decoded:
        """Ids `[M]` -> their complete frames; special tokens and other ids that are not audio count as dropped."""
        return from_numbers(self.numbers(ids), self.alphabet, damaged, self.pattern)

    def tokens(self) -> list[str]:
        """The text of every token, in own numbering."""
        ends, spelt = self.spelling
        text = self.alphabet.text(spelt)
        starts = [0, *ends.tolist()]
        return [text[a:b] for a, b in itertools.pairwise(starts)]

    # Files ---------------------------------------------------------------------------------------------------------

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write a folder that `AutoTokenizer`, `tokenizers` and `load` read. Raises `UsageError` where a file is."""
        folder = Path(folder)
        merges = list(zip(self.merges.left.tolist(), self.merges.right.tolist(), strict=True))
        own = {"alphabet": self.alphabet.to_dict(), "pattern": self.pattern, "about": self.about}
        tokenizer_files.write(folder, self.tokens(), merges, self.special_tokens, self.roles, own)
        return folder

    @classmethod
    def load(cls, folder: str | os.PathLike[str], codebooks: int | None = None) -> AudioTokenizer:
        """Read a folder that `save` or `codec-bpe` wrote; the latter needs `codebooks`.

        Raises `FormatError` for other folders, `UsageError` if `codebooks` is missing or does not fit.
        """
        from duotone.tokens.bpe import Merges

        fields = tokenizer_files.read(Path(folder), codebooks)
        left, right = fields.pop("left"), fields.pop("right")
        return cls(merges=Merges(len(fields["alphabet"]), left, right, np.zeros(len(left), np.int64)), **fields)


def specials(
    given: Iterable[str] | None, alphabet: Alphabet, roles: dict[str, str | None]
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Special tokens in the order of `codec-bpe`: pad, unk, bos, eos, then the given ones. Raises `UsageError`."""
    tokens = list(given or ())
    named = {role: token for role, token in roles.items() if token is not None}
    for role in reversed(ROLES):
        if role in named and named[role] not in tokens:
            tokens.insert(0, named[role])
    if len(set(tokens)) < len(tokens):
        raise UsageError(f"A special token was given twice: {tokens}.")
    for token in tokens:
        if not token or re.search(alphabet.regex, token):
            raise UsageError(f"The special token {token!r} is empty, or holds characters that stand for audio codes.")
    if "eos_token" not in named and "pad_token" not in named:
        raise UsageError(
            "Neither pad_token nor eos_token is given; batches of unequal length need one. Name one of them."
        )
    return tuple(tokens), named
