"""Time and memory of a training step of each preset, against the arithmetic's floor; the share of peak is the figure.

    python benchmarks/bench_train_step.py [--presets tiny small base] [--batch 4] [--steps 3] [--precision float32]
        [--compile] [--device cpu]

Operations of forward and backward pass are counted (`operations.py`), convolutions as what they are without
our kernels, which need a quarter of the products; the peak is what one large product of matrices reaches on the same
device in the same number format, or in float32 where that is faster: a processor without matrix units has no arithmetic
in bfloat16 and emulates it. A step is the objective, its gradients and the optimizer.
Each preset runs in a process of its own, for its memory. Writes benchmarks/results/train_step.{json,md}, where rows of
other settings stay.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

import torch

import machine
from duotone.nn import native
from duotone.train.codec_objective import CodecObjective
from operations import Operations

SETTING = ("preset", "batch", "precision", "compiled", "device")


def peak(device: torch.device, kind: torch.dtype) -> float:
    """Operations a second of a large product of matrices."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device).to(kind) for _ in range(2))
    best = float("inf")
    for _ in range(4):
        started = time.perf_counter()
        a @ b
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return 2 * n**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def objective_of(preset_name: str) -> CodecObjective:
    """The objective that trains a preset's frontend, with its defaults."""
    from duotone.config import BandsConfig, preset
    from duotone.train.consistency import ConsistencyObjective, ConsistencySection
    from duotone.train.estimate import EstimateObjective, EstimateSection

    config = preset(preset_name)
    if isinstance(config, BandsConfig):
        return EstimateObjective(config, EstimateSection())
    return ConsistencyObjective(config, ConsistencySection())


def measure(
    preset_name: str, batch: int, steps: int, precision: str, compiled: bool, device_name: str
) -> dict[str, Any]:
    """One row of the table."""
    from duotone.train.draws import Draws

    device, kind = torch.device(device_name), getattr(torch, precision)
    torch.manual_seed(0)
    model = objective_of(preset_name).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-5)
    examples = {"samples": 0.1 * torch.randn(batch, 2, model.crop, device=device)}

    def step(i: int) -> None:
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            loss, _ = model(examples, 0.5, Draws.whole(batch, i))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        _wait(device)

    with Operations() as counter, native.declined():  # our kernels save operations, which this does not see
        step(0)
    if compiled:
        model.compile_parts()
        step(1)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for i in range(steps + 1):
        started = time.perf_counter()
        step(2 + i)
        times.append(time.perf_counter() - started)
    seconds = statistics.median(times[1:])
    if device.type == "cuda":
        memory = torch.cuda.max_memory_allocated() / 2**20
    else:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    fastest = max(peak(device, k) for k in {kind, torch.float32})
    operations = counter.total
    return {
        "preset": preset_name, "batch": batch, "precision": precision, "compiled": compiled, "device": device.type,
        "seconds": seconds, "tera_operations": operations / 1e12, "floor_seconds": operations / fastest,
        "peak_tera_operations": fastest / 1e12, "share_of_peak": operations / seconds / fastest, "memory_mib": memory,
        "audio_seconds_a_second": batch * model.crop / model.rate / seconds,
    }  # fmt: skip


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["tiny", "small", "base"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        row = measure(
            options.presets[0], options.batch, options.steps, options.precision, options.compile, options.device
        )
        print(json.dumps(row))
        return 0
    command = machine.command()
    rows = []
    for name in options.presets:
        arguments = [
            sys.executable, __file__, "--one", "--presets", name, "--batch", str(options.batch), "--steps",
            str(options.steps), "--precision", options.precision, "--device", options.device,
        ]  # fmt: skip
        done = subprocess.run([*arguments, *(["--compile"] if options.compile else [])], capture_output=True, text=True)
        if done.returncode:
            print(f"{name}: {done.stderr.strip().splitlines()[-1] if done.stderr.strip() else done.returncode}")
            continue
        row = json.loads(done.stdout.splitlines()[-1]) | {"command": command}
        rows.append(row)
        print(f"{name:6} {row['seconds']:8.2f} s a step, {100 * row['share_of_peak']:.0f}% of peak", flush=True)
    if not rows:
        return 1
    path = machine.RESULTS / "train_step.json"
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    fresh = {tuple(row[k] for k in SETTING) for row in rows}
    rows = [row for row in before if tuple(row[k] for k in SETTING) not in fresh] + [
        row | {"machine": machine.describe()} for row in rows
    ]
    document = {"rows": rows}
    machine.record("train_step", document, page)
    return 0


def page(document: dict[str, Any]) -> str:
    """A table for each machine as Markdown."""
    lines = ["# A training step", ""]
    machines = {json.dumps(row["machine"], sort_keys=True): row["machine"] for row in document["rows"]}
    for key, described in machines.items():
        rows = [row for row in document["rows"] if json.dumps(row["machine"], sort_keys=True) == key]
        lines += [
            machine.markdown(described), "",
            *sorted({f"- `{row['command']}`" for row in rows}), "",
            "| preset | batch | in | compiled | s a step | tera-operations | floor, s | share of peak | memory, MiB | s of sound a s |",
            "|---|---:|---|---|---:|---:|---:|---:|---:|---:|",
        ]  # fmt: skip
        for row in rows:
            lines.append(
                f"| {row['preset']} | {row['batch']} | {row['precision']}, {row['device']} | {'yes' if row['compiled'] else 'no'} "
                f"| {row['seconds']:.2f} | {row['tera_operations']:.3f} | {row['floor_seconds']:.2f} "
                f"| {100 * row['share_of_peak']:.0f}% | {row['memory_mib']:.0f} | {row['audio_seconds_a_second']:.1f} |"
            )
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
