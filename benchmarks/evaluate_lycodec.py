"""Evaluate a Lycodec on held-out sound, and write benchmarks/results/heldout_lycodec.json and .md.

    python benchmarks/evaluate_lycodec.py --codec lycodec-tiny --heldout DIR [--predicted RUN/codec] [--card RUN]

Two comparisons on the same clips: the codec at its own rate (latents, tokens, tokens in two steps) with Opus; and its ladder of rates, each rung
from the same weights, with the bundled codec's tokens and latents. Each rung stands beside Opus in files of the same size.
--predicted is the codec with a predictor of the residual, made from this one by `duotone train lycodec-predictor`: its row
shows what its tokens gain by it. The page says which aims are reached, and which claims of the description hold. --card also
writes model_cards/NAME.md: the training of RUN, which the codec is from, and these figures.

Each kind of sound is measured in two parts; what is finished stands in --parts, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import machine
from duotone import hub
from duotone.atomic import write_json, write_text
from duotone.codec.contract import Codec
from duotone.codec.lycodec.codec import Lycodec
from duotone.errors import DuotoneError, UsageError
from duotone.evaluate import heldout
from duotone.evaluate.card import card
from duotone.evaluate.card_data import TrainingSound, add_options, read_options
from duotone.evaluate.compare import SAME_BYTES, SILENCE, evaluate_folder, named_files
from duotone.evaluate.report import Report
from duotone.evaluate.tables import markdown
from evaluate_bundled import ROOT, about_of, tell, tell_failure

NAME = "heldout_lycodec"
BUNDLED = "tiny"
OPUS = "opus:12k"
STEPS = (2,)
DISCRETE, CONTINUOUS = "discrete", "continuous"
#: The codec with a predictor of the residual, among those of the ladder.
PREDICTED = "predicted"
#: Metrics of the tables of rates and faces; the last for speech alone.
JUDGES = {"log_mel": "log-mel", "mr_stft": "MR-STFT", "stoi": "STOI"}
#: 16-bit stereo at 48 kHz, in kbit/s.
PLAIN = 1536.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--codec", default="lycodec-tiny", help="bundled name or folder of a Lycodec")
    out.add_argument("--name", help="name in the results and of the card (default: that of the codec)")
    out.add_argument("--heldout", type=Path, help="folder with held-out sound by kinds, see duotone.evaluate.heldout")
    out.add_argument(
        "--predicted",
        metavar="CODEC",
        help="the same codec with a predictor, of duotone train lycodec-predictor model.start_from=CODEC",
    )
    out.add_argument(
        "--parts",
        type=Path,
        default=ROOT / "runs" / "evaluate-lycodec",
        help="where finished parts are kept; remove it to measure them again (default: runs/evaluate-lycodec)",
    )
    out.add_argument("--last", action="store_true", help="show and publish the results of the last run")
    out.add_argument("--limit", type=int, default=8, help="clips of a kind (default: 8)")
    out.add_argument("--seconds", type=float, default=10.0, help="from the middle of each file (default: 10)")
    out.add_argument("--seed", type=int, default=0, help="seed of decoding, drawing and intervals (default: 0)")
    out.add_argument("--dtype", default="float32", help="number format of decoding (default: float32)")
    out.add_argument(
        "--card", type=Path, metavar="RUN", help="write the model card, of the training run in this folder"
    )
    add_options(out)
    out.add_argument("--out", type=Path, default=machine.RESULTS, help="where results go")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the results; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(arguments)
    try:
        sound = dataclasses.replace(read_options(options), recordings=True)
        document = measured(options, arguments)
    except DuotoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    text = sections(document)
    machine.record(NAME, document, lambda _: f"# {document['name']} on held-out sound\n\n{text}", options.out)
    print(text)
    if options.card is not None:
        path = ROOT / "model_cards" / f"{document['name']}.md"
        write_text(path, card_of(document, options.card, sound))
        print(f"Written: {path.name}")
    return 0


def card_of(document: dict[str, Any], run: Path, sound: TrainingSound) -> str:
    """The model card."""
    figures = f"{heldout.BEGIN}\n{sections(document, '###').strip()}\n{heldout.END}\n"
    return card(run, Report.from_dict(document["own"]), name=document["name"], sound=sound, metrics=figures)


def measured(options: argparse.Namespace, arguments: Sequence[str]) -> dict[str, Any]:
    """Both reports and how they were made, as JSON values. Raises `UsageError` for a codec that is no Lycodec."""
    codec = hub.load(options.codec, dtype=options.dtype)
    if not isinstance(codec, Lycodec):
        raise UsageError(f"--codec got {options.codec}, which is {type(codec).__name__}. Name a Lycodec.")
    if options.last:
        found = machine.read(NAME, options.out)
        if found.get("fingerprint") != codec.fingerprint:
            raise UsageError(f"--last found no results of codec {codec.fingerprint}. Measure first: leave --last out.")
        return found
    if options.heldout is None:
        raise UsageError("Held-out sound is missing. Give --heldout DIR (make heldout fills one), or --last.")
    folders = heldout.kinds_of(options.heldout)
    predicted = None if options.predicted is None else with_predictor(options.predicted, codec, options.dtype)
    rungs = {rung_name(rung): rung for rung in ladder(options.codec, codec, options.dtype)}
    others: dict[str, Codec] = {**rungs, **({} if predicted is None else {PREDICTED: predicted})}
    same = [f"{SAME_BYTES}{name} {DISCRETE}" for name in rungs]
    own, lower = [], []
    for kind, folder in folders.items():
        own.append(part({"lycodec": codec}, {kind: folder}, (OPUS, f"{SAME_BYTES}{DISCRETE}"), options, steps=STEPS))
        bundled = {BUNDLED: hub.load(BUNDLED, dtype=options.dtype)}
        lower.append(part({**others, **bundled}, {kind: folder}, same, options, codes_alone=list(others)))
    data = {"kinds": list(folders), "clips": options.limit, "seconds": options.seconds}
    return {
        "name": options.name or Path(options.codec).name,
        **about_of(codec, arguments, data),
        "command": machine.command(arguments, __file__),
        "bits_a_token": codec.spec.bit_rate * codec.spec.chunk_seconds / codec.config.tokens,
        "own": joined(own).to_dict(),
        "ladder": joined(lower).to_dict(),
    }


def part(
    codecs: Mapping[str, Codec],
    folders: Mapping[str, Path],
    against: Sequence[str],
    options: argparse.Namespace,
    **others: Any,
) -> Report:
    """The report on one kind of sound, from `--parts` where the same has been measured before."""
    files = named_files(folders, options.limit, options.seed)
    key = {
        "codecs": {name: codec.spec.fingerprint + str(len(codec.spec.codebooks)) for name, codec in codecs.items()},
        "files": {name: path.stat().st_size for name, path in files.items()}, "against": list(against), **others,
        "seconds": options.seconds, "seed": options.seed, "dtype": options.dtype,
    }  # fmt: skip
    name = hashlib.blake2b(json.dumps(key, sort_keys=True).encode(), digest_size=8).hexdigest()
    done: Path = options.parts / f"{name}.json"
    if done.is_file():
        tell(f"{', '.join(folders)}: measured before, {done.name}")
        return Report.from_dict(json.loads(done.read_text(encoding="utf-8"))["report"])
    report = evaluate_folder(
        codecs, folders, against, options.limit, options.seed, seconds=options.seconds, middle=True, progress=tell,
        failed=tell_failure, **others,
    )  # fmt: skip
    done.parent.mkdir(parents=True, exist_ok=True)
    write_json(done, {"key": key, "report": report.to_dict()})
    return report


def joined(parts: Sequence[Report]) -> Report:
    """The reports of several kinds of sound as one."""
    rows = tuple(row for part in parts for row in part.rows)
    failures = tuple(failure for part in parts for failure in part.failures)
    return dataclasses.replace(parts[0], rows=rows, failures=failures)


def with_predictor(name: str, codec: Lycodec, dtype: str) -> Lycodec:
    """The codec with a predictor. Raises `UsageError` unless it has one, and all other weights are those of `codec`."""
    found = hub.load(name, dtype=dtype)
    if not isinstance(found, Lycodec) or found.network.predictor is None:
        raise UsageError(f"--predicted got {name}, which has no predictor. Make one: duotone train lycodec-predictor")
    ours, theirs = codec.network.state_dict(), found.network.state_dict()
    differ = [key for key, value in ours.items() if key not in theirs or not torch.equal(value, theirs[key])]
    if differ:
        raise UsageError(
            f"--predicted got {name}, whose {differ[0]} is not that of --codec. Train it from that codec: duotone train lycodec-predictor "
            f"model.start_from=CODEC"
        )
    return found


def ladder(name: str, codec: Lycodec, dtype: str) -> list[Codec]:
    """The codec with fewer and fewer of its groups of values."""
    each = len(codec.spec.codebooks) // codec.config.groups
    loaded = [hub.load(name, dtype=dtype, n_quantizers=each * count) for count in range(codec.config.groups - 1, 0, -1)]
    return [rung for rung in loaded if isinstance(rung, Codec)]


def rung_name(rung: Codec) -> str:
    """A rung by its rate."""
    return f"{rung.spec.bit_rate / 1000:.2f} kbit/s"


def sections(document: dict[str, Any], level: str = "##") -> str:
    """Aims, claims, the ladder of rates, and the figures of each kind, as Markdown."""
    own, rungs = Report.from_dict(document["own"]), Report.from_dict(document["ladder"])
    both = dataclasses.replace(own, rows=(*own.rows, *(row for row in rungs.rows if row.system != SILENCE)))
    parts = [
        heldout.intro(document).strip() + "\n",
        f"{level} Aims\n\n{aims(own)}",
        f"{level} Claims of the description\n\n{claims(own, document)}",
        f"{level} Latents, tokens, tokens with a predicted residual\n\n{faces(both)}",
        f"{level} Rate and distance\n\n{rates(both)}",
    ]
    for kind in own.kinds:
        parts.append(f"{level} {kind.replace('-', ', ').capitalize()}\n\n{markdown(own.of_kind(kind))}")
    return "\n".join(parts)


def aims(report: Report) -> str:
    """Log-mel and MR-STFT of music against Opus 12k, and STOI of speech against 0.9."""
    lines = ["| held-out | figure | tokens | aim | |", "| --- | --- | ---: | ---: | --- |"]
    for kind in report.kinds:
        part, told = report.of_kind(kind), kind.replace("-", ", ")
        if kind.startswith("music"):
            for key, label in (("log_mel", "log-mel, dB"), ("mr_stft", "MR-STFT")):
                ours, bar = (part.mean(system, key) for system in (DISCRETE, "opus:12k"))
                lines.append(
                    f"| {told} | {label} | {ours.text()} | {bar.mean_text()} (opus:12k) | {reached(bar.mean - ours.mean)} |"
                )
        else:
            ours = part.mean(DISCRETE, "stoi")
            lines.append(f"| {told} | STOI | {ours.text()} | 0.90 | {reached(ours.mean - 0.9)} |")
    return "\n".join(lines) + "\n"


def reached(margin: float) -> str:
    """Whether an aim is reached by this margin."""
    return "reached" if margin >= 0 else f"**missed by {-margin:.2f}**"


def claims(report: Report, document: dict[str, Any]) -> str:
    """Each claim, our figure, and whether it holds."""
    better = report.difference(CONTINUOUS, DISCRETE, "log_mel")
    most = f"{DISCRETE}, {max(STEPS)} steps"
    one = report.difference(DISCRETE, most, "log_mel")
    kbps = report.bit_rate(DISCRETE) / 1000
    encode, decode = (report.speed(DISCRETE, way) for way in ("encode", "decode"))
    rows = [
        (
            '"hybrid latents are superior to pure discrete tokens"',
            f"log-mel of latents less that of tokens: {better.text()} dB; latents carry real numbers, tokens {kbps:.2f} kbit/s",
            better.high < 0,
        ),
        (
            '"one step"',
            f"log-mel in one step less that in {max(STEPS)}: {one.text()} dB",
            one.low <= 0,
        ),
        (
            '"128:1"',
            f"{PLAIN / kbps:.0f}:1 against 16-bit stereo, from the bytes of real files ({document['bits_a_token']:.1f} bits a token)",
            PLAIN / kbps >= 128,
        ),
        (
            '"50 times real time"',
            f"encodes {encode:.1f} and decodes {decode:.1f} times real time on {document['machine']['cores']} cores in {document['dtype']}",
            min(encode, decode) >= 50,
        ),
    ]  # fmt: skip
    lines = ["| claim | measured | holds |", "| --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {c} | {told} | {'yes' if holds else 'no'} |" for c, told, holds in rows)]) + "\n"


def faces(report: Report) -> str:
    """What latents, and a predicted residual, gain over tokens alone, file by file."""
    lines = [f"| less the tokens' figure | {' | '.join(JUDGES.values())} |", "| --- |" + " ---: |" * len(JUDGES)]
    told = {CONTINUOUS: "latents", f"{PREDICTED} {DISCRETE}": "tokens with a predicted residual"}
    for system, name in told.items():
        if system in report.systems:
            cells = [report.difference(system, DISCRETE, key).text() for key in JUDGES]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    if f"{PREDICTED} {DISCRETE}" not in report.systems:
        lines += ["", "No codec with a predictor was measured (--predicted)."]
    return "\n".join(lines) + "\n\nMeans over all clips [95% interval]; 0 is no difference.\n"


def rates(report: Report) -> str:
    """The ladder of rates from one set of weights, each rung beside Opus, and the bundled codec: real file rates and distances by kind."""
    told = [kind.replace("-", ", ") for kind in report.kinds]
    heads = [f"{kind}: {', '.join(JUDGES[key] for key in judges(kind))}" for kind in told]
    lines = ["| | kbit/s | " + " | ".join(heads) + " |", "| --- | ---: |" + " ---: |" * len(told)]
    for system, name in places(report).items():
        cells = [f"{report.bit_rate(system) / 1000:.2f}"]
        for kind in report.kinds:
            part = report.of_kind(kind)
            cells.append(", ".join(part.mean(system, key).mean_text() for key in judges(kind)))
        lines.append("| " + " | ".join([name, *cells]) + " |")
    note = (
        f"Means over clips; rates from the bytes of real files. Opus has files as large as those of the row above it, or where it cannot, its "
        f"smallest ones with sound (mono, frames of 60 ms). {BUNDLED} is the bundled CoDiCodec."
    )
    return "\n".join(lines) + f"\n\n{note}\n"


def judges(kind: str) -> list[str]:
    """The metrics shown of a kind of sound."""
    return [key for key in JUDGES if key != "stoi" or kind.startswith("speech")]


def places(report: Report) -> dict[str, str]:
    """The systems of the table of rates, in its order, with their names there."""
    out = {CONTINUOUS: "all groups, latents", DISCRETE: "all groups, tokens"}
    out |= {f"{PREDICTED} {DISCRETE}": "all groups, tokens with a predicted residual"}
    out |= {f"{SAME_BYTES}{DISCRETE}": "Opus, same bytes"}
    rungs = [s for s in report.systems if s.endswith(f" kbit/s {DISCRETE}") and not s.startswith(SAME_BYTES)]
    for rung in rungs:
        out |= {rung: f"{rung.removesuffix(f' {DISCRETE}')}, tokens", f"{SAME_BYTES}{rung}": "Opus, same bytes"}
    for face, what in ((DISCRETE, "tokens"), (CONTINUOUS, "latents")):
        # A codec with a refinement names its strategy, too.
        out |= {s: f"{BUNDLED}, {what}" for s in report.systems if s.startswith(f"{BUNDLED} {face}")}
    return {system: name for system, name in out.items() if system in report.systems}


if __name__ == "__main__":
    sys.exit(main())
