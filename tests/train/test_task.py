"""The loop trains what it has never heard of: a kind registered here, of two networks, two optimizers and a teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from duotone.errors import ConfigError, WeightsError
from duotone.train import checkpoint
from duotone.train.draws import Draws
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from duotone.train.sections import DATA, MODELS, OBJECTIVES, ModelSection, ObjectiveSection
from duotone.train.task import frozen
from toy_task import Duel, ToyData, ToyModel, ToyObjective, curve, toy_values, train_until


@pytest.fixture(autouse=True)
def toy_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    for kinds, section in ((MODELS, ToyModel), (OBJECTIVES, ToyObjective), (DATA, ToyData)):
        monkeypatch.setattr(kinds, "known", dict(kinds.known))
        kinds.register(section)  # type: ignore[attr-defined]


def recipe(**settings: Any) -> TrainRecipe:
    return TrainRecipe.parse(toy_values(**settings))


def test_a_registered_kind_is_trained_by_the_one_loop(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    target = train(recipe(), "points", tmp_path / "run", watchers=[seen.append])
    assert target == tmp_path / "run" / "generator.json" and '"steps": 10' in target.read_text()
    assert [r["step"] for r in seen] == list(range(10))
    assert all({"grad_norm", "grad_norm_discriminator", "radius", "points_refused"} <= r.keys() for r in seen)
    assert [r["step"] for r in seen if "validation_loss" in r] == [0, 3, 7, 9]
    assert seen[4]["grad_norm_discriminator"] == 0 < seen[5]["grad_norm_discriminator"]  # it joins at half
    assert isinstance(recipe().model, ModelSection) and isinstance(recipe().objective, ObjectiveSection)


def test_every_optimizer_and_average_is_in_the_checkpoint(tmp_path: Path) -> None:
    train(recipe(), "points", tmp_path)
    place = checkpoint.folder(tmp_path) / "step-000000010"
    names = {path.name for path in place.iterdir()}
    assert {"optimizer-generator-0.safetensors", "optimizer-discriminator-0.safetensors"} <= names
    assert set(load_file(place / "ema.safetensors")) == {
        f"generator.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }
    assert load_file(place / "model.safetensors")["teacher"].any()
    judge = load_file(place / "optimizer-discriminator-0.safetensors")
    assert {name.partition("|")[0] for name in judge} == {
        f"discriminator.{i}.{kind}" for i in (0, 2) for kind in ("weight", "bias")
    }


@pytest.mark.parametrize("stops", [(1, 2, 7), (5, 6)])
def test_resuming_is_exact_for_all_of_it(stops: tuple[int, ...], tmp_path: Path) -> None:
    """Stopped before the second network joins, on the step, and after."""
    train(recipe(), "points", tmp_path / "whole")
    for at in stops:
        assert train_until(at, recipe(), tmp_path / "parts") == at
    train(recipe(), "points", tmp_path / "parts")
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    assert (tmp_path / "parts" / "generator.json").read_text() == (tmp_path / "whole" / "generator.json").read_text()
    a, b = (
        load_file(checkpoint.folder(tmp_path / run) / "step-000000010" / "model.safetensors")
        for run in ("whole", "parts")
    )
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_frozen_network_passes_gradients_on_and_gets_none() -> None:
    duel = Duel(1e-3)
    x = torch.ones(1, 2, requires_grad=True)
    with frozen(duel.discriminator):
        out = duel.discriminator(x)
    out.sum().backward()
    assert x.grad is not None and x.grad.any()
    assert all(p.grad is None and p.requires_grad for p in duel.discriminator.parameters())


def test_each_network_has_the_gradient_of_its_own_loss() -> None:
    torch.manual_seed(0)
    duel, batch, draws = Duel(1e-3), {"points": torch.ones(4, 2)}, Draws.whole(4)
    duel(batch, 0.9, draws)[0].backward()
    got = {name: p.grad.clone() for name, p in duel.named_parameters() if p.grad is not None}
    duel.zero_grad()
    fake = duel.generator(draws.noise("noise", (2,), torch.device("cpu"))).detach()
    soft = torch.nn.functional.softplus
    (soft(duel.discriminator(fake)) + soft(-duel.discriminator(batch["points"]))).mean().backward()
    for name, p in duel.discriminator.named_parameters():
        assert p.grad is not None and torch.allclose(got[f"discriminator.{name}"], p.grad, atol=1e-6)


def test_groups_keep_their_own_rates(tmp_path: Path) -> None:
    values = toy_values(steps=1)
    values["objective"]["rate_of_judge"] = 1e-9
    values["optim"]["schedule"] = "constant"
    train(TrainRecipe.parse(values | {"train": values["train"] | {"steps": 6}}), "points", tmp_path)
    moved = load_file(checkpoint.folder(tmp_path) / "step-000000006" / "model.safetensors")
    torch.manual_seed(0)
    before = Duel(0.0).state_dict()
    assert torch.allclose(moved["discriminator.0.weight"], before["discriminator.0.weight"], atol=1e-7)
    assert not torch.allclose(moved["generator.0.weight"], before["generator.0.weight"], atol=1e-3)


def test_what_an_objective_cannot_do_is_said(tmp_path: Path) -> None:
    for setting in ("compile", "gradient_checkpointing"):
        with pytest.raises(ConfigError, match=rf"train\.{setting} got true, but Duel"):
            train(recipe(**{setting: True}), "points", tmp_path / setting)


def test_a_checkpoint_of_other_optimizers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(recipe(steps=2), "points", tmp_path)
    monkeypatch.setattr(Duel, "optimizers", lambda self, optim: super(Duel, self).optimizers(optim))
    with pytest.raises(WeightsError, match="optimizers generator-0, discriminator-0, the recipe main-0"):
        train(recipe(steps=4), "points", tmp_path)
