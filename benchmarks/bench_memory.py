"""Peak memory of `duotone encode` and `duotone decode`, for a short and a long file.

    python benchmarks/bench_memory.py [--minutes 1 60] [--codec tiny]

Each command runs in a process of its own, whose peak resident memory the system reports when it ends. The claim under
test: memory does not grow with the file. Writes benchmarks/results/memory.{json,md}.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile

import machine
from duotone.audio.synth import synthesize


def make_file(path: Path, minutes: float) -> None:
    """Stereo 48 kHz sound of that length, written piece by piece."""
    piece = synthesize(0, 30.0).samples.T.numpy()
    left = round(minutes * 60 * 48_000)
    with soundfile.SoundFile(str(path), "w", 48_000, 2, subtype="PCM_16") as file:
        while left > 0:
            file.write(piece[:left])
            left -= len(piece)


def peak(arguments: list[str]) -> tuple[float, float]:
    """Run `duotone` with these arguments: peak resident MiB and seconds. Raises `CalledProcessError`."""
    started = time.monotonic()
    command = [sys.executable, "-m", "duotone", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise subprocess.CalledProcessError(code, command)
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return usage.ru_maxrss / scale, time.monotonic() - started


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 60.0])
    parser.add_argument("--codec", default="tiny")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for minutes in options.minutes:
            sound, packed, again = (str(Path(folder) / name) for name in ("a.wav", "a.duo", "b.wav"))
            make_file(Path(sound), minutes)
            for task, arguments in (
                ("encode", ["encode", sound, "-o", packed, "--codec", options.codec, "--force"]),
                ("decode", ["decode", packed, "-o", again, "--codec", options.codec, "--force"]),
            ):
                mebibytes, seconds = peak(arguments)
                rows.append({"minutes": minutes, "task": task, "peak_mib": mebibytes, "seconds": seconds})
                print(f"{minutes:6g} min {task:7} {mebibytes:8.0f} MiB {seconds:8.1f} s", flush=True)
    document = {"command": machine.command(), "codec": options.codec, "machine": machine.describe(), "rows": rows}
    machine.record("memory", document, page)
    return 0


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    first = {row["task"]: row["peak_mib"] for row in reversed(document["rows"])}
    lines = [
        "# Peak memory of encode and decode", "",
        f"`{document['command']}` with the codec `{document['codec']}`.", "", machine.markdown(document["machine"]), "",
        "| minutes of sound | task | peak, MiB | against the first row | seconds |", "|---:|---|---:|---:|---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        ratio = row["peak_mib"] / first[row["task"]]
        lines.append(
            f"| {row['minutes']:g} | {row['task']} | {row['peak_mib']:.0f} | {ratio:.2f} | {row['seconds']:.1f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
