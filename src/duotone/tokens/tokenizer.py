"""Acoustic BPE tokenizers: codes -> ids -> codes, and folders that Hugging Face libraries load as they are.

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

from duotone.errors import FormatError, UsageError
from duotone.tokens.alphabet import Alphabet
from duotone.tokens.convert import Damage, Decoded, Int, from_numbers, to_numbers
from duotone.tokens.jsonfiles import read_json, write_json
from duotone.tokens.patterns import Pattern

if TYPE_CHECKING:
    from duotone.tokens.bpe import Encoder, Merges

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
ROLES = ("pad_token", "unk_token", "bos_token", "eos_token")
_KEY = "duotone"  # of our particulars in tokenizer_config.json
_REPLACEMENT = "\u2581"


@dataclass(frozen=True)
class AudioTokenizer:
    """Special tokens first, then one token a code, then merges in the order they were learned."""

    alphabet: Alphabet
    merges: Merges
    special_tokens: tuple[str, ...] = ()
    roles: dict[str, str] = field(default_factory=dict)  # of ROLES: which special token it is
    pattern: Pattern = "frames"
    about: dict[str, Any] = field(default_factory=dict)  # codec, frame rate, settings of the training
    ids: Int | None = None  # where it was read from elsewhere: own numbering -> id
    special_ids: tuple[int, ...] | None = None  # likewise, of the special tokens

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
        """Where each token's numbers end in the second array, which holds those of all tokens."""
        base = len(self.alphabet)
        spelt: list[NDArray[np.uint32]] = list(np.arange(base, dtype=np.uint32)[:, None])
        for a, b in zip(self.merges.left.tolist(), self.merges.right.tolist(), strict=True):
            spelt.append(np.concatenate([spelt[a], spelt[b]]))
        return np.cumsum([len(s) for s in spelt]), np.concatenate(spelt)

    @property
    def lengths(self) -> Int:
        """Codes of each token, in own numbering."""
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
        return self.audio_ids[self._encoder(to_numbers(codes, self.alphabet, self.pattern))]

    def encode_batch(self, recordings: Sequence[Any], threads: int | None = None) -> list[Int]:
        """`encode` of many recordings, in threads."""
        self._encoder, self.audio_ids  # noqa: B018 - made once, before the threads
        with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
            return list(pool.map(self.encode, recordings))

    def own(self, ids: Any) -> Int:
        """Ids `[M]` -> own numbering; -1 for what is no audio."""
        ids = np.asarray(ids, np.int64)
        inside = (ids >= 0) & (ids < len(self._own))
        return np.where(inside, self._own[np.where(inside, ids, 0)], -1)

    def first(self, size: int) -> AudioTokenizer:
        """The tokenizer of `size` tokens that training would have given: its first merges. Has standard ids."""
        n = max(0, size - len(self.special_tokens) - len(self.alphabet))
        m = self.merges
        return replace(self, merges=replace(m, left=m.left[:n], right=m.right[:n], count=m.count[:n]), ids=None)

    def numbers(self, ids: Any) -> NDArray[np.uint32]:
        """Ids `[M]` -> numbers of codes `[N]`; an id that is no audio becomes one number beyond the alphabet."""
        own = self.own(ids)
        ends, spelt = self.spelling
        sizes = np.where(own >= 0, self.lengths[own], 1)
        starts = np.where(own >= 0, ends[own] - self.lengths[own], len(spelt))
        before = np.cumsum(sizes) - sizes
        where = np.arange(int(sizes.sum())) - np.repeat(before - starts, sizes)
        out: NDArray[np.uint32] = np.append(spelt, np.uint32(0xFFFFFFFF))[np.minimum(where, len(spelt))]
        return out

    def decode(self, ids: Any, damaged: Damage = "drop_frame") -> Decoded:
        """Ids `[M]` -> their whole frames; special tokens and what is no audio count as dropped."""
        return from_numbers(self.numbers(ids), self.alphabet, damaged, self.pattern)

    def tokens(self) -> list[str]:
        """The text of every token, in own numbering."""
        ends, spelt = self.spelling
        text = self.alphabet.text(spelt)
        starts = [0, *ends.tolist()]
        return [text[a:b] for a, b in itertools.pairwise(starts)]

    # Files ---------------------------------------------------------------------------------------------------------

    def save(self, folder: str | Path) -> Path:
        """Write a folder that `AutoTokenizer`, `tokenizers` and `load` read. Each file appears whole or not at all."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, document in zip(FILES, self._documents(), strict=True):
            write_json(folder / name, document)
        return folder

    def _documents(self) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        tokens = self.tokens()
        count = len(self.special_tokens)
        vocabulary = {t: i for i, t in enumerate(self.special_tokens)} | {t: i + count for i, t in enumerate(tokens)}
        added = [
            {
                "id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
                "special": True,
            }
            for i, t in enumerate(self.special_tokens)
        ]  # fmt: skip
        space = {"type": "Metaspace", "replacement": _REPLACEMENT, "prepend_scheme": "never", "split": True}
        pairs = zip(self.merges.left.tolist(), self.merges.right.tolist(), strict=True)
        main = {
            "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
            "pre_tokenizer": space, "post_processor": None, "decoder": space,
            "model": {
                "type": "BPE", "dropout": None, "unk_token": self.roles.get("unk_token"),
                "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                "byte_fallback": False, "ignore_merges": False, "vocab": vocabulary,
                "merges": [[tokens[a], tokens[b]] for a, b in pairs],
            },
        }  # fmt: skip
        own = {"alphabet": self.alphabet.to_dict(), "pattern": self.pattern, "about": self.about}
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
            "model_input_names": ["input_ids", "attention_mask"], "model_max_length": int(1e30), **self.roles,
            "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added},
            _KEY: own,
        }  # fmt: skip
        return main, config, dict(self.roles)

    @classmethod
    def load(cls, folder: str | Path, codebooks: int | None = None) -> AudioTokenizer:
        """Read a folder that `save` or `codec-bpe` wrote; the latter needs to be told its number of codebooks.

        Raises `FormatError` for anything else, `UsageError` where the codebooks are missing or do not fit.
        """
        from duotone.tokens.bpe import Merges

        folder = Path(folder)
        main, config = (read_json(folder / name, "a folder that a tokenizer was saved to") for name in FILES[:2])
        try:
            model, vocabulary = main["model"], main["model"]["vocab"]
            specials = {t["content"]: int(t["id"]) for t in main["added_tokens"]}
            merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
        except (KeyError, TypeError) as error:
            raise FormatError(
                f"{folder / FILES[0]} has no {error}: it is not a BPE tokenizer of audio codes."
            ) from None
        single = sorted(ord(t) for t in vocabulary if len(t) == 1 and t not in specials)
        own = config.get(_KEY)
        if own is not None:
            alphabet = Alphabet.from_dict(own["alphabet"])
        else:
            alphabet = _guess(single, codebooks, folder)
        if codebooks not in (None, alphabet.codebooks):
            raise UsageError(f"codebooks got {codebooks}, but {folder.name} was made for {alphabet.codebooks}.")
        if sorted(alphabet.points.tolist()) != single:
            raise FormatError(
                f"{folder.name} has {len(single)} characters, which are not those of {alphabet.codebooks} x "
                f"{alphabet.size} codes."
            )
        numbers = {t: i for i, t in enumerate(alphabet.text(np.arange(len(alphabet), dtype=np.uint32)))}
        left, right = np.zeros((2, len(merges)), np.int32)
        ids = np.empty(len(alphabet) + len(merges), np.int64)
        for i, (a, b) in enumerate(merges):
            numbers[a + b] = len(alphabet) + i
            left[i], right[i] = numbers[a], numbers[b]
        for token, number in numbers.items():
            ids[number] = vocabulary[token]
        roles = {role: _content(config[role]) for role in ROLES if config.get(role) is not None}
        learned = Merges(len(alphabet), left, right, np.zeros(len(merges), np.int64))
        more = {} if own is None else {"pattern": own["pattern"], "about": own["about"]}
        ordered = tuple(sorted(specials, key=lambda t: specials[t]))
        standard = np.array_equal(ids, np.arange(len(ordered), len(ordered) + len(ids)))
        if standard and [specials[t] for t in ordered] == list(range(len(ordered))):
            return cls(alphabet, learned, ordered, roles, **more)
        numbers_of_specials = tuple(specials[t] for t in ordered)
        return cls(alphabet, learned, ordered, roles, ids=ids, special_ids=numbers_of_specials, **more)


def _content(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)


def _guess(single: Sequence[int], codebooks: int | None, folder: Path) -> Alphabet:
    """The alphabet of a tokenizer that does not say: the offset is in its characters, the codebooks are not."""
    if not single or single[-1] - single[0] + 1 != len(single):
        raise FormatError(f"The characters of {folder.name} are not one stretch: it is not a tokenizer of audio codes.")
    if codebooks is None:
        raise UsageError(
            f"{folder.name} does not say what its {len(single)} characters stand for (codec-bpe stores it nowhere). "
            f"Give the number of codebooks."
        )
    if len(single) % codebooks:
        raise UsageError(
            f"codebooks got {codebooks}, but the {len(single)} characters of {folder.name} are no multiple."
        )
    return Alphabet.plain(codebooks, len(single) // codebooks, single[0])


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
