"""Add audio to a text tokenizer: audio is tokenized exactly as by the audio tokenizer, text exactly as before.

The result is one ordinary `tokenizer.json` that needs no code of ours. In a BPE tokenizer the trained merges become merges
of its own. A byte-level tokenizer sees the bytes of a character, so merges that join these bytes come before all others;
they start with bytes that begin no character of ordinary text, so text is not affected. Other tokenizers: `extend_words`.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from duotone.errors import UsageError
from duotone.tokens.extend_files import read_folder, write_folder
from duotone.tokens.extend_parts import (
    Part,
    add_tokens,
    add_words,
    spell_as_bytes,
    split,
    steps,
    unprepended,
    vocabulary_of,
)
from duotone.tokens.extend_proof import opened, prove, refuse_unfit
from duotone.tokens.extend_words import KINDS, extend_words
from duotone.tokens.tokenizer import AudioTokenizer

START, END = "<|audio|>", "<|/audio|>"


def extend(
    text_folder: str | os.PathLike[str],
    audio: AudioTokenizer,
    target: str | os.PathLike[str],
    special_tokens: Sequence[str] = (START, END),
    as_added_tokens: bool = False,
) -> int:
    """Write the extended tokenizer's folder; returns how many tokens were added.

    `special_tokens` get the ids after them. With `as_added_tokens` every audio token becomes a special token, as in
    `codec-bpe`, and the merges are lost. Chat templates and added tokens are kept; truncation and padding in the text
    tokenizer's `tokenizer.json`, which would cut audio, are moved to `tokenizer_config.json`. Raises
    `FormatError` for damaged files, `UsageError` for tokenizers that cannot be extended, saying why.
    """
    if not special_tokens:
        raise UsageError("An extended tokenizer needs at least one special token, to mark audio in text.")
    text = read_folder(Path(text_folder))
    before = vocabulary_of(text.document)
    taken = [token for token in special_tokens if token in before]
    if taken:
        raise UsageError(f"{taken} are in the text tokenizer already. Give other special tokens.")
    opened(text.document)
    extended = copy.deepcopy(text.document)
    tokens = audio.tokens()
    if as_added_tokens:
        add_tokens(extended, [t for t in tokens if t not in before], special=True)
        add_tokens(extended, special_tokens, special=True)
    else:
        spelt = _into_model(extended, audio, tokens)
        add_tokens(extended, special_tokens, special=True)
        prove(text.document, extended, audio, spelt)
    write_folder(Path(target), text, extended, audio, special_tokens)
    return len(vocabulary_of(extended)) - len(before)


def _into_model(document: Part, audio: AudioTokenizer, tokens: list[str]) -> list[str]:
    """Add the audio tokens and merges to the text tokenizer; returns how its vocabulary spells each token."""
    kind = document["model"].get("type")
    if kind != "BPE" and kind not in KINDS:
        raise UsageError(
            f"The text tokenizer is a {kind}, expected BPE, {' or '.join(KINDS)}. Extend another one, or use "
            f"--as-added-tokens, which loses the merges."
        )
    if audio.alphabet.offset is not None:
        raise UsageError(
            f"The audio tokenizer's characters begin at {audio.alphabet.offset:#x}, which text uses, so text would "
            f"be read as audio. Train it without an offset, or use --as-added-tokens."
        )
    return _merge(document, audio, tokens) if kind == "BPE" else extend_words(document, audio, tokens)


def _merge(document: Part, audio: AudioTokenizer, tokens: list[str]) -> list[str]:
    """The same, for a BPE tokenizer."""
    model = document["model"]
    refuse_unfit(model)
    pieces = steps(document.get("pre_tokenizer"))
    byte_level = [p for p in pieces if p["type"] == "ByteLevel"]
    words: list[str] = []
    own: list[tuple[str, str]] = []
    spelt = tokens
    if byte_level:
        if any(p.get("add_prefix_space") for p in byte_level):
            raise UsageError(
                "The text tokenizer writes a space before every text (add_prefix_space), and also before audio. Save it "
                "with add_prefix_space=False first, or use --as-added-tokens."
            )
        spelt = spell_as_bytes(tokens)
        seen = set(model["vocab"])
        for character in spelt[: len(audio.alphabet)]:
            for i in range(1, len(character)):
                pair = (character[:i], character[i])
                if pair[0] + pair[1] not in seen:
                    own.append(pair)
                    words.append(pair[0] + pair[1])
                    seen.add(pair[0] + pair[1])
    add_words(document, list(dict.fromkeys([*words, *spelt])))
    own += [
        (spelt[a], spelt[b])
        for a, b in zip(audio.merges.left.tolist(), audio.merges.right.tolist(), strict=True)
    ]  # fmt: skip
    model["merges"] = [list(pair) for pair in own + [_pair(m) for m in model["merges"]]]
    apart = split(audio.alphabet.regex + "+")
    document["pre_tokenizer"] = apart if not pieces else {"type": "Sequence", "pretokenizers": [apart, *pieces]}
    normalizers = unprepended(document.get("normalizer"), audio.alphabet.regex)
    if len(normalizers) > len(steps(document.get("normalizer"))):
        document["normalizer"] = {"type": "Sequence", "normalizers": normalizers}
    return spelt


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right
