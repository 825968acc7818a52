"""The page for those who come from Lycodec, run in miniature, and its tables against the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
import yaml

from duotone import hub
from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.lycodec.network import LycodecNetwork
from duotone.codec.lycodec.seed import KEYS, TRAINING
from duotone.codec.lycodec.weights import save_lycodec
from duotone.config import LycodecConfig, lycodec_preset
from duotone.train.lycodec_seed import recipe_of
from duotone.train.recipe import TrainRecipe
from pages import block_of, commands_of, page
from small_lycodec import SMALL_LYCODEC, random_lycodec

NAME = "lycodec-tiny"
PAGE = page("docs/coming-from-lycodec.md")
SMALL = [
    f"model.replace.{key}={value}"
    for key, value in SMALL_LYCODEC.to_dict().items()
    if key not in ("noise", "decode", "family")
]
TINY = ("train.steps=1", "train.batch_size=2", "train.accumulation=1", "train.validation_batches=1", "train.decoded_clips=0", "train.device=cpu", "train.precision=float32", "objective.spectral_sizes=[64,128]", *SMALL)  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: input.wav, music/, heldout/, a described configuration, and a small codec in place of the bundled one."""
    weights = tmp_path / "weights"
    weights.mkdir()
    for name in hub.bundled():
        if name != NAME:
            (weights / name).symlink_to(hub.WEIGHTS / name)
    save_lycodec(random_lycodec(), weights / NAME)
    monkeypatch.setattr(hub, "WEIGHTS", weights)
    monkeypatch.chdir(tmp_path)
    write("input.wav", synthesize(1, 0.2))
    for folder in ("music", "heldout"):
        (tmp_path / folder).mkdir()
        for i in range(2):
            write(tmp_path / folder / f"{i}.wav", synthesize(i, 0.6))
    (tmp_path / "lycodec_48k.yaml").write_text(
        yaml.safe_dump({"lr": 0.0002, "device": "cpu", "batch_size": 2, "train": {"stage2_steps": 1}})
    )
    return tmp_path


def test_every_command_of_the_page(here: Path) -> None:
    commands_of(PAGE, 7, {"train": TINY})
    assert (here / "output.wav").is_file() and (here / "own.duo").is_file()
    assert TrainRecipe.load(here / "recipe.yaml") == recipe_of(here / "lycodec_48k.yaml")[0]


def test_the_code_of_the_page(here: Path) -> None:
    for number in range(2):
        exec(compile(block_of(PAGE, "python", number), "the page", "exec"), {})
    assert (here / "hybrid.wav").is_file() and (here / "tokens.wav").is_file()


def test_every_described_key_is_on_the_page() -> None:
    told = set(re.findall(r"`([a-z0-9_.]+)`", PAGE))
    for key in TRAINING | {key for key in KEYS if key.startswith("train.")}:
        assert {key, key.removeprefix("train.")} & told or any(word.startswith(f"{key}.") for word in told), key
    configuration = LycodecConfig.model_fields
    table = PAGE.partition("| configuration |")[2].partition("##")[0]
    for row in re.findall(r"^\| `.*$", table, re.M):
        for field in re.findall(r"`([a-z_]+)`", row.split("|")[2]):
            assert field in configuration, field
    assert lycodec_preset(NAME).values == 256


def test_the_parameters_of_the_page_are_those_of_the_networks() -> None:
    counted = []
    with torch.device("meta"):
        for name in ("lycodec", NAME):
            counted.append(LycodecNetwork(lycodec_preset(name)).parameters_by_part())
    table = PAGE.partition("## Parameters")[2].partition("## What")[0]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line.startswith("| ")
    ]
    told = {row[0].partition(" (")[0]: row[2:] for row in rows[2:]}
    assert told == {part: [f"{found[part] / 1e6:.2f}M" for found in counted] for part in counted[0]}
    assert f"{sum(counted[0].values()) / 1e6:.1f}" == "82.8"
