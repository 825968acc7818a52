"""What describes codes: codec_info.json, what a tokenizer keeps of it, and that different encodings are not mixed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duotone.errors import CodecMismatchError, FormatError
from duotone.spec import CodecSpec
from duotone.tokens.collection import Info, agreed, codec_info, folder_of_info, load_npy, read_info
from duotone.tokens.jsonfiles import write_json

SPEC = CodecSpec(
    "mimi", "kyutai/mimi", "f" * 16, "5" * 16, 24_000, 24_000, 1, 1920, steps=1, codebooks=(2048,) * 8, scaled=False
)
OLD = {"codec_type": "encodec", "codec_model": "m/encodec", "num_codebooks": 4, "codebook_size": 32, "framerate": 75.0}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    values = codec_info(SPEC, "bfloat16")
    assert [values[name] for name in ("codec_type", "codec_model", "num_codebooks", "codebook_size", "framerate")] == [
        "mimi", "kyutai/mimi", 8, 2048, 12.5,
    ]  # fmt: skip
    assert (values["sampling_rate_encoder"], values["sampling_rate_decoder"]) == (24_000, 24_000)
    write_json(tmp_path / "codec_info.json", values)
    info = read_info(tmp_path)
    assert info.spec == SPEC and (info.space, info.format, info.steps) == (SPEC.space, "bfloat16", 1)
    assert (info.codebooks, info.size, info.framerate, info.codec, info.model) == (8, 2048, 12.5, "mimi", "kyutai/mimi")
    kept = json.loads(json.dumps(info.to_about()))
    assert Info.from_about(kept) == info
    assert read_info(tmp_path / "absent") == Info()
    assert codec_info(SPEC)["format"] == "float32"
    with pytest.raises(FormatError, match="has no codes"):
        codec_info(replace(SPEC, codebooks=(), latent=(8,)))


def test_the_fields_of_codec_bpe_are_enough(tmp_path: Path) -> None:
    (tmp_path / "codec_info.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(OLD).encode())  # as Windows editors do
    info = read_info(tmp_path)
    assert info == Info(4, 32, 75.0, "encodec", "m/encodec")
    assert Info.from_about(info.to_about() | {"framerate": 75.0}) == Info(None, None, 75.0, "encodec", "m/encodec")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_codebooks": 4}, "is damaged"), ({**OLD, "framerate": "fast"}, "is damaged"),
        ({"spec": {"family": "mimi"}}, "spec in .*codec_info.json is not valid"), ({"spec": 3}, "is not valid"),
    ],
)  # fmt: skip
def test_damaged_descriptions(tmp_path: Path, values: Any, message: str) -> None:
    (tmp_path / "codec_info.json").write_text(json.dumps(values))
    with pytest.raises(FormatError, match=message):
        read_info(tmp_path)


def test_the_nearest_description_counts(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "a" / "b"):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "codec_info.json").write_text(json.dumps(OLD))
    assert folder_of_info(tmp_path / "a" / "x.npy") == tmp_path
    assert folder_of_info(tmp_path / "a" / "b" / "c" / "x.npy") == tmp_path / "a" / "b"


INFO = Info.of(SPEC, "float32")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (INFO, Info.of(replace(SPEC, space="6" * 16), "float32")), (INFO, Info.of(SPEC, "bfloat16")),
        (INFO, Info.from_dict(OLD, "there")), (INFO, Info(codec="encodec")), (Info(model="a/b"), Info(model="c/d")),
        (Info(codebooks=4), Info(codebooks=8)), (Info(size=4), Info(size=8)), (Info(framerate=75), Info(framerate=50)),
        (INFO, Info.of(replace(SPEC, codebooks=(2048,) * 4), "float32")),
        (Info.of(replace(SPEC, space=""), None), Info.of(replace(SPEC, space="", fingerprint="0"), None)),
    ],
)  # fmt: skip
def test_different_encodings_are_refused_by_both_names(one: Info, other: Info) -> None:
    with pytest.raises(CodecMismatchError) as told:
        agreed([("first", one), ("nothing known", Info()), ("second", other)])
    assert f"first: {one}" in str(told.value) and f"second: {other}" in str(told.value)


@pytest.mark.parametrize(
    "other",
    [
        INFO, Info(), Info(codebooks=8, size=2048), Info(codec="mimi", model="/models/mimi"),
        Info.of(replace(SPEC, fingerprint="0" * 16, model="further"), "float32"),  # another decoder: the same codes
        Info.of(SPEC, None),
    ],
)  # fmt: skip
def test_like_encodings_go_together(other: Info) -> None:
    for pair in ([("a", INFO), ("b", other)], [("b", other), ("a", INFO)]):
        whole = agreed(pair)
        assert (whole.space, whole.format, whole.codebooks, whole.steps) == (SPEC.space, "float32", 8, 1)


@pytest.mark.parametrize("dtype", ["<i2", ">i2", ">u2", "<i8", ">i8", "u1"])
def test_arrays_of_any_integer_type_and_layout(dtype: str, tmp_path: Path) -> None:
    codes = np.arange(12).reshape(2, 6)
    for shape in ((2, 6), (1, 2, 6), (1, 1, 2, 6)):
        np.save(tmp_path / "a.npy", codes.astype(dtype).reshape(shape))
        assert np.array_equal(load_npy(tmp_path / "a.npy", size=12), codes)
        assert np.array_equal(load_npy(str(tmp_path / "a.npy"), 1), codes[:1])
    np.save(tmp_path / "a.npy", codes[0].astype(dtype))
    assert np.array_equal(load_npy(tmp_path / "a.npy", 1), codes[:1])


def test_files_that_hold_no_codes(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    for content, message in (
        (np.zeros((2, 3)), "float64"), (np.zeros((2, 2, 3), int), r"\[2, 2, 3\]"), (np.array([[0, 5]]), "the code 5 in"),
        (np.array([[0, 1], [-1, 0]]), "the code -1 in codebook 1, frame 0"),
    ):  # fmt: skip
        np.save(path, content)
        with pytest.raises(FormatError, match=f"{path}.*{message}"):
            load_npy(path, size=5)
    for data in (b"", b"no", path.read_bytes()[:-3], path.read_bytes()[:40]):
        path.write_bytes(data)
        with pytest.raises(FormatError, match="cannot be read as codes"):
            load_npy(path)
    with pytest.raises(FileNotFoundError):
        load_npy(tmp_path / "absent.npy")
