"""How many codes are the same whatever encodes them: threads, batches, blocks, kernels, processors, number formats.

    python benchmarks/bench_equal_codes.py [--minutes 60] [--codec tiny] [--jobs 2]
    python benchmarks/bench_equal_codes.py --readme      # puts the table of the last run into README.md

Each setting encodes the same sound in a process of its own; its codes are compared with those of float32, one thread,
batch 1, the whole sound at once, on this processor. For other processors stands PyTorch's code for lesser ones
(ATEN_CPU_CAPABILITY, and the like for MKL and oneDNN), with our kernels compiled for them or without our kernels. Exits
with 1 where a setting misses its limit. Writes benchmarks/results/equal_codes.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import machine
from duotone import hub
from duotone.atomic import write_text
from duotone.audio.collection import make_piece
from duotone.audio.files import read, write
from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.codec.values import Latents
from duotone.evaluate.heldout import between_markers
from duotone.nn.native import compiler

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- equal codes -->", "<!-- /equal codes -->"
PIECE_SECONDS = 20.0
#: What our kernels are compiled for beside PyTorch's code of that capability, and what its libraries are told to use.
TARGETS = {"default": "x86-64", "avx2": "x86-64-v3"}
LIBRARIES = {
    "default": {"ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_CBWR": "COMPATIBLE"},
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_CBWR": "AVX2"},
}


@dataclass(frozen=True)
class Setting:
    """A way of encoding; `least` is the share of equal codes that it must reach."""

    name: str
    least: float
    dtype: str = "float32"
    threads: int = 1
    batch: int = 1
    block: float = 0.0  #: seconds pushed at a time; 0: the whole sound at once
    capability: str = ""  #: of PyTorch's code; empty: what this processor has
    kernels: bool = True
    part: float = 1.0  #: of the sound, its beginning: code for lesser processors is slow

    def environment(self, folder: Path) -> dict[str, str]:
        """The environment of its process; `folder` is for compilers and compiled kernels."""
        out = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "GOMP_SPINCOUNT": "3000"}  # others share the cores
        out.pop("ATEN_CPU_CAPABILITY", None)
        if not self.kernels:
            out["DUOTONE_NATIVE"] = "0"
        if self.capability:
            out |= {"ATEN_CPU_CAPABILITY": self.capability, **LIBRARIES[self.capability]}
        if self.capability and self.kernels:
            out["CC"] = str(_compiler_for(TARGETS[self.capability], folder))
            out["DUOTONE_CACHE"] = str(folder / f"cache-{self.capability}")
        return out


REFERENCE = Setting("float32, one thread, batch 1, the whole sound at once", 1.0)
SETTINGS = (
    Setting("pushed in blocks of 1 s", 1.0, block=1.0),
    Setting("pushed in blocks of 0.1 s", 1.0, block=0.1),
    Setting("batch 8", 0.9999, batch=8),
    Setting("batch 8, blocks of 1 s", 0.9999, batch=8, block=1.0),
    Setting("2 threads", 0.9999, threads=2),
    Setting("2 threads, batch 8", 0.9999, threads=2, batch=8),
    Setting("without our kernels", 0.999, kernels=False, part=0.1),
    Setting("a processor with AVX2", 0.999, capability="avx2", part=0.1),
    Setting("a processor with AVX2, without our kernels", 0.999, capability="avx2", kernels=False, part=0.1),
    Setting("a processor with SSE2 alone", 0.999, capability="default", part=0.05),
    Setting("a processor with SSE2 alone, without our kernels", 0.999, capability="default", kernels=False, part=0.05),
    Setting("encoder in bfloat16 (asked for)", 0.0, dtype="bfloat16", part=0.1),
)


def _compiler_for(target: str, folder: Path) -> Path:
    """A compiler that takes `target` where it is told to compile for this processor."""
    path = folder / f"cc-{target}"
    script = f'#!/bin/sh\nfor a; do shift; [ "$a" = -march=native ] && a=-march={target}; set -- "$@" "$a"; done\nexec {compiler()} "$@"\n'
    if not path.exists():
        path.write_text(script)
        path.chmod(0o755)
    return path


def encode(setting: Setting, codec: Codec, sounds: list[Path]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Codes `[S]` and latents `[S, d]` of all sounds, one after the other."""
    codes, latents = [], []
    for path in sounds:
        wave = read(path)
        if setting.block:
            size = round(setting.block * wave.rate)
            with codec.encode_stream(wave.rate, wave.channels, batch=setting.batch) as stream:
                blocks = [Waveform(block.contiguous(), wave.rate) for block in wave.samples.split(size, dim=1)]
                value = Latents.join([*map(stream.push, blocks), stream.finish()])  # type: ignore[list-item]
        else:
            value = codec.encode(wave, batch=setting.batch)
        codes.append(value.codes().numpy()[0])
        latents.append(value.numpy().reshape(len(codes[-1]), -1))
    return np.concatenate(codes), np.concatenate(latents)


def compare(
    reference: tuple[NDArray[np.int64], NDArray[np.float32]],
    other: tuple[NDArray[np.int64], NDArray[np.float32]],
    levels: tuple[int, ...],
) -> dict[str, Any]:
    """How many codes differ, the largest difference of the latents, and why codes differ.

    `edge` is how far the reference's latents lie from the next rounding edge, at most, where rounding went another way;
    it and the differences are in steps of the quantiser.
    """
    (codes, latents), (codes_b, latents_b) = reference, other
    half = (np.array(levels) - 1) / 2
    a, b = latents.astype(np.float64) * half, latents_b.astype(np.float64) * half
    crossed = np.round(a) != np.round(b)
    edges = np.abs(np.abs(a - np.floor(a)) - 0.5)[crossed]
    return {
        "different": int((codes != codes_b).sum()),
        "largest_difference": float(np.abs(a - b).max()),
        "edge": float(edges.max()) if edges.size else 0.0,
    }


def make_sounds(folder: Path, minutes: float) -> list[Path]:
    """Seeded pieces of synthesis, mastered as `duotone make-sounds` does, as 16-bit FLAC."""
    folder.mkdir()
    paths = []
    for i in range(max(1, round(minutes * 60 / PIECE_SECONDS))):
        wave, _ = make_piece(1_000 + i, "heldout", "synth", PIECE_SECONDS)
        paths.append(folder / f"{i:04d}.flac")
        write(paths[-1], wave)
    return paths


def run(setting: Setting, codec: str, folder: Path) -> tuple[NDArray[np.int64], NDArray[np.float32], dict[str, Any]]:
    """Encode in a process of its own: codes, latents, and what that process says of itself."""
    out = folder / f"{abs(hash(setting))}.npz"
    words = [
        sys.executable,
        __file__,
        "--worker",
        json.dumps(asdict(setting)),
        "--codec",
        codec,
        "--folder",
        str(folder),
    ]
    done = subprocess.run(
        [*words, "--out", str(out)], env=setting.environment(folder), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{setting.name}: {done.stderr}")
    found = np.load(out)
    out.unlink()
    print(f"{setting.name}: encoded", flush=True)
    return found["codes"], found["latents"], json.loads(done.stdout)


def work(setting: Setting, codec_name: str, folder: Path, out: Path) -> None:
    """What a process does: encode all sounds of the folder."""
    from duotone.nn import native

    torch.set_num_threads(setting.threads)
    codec = hub.load(codec_name, dtype=setting.dtype)
    sounds = sorted((folder / "sounds").glob("*.flac"))
    codes, latents = encode(setting, codec, sounds[: max(1, round(setting.part * len(sounds)))])
    np.savez(out, codes=codes, latents=latents)
    has = native.library() is not None
    if has != setting.kernels:
        raise SystemExit(f"kernels are {'there' if has else 'not there'}, expected the contrary")
    print(json.dumps({"capability": torch.backends.cpu.get_cpu_capability(), "kernels": has}))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All settings: the document of results."""
    codec = hub.load(options.codec)
    with tempfile.TemporaryDirectory(prefix="duotone-equal-codes-") as name:
        folder = Path(name)
        make_sounds(folder / "sounds", options.minutes)
        print(f"{options.minutes:g} minutes of sound made", flush=True)
        with ThreadPoolExecutor(options.jobs) as pool:
            first = pool.submit(run, REFERENCE, options.codec, folder)
            others = [pool.submit(run, setting, options.codec, folder) for setting in SETTINGS]
            reference = first.result()[:2]
            rows = []
            for setting, other in zip(SETTINGS, others, strict=True):
                codes, latents, about = other.result()
                same = (reference[0][: len(codes)], reference[1][: len(latents)])
                found = compare(same, (codes, latents), codec.spec.levels)
                rows.append({**asdict(setting), **about, **found, "codes": len(codes)})
    return {
        "command": machine.command(), "codec": options.codec, "fingerprint": codec.fingerprint, "minutes": options.minutes,
        "codes": len(reference[0]), "reference": REFERENCE.name, "machine": machine.describe(), "rows": rows,
    }  # fmt: skip


def share(row: dict[str, Any]) -> str:
    """The share of equal codes; never rounded up, so that 100% means all."""
    percent = 100 * (1 - row["different"] / row["codes"])
    digits = 1 if percent < 99 else 4
    return "100%" if row["different"] == 0 else f"{math.floor(percent * 10**digits) / 10**digits:.{digits}f}%"


def missed(document: dict[str, Any]) -> list[str]:
    """The settings that miss their limit."""
    return [row["name"] for row in document["rows"] if 1 - row["different"] / row["codes"] < row["least"]]


def table(document: dict[str, Any]) -> str:
    """The table for the README."""
    lines = ["| encoded | codes compared | equal codes | limit |", "|---|---:|---:|---:|"]
    for row in document["rows"]:
        limit = f"{100 * row['least']:g}%" if row["least"] else "none"
        lines.append(f"| {row['name']} | {row['codes']:,} | {share(row)} | {limit} |")
    lines += ["", f"{document['codes']:,} codes are {document['minutes']:g} minutes of sound."]
    return "\n".join(lines) + "\n"


def page(document: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Equal codes", "",
        f"`{document['command']}` with the codec `{document['codec']}` ({document['fingerprint']}): {document['codes']:,} codes of "
        f"{document['minutes']:g} minutes of sound, against {document['reference']}.", "",
        machine.markdown(document["machine"]),
        "Differences are in steps of the quantiser: a code differs where a latent lies nearer to a rounding edge (the middle between two "
        "levels) than the arithmetic is exact. The last column is the farthest that such a latent lies from the edge.", "",
        "| encoded | PyTorch's code | our kernels | codes | different | equal | largest difference of latents | farthest from an edge |",
        "|---|---|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        lines.append(
            f"| {row['name']} | {row['capability']} | {'yes' if row['kernels'] else 'no'} | {row['codes']:,} | {row['different']} | "
            f"{share(row)} | {row['largest_difference']:.1e} | {row['edge']:.1e} |"
        )
    return "\n".join(lines) + "\n"


def with_table(text: str, document: dict[str, Any]) -> str:
    """README's text with the table between its markers. Raises `UsageError` where there are none."""
    return between_markers(text, table(document), README.name, (BEGIN, END))


def main() -> int:
    """Run and write the results, or put the table of the last run into the README."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--codec", default=hub.DEFAULT)
    parser.add_argument("--jobs", type=int, default=machine.describe()["cores"], help="settings at a time")
    parser.add_argument("--readme", action="store_true", help="put the table of the last run into README.md")
    for name in ("--worker", "--folder", "--out"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(Setting(**json.loads(options.worker)), options.codec, Path(options.folder), Path(options.out))
        return 0
    results = machine.RESULTS / "equal_codes.json"
    if options.readme:
        document = json.loads(results.read_text(encoding="utf-8"))
        write_text(README, with_table(README.read_text(encoding="utf-8"), document))
        return 0
    if shutil.which("sh") is None or compiler() is None:
        raise SystemExit("No C compiler here, so nothing can be said of the kernels. Install gcc or clang.")
    document = measure(options)
    machine.record("equal_codes", document, page)
    print(page(document))
    for name in missed(document):
        print(f"misses its limit: {name}", file=sys.stderr)
    return 1 if missed(document) else 0


if __name__ == "__main__":
    sys.exit(main())
