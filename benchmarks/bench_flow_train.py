"""Time of a training step of a flow model, against one of the same network written plainly.

    python benchmarks/bench_flow_train.py [--preset flow-small] [--batch 4] [--chunks 64] [--steps 7] [--threads 2]

Both have the same random weights, the same noisy latents with a time for each chunk, the mean squared error of velocities, and AdamW;
losses and gradients must agree. The plain network is that of bench_flow.py: full attention with a mask, a modulation for each token, no
kernels of ours, float32. In turns, medians. Where the processor has units for bfloat16, ours is timed in it too.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

import machine
from bench_flow import plain_velocity, random_model
from duotone.codec.precision import best_dtype
from duotone.config import flow_preset
from duotone.flow import FlowModel
from duotone.flow.path import interpolate, velocity

NAME = "flow_train"
#: How many times as fast as the plain step ours is to be.
GOALS = {"float32": 1.5, "bfloat16": 2.0}
Velocity = Callable[[FlowModel, Tensor, Tensor], Tensor]


def plain(model: FlowModel, x: Tensor, t: Tensor) -> Tensor:
    """Chunks `[B, N, M, C]` at times `[B, N]` through the plain network."""
    tokens = t.repeat_interleave(x.shape[2], 1)
    return plain_velocity(model, x.flatten(1, 2), tokens).view(x.shape)


def ours(model: FlowModel, x: Tensor, t: Tensor) -> Tensor:
    """The same by the network's own forward pass."""
    found: Tensor = model(x, t)
    return found


class Step:
    """A training step; its model and optimizer are its own."""

    def __init__(self, preset: str, run: Velocity, kind: str) -> None:
        self.model = random_model(preset, flow_preset(preset).context_chunks or 8).train()
        self.run, self.kind = run, kind
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5)
        self.times: list[float] = []

    def precision(self) -> AbstractContextManager[Any]:
        """In which products are computed."""
        return nullcontext() if self.kind == "float32" else torch.autocast("cpu", torch.bfloat16)

    def loss(self, x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """The mean squared error of velocities."""
        with self.precision():
            found = self.run(self.model, interpolate(x, eps, t[..., None, None]), t)
        return (found.float() - velocity(x, eps)).square().mean()

    def __call__(self, x: Tensor, eps: Tensor, t: Tensor) -> float:
        """Take a step, and keep its time."""
        began = time.perf_counter()
        self.optimizer.zero_grad()
        loss = self.loss(x, eps, t)
        loss.backward()
        self.optimizer.step()
        self.times.append(time.perf_counter() - began)
        return float(loss.detach())


def check(one: Step, other: Step, batch: tuple[Tensor, Tensor, Tensor]) -> None:
    """Losses and gradients of both agree, so that both do the same work."""
    losses = [step.loss(*batch) for step in (one, other)]
    grads = [
        torch.autograd.grad(loss, list(step.model.parameters()))
        for loss, step in zip(losses, (one, other), strict=True)
    ]
    worst = max(float((a - b).norm() / b.norm().clamp_min(1e-12)) for a, b in zip(*grads, strict=True))
    if abs(float(losses[0] - losses[1])) > 1e-4 * float(losses[1].detach()) or worst > 1e-3:
        raise SystemExit(f"The steps differ: losses {[float(x) for x in losses]}, gradients by {worst:.2g} of theirs.")


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# A training step of a flow", "", machine.markdown(document["machine"]), f"Made by `{document['command']}`", "",
        f"`{document['preset']}`, {document['batch']} sequences of {document['chunks']} chunks ({document['tokens']} tokens each), AdamW, {document['threads']} "
        f"threads; the same weights, latents and loss. Goals: {', '.join(f'{ratio} times in {kind}' for kind, ratio in GOALS.items())}.", "",
        "| network | in | s a step | times as fast |", "|---|---|---:|---:|",
    ]  # fmt: skip
    for row in document["rows"]:
        lines.append(f"| {row['network']} | {row['format']} | {row['seconds']:.3f} | {row['ratio']:.2f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="flow-small")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = flow_preset(options.preset)
    shape = (options.batch, options.chunks, config.tokens, config.channels)
    batch = torch.randn(shape), torch.randn(shape), 0.02 + 0.98 * torch.rand(shape[:2])
    steps = {("plain", "float32"): Step(options.preset, plain, "float32")}
    steps["ours", "float32"] = Step(options.preset, ours, "float32")
    check(steps["ours", "float32"], steps["plain", "float32"], batch)
    if best_dtype(torch.device("cpu")) == torch.bfloat16:
        steps["ours", "bfloat16"] = Step(options.preset, ours, "bfloat16")
    for n in range(options.steps + 2):
        for step in steps.values():
            step(*batch)
            if n < 2:  # not timed
                step.times.clear()
    seconds = {key: statistics.median(step.times) for key, step in steps.items()}
    first = next(iter(seconds.values()))
    document = {
        "machine": machine.describe(), "command": machine.command(), "preset": options.preset, "batch": options.batch, "chunks": options.chunks,
        "tokens": options.chunks * config.tokens, "threads": options.threads,
        "rows": [{"network": key[0], "format": key[1], "seconds": own, "ratio": first / own} for key, own in seconds.items()],
    }  # fmt: skip
    machine.record(NAME, document, page)
    print(page(document))
    return 0


if __name__ == "__main__":
    sys.exit(main())
