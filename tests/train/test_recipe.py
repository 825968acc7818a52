"""Recipes: sections by kind, names, overrides, and those of earlier versions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
import yaml

from duotone.errors import ConfigError
from duotone.train.consistency import ConsistencySection
from duotone.train.flow_sections import FlowModelSection
from duotone.train.lm_sections import LMModelSection
from duotone.train.lycodec import LycodecSection
from duotone.train.recipe import TrainRecipe, bundled
from duotone.train.sections import DATA, CoDiCodecSection, DataSection, Parts, SoundSection


@pytest.mark.parametrize("name", sorted(bundled()))
def test_bundled_recipes_are_valid_and_found_by_name(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    loaded = TrainRecipe.load(name)
    assert isinstance(loaded.model, CoDiCodecSection | FlowModelSection | LMModelSection | LycodecSection)
    assert loaded.model.build().family == loaded.model.kind
    assert loaded == TrainRecipe.load(bundled()[name])
    assert "codec" not in yaml.safe_load(bundled()[name].read_text(encoding="utf-8"))  # the former name of `model`


def test_there_are_recipes_for_the_documentation() -> None:
    names = {
        "base",
        "small",
        "small-consistency",
        "tiny-1-estimate",
        "tiny-2-refinement",
        "tiny-3-adversarial",
        "tiny-demo",
        "fine-tune-published",
    }
    assert names | {"flow-tiny", "flow-small", "flow-base"} <= bundled().keys()


def test_a_file_goes_before_a_bundled_recipe_and_a_wrong_name_lists_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()  # a folder of that name is no recipe
    assert TrainRecipe.load("small").train.batch_size == 32
    (tmp_path / "tiny").write_text("train: {steps: 7}")
    assert TrainRecipe.load("tiny").train.steps == 7
    with pytest.raises(ConfigError, match=r"no recipe tinny.*tiny-demo"):
        TrainRecipe.load("tinny")


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("train: {steps: 5}\n")
    loaded = TrainRecipe.load(path, ["train.batch_size=3", "optim.rate=2e-3", "model.replace.latents=64"])
    assert (loaded.train.steps, loaded.train.batch_size, loaded.optim.rate) == (5, 3, 2e-3)
    assert isinstance(loaded.model, CoDiCodecSection) and loaded.model.replace == {"latents": 64}
    for wrong in (
        "train.stepz=5",
        "nothing=1",
        "train.steps.more=2",
        "train.steps",
        "train.steps=[",
        "data.kind=noise",
    ):
        with pytest.raises(ConfigError):
            TrainRecipe.load(path, [wrong])
    with pytest.raises(ConfigError, match="batch_size"):
        TrainRecipe.load(path, ["train.batch_size=0"])


def test_the_offending_key_of_a_section_is_named() -> None:
    with pytest.raises(ConfigError, match=r"objective\.spread_wait"):
        TrainRecipe.parse({"objective": {"kind": "consistency", "spread_wait": 1}})
    with pytest.raises(ConfigError, match=r"objective\.kind got 'magic'.*consistency"):
        TrainRecipe.parse({"objective": {"kind": "magic"}})
    with pytest.raises(ConfigError, match="data got 3"):
        TrainRecipe.parse({"data": 3})


def test_a_recipe_survives_json() -> None:
    loaded = TrainRecipe.load("tiny-demo", ["data.validation=held/"])
    assert TrainRecipe.parse(loaded.to_dict()) == loaded
    assert loaded.to_dict()["model"]["kind"] == "codicodec" and loaded.to_dict()["objective"]["chunks"] == 2


def test_recipes_of_earlier_versions_are_read(tmp_path: Path) -> None:
    path = tmp_path / "old.yaml"
    path.write_text("codec: {preset: small, start_from: tiny}\nobjective: {weight_power: 0.5}\n")
    loaded = TrainRecipe.load(path, ["codec.start_from=other"])
    assert loaded.model == CoDiCodecSection(preset="small", start_from="other")
    assert loaded.objective == ConsistencySection(weight_power=0.5) and loaded.data == SoundSection()
    with pytest.raises(ConfigError, match=r"model: \{kind: codicodec"):
        TrainRecipe.parse({"codec": {"preset": "tiny"}, "model": {"preset": "tiny"}})


class ToySection(DataSection):
    """Data of a kind that is defined here."""

    kind: Literal["toy"] = "toy"
    width: int = 3


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DATA, "known", dict(DATA.known))
    DATA.register(ToySection)


def test_another_kind_starts_from_its_own_defaults(toy: None, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data: {kind: sound, workers: 2}\n")
    loaded = TrainRecipe.load(path, ["data.width=5", "data.kind=toy"])
    assert loaded.data == ToySection(width=5)
    with pytest.raises(ConfigError, match="unknown key"):
        TrainRecipe.load(path, ["data.kind=toy", "data.workers=5"])


def test_an_objective_refuses_kinds_that_it_cannot_train_on(toy: None, tmp_path: Path) -> None:
    recipe = TrainRecipe.parse({"data": {"kind": "toy"}})
    parts = Parts(recipe.model, recipe.data, recipe.train, recipe.to_dict(), [], (), tmp_path, True)
    with pytest.raises(ConfigError, match=r"consistency trains .* and toy"):
        recipe.objective.task(parts)


def test_small_numbers_come_back_from_json_as_numbers(tmp_path: Path) -> None:
    recipe = TrainRecipe.parse({"model": {"kind": "codicodec", "replace": {"floor": 2e-5}}})
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert TrainRecipe.read(tmp_path / "recipe.json") == recipe
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ConfigError, match="neither YAML nor JSON"):
        TrainRecipe.read(tmp_path / "recipe.json")
