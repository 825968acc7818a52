"""Training sequences: the seed's text lines, token ids as Parquet, and statistics that count sound once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codec_bpe.tools.lm_dataset_builder import LMDatasetBuilder

from duotone.errors import FormatError, UsageError
from duotone.tokens import Alphabet, AudioTokenizer, FrameGrammar, to_text, train_bpe
from duotone.tokens.collection import load_npy
from duotone.tokens.dataset import Plan, arrange, group, packed, windows, write_lines, write_parquet
from duotone.tokens.dataset_stats import line_stats, parquet_stats

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
    plan = Plan(length, overlap, *tokens, drop_last, grid="token").of(tokenizer)
    ours = (w for f in sorted(tmp_path.glob("*.npy")) for w in windows(tokenizer, load_npy(f), plan))
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
    plan = Plan(16, 4, grid="token").of(tokenizer)
    sequences = [w for i in range(4) for w in windows(tokenizer, recording(i, 40), plan)]
    whole = np.concatenate([np.append(w.ids, 0) for w in sequences])
    made = list(packed(sequences, 10, separator=0))
    assert np.array_equal(np.concatenate([w.ids for w in made]), whole[: len(whole) // 10 * 10])
    assert sum(w.fresh_codes for w in made) <= sum(w.fresh_codes for w in sequences)


def kept_apart(tokenizer: AudioTokenizer, made: list[Any], codes: np.ndarray, unit: int) -> None:
    """Every sequence is whole units of the recording, tokenized as they are alone; together they are all of it."""
    place = 0
    for window in made:
        part = tokenizer.decode(window.ids)
        assert part.begin == part.end == "" and part.dropped == 0
        frames = part.codes.shape[1]
        fresh = window.fresh_codes // K
        begin = place + fresh - frames
        assert begin % unit == 0 and fresh > 0 and np.array_equal(part.codes, codes[:, begin : begin + frames])
        place += fresh
        assert place % unit == 0 or place == codes.shape[1]
    assert place == codes.shape[1]


@pytest.mark.parametrize(("length", "overlap"), [(16, 4), (7, 5), (2, 1), (30, 0), (2, 0), (500, 3)])
@pytest.mark.parametrize("channels", [1, 2])
def test_sequences_end_with_whole_frames(tokenizer: AudioTokenizer, length: int, overlap: int, channels: int) -> None:
    if length < K * channels:
        length *= 2
    plan = Plan(length, overlap).of(tokenizer)
    for seed, frames in ((0, 90), (1, 1), (2, 37), (3, 0)):
        codes = np.random.default_rng(seed).integers(0, SIZE, (K, frames)) if seed else recording(0, frames)
        made = list(windows(tokenizer, codes, plan, channels))
        assert all(0 < len(w.ids) <= length for w in made)
        kept_apart(tokenizer, made, codes, channels)
        for window in made:  # each is what the tokenizer makes of its own sound
            assert np.array_equal(window.ids, tokenizer.encode(tokenizer.decode(window.ids).codes))


@pytest.mark.parametrize(("length", "overlap"), [(16, 4), (16, 12), (40, 0), (500, 3)])
def test_sequences_end_with_whole_chunks(tokenizer: AudioTokenizer, length: int, overlap: int) -> None:
    steps, codes = 5, recording(0, 93)
    plan = Plan(length, overlap, grid="chunk").of(tokenizer, steps)
    made = list(windows(tokenizer, codes, plan))
    kept_apart(tokenizer, made, codes, steps)
    apart = [tokenizer.encode(codes[:, i : i + steps]) for i in range(0, 93, steps)]
    if not overlap:
        assert np.array_equal(np.concatenate([w.ids for w in made]), np.concatenate(apart))
    grammar = FrameGrammar(tokenizer, len(tokenizer), group=steps)
    ids = made[0].ids
    assert all(grammar.allowed(ids[:i])[ids[i]] for i in range(len(ids)))


@pytest.mark.parametrize("grid", ["token", "frame", "chunk"])
@pytest.mark.parametrize("overlap", [0, 6])
def test_text_lines_of_any_grid_are_counted_once(
    tokenizer: AudioTokenizer, tmp_path: Path, grid: Any, overlap: int
) -> None:
    spec = {"spec": {"steps": 5}}
    tokenizer = replace(tokenizer, about={**tokenizer.about, **spec})
    recordings = [recording(i, 150 + 5 * i) for i in range(3)]
    plan = Plan(20, overlap, "<audio>", grid=grid).of(tokenizer)
    write_lines(tmp_path / "lm.txt", tokenizer, (w for r in recordings for w in windows(tokenizer, r, plan)))
    told = line_stats(tmp_path / "lm.txt", tokenizer, overlap, 10.0)
    assert told.total == pytest.approx(sum(r.shape[1] for r in recordings) / 10.0)


def test_drop_last_leaves_out_what_another_frame_would_fit_into(tokenizer: AudioTokenizer) -> None:
    codes = np.random.default_rng(1).integers(0, SIZE, (K, 41))
    for grid in ("token", "frame"):
        plan = Plan(20, 0, grid=grid)  # type: ignore[arg-type]
        every, some = (
            list(windows(tokenizer, codes, replace(plan, drop_last=drop).of(tokenizer))) for drop in (False, True)
        )
        assert some == every[:-1] and len(every[-1].ids) + (K if grid == "frame" else 1) <= 20


def test_packing_cuts_where_the_grid_allows(tokenizer: AudioTokenizer) -> None:
    plan = Plan(16, 4, "<audio>", "</audio>").of(tokenizer)
    pad, start = tokenizer.id_of("<pad>"), tokenizer.id_of("<audio>")
    sequences = [w for i in range(4) for w in windows(tokenizer, recording(i, 40), plan)]
    made = list(packed(sequences, 10, separator=pad))
    assert {len(w.ids) for w in made} == {10}
    for window in made:
        ids = window.ids[window.ids != pad]
        assert ids[-1] != start
        for part in np.split(ids, np.flatnonzero(ids == start)):
            told = tokenizer.decode(part[tokenizer.own(part) >= 0])
            assert told.begin == told.end == ""
    assert sum(w.fresh_codes for w in made) <= sum(w.fresh_codes for w in sequences)


def test_nothing_is_left_of_a_file_that_fails(tokenizer: AudioTokenizer, tmp_path: Path) -> None:
    def broken() -> Any:
        yield from windows(tokenizer, recording(0, 90), Plan(20, 6).of(tokenizer))
        raise UsageError("broken")

    for write in (
        lambda path: write_lines(path, tokenizer, broken()), lambda path: write_parquet(path, broken(), {}, batch=2),
    ):  # fmt: skip
        with pytest.raises(UsageError, match="broken"):
            write(tmp_path / "lm")
    assert write_lines(tmp_path / "lm", tokenizer, []) == write_parquet(tmp_path / "lm", [], {}) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-8"])
def test_text_lines_of_editors_and_shells(tokenizer: AudioTokenizer, tmp_path: Path, encoding: str) -> None:
    plan = Plan(20, 6).of(tokenizer)
    write_lines(tmp_path / "lm.txt", tokenizer, windows(tokenizer, recording(0, 90), plan))
    text = (tmp_path / "lm.txt").read_text(encoding="utf-8")
    (tmp_path / "other.txt").write_bytes(text.replace("\n", "\r\n").encode(encoding))
    one, other = (line_stats(tmp_path / name, tokenizer, 6, 10.0) for name in ("lm.txt", "other.txt"))
    assert one == other
    (tmp_path / "no.txt").write_bytes(b"\xe9\xff")
    with pytest.raises(FormatError, match="is not text"):
        line_stats(tmp_path / "no.txt", tokenizer, 6, 10.0)


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
    with pytest.raises(UsageError, match="how many frames a chunk"):
        Plan(16, 4, grid="chunk").of(tokenizer)
    with pytest.raises(UsageError, match="a frame can take 2"):
        Plan(1, 0).of(tokenizer)
    with pytest.raises(UsageError, match="grid got 'bar'"):
        Plan(16, 4, grid="bar").of(tokenizer)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="Use grid token"):
        Plan(16, 4).of(replace(tokenizer, pattern="delay"))
    with pytest.raises(UsageError, match="40 codes that must stay together"):
        list(windows(tokenizer, recording(0, 90), Plan(3, 0, grid="chunk").of(tokenizer, 20)))
    (tmp_path / "a.txt").write_text(to_text(recording(0, 3), tokenizer.alphabet) + "\nhello\n")
    with pytest.raises(FormatError, match=r"Line 2 .* U\+0068"):
        line_stats(tmp_path / "a.txt", tokenizer, 4, 10.0)
    with pytest.raises(FormatError, match="not a dataset"):
        parquet_stats(tmp_path / "a.txt", tokenizer, 10.0)
    (tmp_path / "b.txt").write_text("")
    with pytest.raises(UsageError, match="no examples"):
        line_stats(tmp_path / "b.txt", tokenizer, 4, 10.0)
