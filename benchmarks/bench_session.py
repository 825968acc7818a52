"""Time to make a chunk of a live session, sampling and decoding, and whether the look-ahead is held.

    python benchmarks/bench_session.py [--flow flow-tiny] [--codec tiny] [--minutes 10] [--lookahead 2] [--threads 2]
    python benchmarks/bench_session.py --minutes 0.5 --out /tmp/results      (a quick look)

`--flow` is a bundled flow, a folder of a trained one, or a preset, whose weights are then drawn: the time does not depend on what the
weights are. Of the bundled pair on two cores, at least 2 times real time and no waiting in ten minutes are expected. The
session is not played at the speed of the clock; a player is computed from the times measured: it begins with the first chunk,
a chunk may be begun once no more than the look-ahead is unheard, and its slack is the sound that is unheard when it is done.
The controls stay at rest but for one crossfade a minute. Writes benchmarks/results/session.{json,md}, where rows of other settings stay.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

import machine
from duotone import flow, hub
from duotone.audio.synth import synthesize
from duotone.config import FLOW_PRESETS

#: Of the bundled pair on two cores: times real time, at least; a chunk may never be awaited.
GOAL = 2.0
SETTING = ("flow", "codec", "lookahead", "solver", "steps", "threads")
PROMPT_SECONDS = 10.0
WARM_UP = 3  # chunks


def drawn(name: str) -> flow.FlowModel:
    """A model of a preset with small random weights in its output, so that every layer matters."""
    model = flow.random(name)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        model.proj_out.weight.copy_(0.02 * torch.randn(model.proj_out.weight.shape, generator=generator))
    return model


def chosen(name: str) -> tuple[flow.FlowModel, str]:
    """The flow of that name, and where its weights are from: bundled, trained (a folder), or drawn."""
    if hub.bundled_folder(name) is None and name in FLOW_PRESETS and not Path(name).is_dir():
        return drawn(name), "drawn"
    return hub.load(name), "trained" if hub.bundled_folder(name) is None else "bundled"


def slacks(costs: list[float], chunk: float, lookahead: int) -> list[float]:
    """Seconds of unheard sound when each chunk after the first is done; negative where the player waited."""
    ready, start, found = costs[0], costs[0], []
    for i, cost in enumerate(costs[1:], start=1):
        ready = max(ready, start + (i - lookahead) * chunk) + cost
        found.append(start + i * chunk - ready)
        start += max(0.0, -found[-1])  # the player waited
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    (model, weights), codec = chosen(options.flow), hub.load(options.codec)
    began = time.perf_counter()
    session = flow.session(model, codec, synthesize(1, PROMPT_SECONDS), seed=1, lookahead=options.lookahead)
    opened = time.perf_counter() - began
    for _ in range(WARM_UP):
        session.make()
        session.take()
    chunk = codec.spec.chunk_seconds
    count = max(2, round(options.minutes * 60 / chunk))
    costs: list[float] = []
    memory = peak_mib()
    for i in range(count):
        fading = i % round(60 / chunk) == round(30 / chunk)
        if fading:
            session.reseed(i)
        began = time.perf_counter()
        session.make()
        session.take()
        costs.append(time.perf_counter() - began)
    settings, slack = session.controls.sampling, slacks(costs, chunk, options.lookahead)
    ms = 1000 * np.array(costs)
    return {
        "flow": Path(options.flow).name, "codec": Path(options.codec).name, "weights": weights,
        "fingerprints": [flow.fingerprint(model), codec.fingerprint], "lookahead": options.lookahead, "solver": settings.solver,
        "steps": settings.steps, "threads": torch.get_num_threads(), "minutes": count * chunk / 60, "open_ms": 1000 * opened,
        "median_ms": float(np.median(ms)), "p99_ms": float(np.quantile(ms, 0.99)), "largest_ms": float(ms.max()),
        "speed": count * chunk / sum(costs), "slack_p1": float(np.quantile(slack, 0.01)), "slack_least": min(slack),
        "waits": sum(s < 0 for s in slack), "growth_mib": peak_mib() - memory, "latency": session.latency().seconds,
        "state_mib": len(session.state()) / 2**20,
    }  # fmt: skip


def peak_mib() -> float:
    """The largest resident memory of this process so far (Linux counts KiB, macOS bytes)."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used / (2**20 if sys.platform == "darwin" else 2**10)


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# A live session", "", machine.markdown(document["machine"]), *(f"- `{command}`" for command in document["commands"]), "",
        "Time to make a chunk: sampling, one pass into the cache, decoding. Slack is the sound unheard when a chunk is done; control to "
        "ear is at most look-ahead and one chunk, without the player's buffer. One crossfade a minute makes its chunk twice.", "",
        "| flow | codec | solver | steps | threads | minutes | opening, ms | median, ms | p99, ms | largest, ms | x real time | look-ahead "
        "| control to ear, s | slack 1%, s | least, s | waits | memory grown, MiB | state, MiB |",
        "|---|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for r in document["rows"]:
        lines.append(
            f"| {r['flow']} | {r['codec']} | {r['solver']} | {r['steps']} | {r['threads']} | {r['minutes']:.1f} | {r['open_ms']:.0f} | "
            f"{r['median_ms']:.0f} | {r['p99_ms']:.0f} | {r['largest_ms']:.0f} | {r['speed']:.1f} | {r['lookahead']} | {r['latency']:.2f} | "
            f"{r['slack_p1']:.2f} | {r['slack_least']:.2f} | {r['waits']} | {r['growth_mib']:.1f} | {r['state_mib']:.1f} |"
        )
    found = [verdict(row) for row in document["rows"] if row.get("weights") == "bundled"]
    return "\n".join([*lines, *(["", *found] if found else [])]) + "\n"


def verdict(row: dict[str, Any]) -> str:
    """Whether a row reaches what is expected of the bundled pair on two cores."""
    fast = "reached" if row["speed"] >= GOAL else f"missed: {row['speed']:.2f}"
    waits = "held" if not row["waits"] else f"missed {row['waits']} times"
    return (
        f"{row['flow']} with {row['codec']}, bundled weights (`{'`, `'.join(row['fingerprints'])}`), {row['threads']} threads: {GOAL:g} times "
        f"real time {fast}; look-ahead of {row['lookahead']} chunks over {row['minutes']:.1f} minutes {waits}, p99 of a chunk "
        f"{row['p99_ms']:.0f} ms of its {1000 * row['latency'] / (row['lookahead'] + 1):.0f} ms."
    )


def keep(row: dict[str, Any], folder: Path, command: str) -> None:
    """Write a row beside those of other settings."""
    before = machine.read("session", folder) or {"rows": [], "commands": []}
    others = [other for other in before["rows"] if [other[key] for key in SETTING] != [row[key] for key in SETTING]]
    document = {
        "machine": machine.describe(),
        "commands": sorted({*before["commands"], command}),
        "rows": sorted([*others, row], key=lambda r: [r[key] for key in SETTING]),
    }
    machine.record("session", document, page, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", default="flow-tiny")
    parser.add_argument("--codec", default="tiny")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--lookahead", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the table")
    options = parser.parse_args(arguments)
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads)
    try:
        row = measure(options)
    finally:
        torch.set_num_threads(before)
    keep(row, options.out, machine.command(arguments, __file__))
    print(verdict(row) if row["weights"] == "bundled" else f"{row['speed']:.1f} x real time, {row['waits']} waits")
    return 0


if __name__ == "__main__":
    sys.exit(main())
