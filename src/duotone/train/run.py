"""`train`: from a recipe and its data to a codec, a flow model, or whatever the recipe's objective trains."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from duotone.train import checkpoint, resume
from duotone.train.accelerators import own_positions, processes
from duotone.train.lock import locked
from duotone.train.loop import Watcher, fit
from duotone.train.recipe import TrainRecipe
from duotone.train.sections import Parts


def train(
    recipe: str | Path | TrainRecipe,
    data: str | Path | Sequence[str | Path],
    out: str | Path,
    overrides: list[str] | None = None,
    watchers: Sequence[Watcher] = (),
    *,
    progress: Callable[[int, int], None] | None = None,
    load: Callable[[str], Any] | None = None,
    measure: Callable[[Any, Any], dict[str, float]] | None = None,
    picture: Callable[[Any], bytes] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Path:
    """Train and write the result (OUT/codec or OUT/flow); with the OUT of an earlier run, resume it.

    `recipe` is a file, the name of a bundled recipe, or the recipe itself; `data`: see `sources.find`, for flow models stores of latents. `watchers` get each
    step's metrics, `progress` (files measured, files in all). `load` loads the model of `model.start_from` and the codec of `data.listen_with`, `measure` and
    `picture` compute metrics and spectrograms of validation clips; they are in later packages, so they are arguments.
    `stop` is called after every step. Errors that can be detected early are raised before the data is read. Raises `ConfigError` (also for a run that
    was begun with another recipe), `AudioError` (no usable sound), `UsageError` (accelerate is missing, OUT is not a run
    or is being trained in), `OSError` (OUT cannot be written) or `TrainingError`.
    """
    recipe = recipe if isinstance(recipe, TrainRecipe) else TrainRecipe.load(recipe, overrides)
    sources = tuple(map(str, [data] if isinstance(data, str | Path) else data))
    run = Path(out)
    resume.claim(run)  # before anything is written to a folder that is not a run
    own_positions(recipe.train)
    main = processes(recipe.train).is_main_process
    with contextlib.ExitStack() as stack:
        if main:
            stack.enter_context(locked(run))
            checkpoint.tidy(run)
        there = checkpoint.steps(run)
        noted = _compare(recipe, run, there) if main else []
        task = recipe.objective.task(
            Parts(
                recipe.model, recipe.data, recipe.train, recipe.to_dict(), noted, sources, run, not there, progress,
                load, measure, picture,
            )
        )  # fmt: skip
        if main:
            resume.check_data(run, task.data)
            resume.record(run, recipe, noted, task.data, task.skipped)
        fitted = fit(task, recipe, run, watchers, stop)
        if fitted.main:
            task.export(fitted.weights, fitted.state)
    return task.target


def _compare(recipe: TrainRecipe, run: Path, there: list[int]) -> list[dict[str, Any]]:
    """Check a recipe against the run's record; returns all changes of the recipe since the run began."""
    before = resume.claim(run)
    if before is None or not there:  # no training step has been made yet
        resume.forget(run)
        return []
    return resume.all_changes(run, there[-1], resume.changes(before, recipe))
