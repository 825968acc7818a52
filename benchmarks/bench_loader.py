"""How much sound the training's loader delivers a core, by format, beside what a `small` step could eat on one H100.

    python benchmarks/bench_loader.py [--examples 300] [--mixing 0.5]

Files of 60 s, stereo, are made first. Time is that of the processor, so other work on the machine counts for little;
the threads of the loader share nothing but a counter, and decoding happens outside Python's lock, so cores add up. The need
is an estimate on paper: operations of a `small` step (counted here), over 40% of an H100's dense bfloat16 peak (989
tera-operations a second). Writes benchmarks/results/loader.{json,md}.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import machine
from operations import Operations

H100 = 989e12
SHARE = 0.4
TIMES = 4  # the loader should be able to deliver so many times the need
FORMATS = (("wav", 48_000), ("flac", 48_000), ("ogg", 48_000), ("mp3", 48_000), ("wav", 44_100), ("flac", 44_100))


def need() -> float:
    """Seconds of sound a second that a `small` step eats on an H100 at that share of its peak."""
    from duotone.config import BandsConfig, preset
    from duotone.train.draws import Draws
    from duotone.train.estimate import EstimateObjective, EstimateSection

    config = preset("small")
    assert isinstance(config, BandsConfig)
    model = EstimateObjective(config, EstimateSection())
    with Operations() as counter:
        model({"samples": 0.1 * torch.randn(1, 2, model.crop)}, 0.5, Draws.whole(1))[0].backward()
    seconds = model.crop / model.rate
    return seconds * SHARE * H100 / counter.total


def measure(kind: str, rate: int, examples: int, mixing: float) -> dict[str, Any]:
    """Processor time of an example from a file of this format."""
    from duotone.audio.files import write
    from duotone.audio.synth import synthesize
    from duotone.config import BandsConfig, preset
    from duotone.train.data import Crops
    from duotone.train.estimate import EstimateSection
    from duotone.train.index import build_index
    from duotone.train.sections import SoundSection

    config = preset("small")
    assert isinstance(config, BandsConfig)
    samples = EstimateSection().chunks * config.chunk_samples + config.spare
    with tempfile.TemporaryDirectory() as made:
        write(Path(made) / f"sound.{kind}", synthesize(0, 60.0).resample(rate))
        section = SoundSection(mixing_share=mixing, validation_share=0)
        crops = Crops(
            build_index(made, section, cache=Path(made) / "index.json").training, config.rate, samples, section, 0
        )
        crops.batch(0, range(1))
        started = time.process_time()
        for i in range(examples):
            crops.batch(1, range(i, i + 1))
        spent = (time.process_time() - started) / examples
    return {"format": kind, "rate": rate, "milliseconds": 1000 * spent, "sound": samples / config.rate / spent}


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=300)
    parser.add_argument("--mixing", type=float, default=0.5, help="share of examples of two crops (default: 0.5)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted = need()
    rows = []
    for kind, rate in FORMATS:
        row = measure(kind, rate, options.examples, options.mixing)
        row |= {"cores": wanted / row["sound"], "cores_of_times": TIMES * wanted / row["sound"]}
        rows.append(row)
        print(f"{kind} {rate}: {row['sound']:.0f} s of sound a second and core", flush=True)
    document = {
        "command": machine.command(),
        "machine": machine.describe(),
        "need": wanted,
        "mixing": options.mixing,
        "rows": rows,
    }
    machine.record("loader", document, page)
    return 0


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# The training's loader", "",
        f"`{document['command']}`, {document['mixing']:.0%} of the examples mixed from two crops. The need: {document['need']:.0f} s of "
        f"sound a second, by a `small` step on one H100 at {SHARE:.0%} of {H100 / 1e12:.0f} tera-operations a second (on paper, from "
        f"counted operations).", "",
        machine.markdown(document["machine"]),
        f"| format | rate, Hz | ms an example | s of sound a second and core | cores for the need | cores for {TIMES} times the need |",
        "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        lines.append(
            f"| {row['format']} | {row['rate']} | {row['milliseconds']:.2f} | {row['sound']:.0f} | {math.ceil(row['cores'])} "
            f"| {math.ceil(row['cores_of_times'])} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
