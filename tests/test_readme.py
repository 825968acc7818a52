"""The README's code, commands and table are run or checked."""

from __future__ import annotations

import math
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.cli.main import app
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.network import BandNetwork
from duotone.codec.codicodec.network import parameter_count
from duotone.codec.codicodec.weights import empty_network
from duotone.codec.lycodec.network import LycodecNetwork
from duotone.config import LYCODEC_PRESETS, PRESETS, BandsConfig
from duotone.hub import load
from pages import ROOT, block_of, code_of, commands_of, lines_of, page, run

README = page("README.md")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write("song.wav", synthesize(1, 1.0))
    return tmp_path


def test_the_example_runs(folder: Path) -> None:
    code_of(README)
    came = read(folder / "song.wav")
    for name in ("again.wav", "tokens.wav"):
        went = read(folder / name)
        assert (went.length, went.rate, went.channels) == (came.length, came.rate, came.channels)


def test_the_commands_run(folder: Path) -> None:
    lines = block_of(README, "sh").strip().splitlines()
    assert len(lines) >= 4
    for line in lines:
        run(line, {})
    assert (folder / "song-again.wav").is_file()


def test_the_training_commands_are_those_that_the_page_on_training_runs() -> None:
    commands = [line.strip() for line in block_of(README, "console").strip().splitlines()]
    assert len(commands) == 2 and "\n".join(commands) in page("docs/training.md")


def test_the_table_of_presets_is_current() -> None:
    table = README.split("<!-- presets -->")[1].split("<!-- /presets -->")[0]
    rows = {r.split("|")[1].strip(): [c.strip() for c in r.split("|")[2:5]] for r in table.strip().splitlines()[2:]}
    assert rows.keys() == PRESETS.keys() | LYCODEC_PRESETS.keys()
    for name, each in LYCODEC_PRESETS.items():
        with torch.device("meta"):
            count = parameter_count(LycodecNetwork(each))
        tokens = each.tokens * each.rate / each.chunk_samples
        bits = sum(math.log2(n) for levels in each.codebook_levels for n in levels)
        assert rows[name] == [f"{count / 1e6:.1f}M", f"{tokens:.1f}", f"{tokens * bits / 1000:.3f}"]
    for name, config in PRESETS.items():
        tokens = config.latents * config.rate / config.chunk_samples
        network = BandNetwork(config) if isinstance(config, BandsConfig) else empty_network(config)
        want = [
            f"{parameter_count(network) / 1e6:.1f}M",
            f"{tokens:.1f}",
            f"{tokens * math.log2(math.prod(config.levels)) / 1000:.3f}",
        ]
        assert rows[name] == want


def test_ci_runs_the_readmes_test_command() -> None:
    assert re.findall(r"^make ([\w-]+)", README, flags=re.M) == ["demo", "studio", "test", "test-long"]
    runner = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "grep -m 1 -oE '^make test\\b' README.md" in runner
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert {"demo", "test", "test-long", "check", "bench"} <= set(targets)


def test_commands_named_in_the_text_exist() -> None:
    known = {entry.name for entry in (*app.registered_commands, *app.registered_groups)}
    named = set(re.findall(r"`duotone ([a-z-]+)", "".join(each.read_text(encoding="utf-8") for each in PAGES)))
    assert "convert" in named
    assert named <= known


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s#]+)", path.read_text(encoding="utf-8")):
        assert target.startswith("https://") or (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("name", ["roundtrip", "live"])
def test_the_examples_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [f"{name}.py"])
    runpy.run_path(str(ROOT / "examples" / f"{name}.py"), run_name="__main__")
    wave = read(tmp_path / f"{name}.wav")
    assert wave.rate == 48_000
    assert wave.seconds >= 3


#: What makes a documented command small enough for a test: after a word of it, further words.
MINIATURE = {
    "make-sounds": ["--kinds", "synth"],
    "train": [
        "train.steps=2", "train.batch_size=1", "train.validate_every=2", "train.validation_batches=1", "train.clips=1",
        "train.listen_every=0", "train.precision=float32", "train.decoded_clips=1", "data.workers=1",
    ],
    "report": [],
    "evaluate": ["--seconds", "0.3"],
}  # fmt: skip


@pytest.mark.long
def test_the_commands_of_the_training_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page("docs/training.md")
    lines = lines_of(text)
    assert [shlex.split(line)[1] for line in lines] == [
        "make-sounds",
        "train",
        "report",
        "make-sounds",
        "evaluate",
        "train",
        "train",
        "train",
        "train",
    ]
    monkeypatch.chdir(tmp_path)
    for line in lines:
        words = shlex.split(re.sub(r"--minutes \d+", "--minutes 0.34", line))
        done = subprocess.run(
            [sys.executable, "-m", "duotone", *words[1:], *MINIATURE[words[1]]], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert isinstance(load(tmp_path / "runs" / "mine" / "codec"), BandCodec)
    assert (tmp_path / "runs" / "first" / "report.html").is_file()


def test_the_tokens_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page("docs/tokens.md")
    monkeypatch.chdir(tmp_path)
    code_of(text)
    (tmp_path / "tokenizer" / "tokenizer.json").unlink()
    (tmp_path / "sounds").mkdir()
    for i in range(2):
        write(tmp_path / "sounds" / f"{i}.wav", synthesize(i, 1.0))
    commands_of(text, 7)
    assert len(list((tmp_path / "sound").glob("*.wav"))) == 2


def test_the_latents_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page("docs/latents.md")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sounds").mkdir()
    for i in range(2):
        write(tmp_path / "sounds" / f"{i}.wav", synthesize(i, 1.5))
    commands_of(text, 8)
    for number in range(2):
        code_of(text, number)
    assert abs(read(tmp_path / "made.wav").seconds - 2 * 0.683) < 0.05


def test_the_page_of_text_tokenizers_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = page("docs/text-tokenizers.md")
    monkeypatch.chdir(tmp_path)
    code_of(text)
    shutil.rmtree(tmp_path / "both")
    commands_of(text, 1)
    assert (tmp_path / "both" / "tokenizer.json").is_file()
