"""Read the folder of a text tokenizer with all files that transformers uses, and write it with audio.

A folder lists added tokens, and their roles (such as padding), in several files. Tokens that only the other files list are
first added to `tokenizer.json`, as transformers does when it loads the folder; otherwise audio tokens would get their ids.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duotone import atomic
from duotone.errors import FormatError, UsageError
from duotone.tokens.extend_parts import AUDIO, CONFIG, EXPECTED, Part, add_tokens, vocabulary_of
from duotone.tokens.jsonfiles import make_folder, read_json, write_json
from duotone.tokens.tokenizer import AudioTokenizer

_MAP, _ADDED = "special_tokens_map.json", "added_tokens.json"
_KEPT = (_MAP, "generation_config.json")
_TEMPLATE, _TEMPLATES = "chat_template.jinja", "additional_chat_templates"
#: In the order in which transformers gives ids to those that the vocabulary lacks.
_ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
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
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
_STRATEGIES = {"LongestFirst": "longest_first", "OnlyFirst": "only_first", "OnlySecond": "only_second"}


@dataclass(frozen=True)
class TextFolder:
    """The content of a text tokenizer's folder, as JSON values and text."""

    document: Part  #: tokenizer.json with all added tokens, without truncation and padding
    config: Part  #: tokenizer_config.json
    kept: dict[str, Part]  #: other JSON files, by name
    templates: dict[str, str]  #: chat templates, by name
    added: int  #: tokens that only the side files named


def read_folder(folder: Path) -> TextFolder:
    """Read and check all files. Raises `FormatError` naming a damaged one, `UsageError` for a tokenizer with audio."""
    document = read_json(folder / "tokenizer.json", EXPECTED)
    config = read_json(folder / CONFIG, EXPECTED) if (folder / CONFIG).is_file() else {}
    if "duotone" in config:
        raise UsageError(f"{folder} is already extended with audio. Extend the text tokenizer that it was made from.")
    kept = {name: read_json(folder / name, EXPECTED) for name in _KEPT if (folder / name).is_file()}
    legacy = read_json(folder / _ADDED, EXPECTED) if (folder / _ADDED).is_file() else {}
    names = [folder / _TEMPLATE, *sorted((folder / _TEMPLATES).glob("*.jinja"))]
    templates = {path.relative_to(folder).as_posix(): _text(path) for path in names if path.is_file()}
    before = len(vocabulary_of(document))
    try:
        _settle_roles(config, kept.get(_MAP, {}))
        for token in _added(config, legacy):
            if token["content"] not in vocabulary_of(document):
                add_tokens(document, [token["content"]], **{flag: token[flag] for flag in _FLAGS})
        _name_by_content(config)
        _settle_lengths(document, config)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"The files beside {folder / 'tokenizer.json'} are damaged ({error!r}). Save the tokenizer again with "
            f"transformers."
        ) from None
    return TextFolder(document, config, kept, templates, len(vocabulary_of(document)) - before)


def write_folder(
    target: Path, text: TextFolder, document: Part, audio: AudioTokenizer, special_tokens: Sequence[str]
) -> None:
    """Write the text tokenizer's files, the new tokenizer.json, and Duotone's entry in the configuration."""
    make_folder(target)
    _remove_old_templates(target, text.templates)
    for name, values in text.kept.items():
        write_json(target / name, values)
    for name, template in text.templates.items():
        make_folder((target / name).parent)
        atomic.write_text(target / name, template)
    config = dict(text.config)
    config.setdefault("model_input_names", _inputs(config.get("tokenizer_class"), document["model"].get("type", "")))
    if isinstance(config.get("extra_special_tokens"), list):  # transformers 5 writes so, transformers 4 cannot read it
        more = [*config.get("additional_special_tokens", []), *config.pop("extra_special_tokens")]
        config["additional_special_tokens"] = [token for i, token in enumerate(more) if token not in more[:i]]
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # others rebuild parts of tokenizer.json by themselves
    config["added_tokens_decoder"] = {
        str(token["id"]): {key: value for key, value in token.items() if key != "id"}
        for token in document["added_tokens"]
    }
    config["duotone"] = {
        "alphabet": audio.alphabet.to_dict(), "pattern": audio.pattern, "about": audio.about,
        "audio_tokens": list(special_tokens), "text_ids": max(vocabulary_of(text.document).values()) + 1,
        "added_ids": text.added,
    }  # fmt: skip
    audio.save(target / AUDIO)
    for name, values in (("tokenizer.json", document), (CONFIG, config)):
        write_json(target / name, values)


def _settle_roles(config: Part, special_tokens_map: Part) -> None:
    """Into the configuration what transformers reads from the older file where no added tokens are in the former."""
    if "added_tokens_decoder" in config:
        return
    for key, value in special_tokens_map.items():
        if key == "extra_special_tokens" and isinstance(value, list):
            known = list(config.get(key) or [])
            value = known + [token for token in value if token not in known]
        config[key] = value


def _added(config: Part, legacy: Part) -> Iterator[dict[str, Any]]:
    """Added tokens that the side files name, in the order in which transformers adds them."""
    extra = config.get("extra_special_tokens") or []
    more = [*(extra.values() if isinstance(extra, dict) else extra), *(config.get("additional_special_tokens") or [])]
    special = [_token(token) for token in (*(config.get(role) for role in _ROLES), *more) if token is not None]
    if "added_tokens_decoder" in config:
        decoder = dict(config["added_tokens_decoder"])
        yield from (_token(decoder[i]) for i in sorted(decoder, key=int))
    else:
        names = {token["content"] for token in special}
        for content in sorted(legacy, key=legacy.__getitem__):
            yield {**_token(content), "normalized": content not in names, "special": content in names}
    yield from special


def _name_by_content(config: Part) -> None:
    """Roles by their tokens' text alone: the fields of all added tokens are written under `added_tokens_decoder`."""

    def content(token: Any) -> Any:
        return token["content"] if isinstance(token, dict) else token

    for role in _ROLES:
        if role in config:
            config[role] = content(config[role])
    for key in ("additional_special_tokens", "extra_special_tokens"):
        if isinstance(config.get(key), list):
            config[key] = [content(token) for token in config[key]]


def _token(token: Any) -> dict[str, Any]:
    """An added token as `tokenizer.json` writes it, from its text or its fields."""
    fields = {"content": token} if isinstance(token, str) else dict(token)
    if not isinstance(fields["content"], str):
        raise TypeError(f"an added token is {fields['content']!r}")
    return {**_FLAGS, **fields}


def _settle_lengths(document: Part, config: Part) -> None:
    """Take truncation and padding out of tokenizer.json; transformers reads the same settings from the configuration.

    Otherwise audio would be truncated and padded wherever the file is used without transformers, which switches both off
    unless a call asks for them.
    """
    cut, pad = (document.get(name) for name in ("truncation", "padding"))
    document["truncation"] = document["padding"] = None
    if cut is not None:
        config.setdefault("max_length", cut["max_length"])
        config.setdefault("truncation_side", cut["direction"].lower())
        config.setdefault("stride", cut["stride"])
        config.setdefault("truncation_strategy", _STRATEGIES[cut["strategy"]])
    if pad is not None:
        config.setdefault("pad_token", pad["pad_token"])
        config.setdefault("pad_token_type_id", pad["pad_type_id"])
        config.setdefault("padding_side", pad["direction"].lower())
        length = pad["strategy"]["Fixed"] if isinstance(pad["strategy"], dict) else None
        config.setdefault("max_length", length)
        config.setdefault("pad_to_multiple_of", pad["pad_to_multiple_of"])


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError(f"{path} is damaged: {error}.") from None


def _remove_old_templates(target: Path, templates: dict[str, str]) -> None:
    """Chat templates of the tokenizer that was extended into this folder before: they would be read with the new one."""
    config = target / CONFIG
    if not config.is_file() or "audio_tokens" not in (read_json(config, EXPECTED).get("duotone") or {}):
        return
    for path in (target / _TEMPLATE, *(target / _TEMPLATES).glob("*.jinja")):
        if path.relative_to(target).as_posix() not in templates:
            path.unlink(missing_ok=True)


def _inputs(name: str | None, kind: str) -> list[str]:
    """The inputs of a model, where its tokenizer's folder leaves them to the class: versions 4 and 5 differ."""
    name = (name or "").removesuffix("Fast")
    types = name in _TYPES or (kind == "WordPiece" and name not in _NO_TYPES)
    return ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
