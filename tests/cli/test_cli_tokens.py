"""``duotone tokens``: old command lines, folders of codes and .duo files, interruptions, bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.codec.container import write_duo
from duotone.codec.contract import Codec
from duotone.codec.values import Codes
from duotone.hub import load
from duotone.tokens import AudioTokenizer, to_text
from duotone.tokens.collection import load_npy

INFO = {"codec_type": "encodec", "codec_model": "m", "num_codebooks": 4, "codebook_size": 32, "framerate": 75.0}


@pytest.fixture
def codes(here: Path) -> Path:
    """Three recordings in the three layouts, with what the seed writes beside them."""
    rng = np.random.default_rng(0)
    phrases = rng.integers(0, 32, (6, 4, 9))
    folder = here / "codes"
    (folder / "a").mkdir(parents=True)
    for i, shape in enumerate([(4, -1), (1, 4, -1), (1, 1, 4, -1)]):
        whole = np.concatenate([phrases[j] for j in rng.integers(0, 6, 60)], axis=1)
        np.save(folder / "a" / f"{i}_c0.npy", whole.reshape(shape))
    (folder / "codec_info.json").write_text(json.dumps(INFO))
    return folder


def test_an_old_command_line_works(codes: Path, duotone: Any) -> None:
    told = duotone(
        "tokens", "train", "--codes_path", "codes", "--vocab_size", "400", "--chunk_size_secs", "2", "--pad_token",
        "<pad>", "--special_tokens", "<audio>", "</audio>", "--codes_filter", "0_c0", "1_c0", "--unicode_offset", "0x4E00",
    )  # fmt: skip
    assert told.exit_code == 0, told.stderr
    folder = Path("output/encodec_bpe_4cb_0k")
    assert told.stdout.strip() == str(folder) and "codes a token" in told.stderr and "No --unk-token" in told.stderr
    made = AudioTokenizer.load(folder)
    assert made.special_tokens == ("<pad>", "<audio>", "</audio>") and made.alphabet.offset == 0x4E00
    assert made.about["files"] == 2 and made.about["framerate"] == 75.0 and len(made.merges) > 20
    again = duotone("tokens", "train", "--codes-path", "codes", "--vocab-size", "400")
    assert again.exit_code == 2 and "--force" in again.stderr


def test_report_and_advice(codes: Path, duotone: Any) -> None:
    assert duotone("tokens", "train", "--codes-path", "codes", "--vocab-size", "300", "--save-path", "t").exit_code == 0
    told = json.loads(duotone("tokens", "report", "t", "--codes-path", "codes", "--json").stdout)
    assert told["codes"] == 3 * 4 * 540 and told["codes_per_token"] > 1.5 and 0 < told["single_share"] < 1
    assert "longest" in duotone("tokens", "report", "t", "--codes-path", "codes").stdout
    rows = [
        json.loads(line)
        for line in duotone(
            "tokens", "advise", "--codes-path", "codes", "--vocab-sizes", "150", "300", "--json"
        ).stdout.splitlines()
    ]
    by = {(row["vocabulary"], row["ngrams"]): row["codes_per_token"] for row in rows}
    assert by[(300, None)] > by[(150, None)] and by[(300, 2)] <= by[(300, None)]
    assert "tokens compress best" in duotone("tokens", "advise", "--codes-path", "codes", "--vocab-sizes", "150").stdout


def test_a_dataset_and_its_statistics(codes: Path, duotone: Any) -> None:
    specials = ["--special-tokens", "<a>", "</a>", "--pad-token", "<pad>", "--unk-token", "<unk>"]
    assert (
        duotone(
            "tokens", "train", "--codes-path", "codes", "--vocab-size", "300", "--save-path", "t", *specials
        ).exit_code
        == 0
    )
    base = [
        "tokens",
        "dataset",
        "--tokenizer",
        "t",
        "--codes_path",
        "codes",
        "--sequence_length",
        "64",
        "--overlap_length",
        "16",
    ]
    for name in ("lm.txt", "lm.parquet"):
        told = duotone(*base, "--audio_start_token", "<a>", "--audio_end_token", "</a>", "--save_path", name)
        assert told.exit_code == 0 and told.stdout.strip() == name, told.stderr
        figures = duotone(
            "tokens", "stats", "--dataset_path", name, "--tokenizer", "t", "--overlap_length", "16", "--json"
        )
        assert json.loads(figures.stdout)["total"] == pytest.approx(3 * 540 / 75.0)
    assert "an example" in duotone("tokens", "stats", "--dataset-path", "lm.txt", "--tokenizer", "t").stdout
    packed = duotone(*base, "--pack", "<pad>", "--save-path", "p.parquet", "--num-examples", "2", "--json")
    assert json.loads(packed.stdout)["examples"] == 2
    for arguments, message in (
        (["--save-path", "lm.txt"], "--force"), (["--save-path", "x.csv"], ".parquet"),
        (["--save-path", "y.txt", "--channels", "both"], "interleaved"),
        (["--save-path", "y.txt", "--pack", "<x>"], "not a special token"),
        (["--save-path", "y.txt", "--overlap-length", "64"], "never end"),
        (["--save-path", "y.txt", "--sequence-length", "99999", "--drop-last"], "No sequence"),
        (["--save-path", "y.txt", "--unicode-offset", "0x4E00"], "the tokenizer has"),
    ):  # fmt: skip
        told = duotone(*base, *arguments)
        assert told.exit_code == 2 and message in told.stderr, (arguments, told.stderr)
    assert duotone("tokens", "stats", "--dataset-path", "absent", "--tokenizer", "t").exit_code == 2


def test_extending_a_text_tokenizer(codes: Path, duotone: Any) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    text = Tokenizer(models.BPE(letters, []))
    text.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    Path("text").mkdir()
    text.save("text/tokenizer.json")
    assert duotone("tokens", "train", "--codes-path", "codes", "--vocab-size", "300", "--save-path", "t").exit_code == 0
    arguments = [
        "tokens",
        "extend",
        "--existing_tokenizer",
        "text",
        "--codec_bpe_tokenizer",
        "t",
        "--save_path",
        "both",
    ]
    told = duotone(*arguments, "--additional_special_tokens", "<a>", "<b>")
    assert told.exit_code == 0 and told.stdout.strip() == "both", told.stderr
    made = Tokenizer.from_file("both/tokenizer.json")
    assert made.token_to_id("<b>") == made.get_vocab_size() - 1
    assert duotone(*arguments).exit_code == 2
    assert duotone(*arguments[:-1], "x", "--as-added-tokens", "--json").exit_code == 0


def test_duo_files_say_themselves_what_they_hold(here: Path, duotone: Any, codec: Codec) -> None:
    encoded(codec, "duo/song.duo")
    told = duotone("tokens", "train", "--codes-path", "duo", "--vocab-size", "14700", "--save-path", "t", "--json")
    assert told.exit_code == 0, told.stderr
    made = AudioTokenizer.load("t")
    assert (made.alphabet.codebooks, made.alphabet.size) == (1, 14641)
    assert made.about["space"] == codec.spec.space and made.about["format"] == "float32"
    assert json.loads(told.stdout)["shortfall"].startswith("The vocabulary has")
    Path("l").mkdir()
    write_duo("l/s.duo", codec.encode(synthesize(0, 0.1)))
    wrong = duotone("tokens", "train", "--codes-path", "l")
    assert wrong.exit_code == 2 and "--kind tokens" in wrong.stderr


def encoded(codec: Codec, name: str, **changes: Any) -> Codes:
    """A .duo of 12 chunks of codes; `changes` are those of its spec, or the number format."""
    indices = np.random.default_rng(len(name)).integers(0, 9, (1, 12 * codec.spec.steps))
    source = replace(codec.source(), format=changes.pop("format", "float32"))
    codes = Codes(indices, replace(codec.spec, **changes), source)  # type: ignore[arg-type]
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    write_duo(name, codes)
    return codes


@pytest.mark.parametrize("changes", [{"space": "0" * 16}, {"format": "bfloat16"}])
def test_different_encodings_are_not_mixed(here: Path, duotone: Any, codec: Codec, changes: dict[str, str]) -> None:
    first, second = encoded(codec, "duo/a.duo"), encoded(codec, "duo/deep/b.duo", **changes)
    train = ["tokens", "train", "--vocab-size", "14700", "--save-path", "t"]
    mixed = duotone(*train, "--codes-path", "duo")
    assert mixed.exit_code == 5 and "a.duo" in mixed.stderr and "b.duo" in mixed.stderr
    assert first.spec.space in mixed.stderr and second.source.format in mixed.stderr
    assert duotone("tokens", "advise", "--codes-path", "duo").exit_code == 5
    assert duotone(*train, "--codes-path", "duo", "--codes-filter", "a.duo").exit_code == 0
    for arguments in (["report", "t"], ["dataset", "--tokenizer", "t", "--save-path", "x.txt"]):
        other = duotone("tokens", *arguments, "--codes-path", "duo/deep")
        assert other.exit_code == 5 and "tokenizer was trained on" in other.stderr and not Path("x.txt").exists()


def test_nested_descriptions_are_all_read(codes: Path, duotone: Any) -> None:
    (codes / "b").mkdir()
    (codes / "a/0_c0.npy").rename(codes / "b/0_c0.npy")
    (codes / "b/codec_info.json").write_text(json.dumps(INFO | {"codec_type": "dac"}))
    mixed = duotone("tokens", "train", "--codes-path", "codes")
    assert mixed.exit_code == 5 and "encodec" in mixed.stderr and "dac" in mixed.stderr
    train = ["tokens", "train", "--vocab-size", "200", "--save-path"]
    assert duotone(*train, "t", "--codes-path", "codes", "--codes-filter", "a/").exit_code == 0
    assert duotone(*train, "u", "--codes-path", "codes/a").exit_code == 0  # described by the folder above
    assert AudioTokenizer.load("u").about["codec"] == "encodec"


def test_one_bad_file_does_not_end_the_others(codes: Path, duotone: Any) -> None:
    bad = np.load(codes / "a/1_c0.npy")
    bad[0, 2, 7] = 32
    np.save(codes / "a/bad_c0.npy", bad)
    (codes / "a/cut_c0.npy").write_bytes(b"no")
    train = duotone("tokens", "train", "--codes-path", "codes", "--vocab-size", "200", "--save-path", "t")
    assert train.exit_code == 4 and train.stdout.strip() == "t"
    for text in ("bad_c0.npy holds the code 32 in codebook 2, frame 7", "cut_c0.npy", "2 of 5 files"):
        assert text in train.stderr
    made = duotone("tokens", "dataset", "--tokenizer", "t", "--codes-path", "codes", "--save-path", "lm.parquet")
    assert made.exit_code == 4 and "2 of 5 files" in made.stderr
    stats = duotone("tokens", "stats", "--dataset-path", "lm.parquet", "--tokenizer", "t", "--json")
    assert json.loads(stats.stdout)["total"] == pytest.approx(3 * 540 / 75.0)


def test_folders_are_walked_as_by_the_other_commands(codes: Path, duotone: Any) -> None:
    (codes / "a/.hidden.npy").write_bytes(b"no")
    (codes / "a/.half.npy.part").write_bytes(b"no")
    (codes / "a/2_c0.npy").rename(codes / os.fsdecode(b"a/caf\xe9_c0.NPY"))
    (codes.parent / "far").mkdir()
    (codes / "a/0_c0.npy").rename(codes.parent / "far/0_c0.npy")
    (codes / "link").symlink_to(codes.parent / "far")
    (codes / "round").symlink_to(codes)
    told = duotone("tokens", "train", "--codes-path", "codes", "--vocab-size", "200", "--save-path", "t")
    assert told.exit_code == 0, told.stderr
    assert AudioTokenizer.load("t").about["files"] == 3


def test_chunks_are_not_cut_apart(here: Path, duotone: Any, codec: Codec) -> None:
    encoded(codec, "duo/song.duo")
    train = ["tokens", "train", "--codes-path", "duo", "--vocab-size", "14700", "--save-path", "t"]
    assert duotone(*train).exit_code == 0
    make = [
        "tokens",
        "dataset",
        "--tokenizer",
        "t",
        "--codes-path",
        "duo",
        "--sequence-length",
        "50",
        "--overlap-length",
        "0",
    ]
    assert duotone(*make, "--grid", "chunk", "--save-path", "lm.parquet").exit_code == 0
    import pyarrow.parquet as pq

    tokenizer = AudioTokenizer.load("t")
    rows = pq.read_table("lm.parquet")["input_ids"].to_pylist()
    assert len(rows) > 2 and {tokenizer.decode(row).codes.shape[1] % codec.spec.steps for row in rows} == {0}
    unknown = duotone(*make, "--grid", "bar", "--save-path", "x.txt")
    assert unknown.exit_code == 2 and "expected token, frame or chunk" in unknown.stderr


def test_ids_become_codes(codes: Path, duotone: Any) -> None:
    train = [
        "tokens",
        "train",
        "--codes-path",
        "codes",
        "--vocab-size",
        "200",
        "--save-path",
        "t",
        "--special-tokens",
        "<a>",
    ]
    assert duotone(*train, "--pad-token", "<pad>").exit_code == 0
    tokenizer = AudioTokenizer.load("t")
    some = [load_npy(file) for file in sorted(codes.glob("a/*.npy"))]
    ids = [tokenizer.encode(one) for one in some]
    decode = ["tokens", "decode", "--tokenizer", "t"]
    np.save("ids.npy", ids[0][None])
    told = duotone(*decode, "ids.npy", "-o", "out/codes.npy", "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout) == {
        "input": "ids.npy", "output": "out/codes.npy", "sequences": 1, "frames": 540, "dropped": 0, "seconds": 7.2,
    }  # fmt: skip
    assert np.load("out/codes.npy").dtype == np.int64 and np.array_equal(np.load("out/codes.npy")[0], some[0])
    again = duotone("tokens", "report", "t", "--codes-path", "out", "--json")  # codec_info.json is beside it
    assert json.loads(again.stdout)["codes"] == 540 * 4
    text = "\n".join(f"<a>{to_text(one, tokenizer.alphabet)}<pad>" for one in some)
    Path("lm.txt").write_text(text, encoding="utf-8")
    told = duotone(*decode, "lm.txt", "ids.npy", "-o", "many/")
    assert told.exit_code == 0, told.stderr
    assert sorted(p.name for p in Path("many").iterdir()) == [
        "codec_info.json", "ids.npy", "lm_000.npy", "lm_001.npy", "lm_002.npy"
    ]  # fmt: skip
    assert all(np.array_equal(np.load(f"many/lm_00{i}.npy")[0], one) for i, one in enumerate(some))
    lines = "".join(json.dumps({"input_ids": one.tolist()}) + "\n" for one in ids).encode()
    told = duotone(*decode, "-", "-o", "stdin/", stdin=lines)
    assert told.exit_code == 0 and "3 files" in told.stderr
    assert np.array_equal(np.load("stdin/stdin_002.npy")[0], some[2])
    both = tokenizer.encode(np.stack([some[0], some[1]], axis=2).reshape(4, -1))
    Path("both.txt").write_text(" ".join(map(str, both)))
    assert duotone(*decode, "both.txt", "-o", "stereo.npy", "--channels", "2").exit_code == 0
    assert np.array_equal(np.load("stereo_c1.npy")[0], some[1])


def test_what_cannot_be_decoded(codes: Path, duotone: Any) -> None:
    assert duotone("tokens", "train", "--codes-path", "codes", "--vocab-size", "200", "--save-path", "t").exit_code == 0
    tokenizer = AudioTokenizer.load("t")
    some = load_npy(codes / "a/0_c0.npy")
    np.save("ids.npy", tokenizer.encode(some))
    text = to_text(some, tokenizer.alphabet)
    Path("damaged.txt").write_text(text[:5] + text[6:], encoding="utf-8")
    Path("hello.txt").write_text("hello")
    Path("other").mkdir()
    Path("other/codec_info.json").write_text(json.dumps(INFO | {"codec_type": "dac"}))
    for arguments, code, message in (
        (["hello.txt", "-o", "x.npy"], 2, "No complete frame"), (["absent.npy", "-o", "x.npy"], 7, "absent.npy"),
        (["damaged.txt", "-o", "x.npy", "--damaged", "raise"], 2, "not the code that is due"),
        (["ids.npy", "-o", "x.npy", "--damaged", "all"], 2, "drop_frame"), (["ids.npy", "-o", "-"], 2, "-o - is not possible"),
        (["ids.npy", "-o", "other/x.npy"], 5, "dac"), (["ids.npy", "-o", "x/", "--format", "aac"], 2, "npy, "),
        (["ids.npy", "-o", "x.wav", "--codec", "nothing"], 6, "nothing"),
        (["ids.npy", "-o", "x.wav", "--codec", "tiny"], 2, "[1, S]"),
    ):  # fmt: skip
        told = duotone("tokens", "decode", "--tokenizer", "t", *arguments)
        assert told.exit_code == code and message in told.stderr, (arguments, told.stderr)
    assert not Path("x.npy").exists() and not Path("x.wav").exists() and not Path("other/x.npy").exists()
    assert duotone("tokens", "decode", "--tokenizer", "t", "ids.npy", "-o", "ids2.npy").exit_code == 0
    there = duotone("tokens", "decode", "--tokenizer", "t", "ids.npy", "-o", "ids2.npy")
    assert there.exit_code == 2 and "--force" in there.stderr


def test_ids_become_sound(here: Path, duotone: Any, codec: Codec, codec_folder: str) -> None:
    codes = encoded(codec, "duo/song.duo")
    train = ["tokens", "train", "--codes-path", "duo", "--vocab-size", "14700", "--save-path", "t"]
    assert duotone(*train).exit_code == 0
    tokenizer = AudioTokenizer.load("t")
    Path("made.txt").write_text(to_text(codes.indices[:, :-1], tokenizer.alphabet), encoding="utf-8")
    decode = ["tokens", "decode", "--tokenizer", "t", "made.txt", "--codec", codec_folder]
    told = duotone(*decode, "-o", "out.wav", "--seed", "3")
    assert told.exit_code == 0, told.stderr
    assert "15 frames do not fill a chunk" in told.stderr
    steps = codec.spec.steps * (len(codes) - 1)
    want = codec.decode(codec.codes(codes.indices[:, :steps]), seed=3)
    sound = read("out.wav")
    assert (sound.rate, sound.channels, sound.length) == (want.rate, 2, want.length)
    assert float((sound.samples - want.samples.clamp(-1, 1)).abs().max()) < 1e-3
    other = duotone(*decode[:-1], "tiny", "-o", "other.wav")
    assert other.exit_code == 5 and not Path("other.wav").exists()


def test_sound_of_a_codec_of_several_codebooks(here: Path, duotone: Any) -> None:
    """Sound -> codes of two channels -> tokens -> sound, with a small DAC of random weights."""
    import torch
    from transformers import DacConfig, DacModel

    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[2, 4, 5, 8], decoder_hidden_size=64, n_codebooks=3,
        codebook_size=32, codebook_dim=4, sampling_rate=16_000,
    )  # fmt: skip
    DacModel(config).save_pretrained("models/dac")
    Path("sounds").mkdir()
    write("sounds/a.wav", synthesize(0, 1.1))
    codec = ["--codec", "models/dac", "--n-quantizers", "2"]
    made = duotone("codes", "sounds", "-o", "codes", "--codec-model", *codec[1:], "--stereo")
    assert made.exit_code == 0, made.stderr
    folder = made.stdout.strip().splitlines()[-1]
    train = duotone("tokens", "train", "--codes-path", folder, "--vocab-size", "80", "--save-path", "t")
    assert train.exit_code == 0, train.stderr
    dataset = ["tokens", "dataset", "--tokenizer", "t", "--codes-path", folder, "--channels", "interleaved"]
    assert duotone(*dataset, "--overlap-length", "0", "--save-path", "lm.txt").exit_code == 0
    decode = ["tokens", "decode", "--tokenizer", "t", "lm.txt", "--channels", "2", "-o"]
    told = duotone(*decode, "back.wav", *codec)
    assert told.exit_code == 0, told.stderr
    sound = read("back.wav")
    streams = [load_npy(Path(folder) / f"a_c{i}.npy") for i in range(2)]
    loaded = load("models/dac", n_quantizers=2)
    want = loaded.decode(loaded.codes(np.concatenate(streams)))
    assert (sound.rate, sound.channels) == (16_000, 2)
    assert float((sound.samples - want.samples[:, : sound.length].clamp(-1, 1)).abs().max()) < 1e-3
    other = duotone(*decode, "other.wav", "--codec", "models/dac")
    assert other.exit_code == 5 and "--n-quantizers 2" in other.stderr and not Path("other.wav").exists()


def test_training_needs_no_torch(codes: Path) -> None:
    program = "import sys; from duotone.cli.main import app\ntry: app()\nfinally: print('torch' in sys.modules)\n"
    arguments = ["tokens", "train", "--codes-path", "codes", "--vocab-size", "200", "--save-path", "t", "--quiet"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.stdout.split() == ["t", "False"], done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--codes-path", "absent"], 2, "No folder"), (["--codes-path", "empty"], 2, "no .npy or .duo file"),
        (["--codes-path", "codes", "--codes-filter", "x9"], 2, "none of the 3 files match"),
        (["--codes-path", "codes", "--vocab-size", "5"], 2, "vocab_size got 5"),
        (["--codes-path", "codes", "--unicode-offset", "x"], 2, "0x4E00"),
        (["--codes-path", "codes", "--num-codebooks", "9"], 4, "at least 9"),
        (["--codes-path", "bare"], 2, "--num-codebooks and --codebook-size"),
        (["--codes-path", "bare", "--num-codebooks", "1", "--codebook-size", "4"], 4, "cannot be read as codes"),
    ],
)  # fmt: skip
def test_bad_input(codes: Path, duotone: Any, arguments: list[str], code: int, message: str) -> None:
    Path("empty").mkdir()
    Path("bare").mkdir()
    Path("bare/x.npy").write_bytes(b"no")
    told = duotone("tokens", "train", *arguments)
    assert told.exit_code == code and message in told.stderr and "Traceback" not in told.stderr


def test_a_damaged_description(codes: Path, duotone: Any) -> None:
    (codes / "codec_info.json").write_text('{"num_codebooks": 4}')
    told = duotone("tokens", "train", "--codes-path", "codes")
    assert told.exit_code == 4 and "codec_info.json is damaged" in told.stderr


def test_interrupted_it_goes_on(here: Path) -> None:
    """Ctrl-C at some moment leaves a beginning, and the second run ends where an undisturbed one does."""
    rng = np.random.default_rng(1)
    Path("codes").mkdir()
    for i in range(8):
        np.save(f"codes/{i}.npy", rng.integers(0, 40, (2, 4000)))
    Path("codes/codec_info.json").write_text(json.dumps(INFO | {"num_codebooks": 2, "codebook_size": 40}))
    program = (
        "import os, signal, sys; import duotone.tokens.bpe as b; original = b._State.advance; n = [0]\n"
        "def advance(self):\n"
        "    n[0] += 1\n"
        "    if n[0] == 8: os.kill(os.getpid(), signal.SIGINT)\n"
        "    return original(self)\n"
        "if sys.argv[1] == 'stop': b._State.advance = advance\n"
        "sys.argv = ['duotone', 'tokens', 'train', '--codes-path', 'codes', '--vocab-size', '3000', '--save-path', sys.argv[2]]\n"
        "from duotone.cli.main import run; run()\n"
    )

    def go(mode: str, target: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", program, mode, target], capture_output=True, text=True)

    stopped = go("stop", "t")
    assert stopped.returncode == 130 and "resumes from there" in stopped.stderr, stopped.stderr
    begun = AudioTokenizer.load("t.partial")
    assert 0 < len(begun.merges) < 2900 and not Path("t").exists()
    assert go("go", "t").returncode == 0 and go("go", "whole").returncode == 0
    assert not Path("t.partial").exists()
    assert AudioTokenizer.load("t").tokens() == AudioTokenizer.load("whole").tokens()
    assert signal.getsignal(signal.SIGINT) is not None
