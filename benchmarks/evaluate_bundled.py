"""Evaluate a codec on held-out sound against Opus, and write benchmarks/results/evaluate_<codec>.json and .md.

``python benchmarks/evaluate_bundled.py --codec tiny``
``python benchmarks/evaluate_bundled.py --codec tiny --heldout DIR --publish``      (make evaluate HELDOUT=DIR)

Without --folder or --heldout it first makes the held-out collection (instruments, tempi and voices that training never used).
With --heldout it evaluates recorded and generated music and speech apart, each codec's codes too, and says which of the bars in
duotone.evaluate.bars are reached. --publish puts the tables into the model card and the README, between their markers.
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
from duotone.atomic import write_text
from duotone.audio.collection import make_collection
from duotone.cli.common import table
from duotone.codec.contract import Codec
from duotone.errors import DuotoneError, UsageError
from duotone.evaluate import heldout
from duotone.evaluate.bars import Verdict, judge
from duotone.evaluate.bars import markdown as bars_markdown
from duotone.evaluate.compare import evaluate_folder
from duotone.evaluate.report import Report
from duotone.evaluate.tables import markdown, text_table

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
KINDS = ("music", "speech")
OPUS = ["opus:6k", "opus:12k"]
#: With --heldout: clips a kind, seconds from the middle of each, baselines.
CLIPS, SECONDS, HELDOUT_OPUS = 12, 10.0, [*OPUS, "opus:16k"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--codec", default="tiny", help="bundled name or folder of a codec (default: tiny)")
    out.add_argument("--name", help="name in the results (default: that of the codec)")
    out.add_argument("--folder", type=Path, help="sound to evaluate on (default: make the held-out collection)")
    out.add_argument("--heldout", type=Path, help="folder with held-out sound by kinds, see duotone.evaluate.heldout")
    out.add_argument(
        "--steps", type=int, nargs="*", default=[], help="also decode the codes with these numbers of steps"
    )
    out.add_argument(
        "--last", action="store_true", help="judge and show the results of the last --heldout run, measure nothing"
    )
    out.add_argument("--publish", action="store_true", help="put the tables of --heldout into card and README")
    out.add_argument("--minutes", type=float, default=8.0, help="size of the held-out collection (default: 8)")
    out.add_argument("--data-seed", type=int, default=1, help="seed of the held-out collection (default: 1)")
    out.add_argument("--against", nargs="*", help=f"baselines (default: {' '.join(OPUS)}; of --heldout also opus:16k)")
    out.add_argument(
        "--limit", type=int, help=f"only so many files, drawn with --seed (--heldout: of a kind; default {CLIPS})"
    )
    out.add_argument(
        "--seconds", type=float, help=f"only the beginning of each file (--heldout: its middle; default {SECONDS:g})"
    )
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
        kinds = options.heldout is not None or options.last
        if options.publish and not kinds:
            raise UsageError("--publish needs --heldout (or --last): the card and the README show each kind of sound.")
        codec = hub.load(options.codec, device=options.device, dtype=options.dtype)
        run = by_kinds if kinds else one_folder
        run(codec, options, arguments)
    except DuotoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def one_folder(codec: Codec, options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Evaluate on the files of one folder, or on the collection made for it."""
    name = options.name or Path(options.codec).name
    folder = options.folder
    if folder is None:
        folder = ROOT / "data" / f"heldout-{options.minutes:g}min-seed{options.data_seed}"
        tell(f"held-out collection: {options.minutes:g} minutes, seed {options.data_seed}")
        make_collection(folder, options.minutes, split="heldout", seed=options.data_seed)
    report = evaluate_folder(
        {name: codec}, folder, OPUS if options.against is None else options.against, options.limit, options.seed,
        seconds=options.seconds, steps=options.steps, progress=tell, failed=tell_failure,
    )  # fmt: skip
    headings, rows, notes = text_table(report)
    print(*table(headings, rows), "", *notes, sep="\n")
    about = about_of(codec, arguments, data_of(folder))
    base = f"evaluate_{name}"
    machine.record(base, about | report.to_dict(), lambda _: page(report, about), options.out)
    print(f"Written: {base}.json and {base}.md in {options.out}")


def by_kinds(codec: Codec, options: argparse.Namespace, arguments: Sequence[str]) -> None:
    """Evaluate on each kind of held-out sound, judge, and write heldout_NAME.json and .md; with --publish the card and README too."""
    name = options.name or Path(options.codec).name
    base = f"heldout_{name}"
    document = last_run(base, options.out, codec) if options.last else measure_kinds(codec, options, arguments)
    report, codes = Report.from_dict(document), document["codes"]
    verdicts = judge(report, codec.spec, codes, speeds_of(codec, options.out))
    document["bars"] = [verdict.to_dict() for verdict in verdicts]
    print(bars_markdown(verdicts))
    machine.record(base, document, lambda _: heldout_page(report, document, codes, verdicts), options.out)
    print(f"Written: {base}.json and {base}.md in {options.out}")
    if options.publish:
        publish(
            ROOT / "model_cards" / f"{name}.md",
            heldout.intro(document) + heldout.sections(report, codes, verdicts, "###"),
        )
        publish(ROOT / "README.md", heldout.intro(document) + bars_markdown(verdicts))


def measure_kinds(codec: Codec, options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """The report, the figures of the codes, and how they were made, as JSON values."""
    name = options.name or Path(options.codec).name
    folders, limit, seconds = heldout.kinds_of(options.heldout), options.limit or CLIPS, options.seconds or SECONDS
    report = evaluate_folder(
        {name: codec}, folders, HELDOUT_OPUS if options.against is None else options.against, limit, options.seed,
        seconds=seconds, middle=True, steps=options.steps, progress=tell, failed=tell_failure,
    )  # fmt: skip
    codes = heldout.measure_codes(codec, folders, limit, options.seed, progress=tell) if codec.spec.codebooks else None
    data = {"kinds": list(folders), "clips": limit, "seconds": seconds}
    return {**about_of(codec, arguments, data), **report.to_dict(), "codes": codes}


def last_run(name: str, folder: Path, codec: Codec) -> dict[str, Any]:
    """The results of the last run. Raises `UsageError` where there are none of this codec."""
    found = machine.read(name, folder)
    if found.get("fingerprint") != codec.spec.fingerprint:
        raise UsageError(
            f"--last found no results of codec {codec.spec.fingerprint} in {name}.json. Measure first: leave --last out."
        )
    return found


def publish(path: Path, content: str) -> None:
    """Put the tables between the markers of a page."""
    write_text(path, heldout.between_markers(path.read_text(encoding="utf-8"), content, path.name))
    print(f"Written: {path.name}")


def heldout_page(report: Report, about: dict[str, Any], codes: dict[str, Any] | None, verdicts: list[Verdict]) -> str:
    """The results by kinds as Markdown."""
    return "\n".join([
        f"# {report.codec['name']} on held-out sound\n", heldout.intro(about), machine.markdown(about["machine"]),
        heldout.sections(report, codes, verdicts),
    ])  # fmt: skip


def speeds_of(codec: Codec, folder: Path) -> dict[str, float]:
    """Speeds of this codec by the benchmark against EnCodec; empty where it has not run for these weights."""
    found = machine.read("against_encodec", folder)
    if found.get("fingerprint") != codec.spec.fingerprint:
        tell("No speeds of this codec: run python benchmarks/bench_against_encodec.py first to have them in the table.")
        return {}
    return {key: float(value) for key, value in found["speeds"].items()}


def about_of(codec: Codec, arguments: Sequence[str], data: dict[str, Any]) -> dict[str, Any]:
    """Command, machine, sound and number format of a run."""
    return {
        "command": machine.command(arguments, __file__),
        "machine": machine.describe(),
        "data": data,
        "fingerprint": codec.spec.fingerprint,
        "dtype": str(codec.dtype).removeprefix("torch."),
        "device": codec.device.type,
    }


def tell_failure(file: str, error: Exception) -> None:
    """A file that could not be evaluated."""
    tell(f"error: {file}: {error}")


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
        f"Decoding has seed {report.settings['seed']}.\n",
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
    metrics = report.measured
    lines = ["| system | " + " | ".join(m.label for m in metrics) + " |", "| --- |" + " ---: |" * len(metrics)]
    for system in ours:
        cells = []
        for metric in metrics:
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
