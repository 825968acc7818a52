"""`train`: from a recipe and a collection of sound to a codec."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.weights import save_codec
from duotone.train import checkpoint
from duotone.train.data import Crops
from duotone.train.index import Index, build_index
from duotone.train.loop import Fitted, Watcher, fit
from duotone.train.objective import CodecObjective
from duotone.train.recipe import TrainRecipe
from duotone.train.validation import Measure, Picture, Validation, average

#: Examples that set the scales before the first step.
CALIBRATION = 32


def train(
    recipe: str | Path | TrainRecipe,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    overrides: list[str] | None = None,
    watchers: Sequence[Watcher] = (),
    *,
    progress: Callable[[int, int], None] | None = None,
    load: Callable[[str], CoDiCodec] | None = None,
    measure: Measure | None = None,
    picture: Picture | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train a codec and write it to OUT/codec; run again with the same OUT, it goes on where it stopped.

    `data`: see `sources.find`. `watchers` get each step's figures, `progress` (files measured, files in all). `load`
    finds the codec of `codec.start_from`, `measure` and `picture` judge validation clips; all three live in rooms above
    this one and are handed in. `stop` is asked after every step. Raises `ConfigError`, `AudioError` (no usable sound),
    `UsageError` (accelerate is missing) or `TrainingError`.
    """
    recipe = recipe if isinstance(recipe, TrainRecipe) else TrainRecipe.load(recipe, overrides)
    run = Path(out)
    config = recipe.codec.build()
    found = build_index(data, recipe.data, progress)
    torch.manual_seed(recipe.train.seed)
    objective = CodecObjective(config, recipe.objective)
    began: CoDiCodec | None = None
    if recipe.codec.start_from is not None:
        began = _start(recipe.codec.start_from, load)
        objective.begin_from(began)
    crops = Crops(found.training, config.rate, objective.crop, recipe.data, recipe.train.seed)
    settings = recipe.train
    if not checkpoint.steps(run):
        objective.calibrate(crops.plain(CALIBRATION, "calibration"), latents=recipe.codec.start_from is None)
    validation = None
    if found.validation:
        held = Crops(found.validation, config.rate, objective.crop, recipe.data, recipe.train.seed)
        validation = Validation(
            objective, held, run, settings.validation_batches, settings.listen_every, settings.clips, measure,
            picture, settings.decoded_clips,
        )  # fmt: skip
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    (run / "skipped.txt").write_text("\n".join(found.skipped), encoding="utf-8")
    fitted = fit(objective, crops, recipe, run, watchers, validation, stop)
    if fitted.main:
        codec = average(objective, fitted.weights).export(_provenance(recipe, found, fitted, run, began))
        save_codec(codec, run / "codec", torch.bfloat16)
    return run / "codec"


def _start(name: str, load: Callable[[str], CoDiCodec] | None) -> CoDiCodec:
    if load is not None:
        return load(name)
    from duotone.codec.codicodec.weights import import_codicodec, load_codec

    return import_codicodec(Path(name)) if Path(name).is_file() else load_codec(Path(name))


def _provenance(
    recipe: TrainRecipe, found: Index, fitted: Fitted, run: Path, began: CoDiCodec | None
) -> dict[str, object]:
    """Where the weights come from: recipe, steps, sound, machine, time, and the codec that training began from."""
    return {
        "recipe": recipe.to_dict(),
        "steps": fitted.state.step,
        "examples": fitted.state.step * recipe.train.batch_size,
        "bad_steps": fitted.state.bad_steps,
        "hours_of_sound": round(found.hours, 3),
        "files": len(found.training),
        "best_validation": checkpoint.best(run),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "minutes": round(fitted.state.seconds / 60, 1),
        "began_from": began and {"fingerprint": began.fingerprint, "provenance": began.provenance},
    }
