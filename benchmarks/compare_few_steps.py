"""Compare a flow that was trained for few steps with eight evaluations of the flow that it began from: Fréchet distances and time.

    duotone train flow-few --data STORE --out RUN
    python benchmarks/compare_few_steps.py --few RUN/flow --flow flow-tiny --data STORE

Rollouts from nothing (`duotone.evaluate.rollouts`) of both, by the solvers and numbers of steps of `ROWS`, with the same seeds; distances
are to half of the real crops of the store. Also seconds a chunk of one listener, the rows in turns, medians.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import machine
from compare_flow_regimes import real_windows
from duotone import hub
from duotone.config import SamplingConfig
from duotone.errors import UsageError
from duotone.evaluate import rollouts
from duotone.evaluate.flow_page import number
from duotone.flow.model import FlowModel
from duotone.flow.sampler import Sampler
from duotone.train.latents import LatentsSection, open_latents

#: Which flow, solver, evaluations. The first row is what the others are compared with.
ROWS = (
    ("flow", "euler", 8),
    ("flow", "euler", 4),
    ("flow", "euler", 2),
    ("few", "euler", 8),
    ("few", "average", 4),
    ("few", "average", 2),
    ("few", "average", 1),
)
NAME = "few_steps"
TIMED = 8  # chunks of a row, after as many that are not timed


def settings(model: FlowModel, solver: str, steps: int) -> SamplingConfig:
    """How a row is sampled."""
    return model.config.sampling.model_copy(update={"solver": solver, "steps": steps})


def seconds(models: dict[str, FlowModel]) -> list[float]:
    """The median time of a chunk in each row, one listener, in turns."""
    made = [Sampler(models[which], range(1), settings(models[which], solver, steps)) for which, solver, steps in ROWS]
    times: list[list[float]] = [[] for _ in made]
    for n in range(2 * TIMED):
        for own, one in zip(times, made, strict=True):
            began = time.perf_counter()
            one.next()
            if n >= TIMED:
                own.append(time.perf_counter() - began)
    return [statistics.median(own) for own in times]


def measured(models: dict[str, FlowModel], options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows, and those of real chunks."""
    collection = open_latents(LatentsSection(), [str(options.data)], 0)
    real = real_windows(collection, options.rollouts)
    out: list[dict[str, Any]] = []
    times = seconds(models)
    for (which, solver, steps), spent in zip(ROWS, times, strict=True):
        chosen = settings(models[which], solver, steps)
        windows = rollouts.roll(models[which], options.rollouts, options.positions, real.shape[1], chosen)
        found = rollouts.to_dict(rollouts.statistics(windows, real))
        own = [row for row in found if row["name"] == "generated"]
        if not out:
            out += [{"which": row["name"], "rows": [row]} for row in found if row["name"] != "generated"]
        out.append({"which": which, "solver": solver, "steps": steps, "seconds": spent, "rows": own})
        print(which, solver, steps, *(row["frechet"] for row in own), flush=True)
    return out


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    first = next(row for row in document["rows"] if "steps" in row)
    lines = [
        "# A flow trained for few steps", "", machine.markdown(document["machine"]), f"Made by `{document['command']}`", "",
        f"*Flow*: {document['flow']}; *few*: {document['few']}, trained from it. {document['rollouts']} rollouts from nothing. Fréchet distances of chunks, "
        "and of the differences of consecutive ones, to half of the real crops; beside them, how far they are from those of the first row.", "",
        "| flow | solver, evaluations | ms a chunk | chunks around | deviation | mean | Fréchet, chunks | | Fréchet, differences | |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        for i, found in enumerate(row["rows"]):
            way = f"{row['solver']}, {row['steps']}" if "steps" in row else ""
            spent = f"{1000 * row['seconds']:.0f}" if "steps" in row else ""
            shown = [number(found[key]) for key in ("deviation", "mean", "frechet", "frechet_steps")]
            gaps = [
                _gap(found, first["rows"][i], key) if "steps" in row else "" for key in ("frechet", "frechet_steps")
            ]
            shown = [*shown[:3], gaps[0], shown[3], gaps[1]]
            lines.append(f"| {row['which']} | {way} | {spent} | {found['position'] or ''} | {' | '.join(shown)} |")
    return "\n".join(lines) + "\n"


def _gap(found: dict[str, Any], first: dict[str, Any], key: str) -> str:
    if found[key] is None or first[key] is None:
        return ""
    return f"{100 * (found[key] / first[key] - 1):+.1f}%"


@torch.no_grad()
def main() -> int:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", required=True, help="the flow that was trained for few steps")
    parser.add_argument("--flow", default="flow-tiny", help="the flow that it began from")
    parser.add_argument("--data", type=Path, required=True, help="the store of latents that both learnt from")
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--positions", type=int, nargs="+", default=[16, 128], metavar="CHUNK")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the table")
    options = parser.parse_args()
    models = {"flow": hub.load(options.flow), "few": hub.load(options.few)}
    if not models["few"].config.spans:
        raise UsageError(f"--few got {options.few}, a flow without spans. Train one with the recipe flow-few.")
    document = {
        "machine": machine.describe(), "command": machine.command(), "flow": Path(options.flow).name, "few": Path(options.few).parent.name,
        "rollouts": options.rollouts, "rows": measured(models, options),
    }  # fmt: skip
    machine.record(NAME, document, page, options.out)
    print(page(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
