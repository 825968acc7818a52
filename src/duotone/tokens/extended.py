"""Reading what `extend` wrote: the audio tokenizer with its new ids, and a text tokenizer of transformers."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from duotone.errors import FormatError
from duotone.tokens.extend_parts import AUDIO, CONFIG, EXPECTED, spell_as_bytes, vocabulary_of
from duotone.tokens.extend_words import mark_of
from duotone.tokens.jsonfiles import read_json
from duotone.tokens.tokenizer import AudioTokenizer


def is_extended(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a text tokenizer that `extend` wrote. Raises `FormatError` where its files are damaged."""
    config = Path(folder) / CONFIG
    own = read_json(config, EXPECTED).get("duotone") if config.is_file() else None
    return isinstance(own, dict) and "audio_tokens" in own


def load_extended(folder: str | os.PathLike[str]) -> AudioTokenizer:
    """Load the audio part of an extended tokenizer, with its ids there. Raises `FormatError`."""
    folder = Path(folder)
    vocabulary = vocabulary_of(read_json(folder / "tokenizer.json", EXPECTED))
    audio, config = AudioTokenizer.load(folder / AUDIO), read_json(folder / CONFIG, EXPECTED)
    tokens = audio.tokens()
    ways = ([token + mark_of(audio.alphabet) for token in tokens], tokens, spell_as_bytes(tokens))
    tokens = next((way for way in ways if all(token in vocabulary for token in way)), tokens)
    try:
        ids = np.array([vocabulary[token] for token in tokens], np.int64)
        specials = tuple(config["duotone"]["audio_tokens"])
        places = tuple(vocabulary[token] for token in specials)
    except (KeyError, TypeError) as error:
        raise FormatError(f"{folder} is not a tokenizer that Duotone extended: no {error}.") from None
    return replace(audio, special_tokens=specials, roles={}, ids=ids, special_ids=places)


def load_text_tokenizer(folder: str | os.PathLike[str]) -> Any:
    """The extended tokenizer as one of transformers: the ids that `AutoTokenizer` gives, faster for long texts.

    WordPiece and Unigram tokenizers make a pass over the text for each merge; this one uses Duotone's own encoder instead.
    For a BPE tokenizer it is the ordinary one. Raises `FormatError`.
    """
    document = read_json(Path(folder) / "tokenizer.json", EXPECTED)
    audio = load_extended(folder)
    if audio.tokens()[0] + mark_of(audio.alphabet) not in vocabulary_of(document):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from duotone.tokens.text_tokenizer import TextTokenizer

    return TextTokenizer.marking(Path(folder), document, audio)
