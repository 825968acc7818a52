"""Ids and texts in files, as models, tools and shells write them."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest

from duotone.errors import FormatError
from duotone.tokens.sequences import read_sequences


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def plain(found: list[Any]) -> list[Any]:
    return [one if isinstance(one, str) else one.tolist() for one in found]


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (npy(np.array([3, 4])), [[3, 4]]), (npy(np.array([[3, 4]], ">u2")), [[3, 4]]),
        (npy(np.array([[3, 4], [5, 6]])), [[3, 4], [5, 6]]), (b"3 4\n5, 6\r\n\n", [[3, 4], [5, 6]]),
        (b"[3, 4]", [[3, 4]]), (b"[3, 4]\n[5, 6]\n", [[3, 4], [5, 6]]), (b"[[3, 4], [5]]", [[3, 4], [5]]),
        (b'{"input_ids": [3, 4]}\n{"text": "abc"}', [[3, 4], "abc"]), (b'[{"ids": [3]}, "abc"]', [[3], "abc"]),
        (b'"abc"', ["abc"]), (b"abc\ndef\n", ["abc", "def"]), (b"[PAD]abc", ["[PAD]abc"]),
        ("\ue000\ue001".encode("utf-8-sig"), ["\ue000\ue001"]), ("3 4\r\n".encode("utf-16"), [[3, 4]]),
        ("<a>\U000f0001 x".encode(), ["<a>\U000f0001 x"]),
    ],
)  # fmt: skip
def test_all_ways_of_writing_them(data: bytes, want: list[Any]) -> None:
    assert plain(read_sequences(data, "x")) == want


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "x", "holds no token ids"), (npy(np.zeros(3)), "x", "float64"), (npy([3])[:-2], "x", "cannot be read"),
        (b"\xff\x00\x01", "x", "cannot be read"), (b"[3, 4", "x.json", "cannot be read"), (b"abc", "x.jsonl", "cannot"),
        (b'{"sound": [3]}', "x.json", "expected one of input_ids"), (b"[3]\n{", "x.jsonl", "cannot be read"),
        (b"[1.5]", "x", "float64"), (b"7", "x.json", "got 7"), (b"[" * 100_000, "x.json", "cannot be read"),
        (b"99999999999999999999999", "x", "whole numbers"), (npy(np.zeros((2, 2, 2), int)), "x", "one sequence"),
    ],
)  # fmt: skip
def test_what_holds_none(data: bytes, name: str, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_sequences(data, name)


def test_what_a_model_wrote_as_json_is_read_as_it_is() -> None:
    ids = np.random.default_rng(0).integers(0, 50_000, (3, 40)).tolist()
    assert plain(read_sequences(json.dumps(ids).encode(), "x.json")) == ids
    assert plain(read_sequences(json.dumps(ids, indent=1).encode(), "-")) == ids
