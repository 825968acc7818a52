"""A text tokenizer that also knows audio: in sound it does exactly what the trained BPE does, in text what it did before.

The trained merges become merges of the text tokenizer's own BPE, so the result is one ordinary `tokenizer.json`, without
any code of ours. Byte-level tokenizers first put the bytes of a character together again, by merges that come before all
others: they start with bytes that begin no character of text, so no text meets them.
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
from duotone.tokens.jsonfiles import read_json, write_json
from duotone.tokens.tokenizer import AudioTokenizer

CONFIG = "tokenizer_config.json"
EXPECTED = "the folder of a fast tokenizer (transformers save_pretrained)"
AUDIO = "audio"  # folder of the audio tokenizer in that of the extended one
START, END = "<|audio|>", "<|/audio|>"
_PROBES = 20


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
    before = _vocabulary(document)
    taken = [token for token in special_tokens if token in before]
    if taken:
        raise UsageError(f"{taken} are in the text tokenizer already. Give other special tokens.")
    extended = copy.deepcopy(document)
    tokens = audio.tokens()
    if as_added_tokens:
        _add(extended, [t for t in tokens if t not in before], special=True)
    else:
        _merge(extended, audio, tokens, max(before.values()) + 1)
    _add(extended, special_tokens, special=True)
    if not as_added_tokens:
        _prove(document, extended, audio)
    _write(text_folder, target, extended, audio, special_tokens)
    return len(_vocabulary(extended)) - len(before)


def load_extended(folder: str | Path) -> AudioTokenizer:
    """The audio part of an extended tokenizer, with the ids that it has there. Raises `FormatError`."""
    folder = Path(folder)
    vocabulary = _vocabulary(document := read_json(folder / "tokenizer.json", EXPECTED))
    audio, config = AudioTokenizer.load(folder / AUDIO), read_json(folder / CONFIG, EXPECTED)
    tokens = audio.tokens()
    if any(p["type"] == "ByteLevel" for p in _pieces(document.get("pre_tokenizer"))) and tokens[0] not in vocabulary:
        letters = byte_letters()
        tokens = ["".join(letters[b] for b in token.encode()) for token in tokens]
    try:
        ids = np.array([vocabulary[token] for token in tokens], np.int64)
        specials = tuple(config["duotone"]["audio_tokens"])
        places = tuple(vocabulary[token] for token in specials)
    except (KeyError, TypeError) as error:
        raise FormatError(f"{folder} is not a tokenizer that Duotone extended: no {error}.") from None
    return replace(audio, special_tokens=specials, roles={}, ids=ids, special_ids=places)


def _merge(document: dict[str, Any], audio: AudioTokenizer, tokens: list[str], first: int) -> None:
    """The audio tokens and their merges into the model of a BPE tokenizer."""
    model = document["model"]
    if model.get("type") != "BPE":
        raise UsageError(
            f"The text tokenizer is a {model.get('type')}, whose files cannot hold merges. Extend a BPE tokenizer (Llama, "
            f"Mistral, Qwen, GPT), or use --as-added-tokens, which loses the merges."
        )
    if audio.alphabet.offset is not None:
        raise UsageError(
            f"The audio tokenizer's characters begin at {audio.alphabet.offset:#x}, where text may stand, and text would "
            f"be taken for sound. Train it without an offset, or use --as-added-tokens."
        )
    pieces = _pieces(document.get("pre_tokenizer"))
    byte_level = [p for p in pieces if p["type"] == "ByteLevel"]
    vocabulary, merges = model["vocab"], [_pair(m) for m in model["merges"]]
    own: list[tuple[str, str]] = []
    spelt = tokens

    def take(token: str) -> None:
        nonlocal first
        if token not in vocabulary:
            vocabulary[token] = first
            first += 1

    if byte_level:
        if any(p.get("add_prefix_space") for p in byte_level):
            raise UsageError(
                "The text tokenizer writes a space before everything (add_prefix_space), before sound too. Save it "
                "with add_prefix_space=False first, or use --as-added-tokens."
            )
        letters = byte_letters()
        spelt = ["".join(letters[b] for b in token.encode()) for token in tokens]
        for character in spelt[: len(audio.alphabet)]:
            for i in range(1, len(character)):
                pair = (character[:i], character[i])
                if pair[0] + pair[1] not in vocabulary:
                    own.append(pair)
                    take(pair[0] + pair[1])
    for token in spelt:
        take(token)
    own += [
        (spelt[a], spelt[b])
        for a, b in zip(audio.merges.left.tolist(), audio.merges.right.tolist(), strict=True)
    ]  # fmt: skip
    model["merges"] = [list(pair) for pair in own + merges]
    apart = {"type": "Split", "pattern": {"Regex": audio.alphabet.regex + "+"}, "behavior": "Isolated", "invert": False}
    document["pre_tokenizer"] = apart if not pieces else {"type": "Sequence", "pretokenizers": [apart, *pieces]}
    if any(n["type"] == "Prepend" for n in _pieces(document.get("normalizer"))):
        mark = next(n["prepend"] for n in _pieces(document["normalizer"]) if n["type"] == "Prepend")
        none = {"type": "Replace", "pattern": {"Regex": f"^{mark}(?={audio.alphabet.regex})"}, "content": ""}
        document["normalizer"] = {"type": "Sequence", "normalizers": [*_pieces(document["normalizer"]), none]}


def byte_letters() -> dict[int, str]:
    """The printable letter that byte-level BPE writes for each byte (Radford et al., 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [b for b in range(256) if b not in set(plain)]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def _prove(document: dict[str, Any], extended: dict[str, Any], audio: AudioTokenizer) -> None:
    """Compare with both tokenizers on sound, text and both; raises `UsageError` where they differ."""
    from tokenizers import Tokenizer

    old, new = (Tokenizer.from_str(json.dumps(d)) for d in (document, extended))
    names = {i: t for t, i in _vocabulary(extended).items()}
    byte_level = any(p["type"] == "ByteLevel" for p in _pieces(document.get("pre_tokenizer")))
    letters, mark = byte_letters(), extended["added_tokens"][-1]["content"]
    rng = np.random.default_rng(0)
    tokens = audio.tokens()
    texts = ["Hello, world! 123", "音乐和语音，你好。", " two  spaces\n", "naïve café 🎵", ""]
    for i in range(_PROBES):
        sound = "".join(tokens[j] for j in rng.integers(0, len(tokens), 30))
        numbers = audio.alphabet.numbers(np.frombuffer(sound.encode("utf-32-le"), "<u4").astype(np.uint32))
        want = [tokens[j] for j in audio._encoder(numbers).tolist()]
        if byte_level:
            want = ["".join(letters[b] for b in t.encode()) for t in want]
        got = [names[j] for j in new.encode(sound, add_special_tokens=False).ids]
        text = texts[i % len(texts)]
        around = new.encode(f"{text}{mark}{sound}{text}", add_special_tokens=False).ids
        inside = [names[j] for j in around]
        if got != want or not _holds(inside, want):
            raise UsageError(
                "This text tokenizer does something to sound that cannot be undone in its files (its normalizer or its "
                "pre-tokenizer). Extend another one, or use --as-added-tokens, which loses the merges."
            )
        if old.encode(text).ids != new.encode(text).ids:
            raise UsageError(
                f"The extended tokenizer would read the text {text!r} in another way; nothing was written."
            )


def _holds(sequence: list[str], part: list[str]) -> bool:
    return any(sequence[i : i + len(part)] == part for i in range(len(sequence) - len(part) + 1))


def _add(document: dict[str, Any], tokens: Sequence[str], special: bool) -> None:
    """Added tokens behind everything else."""
    following = max(_vocabulary(document).values()) + 1
    document.setdefault("added_tokens", []).extend(
        {
            "id": following + i, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": special,
        }
        for i, token in enumerate(tokens)
    )  # fmt: skip


def _vocabulary(document: dict[str, Any]) -> dict[str, int]:
    """Every token and its id."""
    try:
        vocabulary = document["model"]["vocab"]
        if isinstance(vocabulary, list):  # Unigram: pairs of token and score
            vocabulary = {token: i for i, (token, _) in enumerate(vocabulary)}
        return {**vocabulary, **{t["content"]: int(t["id"]) for t in document.get("added_tokens", [])}}
    except (KeyError, TypeError) as error:
        raise FormatError(f"The text tokenizer's tokenizer.json is not one ({error!r}).") from None


def _pieces(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The steps of a normalizer or pre-tokenizer, in order."""
    if part is None:
        return []
    if part["type"] == "Sequence":
        inner = part.get("pretokenizers") or part.get("normalizers") or []
        return [piece for one in inner for piece in _pieces(one)]
    return [part]


def _pair(merge: Any) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _write(
    source: Path, target: Path, document: dict[str, Any], audio: AudioTokenizer, special_tokens: Sequence[str]
) -> None:
    """The folder: what the source has, the new tokenizer.json, and our particulars in the configuration."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("special_tokens_map.json", "chat_template.jinja", "generation_config.json"):
        if (source / name).is_file() and source.resolve() != target.resolve():
            shutil.copy2(source / name, target / name)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if (source / CONFIG).is_file():
        config = read_json(source / CONFIG, EXPECTED)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # others rebuild parts of tokenizer.json by themselves
    decoder = config.setdefault("added_tokens_decoder", {})
    for token in document["added_tokens"]:
        if token["content"] in special_tokens:
            decoder[str(token["id"])] = {key: value for key, value in token.items() if key != "id"}
    config["duotone"] = {
        "alphabet": audio.alphabet.to_dict(), "pattern": audio.pattern, "about": audio.about,
        "audio_tokens": list(special_tokens),
    }  # fmt: skip
    audio.save(target / AUDIO)
    for name, values in (("tokenizer.json", document), (CONFIG, config)):
        write_json(target / name, values)
