"""A described configuration becomes a recipe: every key has its place, and what cannot be had is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from duotone.cli.main import app
from duotone.errors import ConfigError
from duotone.train.lycodec_seed import ELSEWHERE, FIELDS, recipe_of
from duotone.train.recipe import TrainRecipe

#: The configuration of the description.
DESCRIBED: dict[str, Any] = {
    "sample_rate": 48000, "stft": {"n_fft": 2048, "hop_length": 640, "win_length": 2048}, "token_rate": 12, "crop_seconds": 1.5,
    "chunk_seconds": 1.5, "hop_seconds": 0.75, "batch_size": 8, "epochs": 2, "lr": 0.0001, "device": "cuda", "num_workers": 4,
    "save_every": 1000,
    "model": {
        "hidden_dim": 512, "token_dim": 256, "transformer_layers": 8, "heads": 8, "use_rope": True, "use_group_fsq": True,
    },
    "train": {
        "stage": 2, "stage1_steps": 0, "stage2_steps": 10000, "grad_clip": 1.0, "use_amp": True,
        "fsq_dropout_schedule": [[0, 0.50], [5000, 0.65], [10000, 0.75]], "ddp": False, "use_checkpoint": True,
        "ema": {"enabled": True, "decay": 0.9999}, "recon_weight_schedule": [[0, 0.1], [2000, 0.0]],
    },
    "data": {"wav_exts": [".wav"], "segment_seconds": 1.5, "stereo": True}, "output": {"ckpt_dir": "runs/ckpts"},
    "logging": {"use_wandb": False}, "teacher": {"primary": {"enabled": False}, "aux": {"enabled": False}},
}  # fmt: skip


def described(path: Path, **changes: Any) -> Path:
    values = {**DESCRIBED, **{key: value for key, value in changes.items() if key != "train"}}
    values["train"] = {**DESCRIBED["train"], **changes.get("train", {})}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def test_each_key_has_its_place(tmp_path: Path) -> None:
    path = described(
        tmp_path / "c.yaml", lr=3e-4, logging={"use_wandb": True}, model={"hidden_dim": 256, "decoder_patch_size": 32},
        train={"gradient_accumulation_steps": 2, "use_amp": False, "sigma_max": 40.0},
    )  # fmt: skip
    recipe, left = recipe_of(path)
    values = recipe.to_dict()
    assert values["model"]["replace"]["encoder_dim"] == 256 and values["model"]["replace"]["patch_bins"] == 32
    assert values["model"]["replace"]["noise"] == {
        "sigma_min": 0.002,
        "sigma_max": 40.0,
        "sigma_data": 0.27,
        "rho": 7.0,
    }
    assert recipe.optim.rate == 3e-4 and recipe.optim.ema_decay == 0.9999 == values["objective"]["teacher_decay"]
    train = recipe.train
    assert (train.batch_size, train.accumulation, train.steps, train.precision) == (16, 2, 10_000, "float32")
    assert train.gradient_checkpointing and train.trackers == ("wandb",) and train.checkpoint_every == 1000
    objective = values["objective"]
    assert objective["hybrid_share"] == [[0, 0.5], [5000, 0.65], [10000, 0.75]]
    assert (objective["spectral_weight"], objective["spectral_end"]) == (0.1, 2000)
    assert {line.partition(":")[0] for line in left} == set(ELSEWHERE)


def test_teachers_that_are_enabled_are_in_the_recipe(tmp_path: Path) -> None:
    mert = {"enabled": True, "type": "mert", "model_name": "m-a-p/MERT-v1-330M", "align_weight": 0.1}
    hubert = {"enabled": True, "type": "hubert", "model_name": "models/hubert", "align_weight": 0.05, "feature_hz": 50}
    recipe, left = recipe_of(
        described(tmp_path / "c.yaml", teacher={"primary": mert, "aux": hubert, "more": {"enabled": False}})
    )
    assert recipe.to_dict()["objective"]["teachers"] == [
        {"model": "m-a-p/MERT-v1-330M", "weight": 0.1, "trust_code": False},
        {"model": "models/hubert", "weight": 0.05, "trust_code": False},
    ]
    told = [line for line in left if "trust_code" in line]
    assert len(told) == 1 and "m-a-p/MERT-v1-330M" in told[0] and "objective.teachers.0.trust_code: true" in told[0]


def test_converting_leaves_the_code_of_repositories_to_the_user(tmp_path: Path) -> None:
    """The described files enable MERT, whose repository brings its code: the command says which field lets it run, and sets it nowhere."""
    mert = {"enabled": True, "type": "mert", "model_name": "m-a-p/MERT-v1-330M"}
    source, target = described(tmp_path / "c.yaml", teacher={"primary": mert}), tmp_path / "recipe.yaml"
    done = CliRunner().invoke(app, ["convert", str(source), str(target)])
    assert done.exit_code == 0 and "objective.teachers.0.trust_code: true" in " ".join(done.output.split())
    assert "trust_code: true" not in target.read_text()


def test_the_fields_are_fields_of_recipes() -> None:
    values = TrainRecipe.load("lycodec").to_dict()
    for field in FIELDS.values():
        section, name = field.split(".")
        assert name in values[section]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"colour": 1}, "colour"),
        ({"train": {"warp": 1}}, "train.warp"),
        ({"crop_seconds": 2.0}, "crop_seconds"),
        ({"train": {"stage": 1}}, "train.stage"),
        ({"train": {"stage1_steps": 5}}, "stage1_steps"),
        ({"train": {"recon_weight_schedule": [[0, 0.1], [10, 0.2]]}}, "recon_weight_schedule"),
        ({"teacher": {"primary": {"enabled": True}}}, "teachers.0.model"),
        ({"device": "abacus"}, "train.device"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named):
        recipe_of(described(tmp_path / "c.yaml", **changes))


def test_the_command_writes_a_recipe(tmp_path: Path) -> None:
    source, target = described(tmp_path / "c.yaml"), tmp_path / "recipe.yaml"
    done = CliRunner().invoke(app, ["convert", str(source), str(target)])
    assert done.exit_code == 0, done.output
    assert TrainRecipe.load(target) == recipe_of(source)[0]
    again = CliRunner().invoke(app, ["convert", str(source), str(target)])
    assert again.exit_code == 2 and "--force" in again.output
    wrong = CliRunner().invoke(app, ["convert", str(source), str(tmp_path / "folder")])
    assert wrong.exit_code == 2 and ".yaml" in wrong.output
