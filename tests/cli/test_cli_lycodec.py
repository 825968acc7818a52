"""The command line with a bundled Lycodec beside the default codec: files find their codec, and it decides which options there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from duotone import hub
from duotone.audio.files import read
from duotone.cli.main import app
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.lycodec.weights import save_lycodec
from duotone.hub import save
from small_lycodec import random_lycodec


@pytest.fixture
def both(here: Path, codec: CoDiCodec, monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    """Small codecs under the names of the default one and of `lycodec-tiny`; a.duo was made by the second."""
    save(codec, here / "weights" / "tiny")
    save_lycodec(random_lycodec(), here / "weights" / "lycodec-tiny")
    monkeypatch.setattr(hub, "WEIGHTS", here / "weights")
    runner = CliRunner()
    assert runner.invoke(app, ["encode", "a.wav", "-o", "a.duo", "--codec", "lycodec-tiny"]).exit_code == 0
    return runner


def test_options_are_those_of_the_codec_of_the_file(both: CliRunner) -> None:
    """Not of the default codec, which has other ones."""
    for name, words in (("one", []), ("three", ["--steps", "3"])):
        done = both.invoke(app, ["decode", "a.duo", "-o", f"{name}.wav", "--dtype", "float32", *words])
        assert done.exit_code == 0, done.output
    assert read("one.wav").length == read("three.wav").length == 2_400
    assert not (read("one.wav").samples == read("three.wav").samples).all()
    refused = both.invoke(app, ["decode", "a.duo", "-o", "deep/x.wav", "--strategy", "parallel"])
    assert refused.exit_code == 2 and "strategy" in refused.output and not Path("deep").exists()


def test_lower_rates_are_chosen_when_encoding(both: CliRunner) -> None:
    done = both.invoke(app, ["encode", "a.wav", "-o", "low.duo", "--codec", "lycodec-tiny", "--n-quantizers", "2"])
    assert done.exit_code == 0, done.output
    assert Path("low.duo").stat().st_size < Path("a.duo").stat().st_size
    assert both.invoke(app, ["decode", "low.duo", "-o", "low.wav"]).exit_code == 0 and read("low.wav").length == 2_400
    wrong = both.invoke(app, ["encode", "a.wav", "-o", "x.duo", "--codec", "lycodec-tiny", "--n-quantizers", "3"])
    assert wrong.exit_code == 2 and "one of 2, 4" in wrong.output
