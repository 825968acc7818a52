"""Arrays and tensors of every kind in, and values that compare by value and show themselves in a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duotone.errors import UsageError
from duotone.tokens import Alphabet, AudioTokenizer, FrameGrammar, FrameStream, to_codes, to_text, train_bpe
from duotone.tokens.bpe import Merges
from duotone.tokens.dataset import Plan, arrange, windows
from duotone.tokens.report import report
from duotone.tokens.values import as_codes, as_ids

CODES = np.repeat(np.random.default_rng(0).integers(0, 40, (2, 60)), 2, axis=1)
SETTINGS: dict[str, Any] = {"vocab_size": 130, "pad_token": "<pad>", "special_tokens": ["<a>", "</a>"]}


@pytest.fixture(scope="module")
def tokenizer() -> AudioTokenizer:
    return train_bpe([CODES], Alphabet(2, 40), framerate=75, about={"codec": "mimi"}, **SETTINGS)


def kinds(values: np.ndarray) -> dict[str, Any]:
    return {
        "list": values.tolist(), "uint8": values.astype("u1"), "big-endian": values.astype(">i8"),
        "big-endian 16 bit": values.astype(">u2"), "uint64": values.astype("u8"), "int16": values.astype("i2"),
        "fortran": np.asfortranarray(values), "tensor": torch.from_numpy(values.copy()),
        "tensor of 32 bits": torch.from_numpy(values.copy()).int(), "read only": np.frombuffer(values.tobytes(), values.dtype).reshape(values.shape),
    }  # fmt: skip


@pytest.mark.parametrize("name", kinds(CODES))
def test_codes_of_any_kind(name: str, tokenizer: AudioTokenizer) -> None:
    codes = kinds(CODES)[name]
    want = tokenizer.encode(CODES)
    assert np.array_equal(as_codes(codes), CODES) and to_text(codes, tokenizer.alphabet) == to_text(
        CODES, tokenizer.alphabet
    )
    assert np.array_equal(tokenizer.encode(codes), want)
    assert np.array_equal(tokenizer.encode_batch([codes, codes])[1], want)
    assert train_bpe([codes], Alphabet(2, 40), framerate=75, about={"codec": "mimi"}, **SETTINGS) == tokenizer
    assert report(tokenizer, [codes]).codes == CODES.size
    plan = Plan(900, 0).of(tokenizer)
    assert np.array_equal(next(windows(tokenizer, codes, plan)).ids, want)
    assert np.array_equal(arrange([codes, codes], "interleaved")[0][:, ::2], CODES)


@pytest.mark.parametrize("name", [*kinds(CODES), "[1, M]", "a tensor [1, M]", "a generator"])
def test_ids_of_any_kind(name: str, tokenizer: AudioTokenizer) -> None:
    plain = tokenizer.encode(CODES)
    more = {
        "[1, M]": plain[None],
        "a tensor [1, M]": torch.from_numpy(plain)[None],
        "a generator": iter(plain.tolist()),
    }

    def ids() -> Any:
        return iter(plain.tolist()) if name == "a generator" else {**kinds(plain), **more}[name]

    assert np.array_equal(as_ids(ids()), plain)
    assert np.array_equal(tokenizer.decode(ids()).codes, CODES)
    assert np.array_equal(FrameStream(tokenizer.alphabet, tokenizer=tokenizer).push_ids(ids()), CODES)
    grammar = FrameGrammar(tokenizer, len(tokenizer))
    assert grammar.written(ids()) == CODES.size and grammar.due(ids()) == 0


def test_single_ids(tokenizer: AudioTokenizer) -> None:
    stream, plain = FrameStream(tokenizer.alphabet, tokenizer=tokenizer), tokenizer.encode(CODES)
    one_by_one = [stream.push_ids(i) for i in (*plain[:3].tolist(), *plain[3:6], *torch.from_numpy(plain[6:]))]
    assert np.array_equal(np.concatenate(one_by_one, axis=1), CODES)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([[1, 2], [3]], "one array"), (torch.zeros(2, 3, dtype=torch.bfloat16), "one array"),
        (np.zeros((2, 3)), "float64"), ([["a"]], "whole numbers"), (np.zeros((2, 3), bool), "bool"),
        ([[10**30]], "object"),
    ],
)  # fmt: skip
def test_what_is_no_array_of_whole_numbers(values: Any, message: str, tokenizer: AudioTokenizer) -> None:
    for call in (tokenizer.encode, tokenizer.decode):
        with pytest.raises(UsageError, match=message):
            call(values)


def test_natural_mistakes_get_a_sentence(tokenizer: AudioTokenizer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"Recording 2 \(counted from 0\): Code 40 of codebook 1, frame 3"):
        bad = CODES.copy()
        bad[1, 3] = 40
        train_bpe([CODES, CODES, bad], Alphabet(2, 40), **SETTINGS)
    with pytest.raises(UsageError, match=r"pass \[codes\]"):
        train_bpe(CODES, Alphabet(2, 40), **SETTINGS)
    with pytest.raises(UsageError, match="one by one"):
        tokenizer.decode(np.zeros((2, 5), int))
    with pytest.raises(UsageError, match=r"pass codes\[0\]"):
        tokenizer.encode(CODES[None])
    with pytest.raises(UsageError, match="Text got bytes"):
        to_codes(b"abc", tokenizer.alphabet)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="a file of that name is there"):
        tokenizer.save(tmp_path / "file")
    with pytest.raises(UsageError, match="a file of that name is there"):
        tokenizer.save(tmp_path / "file" / "below")


def test_numbers_of_numpy_can_be_saved(tmp_path: Path) -> None:
    made = train_bpe(
        [CODES], Alphabet(2, 40), vocab_size=np.int64(100), pad_token="<pad>", framerate=np.float32(75),  # type: ignore[arg-type]
        about={"mean": np.float32(0.5), "sizes": np.arange(3), "folder": tmp_path},
    )  # fmt: skip
    told = AudioTokenizer.load(made.save(tmp_path / "t")).about
    assert told["framerate"] == 75.0 and told["mean"] == 0.5 and told["sizes"] == [0, 1, 2]
    with pytest.raises(UsageError, match="cannot hold these values"):
        train_bpe([CODES], Alphabet(2, 40), **SETTINGS, about={"x": float("nan")}).save(tmp_path / "u")


def test_tokenizers_are_equal_by_value(tokenizer: AudioTokenizer, tmp_path: Path) -> None:
    same = train_bpe([CODES], Alphabet(2, 40), framerate=75, about={"codec": "mimi"}, **SETTINGS)
    assert tokenizer == same and tokenizer == AudioTokenizer.load(tokenizer.save(tmp_path / "t"))
    assert tokenizer != tokenizer.first(100) and tokenizer != "tokenizer"
    assert tokenizer != train_bpe([CODES], Alphabet(2, 40), framerate=50, about={"codec": "mimi"}, **SETTINGS)
    ids = tokenizer.encode(CODES)
    assert tokenizer.decode(ids) == tokenizer.decode(ids) != tokenizer.decode(ids[:3])
    plan = Plan(20, 4).of(tokenizer)
    assert list(windows(tokenizer, CODES, plan)) == list(windows(tokenizer, CODES, plan))


def test_reprs_are_a_line(tokenizer: AudioTokenizer) -> None:
    merges = len(tokenizer.merges)
    assert repr(tokenizer) == (
        f"AudioTokenizer(2 codebooks x 40 codes, {merges} merges, 3 special tokens, 75 frames/s, mimi)"
    )
    assert repr(tokenizer.merges) == f"Merges({merges} of 80 symbols)"
    ids = tokenizer.encode(CODES)
    assert repr(tokenizer.decode([0, *ids])) == "Decoded(2 codebooks x 120 frames, 1 characters dropped, 0 hanging)"
    window = next(windows(tokenizer, CODES, Plan(900, 0).of(tokenizer)))
    assert repr(window) == f"Window({len(ids)} ids, 240 fresh codes)"
    assert isinstance(tokenizer.merges, Merges)


def test_a_grammar_takes_arrays_as_it_takes_tensors(tokenizer: AudioTokenizer) -> None:
    grammar = FrameGrammar(tokenizer, len(tokenizer), "<a>", "</a>")
    ids = np.array([[tokenizer.id_of("<a>"), int(tokenizer.encode(CODES)[0])], [5, 6]])
    scores = np.random.default_rng(0).normal(size=(2, len(tokenizer))).astype(np.float32)
    out, tensor = grammar(ids, scores), grammar(torch.from_numpy(ids), torch.from_numpy(scores))
    assert out.dtype == np.float32 and np.array_equal(out, tensor.numpy()) and np.isneginf(out).any()
    assert np.isfinite(scores).all()  # what came in is not changed
    with pytest.raises(UsageError, match=f"{len(tokenizer) + 7} logits"):
        grammar(ids, np.zeros((2, len(tokenizer) + 7), np.float32))
