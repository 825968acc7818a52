"""Speed against the `codicodec` package: same random `base` weights, same sound, alternating in one process, medians.

    python benchmarks/bench_against_codicodec.py [--chunks 4] [--repeats 3] [--threads N] [--opponent float32 --opponent float16] [--add]

The package runs as shipped (float16 autocast) or with its autocast off (float32); rows of the other stay as they are. Ours encodes in
float32 and decodes in the format that `dtype="auto"` picks on this machine. Prints a table and writes benchmarks/results/against_codicodec.{json,md}.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import machine
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.weights import import_codicodec
from duotone.codec.values import Latents

KEY = ("task", "opponent", "ours")


def make_pair() -> tuple[Any, CoDiCodec]:
    """The package with random weights (its zero-initialised layers made alive), and ours with the same weights."""
    import codicodec.inference
    from codicodec.models import UNet

    codicodec.inference.download_model = lambda: None
    torch.manual_seed(0)
    network = UNet().eval()
    with torch.no_grad():
        for name, p in network.named_parameters():
            if not name.endswith((".down.weight", ".up.weight")):
                p.add_((0.01 if p.any() else 0.02) * torch.randn(p.shape))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "codicodec.pt"
        torch.save({"gen_state_dict": network.state_dict()}, path)
        theirs = codicodec.inference.EncoderDecoder(str(path), device=torch.device("cpu"))
        ours = import_codicodec(path)
    return theirs, ours.to(dtype="auto")


def tasks(theirs: Any, ours: CoDiCodec, chunks: int) -> dict[str, tuple[Callable[[], Any], Callable[[], Any]]]:
    """Name -> (the package's call, ours) on the same sound and latents."""
    from duotone.audio.synth import synthesize

    wave = synthesize(0, chunks * 32768 / 48_000)
    latents = ours.encode(wave, framing="published")
    users = latents.channels(64)

    def their_live() -> None:
        theirs.reset()
        for i in range(len(latents)):
            theirs.decode_next(users[i : i + 1])
        theirs.reset()

    def our_live() -> None:
        with ours.stream() as stream:
            for value in latents.values:
                stream.push(Latents(value[None], latents.spec))

    def their_encode() -> None:
        with torch.no_grad():
            theirs.encode(wave.samples, discrete=True)

    return {
        "encode": (their_encode, lambda: ours.encode(wave, framing="published").codes()),
        "parallel, 5 steps": (
            lambda: theirs.decode(users, mode="parallel", denoising_steps=5),
            lambda: ours.decode(latents, "parallel", steps=5),
        ),
        "autoregressive, 2 steps": (
            lambda: theirs.decode(users, mode="autoregressive"),
            lambda: ours.decode(latents, "autoregressive"),
        ),
        "live, 2 steps": (their_live, our_live),
    }


def measure(pair: tuple[Callable[[], Any], Callable[[], Any]], repeats: int) -> tuple[list[float], list[float]]:
    """Seconds of both, run in turns; the first round is not counted unless it is the only one."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats + (repeats > 1)):
        for call, record in zip(pair, times, strict=True):
            started = time.perf_counter()
            call()
            record.append(time.perf_counter() - started)
    if repeats > 1:
        times[0].pop(0), times[1].pop(0)
    return times


def summary(row: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The row with medians of its rounds, their ratio, and speeds in times real time."""
    theirs, ours = statistics.median(row["their_rounds"]), statistics.median(row["our_rounds"])
    return row | {
        "their_seconds": theirs, "our_seconds": ours, "ratio": theirs / ours,
        "our_speed": seconds / ours, "their_speed": seconds / theirs, "rounds": len(row["our_rounds"]),
    }  # fmt: skip


def merge(earlier: list[dict[str, Any]], rows: list[dict[str, Any]], add: bool, seconds: float) -> list[dict[str, Any]]:
    """Rows of other opponents stay; with `add`, the rounds of the same row are put before the new ones."""
    known = {tuple(row[key] for key in KEY): row for row in earlier}
    for row in rows:
        key = tuple(row[name] for name in KEY)
        if add and "their_rounds" in known.get(key, {}):
            row = row | {name: known[key][name] + row[name] for name in ("their_rounds", "our_rounds")}
        known[key] = summary(row, seconds)
    return sorted(known.values(), key=lambda row: row["opponent"] != "float32")


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--add", action="store_true", help="add these rounds to those recorded on this machine")
    parser.add_argument("--opponent", action="append", choices=("float16", "float32"))
    options = parser.parse_args()
    import codicodec.utils

    torch.set_num_threads(options.threads)
    theirs, ours = make_pair()
    seconds = options.chunks * 32768 / 48_000
    rows = []
    for opponent in options.opponent or ["float32", "float16"]:
        codicodec.utils.mixed_precision = opponent == "float16"
        for name, pair in tasks(theirs, ours, options.chunks).items():
            their_rounds, our_rounds = measure(pair, options.repeats)
            row = {
                "task": name, "opponent": opponent,
                "ours": ours.encoding_format if name == "encode" else str(ours.dtype).removeprefix("torch."),
                "command": machine.command(), "their_rounds": their_rounds, "our_rounds": our_rounds,
            }  # fmt: skip
            rows.append(row)
            found = summary(row, seconds)
            print(
                f"{opponent:8} {name:24} {found['their_seconds']:8.2f} s {found['our_seconds']:8.2f} s  "
                f"{found['ratio']:6.1f}x", flush=True
            )  # fmt: skip
    document = {"seconds_of_sound": seconds, "machine": machine.describe()}
    before = machine.read("against_codicodec")
    same = all(before.get(key) == value for key, value in document.items())
    document["rows"] = merge(before["rows"] if same else [], rows, options.add, seconds)
    machine.record("against_codicodec", document, page)
    return 0


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# Speed against the codicodec package", "",
        f"{document['seconds_of_sound']:.2f} s of sound, random `base` weights, in turns, medians of the rounds. As "
        "shipped the package computes in float16 autocast; float32 is the package with that switched off.", "",
        machine.markdown(document["machine"]), "",
        *(f"- `{command}`" for command in sorted({row["command"] for row in document["rows"]})), "",
        "| task | package in | package s | ours in | ours s | ratio | ours, x real time | rounds |",
        "|---|---|---:|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        lines.append(
            f"| {row['task']} | {row['opponent']} | {row['their_seconds']:.2f} | {row['ours']} | {row['our_seconds']:.2f} "
            f"| {row['ratio']:.1f} | {row['our_speed']:.2f} | {row['rounds']} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
