"""``duotone tokens``: old command lines, folders of codes and .duo files, interruptions, bad input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.tokens import AudioTokenizer

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
    assert "Each doubling" in duotone("tokens", "advise", "--codes-path", "codes", "--vocab-sizes", "150").stdout


def test_a_data_set_and_its_figures(codes: Path, duotone: Any) -> None:
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


def test_duo_files_say_themselves_what_they_hold(here: Path, duotone: Any, codec_folder: str) -> None:
    write("song.wav", synthesize(0, 1.0))
    assert duotone("encode", "song.wav", "-o", "duo/song.duo", "--codec", codec_folder).exit_code == 0
    told = duotone("tokens", "train", "--codes-path", "duo", "--vocab-size", "14700", "--save-path", "t", "--json")
    assert told.exit_code == 0, told.stderr
    alphabet = AudioTokenizer.load("t").alphabet
    assert (alphabet.codebooks, alphabet.size) == (1, 14641)
    assert duotone("encode", "song.wav", "-o", "l/s.duo", "--codec", codec_folder, "--kind", "latents").exit_code == 0
    wrong = duotone("tokens", "train", "--codes-path", "l")
    assert wrong.exit_code == 2 and "--kind tokens" in wrong.stderr


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
    assert stopped.returncode == 130 and "goes on from there" in stopped.stderr, stopped.stderr
    begun = AudioTokenizer.load("t.partial")
    assert 0 < len(begun.merges) < 2900 and not Path("t").exists()
    assert go("go", "t").returncode == 0 and go("go", "whole").returncode == 0
    assert not Path("t.partial").exists()
    assert AudioTokenizer.load("t").tokens() == AudioTokenizer.load("whole").tokens()
    assert signal.getsignal(signal.SIGINT) is not None
