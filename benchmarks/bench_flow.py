"""Time to sample a chunk with the cache, against a sampler without one: the whole sequence through the network at every evaluation.

    python benchmarks/bench_flow.py [--presets flow-small flow-base] [--contexts 16 32 64 127] [--formats float32 bfloat16]
        [--repeats 5] [--threads 2]

Both sample the same chunk with the same random weights from the same noise, and must agree. The sampler without a cache is written here
from the equations of the network (docstring of `plain_velocity`): each token has its own time embedding and modulation, the finished
chunks at t = 0, the new one at t. Its time does not depend on what is drawn, so long runs are repeated less: at least once, and until
`--patience` seconds are spent. The cache's time includes the pass with which the finished chunk enters it. The window is the context.
Writes benchmarks/results/flow.{json,md}, where rows of other settings stay.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import machine
from duotone.config import flow_preset
from duotone.flow import FlowCache, FlowModel, solve
from duotone.flow.schedule import times

#: Solver and steps.
SOLVERS = (("euler", 4), ("heun", 8))
#: Least ratios that the issue of the flow asks for, in float32 with euler: context -> times as fast.
GOALS = {16: 4, 64: 10, 127: 23}
SETTING = ("preset", "format", "context", "solver", "steps", "threads")


def plain_velocity(model: FlowModel, x: Tensor, t: Tensor) -> Tensor:
    """The network by its equations: tokens `[..., S, 64]` at times `[..., S]` -> velocities `[..., S, 64]`.

    Features of t -> MLP -> c; per block ``x += gate * attention(norm(x) (1 + scale) + shift)``, then the same with SwiGLU, all six from
    SiLU(c); queries and keys normalised and rotated by position in the chunk and index of the chunk; a mask keeps away the future, and
    what is older than the window.
    """
    c, state = model.config, dict(model.named_parameters())
    kind, lead, count, per = x.dtype, x.shape[:-2], x.shape[-2], c.tokens

    def linear(name: str, y: Tensor) -> Tensor:
        return F.linear(y, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(y: Tensor) -> Tensor:
        return F.rms_norm(y, (y.shape[-1],), None, 1e-5)

    half, quarter = c.condition // 2, c.head // 4
    angles = t[..., None] * 1000 * torch.exp(torch.arange(half) * (-math.log(1e4) / (half - 1)))
    hidden = linear("cond_mlp.0", torch.cat([angles.cos(), angles.sin()], -1).to(kind))
    condition = F.silu(linear("cond_mlp.2", F.silu(hidden)))
    index, frequencies = torch.arange(count), 1e4 ** (-torch.arange(quarter) / quarter)
    places = torch.cat([(index % per)[:, None] * frequencies, (index // per)[:, None] * frequencies], -1)
    cos, sin = places.cos().to(kind), places.sin().to(kind)

    def turned(y: Tensor) -> Tensor:
        a, b = y[..., ::2], y[..., 1::2]
        return torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)

    chunk = index // per
    age = chunk[:, None] - chunk
    mask = (age >= 0) & (age <= (count if c.context_chunks is None else c.context_chunks))
    h = linear("proj_in", x)
    for i in range(c.layers):
        parts = linear(f"blocks.{i}.mod", condition).chunk(6, -1)
        qkv = linear(f"blocks.{i}.attn.qkv", norm(h) * (1 + parts[0]) + parts[1])
        q, k, v = (part.view(*lead, count, c.heads, c.head).transpose(-3, -2) for part in qkv.chunk(3, -1))
        y = F.scaled_dot_product_attention(turned(norm(q)), turned(norm(k)), v, attn_mask=mask)
        h = h + parts[2] * linear(f"blocks.{i}.attn.out", y.transpose(-3, -2).reshape(*lead, count, c.dim))
        a, b = linear(f"blocks.{i}.mlp.w1", norm(h) * (1 + parts[3]) + parts[4]).chunk(2, -1)
        h = h + parts[5] * linear(f"blocks.{i}.mlp.w2", F.silu(a) * b)
    scale, shift = linear("mod_out", condition).chunk(2, -1)
    return linear("proj_out", norm(h) * (1 + scale) + shift).float()


def plain_sampler(model: FlowModel, past: Tensor) -> Callable[[Tensor, float], Tensor]:
    """The velocity of a new chunk after finished ones `[N, 8, 64]`, through the whole sequence."""
    tokens = past.flatten(0, 1)

    def velocity(x: Tensor, t: float) -> Tensor:
        levels = torch.cat([torch.zeros(len(tokens)), torch.full((x.shape[1],), t)])
        return plain_velocity(model, torch.cat([tokens, x[0]]).to(model.dtype), levels)[None, -x.shape[1] :]

    return velocity


def random_model(preset: str, context: int) -> FlowModel:
    """A model whose every weight is random, of the preset with this context as its window."""
    torch.manual_seed(0)
    model = FlowModel(flow_preset(preset).model_copy(update={"context_chunks": context})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / (parameter.shape[-1] if parameter.dim() > 1 else 16) ** 0.5)
    return model


def seconds(run: Callable[[], object], repeats: int, patience: float) -> float:
    """Median time of a call: `repeats` after a first one, fewer where they would take longer than `patience` seconds."""
    started = time.perf_counter()
    run()
    taken = [time.perf_counter() - started]
    if taken[0] < patience:
        taken = []
    while len(taken) < repeats and sum(taken) < patience:
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


@torch.no_grad()
def measure(preset: str, kind: str, context: int, repeats: int, patience: float) -> list[dict[str, Any]]:
    """Rows of one model at one context."""
    model = random_model(preset, context).to(getattr(torch, kind))
    past, noise = torch.randn(context, 8, 64), torch.randn(1, 8, 64)
    plain, rows = plain_sampler(model, past), []
    for solver, steps in SOLVERS:
        nodes = times(steps)
        full = FlowCache(model)
        full.append(past[None])

        def cached(cache: FlowCache = full, solver: str = solver, nodes: tuple[float, ...] = nodes) -> Tensor:
            x = solve(solver, cache.velocity, noise, nodes).x  # type: ignore[arg-type]
            cache.append(x[:, None])
            return x

        found, started = cached(), time.perf_counter()
        whole = solve(solver, plain, noise, nodes)  # type: ignore[arg-type]
        first = time.perf_counter() - started
        difference = float((found - whole.x).abs().max())
        if difference > (1e-3 if kind == "float32" else 0.5):
            raise SystemExit(f"{preset} at {context} in {kind}: the samplers differ by {difference:.2g}")
        with_cache = seconds(cached, 4 * repeats, patience)
        without = first
        if first < patience / 2:
            without = seconds(lambda s=solver, n=nodes: solve(s, plain, noise, n), repeats, patience)  # type: ignore[misc]
        rows.append({
            "preset": preset, "format": kind, "context": context, "solver": solver, "steps": steps,
            "evaluations": whole.evaluations, "threads": torch.get_num_threads(), "cached_ms": 1e3 * with_cache,
            "full_ms": 1e3 * without, "ratio": without / with_cache, "difference": difference,
        })  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    return rows


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    lines = [
        "# Time to sample a chunk", "", machine.markdown(document["machine"]),
        *(f"- `{command}`" for command in document["commands"]), "",
        "A chunk of CoDiCodec lasts 683 ms. Full: the whole sequence through the network at each evaluation. Goals in float32 with euler: "
        + ", ".join(f"{ratio}x at {context}" for context, ratio in GOALS.items()) + ".", "",
        "| preset | in | context | solver | steps | evaluations | threads | cached, ms | full, ms | times as fast | largest difference |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for r in document["rows"]:
        lines.append(
            f"| {r['preset']} | {r['format']} | {r['context']} | {r['solver']} | {r['steps']} | {r['evaluations']} | "
            f"{r['threads']} | {r['cached_ms']:.1f} | {r['full_ms']:.0f} | {r['ratio']:.1f} | {r['difference']:.0e} |"
        )
    return "\n".join(lines) + "\n"


def keep(rows: list[dict[str, Any]]) -> None:
    """Write rows beside those of other settings, so that a long run that is stopped leaves what it measured."""
    before = machine.read("flow") or {"rows": [], "commands": []}
    new = {tuple(row[key] for key in SETTING) for row in rows}
    others = [row for row in before["rows"] if tuple(row[key] for key in SETTING) not in new]
    document = {
        "machine": machine.describe(),
        "commands": sorted({*before["commands"], machine.command()}),
        "rows": sorted([*others, *rows], key=lambda r: [r[key] for key in SETTING]),
    }
    machine.record("flow", document, page)


def main() -> int:
    """Run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--presets", nargs="+", default=["flow-small", "flow-base"])
    parser.add_argument("--contexts", nargs="+", type=int, default=[16, 32, 64, 127])
    parser.add_argument("--formats", nargs="+", default=["float32"], choices=("float32", "bfloat16"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20.0)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for preset in options.presets:
        for kind in options.formats:
            for context in options.contexts:
                keep(measure(preset, kind, context, options.repeats, options.patience))
    return 0


if __name__ == "__main__":
    sys.exit(main())
