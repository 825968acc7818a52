"""Whether encoding, decoding and tokens have become slower since another commit: both trees in turns, medians.

    python benchmarks/bench_before_after.py [--before COMMIT] [--rounds 7] [--threads 1]

The other commit is checked out into a temporary folder; both run in this Python environment, each round in a process of
its own, the order of the two changing from round to round. Seconds are wall time; processor time says the same where
other programs share the machine. Writes benchmarks/results/before_after.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 20.0  # of sound
TREES = ("before", "after")


def tasks() -> dict[str, Callable[[], Any]]:
    """What is timed, through calls that both trees have."""
    import numpy as np

    import duotone
    from duotone.audio.synth import synthesize
    from duotone.tokens import Alphabet, train_bpe

    wave = synthesize(0, SECONDS)
    codec, as_loaded = duotone.load("tiny", dtype="float32"), duotone.load("tiny")
    latents = codec.encode(wave)
    rng = np.random.default_rng(0)
    codes = np.minimum(rng.geometric(0.02, (4, 600_000)) - 1, 1023)
    recordings = [np.ascontiguousarray(part) for part in np.split(codes, 40, axis=1)]
    alphabet = Alphabet(4, 1024)
    tokenizer = train_bpe(recordings, alphabet, vocab_size=8_000, pad_token="<pad>")
    return {
        "encode, float32": lambda: codec.encode(wave).codes(),
        "encode, as loaded": lambda: as_loaded.encode(wave).codes(),
        "decode, float32": lambda: codec.decode(latents),
        "decode, as loaded": lambda: as_loaded.decode(latents),
        "decode, live": lambda: live(codec, latents),
        "tokens, training": lambda: train_bpe(recordings, alphabet, vocab_size=8_000, pad_token="<pad>"),
        "tokens, encoding": lambda: tokenizer.encode_batch(recordings),
    }


def live(codec: Any, latents: Any) -> None:
    """Decode chunk by chunk."""
    with codec.stream(seed=0) as stream:
        for i in range(len(latents)):
            stream.push(latents[i : i + 1])
        stream.finish()


def work(threads: int) -> None:
    """What a process does: each task once untimed, then timed; prints `{task: [wall, processor]}`."""
    import torch

    torch.set_num_threads(threads)
    found = {}
    for name, call in tasks().items():
        call()
        wall, processor = time.perf_counter(), time.process_time()
        call()
        found[name] = [time.perf_counter() - wall, time.process_time() - processor]
    print(json.dumps(found))


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """Another commit's tree in a temporary folder. Raises `SystemExit` where git does not have it."""
    with tempfile.TemporaryDirectory(prefix="duotone-before-") as folder:
        tree = Path(folder) / "tree"
        made = subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree), commit], capture_output=True, text=True
        )
        if made.returncode:
            raise SystemExit(f"git cannot check out {commit}: {made.stderr.strip()}")
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=True)


def timed(tree: Path, threads: int) -> dict[str, list[float]]:
    """Every task in a process of its own that imports Duotone from a tree."""
    environment = {**os.environ, "PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": str(threads)}
    words = [sys.executable, __file__, "--worker", "--threads", str(threads)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tree}: {done.stderr}")
    out: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return out


def summary(rounds: dict[str, list[dict[str, list[float]]]]) -> list[dict[str, Any]]:
    """A row a task: medians of wall and processor time of both trees."""
    rows = []
    for task in rounds["after"][0]:
        row: dict[str, Any] = {"task": task}
        for place, clock in enumerate(("wall", "processor")):
            for tree in TREES:
                each = [found[task][place] for found in rounds[tree]]
                row[f"{clock}_{tree}"] = statistics.median(each)
                row[f"{clock}_{tree}_rounds"] = each
            row[f"{clock}_ratio"] = row[f"{clock}_before"] / row[f"{clock}_after"]
        rows.append(row)
    return rows


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    import machine  # not above: it needs the newer tree

    lines = [
        "# Speed before and after", "",
        f"`{document['command']}`: `tiny` on {document['seconds_of_sound']:g} s of stereo, and 2.4 million codes of four codebooks to 8000 "
        f"tokens; commit {document['before']} against {document['after']}, {document['threads']} thread, medians of {document['rounds']} "
        "rounds in turns. A ratio above 1: faster now. *As loaded* is the default number format. The networks of `tiny` may differ "
        "between the commits.", "",
        machine.markdown(document["machine"]), "",
        "| task | before, s | after, s | ratio | ratio of processor time |", "|---|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        lines.append(
            f"| {row['task']} | {row['wall_before']:.3f} | {row['wall_after']:.3f} | {row['wall_ratio']:.2f} | "
            f"{row['processor_ratio']:.2f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", default="8b4f349")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(options.threads)
        return 0
    import machine

    rounds: dict[str, list[dict[str, list[float]]]] = {tree: [] for tree in TREES}
    with checkout(options.before) as before:
        places = {"before": before, "after": ROOT}
        for number in range(options.rounds):
            for tree in TREES if number % 2 == 0 else TREES[::-1]:
                rounds[tree].append(timed(places[tree], options.threads))
            print(f"round {number + 1} of {options.rounds}", flush=True)
    head = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    document = {
        "command": machine.command(), "before": options.before, "after": head.stdout.strip(), "rounds": options.rounds,
        "threads": options.threads, "seconds_of_sound": SECONDS, "machine": machine.describe(), "rows": summary(rounds),
    }  # fmt: skip
    machine.record("before_after", document, page)
    print(page(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
