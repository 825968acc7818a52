"""The commands with a codec of the bands frontend: its option, and those that it does not have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from duotone.audio.files import read
from duotone.hub import save
from small_bands import random_bands


@pytest.fixture(scope="module")
def bands(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small random codec as a folder to be named by --codec."""
    folder = tmp_path_factory.mktemp("codec") / "bands"
    save(random_bands(), folder)
    return str(folder)


def test_iterations_change_the_sound_and_not_its_length(here: Path, duotone: Any, bands: str) -> None:
    assert duotone("encode", "a.wav", "-o", "a.duo", "--codec", bands).exit_code == 0
    for name, options in (
        ("none", ()), ("one", ("--iterations", "1")), ("zero", ("--iterations", "0")), ("auto", ("--strategy", "autoregressive")),
    ):  # fmt: skip
        assert duotone("decode", "a.duo", "-o", f"{name}.wav", "--codec", bands, *options).exit_code == 0
    none, one, zero, auto = (read(f"{name}.wav").samples for name in ("none", "one", "zero", "auto"))
    assert none.equal(one) and none.equal(auto) and none.shape == zero.shape == read("a.wav").samples.shape
    assert not none.equal(zero)


def test_what_a_codec_does_not_have_is_said_before_the_work(
    here: Path, duotone: Any, bands: str, codec_folder: str
) -> None:
    for codec, name in ((bands, "bands"), (codec_folder, "convolutions")):
        assert duotone("encode", "a.wav", "-o", f"{name}.duo", "--codec", codec).exit_code == 0
    for name, codec, words, message in (
        ("bands", bands, ["--steps", "3"], "steps got 3, but bands has no refinement"),
        ("bands", bands, ["--strategy", "sideways"], "strategy"),
        (
            "bands",
            bands,
            ["--strategy", "autoregressive", "--time-prompt", "0.3"],
            "time_prompt is for the autoregressive strategy of a refinement",
        ),
        ("bands", bands, ["--iterations", "-1"], "--iterations"),
        ("convolutions", codec_folder, ["--iterations", "3"], "got iterations, expected steps"),
    ):
        told = duotone("decode", f"{name}.duo", "-o", "x.wav", "--codec", codec, *words)
        assert told.exit_code == 2 and message in " ".join(told.stderr.split()), told.stderr
    told = duotone("encode", "a.wav", "-o", "x.duo", "--codec", bands, "--framing", "published")
    assert told.exit_code == 2 and "the only framing" in told.stderr
    assert not list(here.glob("x.*"))


def test_compact_files_decode_to_the_same_sound(here: Path, duotone: Any, bands: str) -> None:
    for name, options in (("plain", ()), ("compact", ("--compact",))):
        assert duotone("encode", "a.wav", "-o", f"{name}.duo", "--codec", bands, *options).exit_code == 0
        assert duotone("decode", f"{name}.duo", "-o", f"{name}.wav", "--codec", bands).exit_code == 0
    assert read("plain.wav").samples.equal(read("compact.wav").samples)
    assert json.loads(duotone("info", "compact.duo", "--json").stdout)["version"] == 3
    told = duotone("encode", "a.wav", "-o", "x.duo", "--codec", bands, "--compact", "--kind", "latents")
    assert told.exit_code == 2 and "without compact" in " ".join(told.stderr.split()) and not list(here.glob("x.*"))


def test_info_tells_that_there_are_no_strategies(here: Path, duotone: Any, bands: str) -> None:
    found = json.loads(duotone("info", bands, "--json").stdout)
    assert found["strategies"] == [] and found["config"]["frontend"] == "bands"
    assert found["parameters_by_part"].keys() == {"encoder", "estimator"}
    assert found["parameters"] == sum(found["parameters_by_part"].values())
    assert "strategies          none" in duotone("info", bands).stdout
