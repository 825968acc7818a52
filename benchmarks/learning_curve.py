"""The learning curve of a bundled codec: held-out figures after so many hours of training, one point for each set of weights.

    python benchmarks/learning_curve.py HOURS STAGE [--report FILE] [--name tiny]

adds the point of an evaluation (`evaluate_bundled.py --heldout`, by default the last) to `results/learning_NAME.json` and its page. Hours are those of all
trainings that led to the weights; STAGE names the last of them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
from duotone.evaluate.card_data import read_json
from duotone.evaluate.report import Report

#: Figures of a point, of the kinds that have them.
FIGURES = ("log_mel", "mr_stft", "dac_mel", "ild", "stoi", "pesq")
TITLES = ("log-mel, dB", "MR-STFT", "DAC mel", "ILD, dB", "STOI", "PESQ")
#: What a figure has to reach where that is another system's: Opus at this rate.
OPUS = "opus:12k"


def point(report: Report, hours: float, stage: str) -> dict[str, Any]:
    """The figures of the default way to decode codes, and Opus's, by kind of sound."""
    ours = next(system for system in report.systems if system.startswith("discrete"))
    kinds = {}
    for kind in report.kinds:
        part = report.of_kind(kind)
        kinds[kind] = {name: _means(part, system) for name, system in (("ours", ours), (OPUS, OPUS))}
    return {"hours": hours, "stage": stage, "fingerprint": report.codec["fingerprint"], "kinds": kinds}


def _means(report: Report, system: str) -> dict[str, float]:
    """Means of the figures that a system has."""
    found = {key: report.mean(system, key) for key in FIGURES} if system in report.systems else {}
    return {key: interval.mean for key, interval in found.items() if interval.count}


def added(document: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The document with a point, which replaces that of the same weights; by hours."""
    others = [each for each in document.get("points", []) if each["fingerprint"] != new["fingerprint"]]
    return {**document, "points": sorted([*others, new], key=lambda each: each["hours"])}


def page(document: dict[str, Any]) -> str:
    """A table for each kind of sound; the last row is Opus."""
    points = document["points"]
    lines = [f"# Learning curve of {document['codec']}", "", "Made by `python benchmarks/learning_curve.py HOURS STAGE` after each training that was"
             " bundled: discrete, defaults of that day, on held-out sound.", ""]  # fmt: skip
    for kind in points[-1]["kinds"]:
        lines += [f"## {kind.replace('-', ', ').capitalize()}", ""]
        lines.append(f"| hours | last training | weights | {' | '.join(TITLES)} |")
        lines.append("|---:|---|---|" + "---:|" * len(TITLES))
        rows = [
            (f"{p['hours']:.1f}", p["stage"], f"`{p['fingerprint']}`", p["kinds"].get(kind, {}).get("ours", {}))
            for p in points
        ]
        rows.append(("", "Opus 12k", "", points[-1]["kinds"][kind][OPUS]))
        for *told, found in rows:
            lines.append(
                f"| {' | '.join(told)} | {' | '.join(f'{found[k]:.3f}' if k in found else '' for k in FIGURES)} |"
            )
        lines.append("")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Add a point; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("hours", type=float)
    parser.add_argument("stage")
    parser.add_argument("--name", default="tiny")
    parser.add_argument("--report", type=Path, help="JSON of the evaluation (default: results/heldout_NAME.json)")
    parser.add_argument("--results", type=Path, default=machine.RESULTS)
    options = parser.parse_args(arguments)
    report = Report.from_dict(read_json(options.report or options.results / f"heldout_{options.name}.json"))
    document = machine.read(f"learning_{options.name}", options.results) or {"codec": options.name}
    machine.record(
        f"learning_{options.name}", added(document, point(report, options.hours, options.stage)), page, options.results
    )
    print(options.results / f"learning_{options.name}.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
