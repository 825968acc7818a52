"""Check that an extended tokenizer reads audio as the audio tokenizer does, and text as the text tokenizer did.

Before anything is written, the tokenizers are compared on text, on audio, and on both together. If they differ, the
error names the part that is the cause.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from duotone.errors import FormatError, UsageError
from duotone.tokens.convert import to_points
from duotone.tokens.extend_parts import Part, model_vocabulary, vocabulary_of
from duotone.tokens.extend_words import mark_of
from duotone.tokens.tokenizer import AudioTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PROBES = 20
_TEXTS = (
    "Hello, world! 123",
    "音乐和语音，你好。",
    " two  spaces\n",
    "naïve café 🎵",
    "",
    "a\x07b\u200bc\u3000d\xa0e\r\nf",
)


def opened(document: Part) -> Tokenizer:
    """A document as a tokenizer. Raises `FormatError` for one that `tokenizers` does not read."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_str(json.dumps(document))
    except Exception as error:  # the library has no class of its own for this
        raise FormatError(f"The text tokenizer's tokenizer.json is not one: {error}.") from None


def prove(text: Part, extended: Part, audio: AudioTokenizer, spelt: list[str]) -> None:
    """Compare the extended tokenizer with the two that it is made of; `spelt`: how it spells each audio token.

    Raises `UsageError` where they differ.
    """
    old, new, vocabulary = opened(text), opened(extended), vocabulary_of(extended)
    moved = [token for token, i in new.get_vocab().items() if vocabulary.get(token) != i]
    if moved:
        raise UsageError(
            f"The ids of the text tokenizer have gaps, and {moved[0]!r} would get another one (of {len(moved)} such). "
            f"Save it anew with transformers first, or use --as-added-tokens."
        )
    known = model_vocabulary(text)
    added = [token["content"] for token in text.get("added_tokens", []) if token["content"] not in known]
    texts = [*_TEXTS, *(near for token in added for near in _near(token))]
    for one in texts:
        _prove_text(old, new, one)
    start = extended["added_tokens"][-1]["content"]
    tokens, rng = audio.tokens(), np.random.default_rng(0)
    for i in range(_PROBES):
        sound = "".join(tokens[j] for j in rng.integers(0, len(tokens), 30))
        numbers = audio.alphabet.numbers(to_points(sound))
        want = [vocabulary[spelt[j]] for j in audio.encode_numbers(numbers).tolist()]
        _prove_sound(new, sound, want, texts[i % len(texts)], start, mark_of(audio.alphabet))


def _prove_text(old: Tokenizer, new: Tokenizer, text: str) -> None:
    ids = old.encode(text).ids
    if new.encode(text).ids != ids or new.decode(ids) != old.decode(ids):
        raise UsageError(
            f"The extended tokenizer would read the text {text!r} in another way; nothing was written. Extend "
            f"another one (without added tokens, if that is the text of one), or use --as-added-tokens, which loses "
            f"the merges."
        )


def _prove_sound(new: Tokenizer, sound: str, want: list[int], text: str, start: str, mark: str) -> None:
    got = new.encode(sound, add_special_tokens=False).ids
    if got != want:
        reason = _reason(new, sound, want, mark)
    elif new.decoder is not None and new.decode(got) != sound:
        reason = "its decoder changes audio"
    elif not _holds(new.encode(f"{text}{start}{sound}{text}", add_special_tokens=False).ids, want):
        reason = f"its pre-tokenizer does not separate audio from adjacent text ({text!r})"
    else:
        return
    raise UsageError(
        f"This text tokenizer changes audio in a way that cannot be undone in its files: {reason}. Extend another one, "
        f"or use --as-added-tokens, which loses the merges."
    )


def _reason(new: Tokenizer, sound: str, want: list[int], mark: str) -> str:
    """Find the part of a tokenizer that prevents it from reading audio correctly."""
    normal = sound if new.normalizer is None else new.normalizer.normalize_str(sound)
    if normal.replace(mark, "") != sound:
        return "its normalizer changes the characters of codes"
    pieces = (
        [normal] if new.pre_tokenizer is None else [piece for piece, _ in new.pre_tokenizer.pre_tokenize_str(normal)]
    )
    if len(pieces) != (len(want) if mark in normal else 1):
        return f"its pre-tokenizer splits audio into {len(pieces)} pieces"
    return "its model does not merge codes as trained"


def _near(token: str) -> list[str]:
    """Texts in which an added token may or may not be matched."""
    return [token, token.upper(), token.lower(), f"x{token}", f"{token}x", f"x {token} x"]


def _holds(sequence: list[int], part: list[int]) -> bool:
    return any(sequence[i : i + len(part)] == part for i in range(len(sequence) - len(part) + 1))


def refuse_unfit(model: dict[str, Any]) -> None:
    """Raise `UsageError` for settings of a BPE model under which audio would not be tokenized as trained."""
    if model.get("dropout"):
        raise UsageError(
            f"The text tokenizer leaves out merges at random (dropout {model['dropout']} in its tokenizer.json), so its "
            f"ids differ from call to call. Set dropout to null there first."
        )
    for name, where in (("end_of_word_suffix", "behind each word"), ("continuing_subword_prefix", "inside each word")):
        if model.get(name):
            raise UsageError(
                f"The text tokenizer's model writes {model[name]!r} {where} ({name}), also in audio, so audio tokens would "
                f"not be found. Extend another one, or use --as-added-tokens, which loses the merges."
            )
