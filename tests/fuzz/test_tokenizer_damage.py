"""Damaged tokenizer folders: whatever stands in their JSON, loading succeeds or says what is wrong."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from duotone.errors import DuotoneError
from duotone.tokens import Alphabet, AudioTokenizer, extend, load_extended, train_bpe
from duotone.tokens.collection import read_info
from duotone.tokens.extend_files import read_folder

JUNK: list[Any] = [
    None,
    True,
    -1,
    0,
    10**12,
    1.5,
    "",
    "x",
    "\ue000",
    [],
    [1],
    ["a", "b", "c"],
    {},
    {"a": 1},
    [[]],
    [None],
]
CODES = [np.repeat(np.random.default_rng(0).integers(0, 8, (2, 40)), 2, axis=1)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An audio tokenizer, a text tokenizer with side files, and both as one; codes with their description."""
    root = tmp_path_factory.mktemp("folders")
    audio = train_bpe(CODES, Alphabet(2, 8), vocab_size=30, pad_token="<pad>", about={"codec": "mimi"})
    audio.save(root / "audio")
    text = Tokenizer(models.BPE({c: i for i, c in enumerate(pre_tokenizers.ByteLevel.alphabet())}, []))
    text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    text.enable_truncation(9)
    text.enable_padding(length=9)
    (root / "text").mkdir()
    text.save(str(root / "text" / "tokenizer.json"))
    added = {
        "content": "<x>",
        "lstrip": False,
        "rstrip": False,
        "single_word": False,
        "normalized": False,
        "special": True,
    }
    for name, values in (
        ("tokenizer_config.json", {"pad_token": "<pad>", "added_tokens_decoder": {"256": added}}),
        ("special_tokens_map.json", {"pad_token": added}), ("added_tokens.json", {"<y>": 257}),
    ):  # fmt: skip
        (root / "text" / name).write_text(json.dumps(values))
    extend(root / "text", audio, root / "both")
    (root / "codes").mkdir()
    spec = {
        "family": "mimi",
        "model": "m",
        "fingerprint": "0",
        "space": "1",
        "rate": 8,
        "rate_out": 8,
        "channels": 1,
        "chunk": 4,
        "codebooks": [8, 8],
    }
    info = {"codec_type": "mimi", "num_codebooks": 2, "codebook_size": 8, "framerate": 2.0, "spec": spec}
    (root / "codes" / "codec_info.json").write_text(json.dumps(info))
    return root


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all values in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


def changed(document: Any, path: tuple[Any, ...], junk: Any) -> Any:
    """The document with something else at a place; an Ellipsis takes it out."""
    if not path:
        return {} if junk is ... else junk
    out = copy.deepcopy(document)
    at = out
    for key in path[:-1]:
        at = at[key]
    if junk is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = junk
    return out


CASES = {
    "audio/tokenizer.json": lambda root: AudioTokenizer.load(root / "audio"),
    "audio/tokenizer_config.json": lambda root: repr(AudioTokenizer.load(root / "audio")),
    "both/tokenizer_config.json": lambda root: load_extended(root / "both"),
    "text/tokenizer.json": lambda root: read_folder(root / "text"),
    "text/tokenizer_config.json": lambda root: read_folder(root / "text"),
    "text/special_tokens_map.json": lambda root: read_folder(root / "text"),
    "text/added_tokens.json": lambda root: read_folder(root / "text"),
    "codes/codec_info.json": lambda root: str(read_info(root / "codes")),
}


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([..., *JUNK]))
def test_any_value_at_any_place(name: str, folders: Path, place: int, junk: Any) -> None:
    path = folders / name
    whole = path.read_bytes()
    document = json.loads(whole)
    # Vocabularies are long and alike: the other places come up as often.
    known = [p for p in places(document) if "vocab" not in p] + [p for p in places(document) if "vocab" in p][:40]
    try:
        path.write_text(json.dumps(changed(document, known[place % len(known)], junk)), encoding="utf-8")
        CASES[name](folders)
    except DuotoneError:
        pass
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", CASES)
def test_cut_files(name: str, folders: Path) -> None:
    path = folders / name
    whole = path.read_bytes()
    try:
        for length in range(0, len(whole), max(1, len(whole) // 20)):
            path.write_bytes(whole[:length])
            with pytest.raises(DuotoneError, match=path.name):
                CASES[name](folders)
    finally:
        path.write_bytes(whole)
