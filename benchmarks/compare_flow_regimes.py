"""Train flow models in several regimes for the same time on one store, and compare them: a table for LOG.md.

    python benchmarks/compare_flow_regimes.py --data STORE --runs RUNS --minutes 30
    python benchmarks/compare_flow_regimes.py --data STORE --runs RUNS --steps 200 --rows streams prefix
    python benchmarks/compare_flow_regimes.py --data STORE --runs RUNS --minutes 30 --recipe mine.yaml other.yaml

A row is a recipe with some of its values replaced; `--recipe` gives recipes as further rows, `--set` values for all rows. The number of
steps of a row is what fits into the minutes, at the speed of a few steps measured first, so that warm-up and decay of the learning
rate are complete. With `--steps`, which a machine that is not quiet needs, it is what takes as many arithmetic operations (counted,
operations.py) as so many steps of the first row of `ROWS`. In training, losses are validated after the first and the last step only. A
run that is there already is not repeated; rows of a finished run are measured again with `--again`.

Next-chunk losses: mean squared error of velocities on held-out crops, given their own past, and given a past that the model has
generated (`duotone.train.flow_validation`). Rollouts: `duotone.evaluate.rollouts`, against crops of the whole store.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

import duotone
import duotone.flow as flow
import machine
from duotone.atomic import write_json
from duotone.codec.values import Latents
from duotone.errors import DuotoneError, UsageError
from duotone.evaluate import rollouts
from duotone.evaluate.flow_page import number
from duotone.flow.model import FlowModel
from duotone.store import Crops
from duotone.store.split import Region
from duotone.train.flow_validation import next_chunk_metrics
from duotone.train.latents import LatentCollection, LatentsSection, open_latents
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from operations import Operations

#: Name of a row -> recipe, and values that are replaced. The first row is what the others are compared with.
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "streams": ("flow-tiny", {}),
    "prefix": ("flow-tiny", {"objective.regime": "prefix", "objective.context_noise": 0.0}),
    "clean context": ("flow-tiny", {"objective.context_noise": 0.0}),
    "two draws": ("flow-tiny", {"objective.draws": 2}),
    "four draws": ("flow-tiny", {"objective.draws": 4}),
    "no window": ("flow-tiny", {"model.replace.context_chunks": None, "model.replace.trained_chunks": 32}),
    "resampled context": ("flow-tiny", {"objective.resample_from": 0.8}),
    "resampled context, two steps": ("flow-tiny", {"objective.resample_from": 0.8, "objective.resample_steps": 2}),
    "uniform times": ("flow-tiny", {"objective.times": "uniform"}),
    "muon": ("flow-tiny", {"optim.name": "muon", "optim.muon_rate": 0.01, "optim.rate": 0.002}),
}
PLAIN = next(iter(ROWS))
TIMED = 6  # steps by which a row's speed is measured; the first ones are left out
WARM = 2
NAME = "compare_flow_regimes"


def overrides(values: dict[str, Any], more: list[str]) -> list[str]:
    """Values as overrides of the command line."""
    return [*(f"{key}={json.dumps(value)}" for key, value in values.items()), *more]


def step_cost(recipe: TrainRecipe, data: Path, folder: Path) -> tuple[float, float]:
    """The median time of a step in seconds, and its arithmetic operations, of a run that is removed."""
    seen: list[tuple[float, int]] = []
    silent = recipe.objective.model_copy(update={"rollout_chunks": 0})
    timed = recipe.model_copy(update={"train": quiet(recipe, TIMED), "objective": silent})
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with Operations() as counter:
            train(timed, data, folder, watchers=[lambda record: seen.append((record["seconds"], counter.total))])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    between = [(after - before) for (_, before), (_, after) in itertools.pairwise(seen)]
    return statistics.median(spent for spent, _ in seen[WARM:-1]), statistics.median(between[WARM:-1])


def planned(recipe: TrainRecipe, options: argparse.Namespace) -> dict[str, Any]:
    """Steps of a row, with the time and the operations of one."""
    seconds, operations = step_cost(recipe, options.data, options.runs / "timing")
    found = {"seconds": seconds, "operations": operations}
    if options.steps is None:
        return {**found, "steps": max(10, round(60 * options.minutes / seconds))}
    source, values = ROWS[PLAIN]
    plain = TrainRecipe.load(source, overrides(values, options.set))
    _, unit = (seconds, operations) if plain == recipe else step_cost(plain, options.data, options.runs / "timing")
    return {**found, "steps": max(10, round(options.steps * unit / operations))}


def quiet(recipe: TrainRecipe, steps: int, log_every: int = 1) -> Any:
    """The recipe's loop for so many steps, without validation and listening."""
    never = {
        "validate_every": 1 << 40,
        "health_every": 1 << 40,
        "listen_every": 0,
        "checkpoint_every": max(1, steps // 4),
    }
    return recipe.train.model_copy(update={**never, "steps": steps, "log_every": log_every})


def trained(name: str, recipe: TrainRecipe, options: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """Train a row for the given minutes or steps, or go on with what is there; the run's folder, and its steps and time."""
    run = options.runs / name.replace(" ", "-").replace(",", "")
    plan = run.with_suffix(".json")
    wanted = {"minutes": options.minutes, "steps": options.steps, "recipe": recipe.to_dict()}
    if plan.is_file():
        found = json.loads(plan.read_text(encoding="utf-8"))
        if found["plan"] != wanted:
            raise UsageError(f"{run} was planned with another recipe, other minutes or steps. Give another --runs.")
    else:
        found = {"plan": wanted, **planned(recipe, options)}
        write_json(plan, found)
    steps, seconds = found["steps"], found["seconds"]
    silent = recipe.objective.model_copy(update={"rollout_chunks": 0})
    warmup = min(recipe.optim.warmup_steps, steps // 10)
    chosen = recipe.model_copy(
        update={
            "train": quiet(recipe, steps, 10), "objective": silent,
            "optim": recipe.optim.model_copy(update={"warmup_steps": warmup}),
        }
    )  # fmt: skip
    if not (run / "flow" / "config.json").is_file():
        began = time.monotonic()
        print(f"{name}: {steps} steps of {seconds:.2f} s", flush=True)
        train(chosen, options.data, run, watchers=[lambda record: _tell(name, record, began)])
    return run, {"steps": steps, "step_seconds": seconds}


def _tell(name: str, record: dict[str, Any], began: float) -> None:
    if record["step"] % 100 < 10:
        print(
            f"{name}: step {record['step'] + 1}, loss {record['loss']:.3f}, {(time.monotonic() - began) / 60:.1f} min",
            flush=True,
        )


def measured(model: FlowModel, collection: LatentCollection, options: argparse.Namespace) -> dict[str, Any]:
    """Next-chunk losses on the held-out crops, and statistics of rollouts."""
    held = collection.validation or collection.training
    losses = next_chunk_metrics(model, model.normalize(held.plain(options.crops, "compare")))
    real = real_windows(collection, options.rollouts)
    windows = rollouts.roll(model, options.rollouts, options.positions, real.shape[1], batch=options.rollouts)
    rows = rollouts.statistics(windows, real, decode=decoder(options.codec, collection))
    return {"losses": losses, "rollouts": rollouts.to_dict(rows)}


def decoder(name: str | None, collection: LatentCollection) -> rollouts.Decode | None:
    """Latents to sound by the named codec; None without one. Raises `UsageError` for a codec that the store was not made with."""
    if name is None:
        return None
    codec = duotone.load(name)
    if codec.spec.space != collection.stored.spec.space:
        raise UsageError(f"--codec got {name}, of another space than the store's latents. Give the codec of the store.")
    return lambda latents: codec.decode(Latents.from_channels(latents, codec.spec), seed=0)


def real_windows(collection: LatentCollection, count: int) -> torch.Tensor:
    """Crops of `rollouts.WINDOW` chunks (fewer, where recordings are shorter) of all recordings, two for each rollout."""
    latents = collection.stored
    window = min(rollouts.WINDOW, max(chunks for _, chunks in latents.recordings))
    whole = Crops([Region(i, 0, chunks) for i, (_, chunks) in enumerate(latents.recordings)], window)
    places = whole.draw(np.random.default_rng(0), 2 * max(2, count))
    return torch.stack([latents.crop(*place, window) for place in places])


def result(name: str, source: str, values: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """A row of the table; measured once."""
    recipe = TrainRecipe.load(source, overrides(values, options.set))
    about = {"row": name, "recipe": Path(source).name, "values": values}
    try:
        run, cost = trained(name, recipe, options)
        path = run / f"{NAME}.json"
        if options.again or not path.is_file():
            section = recipe.data
            assert isinstance(section, LatentsSection)
            collection = open_latents(section, [str(options.data)], recipe.train.seed)
            write_json(path, measured(flow.load(run / "flow"), collection, options))
        return {**about, **cost, **json.loads(path.read_text(encoding="utf-8"))}
    except DuotoneError as error:
        return {**about, "failed": str(error)}


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    good = [row for row in document["rows"] if "failed" not in row]
    lines = [
        "# Flow models trained in several regimes, at equal compute", "", machine.markdown(document["machine"]),
        f"Made by `{document['command']}`. {length(document['setting'])}", "",
        "Next-chunk loss, mean over five times and the second half of the crops: lower is better. *Generated past* has the same chunks, "
        "times and noise, after a past that the model has made from its own noised one.", "",
        "| row | steps | seconds a step | clean past | generated past | no past | t 0.1 | t 0.5 | t 0.9 |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in good:
        found = row["losses"]
        cells = [found[key] for key in ("clean_past", "generated_past", "context_0", "t_0.1", "t_0.5", "t_0.9")]
        lines.append(
            f"| {row['row']} | {row['steps']} | {row['step_seconds']:.2f} | {' | '.join(f'{v:.4f}' for v in cells)} |"
        )
    lines += [
        "", f"Rollouts from nothing, {document['setting']['rollouts']} of them, pooled over the chunks around each position: deviation and "
        "mean in deviations of the data (1 and 0 are right); Fréchet distances of chunks, and of the differences of consecutive ones, "
        "to half of the real crops.", "",
        "| row | chunks around | deviation | mean | worst channel's mean | Fréchet, chunks | Fréchet, differences | centroid, Hz |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for i, row in enumerate(good):
        for found in row["rollouts"]:
            if found["name"] == "generated" or i == 0:  # those of real chunks are the same for all rows
                title = row["row"] if found["name"] == "generated" else found["name"]
                cells = [found[key] for key in ("deviation", "mean", "worst_mean", "frechet", "frechet_steps")]
                heard = "" if found["centroid"] is None else f"{found['centroid']:.0f}"
                lines.append(f"| {title} | {found['position'] or ''} | {' | '.join(map(number, cells))} | {heard} |")
    failed = [f"Failed: {row['row']}: {row['failed']}" for row in document["rows"] if "failed" in row]
    return "\n".join([*lines, "", *failed]) + "\n"


def length(setting: dict[str, Any]) -> str:
    """What is equal for all rows."""
    if setting["steps"] is None:
        return f"{setting['minutes']:g} minutes of training a row."
    return f"{setting['steps']} steps of the row *{PLAIN}*, as many arithmetic operations for the others."


def main() -> int:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a store of latents")
    parser.add_argument("--runs", type=Path, required=True, help="where runs are kept")
    length = parser.add_mutually_exclusive_group(required=True)
    length.add_argument("--minutes", type=float, help="of training for each row")
    length.add_argument("--steps", type=int, help=f"of training of the row {PLAIN}; as many operations for the others")
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--recipe", nargs="*", default=[], metavar="RECIPE", help="recipes that are rows too")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="values of the recipe for all rows")
    parser.add_argument("--codec", help="of the store, to measure spectral centroids of decoded rollouts")
    parser.add_argument("--crops", type=int, default=32, help="held-out crops for the losses")
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--positions", type=int, nargs="+", default=list(rollouts.POSITIONS), metavar="CHUNK")
    parser.add_argument("--again", action="store_true", help="measure finished runs again")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the table")
    options = parser.parse_args()
    chosen = {name: ROWS[name] for name in options.rows} | {Path(r).stem: (r, {}) for r in options.recipe}
    rows: list[dict[str, Any]] = []
    for name, (source, values) in chosen.items():
        rows.append(result(name, source, values, options))
        setting = {
            "minutes": options.minutes,
            "steps": options.steps,
            "rollouts": options.rollouts,
            "crops": options.crops,
            "set": options.set,
        }
        document = {"machine": machine.describe(), "command": machine.command(), "setting": setting, "rows": rows}
        machine.record(NAME, document, page, options.out)
    print(page(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
