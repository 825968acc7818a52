"""Evaluate a codec on held-out sound against Opus, and write benchmarks/results/evaluate_<codec>.json and .md.

``python benchmarks/evaluate_bundled.py --codec tiny``

Without --folder it first makes the held-out collection (instruments, tempi and voices that training never used).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
from duotone import hub
from duotone.audio.collection import make_collection
from duotone.cli.common import table
from duotone.errors import DuotoneError
from duotone.evaluate.compare import evaluate_folder
from duotone.evaluate.metrics import METRICS
from duotone.evaluate.report import Report
from duotone.evaluate.tables import markdown, text_table

HERE = Path(__file__).resolve().parent
KINDS = ("music", "speech")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--codec", default="tiny", help="bundled name or folder of a codec (default: tiny)")
    out.add_argument("--name", help="name in the results (default: that of the codec)")
    out.add_argument("--folder", type=Path, help="sound to evaluate on (default: make the held-out collection)")
    out.add_argument("--minutes", type=float, default=8.0, help="size of the held-out collection (default: 8)")
    out.add_argument("--data-seed", type=int, default=1, help="seed of the held-out collection (default: 1)")
    out.add_argument(
        "--against", nargs="*", default=["opus:6k", "opus:12k"], help="baselines (default: opus:6k opus:12k)"
    )
    out.add_argument("--limit", type=int, help="evaluate only so many files, drawn with --seed")
    out.add_argument("--seconds", type=float, help="evaluate only the beginning of each file")
    out.add_argument("--seed", type=int, default=0, help="seed of decoding, drawing and intervals (default: 0)")
    out.add_argument("--device", help="cpu, cuda or mps (default: cpu)")
    out.add_argument("--dtype", help="float32 or bfloat16 (default: encodes in float32, decodes in the fastest)")
    out.add_argument("--out", type=Path, default=HERE / "results", help="where results go")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print the table, write the results; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(arguments)
    try:
        codec = hub.load(options.codec, device=options.device, dtype=options.dtype)
        name = options.name or Path(options.codec).name
        folder = options.folder
        if folder is None:
            folder = HERE.parent / "data" / f"heldout-{options.minutes:g}min-seed{options.data_seed}"
            tell(f"held-out collection: {options.minutes:g} minutes, seed {options.data_seed}")
            make_collection(folder, options.minutes, split="heldout", seed=options.data_seed)
        report = evaluate_folder(
            {name: codec}, folder, options.against, options.limit, options.seed, seconds=options.seconds,
            progress=tell, failed=lambda file, error: tell(f"error: {file}: {error}"),
        )  # fmt: skip
    except DuotoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    headings, rows, notes = text_table(report)
    print(*table(headings, rows), "", *notes, sep="\n")
    about = {
        "command": machine.command(arguments, __file__),
        "machine": machine.describe(),
        "data": data_of(folder),
        "dtype": str(codec.dtype).removeprefix("torch."),
        "device": codec.device.type,
    }
    base = f"evaluate_{name}"
    machine.record(base, about | report.to_dict(), lambda _: page(report, about), options.out)
    print(f"Written: {base}.json and {base}.md in {options.out}")
    return 0


def tell(line: str) -> None:
    """A line on how it goes, to standard error."""
    print(line, file=sys.stderr, flush=True)


def data_of(folder: Path) -> dict[str, Any]:
    """What is known of the sound: the collection's manifest if there is one, else the folder's name."""
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return {"folder": folder.resolve().name}
    values = json.loads(manifest.read_text(encoding="utf-8"))
    return {"collection": values["split"], "minutes": values["minutes"], "seed": values["seed"]}


def page(report: Report, about: dict[str, Any]) -> str:
    """The results as Markdown: all files, each kind, differences file by file, and what Opus really made."""
    codec = report.codec
    data = ", ".join(f"{key} {value}" for key, value in about["data"].items())
    parts = [
        f"# {codec['name']} evaluated\n",
        f"Made by `{about['command']}`\n",
        machine.markdown(about["machine"]),
        f"Codec {codec['fingerprint']} at {codec['rate']} Hz, {about['dtype']} on {about['device']}. Sound: {data}. "
        f"Decoding starts from noise at sigma_max (seed {report.settings['seed']}).\n",
        "## All files\n",
        markdown(report),
    ]
    for kind in KINDS:
        if any(kind in file for file in report.files) and not all(kind in file for file in report.files):
            parts += [f"## {kind.capitalize()}\n", markdown(report.only(kind))]
    for baseline in report.settings["against"]:
        parts += [f"## Difference to {baseline}, file by file\n", differences(report, baseline)]
    if report.settings["against"]:
        parts += ["## What Opus really made\n", opus_facts(report)]
    return "\n".join(parts)


def differences(report: Report, baseline: str) -> str:
    """Paired differences of our systems to a baseline; bold where the interval excludes 0 and we are better."""
    ours = [s for s in report.systems if s not in (*report.settings["against"], "silence")]
    lines = ["| system | " + " | ".join(m.label for m in METRICS.values()) + " |", "| --- |" + " ---: |" * len(METRICS)]
    for system in ours:
        cells = []
        for metric in METRICS.values():
            interval = report.difference(system, baseline, metric.key)
            better = interval.low > 0 if metric.higher_is_better else interval.high < 0
            cells.append(f"**{interval.text()}**" if better else interval.text())
        lines.append(f"| {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n\nOurs minus theirs; bold: better, and 0 lies outside the interval.\n"


def opus_facts(report: Report) -> str:
    """Rates with and without the container, share of stereo packets, bandwidths."""
    lines = ["| asked | file, kbit/s | packets alone, kbit/s | stereo packets | bandwidth |", "| --- |" + " ---: |" * 4]
    for baseline in report.settings["against"]:
        rows = report.of(baseline)
        total = sum(row.seconds for row in rows)
        payload = sum(row.notes["payload_bit_rate"] * row.seconds for row in rows) / total
        stereo = sum(row.notes["stereo"] * row.seconds for row in rows) / total
        widths = sorted({row.notes["bandwidth"] for row in rows})
        span = " to ".join(f"{w / 1000:g}" for w in dict.fromkeys((widths[0], widths[-1])))
        cells = [
            baseline,
            f"{report.bit_rate(baseline) / 1000:.2f}",
            f"{payload / 1000:.2f}",
            f"{stereo:.0%}",
            f"{span} kHz",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
