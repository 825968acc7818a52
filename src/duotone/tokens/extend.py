"""A text tokenizer that also knows audio: in sound it does exactly what the trained BPE does, in text what it did before.

The result is one ordinary `tokenizer.json`, without any code of ours. In a BPE tokenizer the trained merges become merges
of its own. Byte-level ones first put the bytes of a character together again, by merges that come before all others: they
start with bytes that begin no character of text, so no text meets them. Other tokenizers: `extend_words`.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from duotone.errors import FormatError, UsageError
from duotone.tokens.convert import to_points
from duotone.tokens.extend_parts import (
    Part,
    add_tokens,
    add_words,
    model_vocabulary,
    split,
    steps,
    unprepended,
    vocabulary_of,
)
from duotone.tokens.extend_words import KINDS, extend_words, mark_of
from duotone.tokens.jsonfiles import read_json, write_json
from duotone.tokens.tokenizer import AudioTokenizer

CONFIG = "tokenizer_config.json"
EXPECTED = "the folder of a fast tokenizer (transformers save_pretrained)"
AUDIO = "audio"  # folder of the audio tokenizer in that of the extended one
START, END = "<|audio|>", "<|/audio|>"
_PROBES = 20
# What classes of transformers know by themselves: models of WordPiece tell two texts apart by token types, but for some.
_NO_TYPES = {"DistilBertTokenizer", "MPNetTokenizer"}
_TYPES = {
    "AlbertTokenizer",
    "DebertaTokenizer",
    "DebertaV2Tokenizer",
    "FNetTokenizer",
    "RemBertTokenizer",
    "XLNetTokenizer",
}


def extend(
    text_folder: str | Path,
    audio: AudioTokenizer,
    target: str | Path,
    special_tokens: Sequence[str] = (START, END),
    as_added_tokens: bool = False,
) -> int:
    """Write the extended tokenizer's folder; returns how many tokens came in.

    `special_tokens` are added behind them, as special ones. `as_added_tokens` is the way of `codec-bpe`: every token as a
    special token, which loses the merges. Raises `UsageError` for tokenizers that cannot be extended, saying why.
    """
    text_folder, target = Path(text_folder), Path(target)
    document = read_json(text_folder / "tokenizer.json", EXPECTED)
    if not special_tokens:
        raise UsageError("An extended tokenizer needs at least one special token, by which sound is told from text.")
    if (text_folder / CONFIG).is_file() and "duotone" in read_json(text_folder / CONFIG, EXPECTED):
        raise UsageError(f"{text_folder} knows audio already. Extend the text tokenizer that it was made of.")
    before = vocabulary_of(document)
    taken = [token for token in special_tokens if token in before]
    if taken:
        raise UsageError(f"{taken} are in the text tokenizer already. Give other special tokens.")
    extended = copy.deepcopy(document)
    tokens = audio.tokens()
    if as_added_tokens:
        add_tokens(extended, [t for t in tokens if t not in before], special=True)
        add_tokens(extended, special_tokens, special=True)
    else:
        spelt = _into_model(extended, audio, tokens)
        add_tokens(extended, special_tokens, special=True)
        _prove(document, extended, audio, tokens, spelt)
    _write(text_folder, target, extended, audio, special_tokens, max(before.values()) + 1)
    return len(vocabulary_of(extended)) - len(before)


def load_extended(folder: str | Path) -> AudioTokenizer:
    """The audio part of an extended tokenizer, with the ids that it has there. Raises `FormatError`."""
    folder = Path(folder)
    vocabulary = vocabulary_of(read_json(folder / "tokenizer.json", EXPECTED))
    audio, config = AudioTokenizer.load(folder / AUDIO), read_json(folder / CONFIG, EXPECTED)
    tokens = audio.tokens()
    ways = ([token + mark_of(audio.alphabet) for token in tokens], tokens, _bytes_of(tokens))
    tokens = next((way for way in ways if all(token in vocabulary for token in way)), tokens)
    try:
        ids = np.array([vocabulary[token] for token in tokens], np.int64)
        specials = tuple(config["duotone"]["audio_tokens"])
        places = tuple(vocabulary[token] for token in specials)
    except (KeyError, TypeError) as error:
        raise FormatError(f"{folder} is not a tokenizer that Duotone extended: no {error}.") from None
    return replace(audio, special_tokens=specials, roles={}, ids=ids, special_ids=places)


def load_text_tokenizer(folder: str | Path) -> Any:
    """The extended tokenizer as one of transformers: the ids that `AutoTokenizer` gives, and sooner for long texts.

    WordPiece and Unigram tokenizers make a pass over the text for each merge, which this one replaces by Duotone's own
    encoder; of BPE tokenizers it is the ordinary one. Raises `FormatError`.
    """
    document = read_json(Path(folder) / "tokenizer.json", EXPECTED)
    audio = load_extended(folder)
    if audio.tokens()[0] + mark_of(audio.alphabet) not in vocabulary_of(document):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from duotone.tokens.text_tokenizer import TextTokenizer

    return TextTokenizer.marking(Path(folder), document, audio)


def _into_model(document: Part, audio: AudioTokenizer, tokens: list[str]) -> list[str]:
    """The audio tokens and their merges into the text tokenizer; returns how its vocabulary spells each token."""
    kind = document["model"].get("type")
    if kind != "BPE" and kind not in KINDS:
        raise UsageError(
            f"The text tokenizer is a {kind}, expected BPE, {' or '.join(KINDS)}. Extend another one, or use "
            f"--as-added-tokens, which loses the merges."
        )
    if audio.alphabet.offset is not None:
        raise UsageError(
            f"The audio tokenizer's characters begin at {audio.alphabet.offset:#x}, where text may stand, and text would "
            f"be taken for sound. Train it without an offset, or use --as-added-tokens."
        )
    return _merge(document, audio, tokens) if kind == "BPE" else extend_words(document, audio, tokens)


def _merge(document: Part, audio: AudioTokenizer, tokens: list[str]) -> list[str]:
    """The same for a BPE tokenizer."""
    model = document["model"]
    pieces = steps(document.get("pre_tokenizer"))
    byte_level = [p for p in pieces if p["type"] == "ByteLevel"]
    words: list[str] = []
    own: list[tuple[str, str]] = []
    spelt = tokens
    if byte_level:
        if any(p.get("add_prefix_space") for p in byte_level):
            raise UsageError(
                "The text tokenizer writes a space before everything (add_prefix_space), before sound too. Save it "
                "with add_prefix_space=False first, or use --as-added-tokens."
            )
        spelt = _bytes_of(tokens)
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


def _bytes_of(tokens: Sequence[str]) -> list[str]:
    letters = byte_letters()
    return ["".join(letters[b] for b in token.encode()) for token in tokens]


def byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte (Radford et al., 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in set(plain)]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def _prove(document: Part, extended: Part, audio: AudioTokenizer, tokens: list[str], spelt: list[str]) -> None:
    """Compare with both tokenizers on sound, text and both; raises `UsageError` where they differ."""
    from tokenizers import Tokenizer

    old, new = (Tokenizer.from_str(json.dumps(d)) for d in (document, extended))
    vocabulary = vocabulary_of(extended)
    moved = [t for t, i in new.get_vocab().items() if vocabulary.get(t) != i]
    if moved:
        raise UsageError(
            f"The ids of the text tokenizer have gaps, and {moved[0]!r} would get another one (of {len(moved)} such). "
            f"Save it anew with transformers first, or use --as-added-tokens."
        )
    mark = extended["added_tokens"][-1]["content"]
    rng = np.random.default_rng(0)
    texts = [
        "Hello, world! 123",
        "音乐和语音，你好。",
        " two  spaces\n",
        "naïve café 🎵",
        "",
        "a\x07b\u200bc\u3000d\xa0e\r\nf",
    ]
    known = model_vocabulary(document)
    texts += [
        text for t in document.get("added_tokens", []) if t["content"] not in known for text in _near(t["content"])
    ]
    for i in range(max(_PROBES, len(texts))):
        text = texts[i % len(texts)]
        ids = old.encode(text).ids
        if new.encode(text).ids != ids or new.decode(ids) != old.decode(ids):
            raise UsageError(
                f"The extended tokenizer would read the text {text!r} in another way; nothing was written. Extend "
                f"another one (without added tokens, if that is the text of one), or use --as-added-tokens, which loses "
                f"the merges."
            )
        if i >= _PROBES:
            continue
        sound = "".join(tokens[j] for j in rng.integers(0, len(tokens), 30))
        numbers = audio.alphabet.numbers(to_points(sound))
        want = [vocabulary[spelt[j]] for j in audio._encoder(numbers).tolist()]
        got = new.encode(sound, add_special_tokens=False).ids
        around = new.encode(f"{text}{mark}{sound}{text}", add_special_tokens=False).ids
        spoken = sound if extended.get("decoder") is None else new.decode(got)
        if got != want or not _holds(around, want) or spoken != sound:
            raise UsageError(
                "This text tokenizer does something to sound that cannot be undone in its files (its normalizer, its "
                "pre-tokenizer or its decoder). Extend another one, or use --as-added-tokens, which loses the merges."
            )


def _near(token: str) -> list[str]:
    """Texts in which an added token may or may not be found."""
    return [token, token.upper(), token.lower(), f"x{token}", f"{token}x", f"x {token} x"]


def _holds(sequence: list[int], part: list[int]) -> bool:
    return any(sequence[i : i + len(part)] == part for i in range(len(sequence) - len(part) + 1))


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _inputs(name: str | None, kind: str) -> list[str]:
    """The inputs of a model, where its tokenizer's folder leaves them to the class: versions 4 and 5 differ."""
    name = (name or "").removesuffix("Fast")
    types = name in _TYPES or (kind == "WordPiece" and name not in _NO_TYPES)
    return ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]


def _write(
    source: Path, target: Path, document: Part, audio: AudioTokenizer, special_tokens: Sequence[str], text_ids: int
) -> None:
    """The folder: what the source has, the new tokenizer.json, and our particulars in the configuration."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("special_tokens_map.json", "chat_template.jinja", "generation_config.json"):
        if (source / name).is_file() and source.resolve() != target.resolve():
            shutil.copy2(source / name, target / name)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if (source / CONFIG).is_file():
        config = read_json(source / CONFIG, EXPECTED)
    config.setdefault("model_input_names", _inputs(config.get("tokenizer_class"), document["model"]["type"]))
    if isinstance(config.get("extra_special_tokens"), list):  # transformers 5 writes so, transformers 4 cannot read it
        config["additional_special_tokens"] = config.pop("extra_special_tokens")
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # others rebuild parts of tokenizer.json by themselves
    decoder = config.setdefault("added_tokens_decoder", {})
    for token in document["added_tokens"]:
        if token["content"] in special_tokens:
            decoder[str(token["id"])] = {key: value for key, value in token.items() if key != "id"}
    config["duotone"] = {
        "alphabet": audio.alphabet.to_dict(), "pattern": audio.pattern, "about": audio.about,
        "audio_tokens": list(special_tokens), "text_ids": text_ids,
    }  # fmt: skip
    audio.save(target / AUDIO)
    for name, values in (("tokenizer.json", document), (CONFIG, config)):
        write_json(target / name, values)
