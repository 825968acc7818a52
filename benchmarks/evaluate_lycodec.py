"""Evaluate a Lycodec on held-out sound, and write benchmarks/results/heldout_lycodec.json and .md.

    python benchmarks/evaluate_lycodec.py --codec lycodec-tiny --heldout DIR [--card RUN]

Two comparisons on the same clips: the codec at its own rate (latents, tokens, tokens in several steps) with Opus, also at the same bytes; and its
ladder of rates, each rung from the same weights, with the bundled codec. The page says which aims are reached, and which claims of
the description hold. --card also writes model_cards/NAME.md: the training of RUN, which the codec is from, and these figures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
from duotone import hub
from duotone.atomic import write_text
from duotone.codec.contract import Codec
from duotone.codec.lycodec.codec import Lycodec
from duotone.errors import DuotoneError, UsageError
from duotone.evaluate import heldout
from duotone.evaluate.card import card
from duotone.evaluate.compare import evaluate_folder
from duotone.evaluate.report import Report
from duotone.evaluate.tables import markdown
from evaluate_bundled import ROOT, about_of, tell, tell_failure

NAME = "heldout_lycodec"
BUNDLED = "tiny"
OPUS = ("opus:12k", "opus:16k")
STEPS = (2, 4)
DISCRETE, CONTINUOUS = "discrete", "continuous"
#: 16-bit stereo at 48 kHz, in kbit/s.
PLAIN = 1536.0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    out = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    out.add_argument("--codec", default="lycodec-tiny", help="bundled name or folder of a Lycodec")
    out.add_argument("--name", help="name in the results and of the card (default: that of the codec)")
    out.add_argument("--heldout", type=Path, help="folder with held-out sound by kinds, see duotone.evaluate.heldout")
    out.add_argument("--last", action="store_true", help="show and publish the results of the last run")
    out.add_argument("--limit", type=int, default=8, help="clips of a kind (default: 8)")
    out.add_argument("--seconds", type=float, default=10.0, help="from the middle of each file (default: 10)")
    out.add_argument("--seed", type=int, default=0, help="seed of decoding, drawing and intervals (default: 0)")
    out.add_argument("--dtype", default="float32", help="number format of decoding (default: float32)")
    out.add_argument(
        "--card", type=Path, metavar="RUN", help="write the model card, of the training run in this folder"
    )
    out.add_argument("--out", type=Path, default=machine.RESULTS, help="where results go")
    return out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, write the results; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    options = parser().parse_args(arguments)
    try:
        document = measured(options, arguments)
    except DuotoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    text = sections(document)
    machine.record(NAME, document, lambda _: f"# {document['name']} on held-out sound\n\n{text}", options.out)
    print(text)
    if options.card is not None:
        path = ROOT / "model_cards" / f"{document['name']}.md"
        write_text(path, card_of(document, options.card))
        print(f"Written: {path.name}")
    return 0


def card_of(document: dict[str, Any], run: Path) -> str:
    """The model card."""
    figures = f"{heldout.BEGIN}\n{sections(document, '###').strip()}\n{heldout.END}\n"
    return card(run, Report.from_dict(document["own"]), name=document["name"], recordings=True, metrics=figures)


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

    def evaluated(codecs: dict[str, Codec], against: Sequence[str], steps: Sequence[int]) -> dict[str, Any]:
        return evaluate_folder(
            codecs, folders, against, options.limit, options.seed, seconds=options.seconds, middle=True, steps=steps,
            progress=tell, failed=tell_failure,
        ).to_dict()  # fmt: skip

    own = evaluated({"lycodec": codec}, [f"opus:{codec.spec.bit_rate / 1000:.1f}k", *OPUS], STEPS)
    rungs = {rung_name(rung): rung for rung in ladder(options.codec, codec, options.dtype)}
    bundled = hub.load(BUNDLED, dtype=options.dtype)
    data = {"kinds": list(folders), "clips": options.limit, "seconds": options.seconds}
    return {
        "name": options.name or Path(options.codec).name,
        **about_of(codec, arguments, data),
        "command": machine.command(arguments, __file__),
        "bits_a_token": codec.spec.bit_rate * codec.spec.chunk_seconds / codec.config.tokens,
        "own": own,
        "ladder": evaluated({**rungs, BUNDLED: bundled}, (), ()),
    }


def ladder(name: str, codec: Lycodec, dtype: str) -> list[Codec]:
    """The codec with all groups of its values, then with fewer and fewer."""
    each = len(codec.spec.codebooks) // codec.config.groups
    loaded = [hub.load(name, dtype=dtype, n_quantizers=each * count) for count in range(codec.config.groups, 0, -1)]
    return [rung for rung in loaded if isinstance(rung, Codec)]


def rung_name(rung: Codec) -> str:
    """A rung by its rate."""
    return f"{rung.spec.bit_rate / 1000:.2f} kbit/s"


def sections(document: dict[str, Any], level: str = "##") -> str:
    """Aims, claims, the ladder of rates, and the figures of each kind, as Markdown."""
    own, rungs = Report.from_dict(document["own"]), Report.from_dict(document["ladder"])
    parts = [
        heldout.intro(document).strip() + "\n",
        f"{level} Aims\n\n{aims(own)}",
        f"{level} Claims of the description\n\n{claims(own, document)}",
        f"{level} Rate and distance\n\n{rates(rungs)}",
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


def rates(report: Report) -> str:
    """The ladder of rates from one set of weights, and the bundled codec: real file rates, log-mel and MR-STFT by kind."""
    kinds = report.kinds
    told = [kind.replace("-", ", ") for kind in kinds]
    lines = ["| tokens of | kbit/s | " + " | ".join(f"{kind}: log-mel, MR-STFT" for kind in told) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(kinds))
    for system in report.systems:
        if not system.endswith(DISCRETE):
            continue
        cells = [f"{report.bit_rate(system) / 1000:.2f}"]
        for kind in kinds:
            part = report.of_kind(kind)
            cells.append(f"{part.mean(system, 'log_mel').mean_text()}, {part.mean(system, 'mr_stft').mean_text()}")
        lines.append("| " + " | ".join([system.removesuffix(DISCRETE).strip(), *cells]) + " |")
    return "\n".join(lines) + "\n\nMeans over clips; rates from the bytes of real files.\n"


if __name__ == "__main__":
    sys.exit(main())
