"""``duotone evaluate``: what it compares, how it names it, and what it refuses before the work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from duotone import hub
from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.cli import evaluate as command
from duotone.cli.main import app
from duotone.codec.codicodec import CoDiCodec
from duotone.errors import UsageError
from toys import Features, Pcm

Run = Callable[..., Any]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: CoDiCodec) -> Path:
    """The current folder: held/ with two sounds, first/codec and second/codec."""
    monkeypatch.chdir(tmp_path)
    generator = torch.Generator().manual_seed(5)
    (tmp_path / "held").mkdir()
    for name in ("a-music.wav", "b-speech.wav"):
        write(tmp_path / "held" / name, Waveform(0.1 * torch.randn(2, 4_000, generator=generator), 48_000))
    for name in ("first", "second"):
        hub.save(codec, tmp_path / name / "codec")
    return tmp_path


@pytest.fixture
def evaluate(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command; `pcm` and `features` are codecs of one face, and what they were loaded with is kept."""
    load, asked = hub.load, {}

    def with_toys(name: str, device: Any, dtype: Any, *, say: Any = None, **options: Any) -> Any:
        asked[name] = {key: value for key, value in options.items() if value is not None}
        return {"pcm": Pcm, "features": Features}[name]() if name in ("pcm", "features") else load(name, device, dtype)

    monkeypatch.setattr(hub, "load", with_toys)

    def run(*arguments: str) -> Any:
        result = CliRunner().invoke(app, ["evaluate", *arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        result.asked = asked
        return result

    return run


def test_the_table_fits_eighty_columns_whatever_the_environment_says(
    here: Path, evaluate: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "30")  # of a terminal; this goes to a pipe
    found = evaluate("first/codec", "--data", "held", "-q")
    assert found.exit_code == 0 and found.stderr == ""
    lines = found.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split("  ")[0] for line in lines[3:7]] == [
        "continuous, parallel", "continuous, autoregressive", "discrete, parallel", "discrete, autoregressive",
    ]  # fmt: skip
    assert "[" in evaluate("first/codec", "--data", "held", "-q", "--intervals").stdout.splitlines()[4]


def test_codecs_of_every_kind_compare_and_get_their_options(here: Path, evaluate: Run) -> None:
    found = evaluate(
        "pcm", "--data", "held", "--n-quantizers", "4", "--against", "features,bandwidth=1.5", "--against", "first/codec",
        "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert found.asked["pcm"] == {"n_quantizers": 4} and found.asked["features"] == {"bandwidth": 1.5}
    document = json.loads(found.stdout)
    assert list(document["summary"]) == [
        "pcm discrete", "features,bandwidth=1.5 continuous", "codec continuous, parallel", "codec continuous, autoregressive",
        "codec discrete, parallel", "codec discrete, autoregressive", "silence",
    ]  # fmt: skip
    assert document["codec"]["family"] == "pcm" and document["settings"]["rate"] == 48_000
    interval = document["summary"]["pcm discrete"]["log_mel"]
    assert interval["low"] <= interval["mean"] <= interval["high"]


def test_two_folders_of_one_name_are_two_systems(here: Path, evaluate: Run) -> None:
    found = evaluate("first/codec", "--data", "held", "--against", "second/codec/", "--limit", "1", "--json")
    systems = list(json.loads(found.stdout)["summary"])
    assert "first/codec discrete, parallel" in systems and "second/codec discrete, parallel" in systems
    found = evaluate("first/codec", "--data", "held", "--against", "first/codec")
    assert found.exit_code == 2 and "twice" in found.stderr


@pytest.mark.parametrize(
    ("specs", "names"),
    [
        (["tiny"], ["tiny"]),
        (["runs/a/codec", "runs/b/codec", "tiny"], ["a/codec", "b/codec", "tiny"]),
        (["codec", "runs/codec"], ["codec", "runs/codec"]),
        (["facebook/encodec_24khz", "./encodec_48khz/"], ["encodec_24khz", "encodec_48khz"]),
        (["/"], ["/"]),
    ],
)
def test_names_are_as_short_as_they_can_be(specs: list[str], names: list[str]) -> None:
    assert command._names(specs) == names


def test_options_after_commas() -> None:
    assert command._with_options("mimi,n-quantizers=8") == ("mimi", {"n_quantizers": 8})
    assert command._with_options("x,bandwidth=1.5,codec-repo=a=b") == ("x", {"bandwidth": 1.5, "repository": "a=b"})
    assert command._with_options("My songs, vol. 2/codec") == ("My songs, vol. 2/codec", {})
    with pytest.raises(UsageError, match="n-quantizers=many"):
        command._with_options("mimi,n-quantizers=many")


def test_a_bad_file_is_told_of_and_the_exit_code_says_so(here: Path, evaluate: Run) -> None:
    (here / "held" / "broken.wav").write_bytes(b"RIFF")
    found = evaluate("pcm", "--data", "held", "--json", "--html", "out/page.html")
    assert found.exit_code == 3 and "broken.wav" in found.stderr
    document = json.loads(found.stdout)
    assert len(document["rows"]) == 4 and document["failures"][0]["file"] == "broken.wav"
    assert "broken.wav" in (here / "out" / "page.html").read_text()


def test_outputs_are_checked_before_the_codec_is_loaded(here: Path, evaluate: Run) -> None:
    def refused(target: str, *more: str) -> str:
        found = evaluate("pcm", "--data", "held", "--html", target, *more)
        assert found.exit_code != 0 and "pcm" not in found.asked
        return str(found.stderr)

    (here / "there.html").write_text("mine")
    assert "--force" in refused("there.html") and (here / "there.html").read_text() == "mine"
    assert "folder" in refused("held")
    assert "not a folder" in refused("there.html/page.html").lower()
    if os.geteuid():
        (here / "locked").mkdir(mode=0o555)
        assert "refused" in refused("locked/page.html")
    found = evaluate("pcm", "--data", "held", "--html", "there.html", "--force", "-q")
    assert found.exit_code == 0 and "</html>" in (here / "there.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["--data", "nowhere"], "No folder"),
        (["--data", "held", "--against", "opus"], "opus:6k"),
        (["--data", "held", "--frechet", "vgg"], "logmel"),
    ],
)
def test_mistakes_are_told_of_before_the_codec_is_loaded(
    here: Path, evaluate: Run, arguments: list[str], hint: str
) -> None:
    found = evaluate("pcm", *arguments)
    assert found.exit_code in (2, 3) and hint in found.stderr and "pcm" not in found.asked
