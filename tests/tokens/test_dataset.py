"""Training sequences: the seed's text lines, token ids as Parquet, and statistics that count sound once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codec_bpe.tools.lm_dataset_builder import LMDatasetBuilder

from duotone.errors import FormatError, UsageError
from duotone.tokens import Alphabet, AudioTokenizer, to_text, train_bpe
from duotone.tokens.collection import find, load_npy
from duotone.tokens.dataset import (
    Plan,
    arrange,
    group,
    line_stats,
    packed,
    parquet_stats,
    windows,
    write_lines,
    write_parquet,
)

K, SIZE = 2, 12


def recording(seed: int, frames: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    phrases = np.random.default_rng(99).integers(0, SIZE, (4, K, 5))
    return np.concatenate([phrases[i] for i in rng.integers(0, 4, frames // 5 + 1)], axis=1)[:, :frames]


@pytest.fixture(scope="module")
def tokenizer() -> AudioTokenizer:
    return train_bpe(
        [recording(i, 200) for i in range(5)], Alphabet.plain(K, SIZE), vocab_size=60, pad_token="<pad>",
        special_tokens=["<audio>", "</audio>"], framerate=10.0,
    )  # fmt: skip


@pytest.mark.parametrize("tokens", [(None, None), ("<audio>", "</audio>"), ("<audio>", None)])
@pytest.mark.parametrize(
    ("length", "overlap", "drop_last"), [(16, 4, False), (16, 4, True), (16, 0, False), (900, 8, False)]
)
def test_text_lines_are_those_of_the_seed(
    tokenizer: AudioTokenizer, tmp_path: Path, tokens: Any, length: int, overlap: int, drop_last: bool
) -> None:
    from transformers import AutoTokenizer

    for i in range(3):
        np.save(tmp_path / f"{i}_c0.npy", recording(50 + i, 77 + i))
    tokenizer.save(tmp_path / "t")
    builder = LMDatasetBuilder(
        AutoTokenizer.from_pretrained(tmp_path / "t"), K, SIZE, *tokens, sequence_length=length, overlap_length=overlap,
        drop_last=drop_last,
    )  # fmt: skip
    theirs = list(builder.iterate_examples(str(tmp_path), ["_c0"]))
    plan = Plan(length, overlap, *tokens, drop_last).of(tokenizer)
    ours = (w for f in find(tmp_path) for w in windows(tokenizer, load_npy(f), plan))
    count = write_lines(tmp_path / "lm.txt", tokenizer, ours)
    assert (tmp_path / "lm.txt").read_text(encoding="utf-8").splitlines() == theirs and count == len(theirs)


def test_sound_is_counted_once(tokenizer: AudioTokenizer, tmp_path: Path) -> None:
    recordings = [recording(i, 150 + i) for i in range(3)]
    seconds = sum(r.shape[1] for r in recordings) / 10.0
    plan = Plan(20, 6, "<audio>", "</audio>").of(tokenizer)

    def sequences() -> Any:
        return (w for r in recordings for w in windows(tokenizer, r, plan))

    write_lines(tmp_path / "lm.txt", tokenizer, sequences())
    rows = write_parquet(tmp_path / "lm.parquet", sequences(), {"framerate": 10.0}, batch=3)
    lines = line_stats(tmp_path / "lm.txt", tokenizer, 6, 10.0)
    table = parquet_stats(tmp_path / "lm.parquet", tokenizer, 10.0)
    assert lines.total == pytest.approx(seconds) and table.total == pytest.approx(seconds)
    assert lines.to_dict() == pytest.approx(table.to_dict()) and lines.examples == rows
    assert lines.mean * lines.examples > 1.2 * seconds  # which the seed would have called the total
    assert line_stats(tmp_path / "lm.txt", tokenizer, 6, 10.0, limit=2).examples == 2


def test_parquet_is_what_datasets_reads(tokenizer: AudioTokenizer, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    plan = Plan(20, 6).of(tokenizer)
    want = list(windows(tokenizer, recording(0, 90), plan))
    write_parquet(tmp_path / "x.parquet", want, {"framerate": 10.0})
    table = pq.read_table(tmp_path / "x.parquet")
    assert list(table["input_ids"].to_pylist()) == [w.ids.tolist() for w in want]
    assert b"framerate" in table.schema.metadata[b"duotone"]


def test_packing(tokenizer: AudioTokenizer) -> None:
    plan = Plan(16, 4).of(tokenizer)
    sequences = [w for i in range(4) for w in windows(tokenizer, recording(i, 40), plan)]
    whole = np.concatenate([np.append(w.ids, 0) for w in sequences])
    made = list(packed(sequences, 10, separator=0))
    assert np.array_equal(np.concatenate([w.ids for w in made]), whole[: len(whole) // 10 * 10])
    assert sum(w.fresh_codes for w in made) <= sum(w.fresh_codes for w in sequences)


def test_channels_and_pieces_of_a_recording(tmp_path: Path) -> None:
    names = [
        "x_c0_t000030_000",
        "x_c0_t000000_000",
        "x_c1_t000000_000",
        "x_c1_t000030_000",
        "sub/x_c0",
        "plain",
        "a_c10",
    ]
    files = [tmp_path / f"{name}.npy" for name in names]
    found = {f.name + str(len(f.channels)): [[p.stem for p in c] for c in f.channels] for f in group(files)}
    assert found == {
        "x2": [["x_c0_t000000_000", "x_c0_t000030_000"], ["x_c1_t000000_000", "x_c1_t000030_000"]],
        "x1": [["x_c0"]], "plain1": [["plain"]], "a1": [["a_c10"]],
    }  # fmt: skip
    left, right = np.array([[0, 1], [2, 3]]), np.array([[4, 5], [6, 7]])
    assert arrange([left, right], "interleaved")[0].tolist() == [[0, 4, 1, 5], [2, 6, 3, 7]]
    assert len(arrange([left, right], "separate")) == 2 and len(arrange([left, right], "first")) == 1
    with pytest.raises(UsageError, match="interleaved"):
        arrange([left, right[:, :1]], "interleaved")


def test_bad_input(tokenizer: AudioTokenizer, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="never end"):  # the seed loops for ever
        Plan(16, 16).of(tokenizer)
    with pytest.raises(UsageError, match="never end"):
        Plan(2, 0, "<audio>", "</audio>").of(tokenizer)
    with pytest.raises(UsageError, match="not a special token"):
        Plan(16, 4, "<sound>").of(tokenizer)
    (tmp_path / "a.txt").write_text(to_text(recording(0, 3), tokenizer.alphabet) + "\nhello\n")
    with pytest.raises(FormatError, match=r"Line 2 .* U\+0068"):
        line_stats(tmp_path / "a.txt", tokenizer, 4, 10.0)
    with pytest.raises(FormatError, match="not a data set"):
        parquet_stats(tmp_path / "a.txt", tokenizer, 10.0)
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(UsageError, match="no examples"):
        line_stats(tmp_path / "b.txt", tokenizer, 4, 10.0)
