"""A recipe of ours from a configuration file of Lycodec's published description."""

from __future__ import annotations

import os
from typing import Any

import torch

from duotone.codec.lycodec.seed import KEYS, Lycodec, described
from duotone.config import lycodec_preset
from duotone.errors import ConfigError
from duotone.train.recipe import TrainRecipe

#: Keys with one field of the recipe that means the same.
FIELDS = {
    "lr": "optim.rate", "device": "train.device", "num_workers": "data.workers", "save_every": "train.checkpoint_every",
    "train.grad_clip": "optim.clip", "train.fsq_dropout_schedule": "objective.hybrid_share",
    "train.use_checkpoint": "train.gradient_checkpointing", "train.gradient_accumulation_steps": "train.accumulation",
}  # fmt: skip
#: Keys of `train` that are noise levels of the network.
LEVELS = ("sigma_min", "sigma_max", "rho")
#: Keys whose place is the command, or that have no meaning here.
ELSEWHERE = {
    "epochs": "the length of a run is train.steps",
    "hop_seconds": "chunks do not overlap; their frames do",
    "data": "folders are given to the command: --data DIR",
    "output": "the folder of the run is given to the command: --out RUN",
    "train.ddp": "several GPUs are used by accelerate launch",
    "train.stage": "there is one stage, of the whole network",
}


def recipe_of(config: str | os.PathLike[str]) -> tuple[TrainRecipe, list[str]]:
    """The recipe of a described YAML file, and a line for each of its keys that is not in it, or not wholly, with the reason.

    No recipe made here runs code of a model's repository: `trust_code` is the user's choice, and a line says where it is
    needed. What the file leaves open is as in the recipe `lycodec`. Raises `ConfigError` naming keys that are not known, and what
    cannot be had, training of the encoder alone.
    """
    found = described(config)
    _refuse_missing(found, str(config))
    values = TrainRecipe.load("lycodec").to_dict()
    for key, field in FIELDS.items():
        if key in found:
            section, name = field.split(".")
            values[section][name] = found[key]
    _assign_network(values, found)
    _assign_batch(values, found)
    _assign_schedules(values, found)
    teachers = _enabled(found.get("teacher"))
    values["objective"]["teachers"] = [
        {"model": teacher.get("model_name"), "weight": teacher.get("align_weight", 0.1)} for teacher in teachers
    ]
    left = [f"{key}: {reason}" for key, reason in ELSEWHERE.items() if key in found]
    left += [_untrusted(place, teacher) for place, teacher in enumerate(teachers) if teacher.get("type") == "mert"]
    return TrainRecipe.parse(values, f"the recipe of {config}"), left


def _refuse_missing(found: dict[str, Any], where: str) -> None:
    if found.get("train.stage", 2) == 1 or found.get("train.stage1_steps"):
        raise ConfigError(
            f"{where} asks for a stage of the encoder alone (train.stage 1, train.stage1_steps); here the whole network is trained from the "
            f"first step. Set train.stage: 2 and train.stage1_steps: 0."
        )


def _assign_network(values: dict[str, Any], found: dict[str, Any]) -> None:
    """The fields in which the described network differs from the preset."""
    with torch.device("meta"):  # sizes alone, no weights
        network = Lycodec(**{KEYS[key]: value for key, value in found.items() if key in KEYS})
    wanted = network.config.to_dict()
    wanted["noise"] |= {key: found[f"train.{key}"] for key in LEVELS if f"train.{key}" in found}
    preset = lycodec_preset(values["model"]["preset"]).to_dict()
    values["model"]["replace"] |= {key: value for key, value in wanted.items() if value != preset[key]}


def _enabled(described: Any) -> list[dict[str, Any]]:
    """The teachers that are enabled; their sample rate and rate of features are known by the models themselves."""
    teachers = described.values() if isinstance(described, dict) else ()
    return [teacher for teacher in teachers if isinstance(teacher, dict) and teacher.get("enabled")]


def _untrusted(place: int, teacher: dict[str, Any]) -> str:
    return (
        f"leave to run code of {teacher.get('model_name')}: a MERT is loaded by Python code of its repository, and training stops until you "
        f"read that code and set objective.teachers.{place}.trust_code: true in the recipe"
    )


def _assign_batch(values: dict[str, Any], found: dict[str, Any]) -> None:
    """A batch there is one of a pass, here one of a step."""
    train = values["train"]
    if "batch_size" in found:
        train["batch_size"] = found["batch_size"] * train["accumulation"]
    if "train.stage2_steps" in found:
        train["steps"] = found["train.stage2_steps"]
    if "train.use_amp" in found:
        train["precision"] = "auto" if found["train.use_amp"] else "float32"
    logging = found.get("logging")
    if isinstance(logging, dict) and logging.get("use_wandb"):
        train["trackers"] = ["wandb"]


def _assign_schedules(values: dict[str, Any], found: dict[str, Any]) -> None:
    """The average of the weights, which is teacher and result, and the spectral distances that end."""
    average = found.get("train.ema")
    if isinstance(average, dict):
        decay = average.get("decay", values["optim"]["ema_decay"]) if average.get("enabled", True) else 0.0
        values["optim"]["ema_decay"] = values["objective"]["teacher_decay"] = decay
    schedule = found.get("train.recon_weight_schedule")
    if schedule is None:
        return
    weights = [weight for _, weight in schedule]
    if not schedule or schedule[0][0] != 0 or len(weights) > 2 or any(weights[1:]):
        raise ConfigError(
            f"train.recon_weight_schedule got {schedule}, expected a weight from step 0 on and its end: [[0, 0.1], [2000, 0.0]]."
        )
    end = schedule[1][0] if len(schedule) > 1 else None
    values["objective"] |= {"spectral_weight": weights[0], "spectral_end": end, "spectral_warmup": 0}
