"""How much sound the training's loader delivers, beside what a `small` step could eat on one H100.

    python benchmarks/bench_loader.py [--folder SOUNDS] [--seconds 10] [--workers 2] [--batch 32]

Without --folder it makes stereo files of 60 s at 48 and 44.1 kHz (wav, flac, ogg) first. The need is an estimate on
paper: operations of a `small` step (counted here), over 40% of an H100's dense bfloat16 peak (989 tera-operations a
second). Writes benchmarks/results/loader.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import machine
from operations import Operations

RESULTS = Path(__file__).resolve().parent / "results"
H100 = 989e12
SHARE = 0.4


def make_sounds(folder: Path) -> None:
    """A few long files of several formats and rates."""
    from duotone.audio.files import write
    from duotone.audio.synth import synthesize

    for i, (name, rate) in enumerate((("a.wav", 48_000), ("b.flac", 48_000), ("c.ogg", 48_000), ("d.wav", 44_100))):
        write(folder / name, synthesize(i, 60.0).resample(rate))


def need() -> float:
    """Seconds of sound a second that a `small` step eats on an H100 at that share of its peak."""
    from duotone.config import preset
    from duotone.train.draws import Draws
    from duotone.train.objective import CodecObjective
    from duotone.train.recipe import ObjectiveSection

    model = CodecObjective(preset("small"), ObjectiveSection())
    with Operations() as counter:
        model(0.1 * torch.randn(1, 2, model.crop), 0.5, Draws.whole(1))[0].backward()
    seconds = 2 * model.config.chunk_samples / model.config.rate
    return seconds * SHARE * H100 / counter.total


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    from duotone.config import preset
    from duotone.train.data import Crops
    from duotone.train.index import build_index
    from duotone.train.recipe import DataSection

    config = preset("small")
    samples = 2 * config.chunk_samples + config.hop
    rows = []
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder
        if folder is None:
            folder = Path(made)
            make_sounds(folder)
        for mixing in (0.0, 0.5):
            for workers in options.workers:
                section = DataSection(workers=workers, mixing_share=mixing)
                found = build_index([folder], section, None)
                crops = Crops(found.training, config.rate, samples, section, 0)
                batches = crops.batches(0, 10**6, range(options.batch))
                next(batches)
                started, count = time.perf_counter(), 0
                while time.perf_counter() - started < options.seconds:
                    count += len(next(batches))
                rate = count * samples / config.rate / (time.perf_counter() - started)
                batches.close()
                rows.append({"workers": workers, "mixing": mixing, "sound": rate})
                print(f"{workers} threads, mixing {mixing:g}: {rate:.0f} s of sound a second", flush=True)
    wanted = need()
    print(f"a small step on an H100 at {SHARE:.0%} of its peak eats {wanted:.0f} s of sound a second")
    command = " ".join(["python benchmarks/bench_loader.py", *sys.argv[1:]])
    document = {"command": command, "machine": machine.describe(), "need": wanted, "rows": rows}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "loader.json").write_text(json.dumps(document, indent=1) + "\n")
    (RESULTS / "loader.md").write_text(page(document))
    return 0


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# The training's loader", "",
        f"`{document['command']}`. The need: {document['need']:.0f} s of sound a second, by a `small` step on one H100 at "
        f"{SHARE:.0%} of {H100 / 1e12:.0f} tera-operations a second (on paper, from counted operations).", "",
        machine.markdown(document["machine"]), "",
        "| threads | crops mixed | s of sound a second | times the need |", "|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        lines.append(
            f"| {row['workers']} | {row['mixing']:.0%} | {row['sound']:.0f} | {row['sound'] / document['need']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
