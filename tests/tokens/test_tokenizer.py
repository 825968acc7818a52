"""Acoustic BPE: merges, vocabulary and ids are those of Hugging Face's trainer; folders load everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from codec_bpe.core.trainer import Trainer
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from duotone.errors import FormatError, UsageError
from duotone.tokens import Alphabet, AudioTokenizer, FrameStream, shortfall, to_text, train_bpe


def corpus(kind: str, k: int, size: int, seed: int, files: int = 4) -> list[np.ndarray]:
    """Codes with structure: noise, runs, silence, and phrases that come again."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(files):
        frames = int(rng.integers(1, 160))
        match kind:
            case "noise":
                codes = rng.integers(0, size, (k, frames))
            case "runs":
                codes = np.repeat(rng.integers(0, size, (k, frames)), rng.integers(1, 9, frames), axis=1)
            case "silence":
                codes = np.zeros((k, frames), np.int64)
            case _:
                phrases = rng.integers(0, size, (5, k, 7))
                codes = np.concatenate([phrases[i] for i in rng.integers(0, 5, frames // 7 + 1)], axis=1)
        out.append(codes.astype(np.int64))
    return out


def seeds(folder: Path, recordings: list[np.ndarray], k: int, size: int, **options: Any) -> Any:
    """The seed's tokenizer for the same codes."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, codes in enumerate(recordings):
        np.save(folder / f"{i:03d}_c0.npy", codes)
    return Trainer(k, size, **options).train(str(folder))


def model(tokenizer: Any) -> dict[str, Any]:
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]


@given(
    st.sampled_from(["noise", "runs", "silence", "phrases"]), st.sampled_from([(1, 7), (4, 3), (8, 2), (32, 2)]),
    st.sampled_from([0, 1, 2, 4, None]), st.integers(0, 99), st.integers(1, 3), st.integers(0, 150),
)  # fmt: skip
def test_merges_and_vocabulary_are_those_of_the_seed(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    shape: tuple[int, int],
    ngrams: int | None,
    seed: int,
    frequency: int,
    more: int,
) -> None:
    k, size = shape
    recordings = corpus(kind, k, size, seed)
    options: dict[str, Any] = {
        "vocab_size": k * size + 2 + more, "min_frequency": frequency, "pad_token": "<pad>", "unk_token": "<unk>",
        "max_token_codebook_ngrams": ngrams, "chunk_size_secs": 2, "codec_framerate": 25.0,
    }  # fmt: skip
    theirs = seeds(tmp_path_factory.mktemp("codes"), recordings, k, size, **options)
    options["framerate"] = options.pop("codec_framerate")
    ours = train_bpe(recordings, Alphabet.plain(k, size), **options)
    want = model(theirs)
    tokens = ours.tokens()
    merges = list(zip(ours.merges.left.tolist(), ours.merges.right.tolist(), strict=True))
    assert [[tokens[a], tokens[b]] for a, b in merges] == [list(m) for m in want["merges"]]
    assert {t: i + 2 for i, t in enumerate(tokens)} | {"<pad>": 0, "<unk>": 1} == want["vocab"]
    fresh = corpus("runs", k, size, seed + 1, files=1)[0]
    text = to_text(fresh, Alphabet.plain(k, size))
    assert ours.encode(fresh).tolist() == theirs.encode(text)
    assert np.array_equal(ours.decode(ours.encode(fresh)).codes, fresh)


@pytest.fixture(scope="module")
def trained() -> AudioTokenizer:
    return train_bpe(
        corpus("phrases", 4, 16, 0, files=20), Alphabet(4, 16), vocab_size=300, pad_token="<pad>", unk_token="<unk>",
        special_tokens=["<audio>", "</audio>"], framerate=25.0, about={"codec": "test"},
    )  # fmt: skip


def test_no_two_tokens_are_spelt_alike(trained: AudioTokenizer) -> None:
    assert len(set(trained.tokens())) == len(trained.tokens())


def test_a_saved_folder_loads_everywhere(trained: AudioTokenizer, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = trained.save(tmp_path / "tokenizer")
    codes = corpus("phrases", 4, 16, 0, files=1)[0]
    text, ids = to_text(codes, trained.alphabet), trained.encode(codes).tolist()
    assert len(ids) < codes.size * 0.7  # the phrases have come before
    plain = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert plain.encode(text).ids == ids and plain.decode(ids) == text
    automatic = AutoTokenizer.from_pretrained(folder)
    assert automatic.encode(text) == ids and automatic.decode(ids) == text and len(automatic) == len(trained)
    assert automatic.pad_token == "<pad>" and automatic.convert_tokens_to_ids("<audio>") == 2
    assert automatic(["" + text, text[:8]], padding=True)["attention_mask"][1][-1] == 0
    again = AudioTokenizer.load(folder)
    assert (again.alphabet, again.roles, again.special_tokens) == (
        trained.alphabet,
        trained.roles,
        trained.special_tokens,
    )
    assert again.encode(codes).tolist() == ids and again.about == trained.about
    assert [t.tolist() for t in again.encode_batch([codes, codes[:, :3]])] == [
        ids,
        trained.encode(codes[:, :3]).tolist(),
    ]


def test_a_tokenizer_of_the_seed_is_read(tmp_path: Path) -> None:
    recordings = corpus("phrases", 2, 10, 3)
    theirs = seeds(tmp_path / "codes", recordings, 2, 10, vocab_size=60, eos_token="<end>")
    theirs.save_pretrained(tmp_path / "theirs")
    with pytest.raises(UsageError, match="number of codebooks"):
        AudioTokenizer.load(tmp_path / "theirs")
    with pytest.raises(UsageError, match="no multiple"):
        AudioTokenizer.load(tmp_path / "theirs", codebooks=3)
    ours = AudioTokenizer.load(tmp_path / "theirs", codebooks=2)
    assert ours.alphabet == Alphabet.plain(2, 10) and ours.roles["eos_token"] == "<end>"
    text = to_text(recordings[0], ours.alphabet)
    assert ours.encode(recordings[0]).tolist() == theirs.encode(text)


def test_special_and_foreign_ids_are_no_sound(trained: AudioTokenizer) -> None:
    codes = corpus("phrases", 4, 16, 1, files=1)[0]
    ids = [2, *trained.encode(codes).tolist(), 3, 0, 10**6, -1]
    told = trained.decode(ids)
    assert np.array_equal(told.codes, codes) and told.dropped == 5
    stream = FrameStream(trained.alphabet, tokenizer=trained)
    parts = [stream.push_ids([i]) for i in ids]
    assert np.array_equal(np.concatenate(parts, axis=1), codes) and stream.dropped == 5


def test_an_interrupted_training_goes_on(trained: AudioTokenizer) -> None:
    class Enough(Exception):
        pass

    kept: list[AudioTokenizer] = []

    def watch(made: int, wanted: int, so_far: Any) -> None:
        assert made <= wanted == 1500
        kept.append(so_far())
        if made > 500:
            raise Enough

    recordings = corpus("noise", 2, 30, 5, files=40)
    settings: dict[str, Any] = {"vocab_size": 1500, "min_frequency": 1, "pad_token": "<pad>"}
    whole = train_bpe(recordings, Alphabet(2, 30), **settings)
    with pytest.raises(Enough):
        train_bpe(recordings, Alphabet(2, 30), watch=watch, **settings)
    resumed = train_bpe(recordings, Alphabet(2, 30), resume=kept[-1], **settings)
    assert 0 < len(kept[-1].merges) < len(whole.merges)
    assert resumed.tokens() == whole.tokens() and np.array_equal(resumed.merges.count, whole.merges.count)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab_size": 60}, "64 codes|are 65"), ({"pad_token": None}, "Neither pad_token"),
        ({"chunk_size_secs": 5}, "frame rate"), ({"chunk_size_secs": 0, "framerate": 5.0}, "at least 1"),
        ({"max_token_codebook_ngrams": -1}, "0 or more"), ({"min_frequency": 0}, "at least 1"),
        ({"special_tokens": ["\ue001"]}, "stand for audio"), ({"special_tokens": ["a", "a"]}, "twice"),
        ({"framerate": float("nan")}, "framerate got nan"), ({"framerate": 0}, "framerate got 0"),
        ({"framerate": -75.0}, "above 0"), ({"vocab_size": 200.5}, "vocab_size got 200.5"),
        ({"vocab_size": "x"}, "vocab_size got 'x'"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_met(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_bpe([np.zeros((4, 3), int)], Alphabet(4, 16), **{"vocab_size": 100, "pad_token": "<pad>", **options})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "no two tokens are left that stand side by side 2 times (min_frequency). More recordings or a lower"),
        ({"min_frequency": 1, "max_token_codebook_ngrams": 1}, "at all and are together no longer than 1 frame ("),
        ({"max_token_codebook_ngrams": 0}, "max_token_codebook_ngrams 0, each code is a token"),
    ],
)  # fmt: skip
def test_a_vocabulary_smaller_than_asked_says_why(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    recordings = corpus("phrases", 2, 6, 3)
    made = train_bpe(recordings, Alphabet(2, 6), vocab_size=5000, pad_token="<pad>", **options)
    told = shortfall(AudioTokenizer.load(made.save(tmp_path / "t")))
    assert told is not None and told.startswith(f"The vocabulary has {len(made)} tokens instead of 5000: ")
    assert words in told
    full = train_bpe(recordings, Alphabet(2, 6), vocab_size=14, pad_token="<pad>")
    assert shortfall(full) is None and shortfall(full.first(13)) is not None
    assert shortfall(AudioTokenizer(full.alphabet, full.merges)) is None  # of which nothing is known


def test_damaged_folders(trained: AudioTokenizer, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"No tokenizer\.json"):
        AudioTokenizer.load(tmp_path)
    folder = trained.save(tmp_path / "t")
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(FormatError, match="damaged"):
        AudioTokenizer.load(folder)
    (folder / "tokenizer.json").write_text('{"model": {}}')
    with pytest.raises(FormatError, match="not a BPE tokenizer"):
        AudioTokenizer.load(folder)


def test_a_vocabulary_beyond_all_memory_learns_what_there_is() -> None:
    recordings = corpus("phrases", 2, 8, 0, files=2)
    settings: dict[str, Any] = {"min_frequency": 1, "pad_token": "<pad>", "unk_token": "<unk>"}
    expected = train_bpe(recordings, Alphabet(2, 8), vocab_size=20_000, **settings)
    for size in (10**12, 10**20):
        found = train_bpe(recordings, Alphabet(2, 8), vocab_size=size, **settings)
        assert len(found) == len(expected) and found.tokens() == expected.tokens()
