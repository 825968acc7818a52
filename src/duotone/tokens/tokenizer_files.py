"""The folder of an audio tokenizer: the three files that Hugging Face libraries read, with ours in the second.

`tokenizer_config.json` holds, under the key `duotone`, the alphabet, the order of codes and what is known of the training
(codec, frame rate, settings). `codec-bpe` writes nothing of the kind, so its folders need the number of codebooks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from duotone.errors import FormatError, UsageError
from duotone.tokens.alphabet import Alphabet
from duotone.tokens.jsonfiles import make_folder, read_json, write_json
from duotone.tokens.patterns import Pattern

FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
ROLES = ("pad_token", "unk_token", "bos_token", "eos_token")
_KEY = "duotone"
_SPACE = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never", "split": True}
_MOST_IDS = 1 << 24  # a damaged id beyond this would only exhaust memory


def write(
    folder: Path,
    tokens: Sequence[str],
    merges: Sequence[tuple[int, int]],
    special_tokens: Sequence[str],
    roles: dict[str, str],
    own: dict[str, Any],
) -> None:
    """Write the folder: the special tokens get the first ids, then come `tokens`. Each file appears whole or not at all."""
    make_folder(folder)
    count = len(special_tokens)
    added = [
        {
            "id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
            "special": True,
        }
        for i, t in enumerate(special_tokens)
    ]  # fmt: skip
    main: dict[str, Any] = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": _SPACE, "post_processor": None, "decoder": _SPACE,
        "model": {
            "type": "BPE", "dropout": None, "unk_token": roles.get("unk_token"), "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
            "vocab": {t: i for i, t in enumerate(special_tokens)} | {t: i + count for i, t in enumerate(tokens)},
            "merges": [[tokens[a], tokens[b]] for a, b in merges],
        },
    }  # fmt: skip
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"], "model_max_length": int(1e30), **roles,
        "added_tokens_decoder": {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in added},
        _KEY: own,
    }  # fmt: skip
    for name, document in zip(FILES, (main, config, dict(roles)), strict=True):
        write_json(folder / name, document)


def read(folder: Path, codebooks: int | None) -> dict[str, Any]:
    """The fields of the `AudioTokenizer` that was saved to a folder.

    Raises `FormatError` naming a damaged file, `UsageError` where the codebooks are missing or do not fit.
    """
    main, config = (read_json(folder / name, "a folder that a tokenizer was saved to") for name in FILES[:2])
    own = config.get(_KEY)
    if isinstance(own, dict) and "audio_tokens" in own:
        raise UsageError(f"{folder} is a text tokenizer that knows audio. Read it with duotone.tokens.load_extended.")
    vocabulary, specials, merges = _parts(main, folder / FILES[0])
    alphabet, noted = _alphabet(own, [t for t in vocabulary if len(t) == 1 and t not in specials], codebooks, folder)
    try:
        roles = {role: _content(config[role]) for role in ROLES if config.get(role) is not None}
    except (KeyError, TypeError) as error:
        raise FormatError(f"{folder / FILES[1]} is damaged ({error!r}). Train the tokenizer again.") from None
    left, right, ids = _numbered(vocabulary, merges, alphabet, folder / FILES[0])
    ordered = tuple(sorted(specials, key=lambda token: specials[token]))
    fields = {
        "alphabet": alphabet, "left": left, "right": right, "special_tokens": ordered, "roles": roles, **noted,
    }  # fmt: skip
    places = tuple(specials[token] for token in ordered)
    standard = np.array_equal(ids, np.arange(len(ordered), len(ordered) + len(ids)))
    if not standard or places != tuple(range(len(ordered))):
        fields |= {"ids": ids, "special_ids": places}
    return fields


def _parts(main: dict[str, Any], path: Path) -> tuple[dict[str, int], dict[str, int], list[tuple[str, str]]]:
    """Vocabulary, special tokens and merges of a tokenizer.json, all by their text."""
    try:
        vocabulary = dict(main["model"]["vocab"])
        specials = {token["content"]: token["id"] for token in main["added_tokens"]}
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in main["model"]["merges"]]
        merges = [(left, right) for left, right in pairs]
    except (KeyError, TypeError, ValueError) as error:
        raise FormatError(f"{path} is not a BPE tokenizer of audio codes ({error!r}).") from None
    wrong = [t for t, i in {**vocabulary, **specials}.items() if type(i) is not int or not 0 <= i < _MOST_IDS]
    if wrong:
        raise FormatError(f"{path} is damaged: the token {wrong[0]!r} has no id that can be used.")
    return vocabulary, specials, merges


def _alphabet(
    own: Any, characters: list[str], codebooks: int | None, folder: Path
) -> tuple[Alphabet, dict[str, Any]]:  # fmt: skip
    """The alphabet, and the other fields that the folder tells."""
    single = sorted(map(ord, characters))
    noted: dict[str, Any] = {}
    if own is None:
        alphabet = _guess(single, codebooks, folder)
    else:
        try:
            noted = {"pattern": own["pattern"], "about": dict(own["about"])}
            alphabet = Alphabet.from_dict(own["alphabet"])
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{folder / FILES[1]} is damaged ({error}). Train the tokenizer again.") from None
        if noted["pattern"] not in get_args(Pattern):
            raise FormatError(
                f"{folder / FILES[1]} names the pattern {noted['pattern']!r}, expected one of {get_args(Pattern)}."
            )
    if codebooks not in (None, alphabet.codebooks):
        raise UsageError(f"codebooks got {codebooks}, but {folder.name} was made for {alphabet.codebooks}.")
    if sorted(alphabet.points.tolist()) != single:
        raise FormatError(
            f"{folder.name} has {len(single)} characters, which are not those of {alphabet.codebooks} x "
            f"{alphabet.size} codes."
        )
    return alphabet, noted


def _numbered(
    vocabulary: dict[str, int], merges: list[tuple[str, str]], alphabet: Alphabet, path: Path
) -> tuple[Any, Any, Any]:  # fmt: skip
    """Merges as pairs of own numbers, left and right, and the id of each own number."""
    numbers = {t: i for i, t in enumerate(alphabet.text(np.arange(len(alphabet), dtype=np.uint32)))}
    left, right = np.zeros((2, len(merges)), np.int32)
    ids = np.empty(len(alphabet) + len(merges), np.int64)
    try:
        for i, (a, b) in enumerate(merges):
            numbers[a + b] = len(alphabet) + i
            left[i], right[i] = numbers[a], numbers[b]
        for token, number in numbers.items():
            ids[number] = vocabulary[token]
    except (KeyError, TypeError) as error:
        raise FormatError(f"{path} is damaged: a merge makes or joins a token that is not there ({error}).") from None
    return left, right, ids


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
