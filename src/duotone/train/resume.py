"""Resume a run: check that its folder belongs to a run, and that its record remains correct.

Settings that determine the weights (batch, data, model, objective, seed) must not change when a run is resumed, nor those
that make its validations comparable. Everything else may change; each change is recorded in RUN/changes.jsonl.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from duotone.atomic import write_json, write_text
from duotone.errors import ConfigError, UsageError
from duotone.train.log import read_log
from duotone.train.recipe import TrainRecipe

RECIPE, DATA, CHANGES, SKIPPED = "recipe.json", "data.json", "changes.jsonl", "skipped.txt"
#: What training writes into its folder, besides the recipe.
FOLDERS = ("checkpoints", "samples", "codec", "flow")
FILES = ("log.jsonl", "best.json", DATA, CHANGES, SKIPPED)
#: Keys that stay as they were for the whole run.
_FIXED_SECTIONS = ("model", "objective", "data")
_FIXED_KEYS = ("optim.name", "train.batch_size", "train.seed", "train.validation_batches", "train.decoded_clips")


def claim(run: Path) -> TrainRecipe | None:
    """The recipe that this folder was last trained with; None for a new run.

    Raises `UsageError` for a file, and for a folder that is not a run but holds files with the names that training writes.
    """
    if run.exists() and not run.is_dir():
        raise UsageError(f"--out got {run}, which is a file; expected a folder for the run.")
    wrong = [n for n in FOLDERS if (run / n).is_file()] + [n for n in (RECIPE, *FILES) if (run / n).is_dir()]
    path = run / RECIPE
    there = [name for name in (*FOLDERS, *FILES) if (run / name).exists()]
    if wrong or (there and not path.is_file()):
        raise UsageError(
            f"{run} holds {', '.join(wrong or there)} but is not a run of `duotone train`"
            f"{'' if path.is_file() else f' (it has no {RECIPE})'}. Give an empty or a new folder."
        )
    if not path.is_file():
        return None
    try:
        return TrainRecipe.read(path)
    except ConfigError as error:
        raise UsageError(
            f"{path} is not the recipe of a run, so nothing is written to {run}. Give an empty or a new folder. ({error})"
        ) from None


def changes(before: TrainRecipe, now: TrainRecipe) -> dict[str, list[Any]]:
    """Every key whose value differs, with both values. Raises `ConfigError` if one of them must not change."""
    old, new = (_flat(recipe.to_dict()) for recipe in (before, now))
    differ = {key: [old.get(key), new.get(key)] for key in sorted({*old, *new}) if old.get(key) != new.get(key)}
    free = {f"data.{name}" for name in now.data.free}
    fixed = [key for key in differ if (key.split(".")[0] in _FIXED_SECTIONS and key not in free) or key in _FIXED_KEYS]
    if fixed:
        text = "; ".join(f"{key} was {differ[key][0]!r}, now {differ[key][1]!r}" for key in fixed)
        raise ConfigError(
            f"The run was begun with another recipe: {text}. Its log and provenance would become wrong. Use the "
            f"same recipe, or another --out (to start from the trained weights: model.start_from=RUN/codec or RUN/flow)."
        )
    return differ


def check_data(run: Path, data: dict[str, Any]) -> None:
    """Raise `ConfigError` if the run was begun with other data."""
    path = run / DATA
    if not path.is_file():  # a run of an earlier version
        return
    try:
        before = dict(json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        raise ConfigError(f"{path} is damaged. Remove it to continue without checking the data.") from None
    if before != data:
        text = "; ".join(f"{k}: then {before.get(k)}, now {data.get(k)}" for k in sorted({*before, *data}))
        raise ConfigError(
            f"The run was begun with other data ({text}). Give the same files, or another --out (to start from the "
            f"trained weights: model.start_from=RUN/codec or RUN/flow)."
        )


def all_changes(run: Path, step: int, changed: dict[str, list[Any]]) -> list[dict[str, Any]]:
    """All changes since the run began, including new ones that apply from this step on."""
    before, _ = read_log(run / CHANGES)
    return [*before, *([{"step": step, "changed": changed}] if changed else [])]


def forget(run: Path) -> None:
    """For a run without checkpoints: remove the records about its weights."""
    for name in ("best.json", CHANGES, DATA):
        (run / name).unlink(missing_ok=True)


def record(
    run: Path, recipe: TrainRecipe, noted: list[dict[str, Any]], data: dict[str, Any], skipped: list[str]
) -> None:
    """Write the recipe, its changes since the run began, the description of the data, and the sources left out."""
    if noted:
        write_text(run / CHANGES, "".join(json.dumps(change) + "\n" for change in noted))
    write_text(run / RECIPE, recipe.to_json() + "\n")
    write_json(run / DATA, data)
    write_text(run / SKIPPED, "\n".join(skipped))


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out
