"""Reading and changing the parts of a `tokenizer.json` (tokenizers 0.20 and later), as plain JSON values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from duotone.errors import FormatError, UsageError

Part = dict[str, Any]

CONFIG = "tokenizer_config.json"
EXPECTED = "the folder of a fast tokenizer (transformers save_pretrained)"
#: Folder of the audio tokenizer in that of the extended one.
AUDIO = "audio"


def vocabulary_of(document: Part) -> dict[str, int]:
    """Every token and its id, those of the model and the added ones. Raises `FormatError`."""
    try:
        return {**model_vocabulary(document), **{t["content"]: int(t["id"]) for t in document.get("added_tokens", [])}}
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"The text tokenizer's tokenizer.json is not one ({error!r}).") from None


def model_vocabulary(document: Part) -> dict[str, int]:
    """The tokens of the model itself."""
    vocabulary = document["model"]["vocab"]
    if isinstance(vocabulary, list):  # Unigram: pairs of token and score
        return {token: i for i, (token, _) in enumerate(vocabulary)}
    return dict(vocabulary)


def add_words(document: Part, words: Sequence[str]) -> None:
    """Add words to the model's vocabulary, with the next free ids in this order; words that it has keep their ids.

    Added tokens that are not in the model's vocabulary are put into it first. When `tokenizers` reads the file, it gives
    such tokens the ids after the model's words, whatever the file says, so their ids would change.
    """
    vocabulary = document["model"]["vocab"]
    known, added = model_vocabulary(document), document.get("added_tokens", [])
    held = {t["content"]: int(t["id"]) for t in added if t["content"] not in known}
    following = max(vocabulary_of(document).values()) + 1
    fresh = {word: following + i for i, word in enumerate(w for w in words if w not in known and w not in held)}
    if isinstance(vocabulary, dict):
        vocabulary.update(held | fresh)
        return
    score = min(score for _, score in vocabulary)  # none is lower: that of unknown characters hangs on the lowest
    for word, place in sorted((held | fresh).items(), key=lambda item: item[1]):
        if place != len(vocabulary):
            raise UsageError(
                f"The text tokenizer's token {word!r} has the id {place}, expected {len(vocabulary)}: its ids have a "
                f"gap, which a Unigram cannot have. Save it anew with transformers first."
            )
        vocabulary.append([word, score])


def add_tokens(document: Part, tokens: Sequence[str], special: bool, **flags: bool) -> None:
    """Add tokens to the list of added tokens, with the next free ids; `flags` are fields that are not False."""
    following = max(vocabulary_of(document).values()) + 1
    document.setdefault("added_tokens", []).extend(
        {
            "id": following + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, **flags, "special": special,
        }
        for i, token in enumerate(tokens)
    )  # fmt: skip


def byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte (Radford et al., 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in set(plain)]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def spell_as_bytes(tokens: Sequence[str]) -> list[str]:
    """Tokens as a byte-level vocabulary spells them."""
    letters = byte_letters()
    return ["".join(letters[b] for b in token.encode()) for token in tokens]


def steps(part: Part | None) -> list[Part]:
    """The steps of a normalizer, pre-tokenizer or decoder, in order, without nesting."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        inner = part.get("pretokenizers") or part.get("normalizers") or part.get("decoders") or []
        return [step for one in inner for step in steps(one)]
    return [part]


def split(regex: str, behavior: str = "Isolated") -> Part:
    """A pre-tokenizer that cuts out what a regular expression matches."""
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": False}


def replacing(regex: str, content: str) -> Part:
    """A normalizer or decoder that puts `content` in place of what a regular expression matches."""
    return {"type": "Replace", "pattern": {"Regex": regex}, "content": content}


def unprepended(normalizer: Part | None, characters: str) -> list[Part]:
    """The steps of a normalizer; if it prepends a mark to every text (Llama's Prepend), one more step removes it from audio."""
    found = steps(normalizer)
    marks = [step["prepend"] for step in found if step["type"] == "Prepend"]
    return found + [replacing(f"\\A{mark}(?={characters})", "") for mark in marks]
