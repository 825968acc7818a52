"""Listeners that `duotone serve` holds in real time with the bundled pair, and what batching gives: a real service on loopback.

    taskset -c 0 python benchmarks/bench_serve.py [--seconds 10] [--decode 1,2,4,8,16,32,64] [--jam 1,2,4,8] [--rounds 3]
    python benchmarks/bench_serve.py --seconds 2 --decode 1 --jam 1 --rounds 1 --out /tmp/results      (a quick look)

Service and listeners share the processors that this process may use; the service computes with `--threads` threads. Five tables:

- Batching: eight listeners for whom nothing comes too fast, at a service with batches of 8 and at one without batches, in turns; medians.
- Costs: processor time of one batch, of 1 to 8 rows, without a service.
- Load: listeners that play at the speed of the clock. From four on, every second one is slow (takes nothing from its connection for a second
  in every two), vanishes without a word (and another comes), or loses its connection and goes on. Slack and frames in time are those of the others.
- Held: one jam by the library's own client, for `--held` seconds.
- Studio: one jam in the page, for `--held` seconds: the service on one core, the browser (Chromium, playwright) on another. With two cores of
  its own: taskset -c 0,1 python benchmarks/bench_serve.py --parts studio

Writes benchmarks/results/serve.{json,md}, where parts that are not measured anew (`--parts`) stay.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import machine
import studio_jam
from duotone import hub
from duotone.audio.synth import synthesize
from duotone.client import Client, Sound
from duotone.codec.container import write_duo
from duotone.nn.packed import linear
from duotone.serve.calibrate import decoding, evaluating
from listeners import LOOKAHEAD, Eager, Listener, Outcome, Playback

PARTS = ["batching", "costs", "load", "held", "studio"]
SORTS = ("slow", "vanishing", "reconnecting")
ROWS = 8  # of a batch, and listeners of the comparison
SETTLE = 1.0  # seconds before a window of the comparison is counted
NO_LIMIT = 100.0  # admits whoever comes
LONG = 240.0  # seconds of sound in the .duo that is decoded


@dataclass
class Server:
    """A service in a process of its own."""

    process: subprocess.Popen[str]
    url: str

    def processor(self) -> float:
        """Seconds of processor time that it has used (Linux; NaN elsewhere)."""
        path = Path(f"/proc/{self.process.pid}/stat")
        if not path.is_file():
            return float("nan")
        fields = path.read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def serving(options: argparse.Namespace, **scheduling: Any) -> Iterator[Server]:
    """`duotone serve` with these settings of scheduling, until the block ends."""
    settings = {
        "port": 0,
        "limits": {"sessions": 256, "sessions_per_token": 256, "idle_seconds": 300},
        "scheduling": scheduling,
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "serve.json"
        path.write_text(json.dumps(settings), encoding="utf-8")
        names = ["OMP_NUM_THREADS", "MKL_NUM_THREADS"]
        environment = os.environ | dict.fromkeys(names, str(options.threads))
        command = [sys.executable, "-m", "duotone", "serve", "--config", str(path)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        try:
            yield Server(process, f"http://127.0.0.1:{_started(process)}")
        finally:
            process.terminate()
            process.wait(60)


def _started(process: subprocess.Popen[str]) -> int:
    """The port, once the service is ready; its later messages are read and dropped. Raises `RuntimeError` if it ends."""
    assert process.stderr is not None
    lines, port = [], 0
    for line in process.stderr:
        lines.append(line)
        told = json.loads(line) if line.startswith("{") else {}
        port = told.get("port", port)
        if told.get("event") == "ready":
            threading.Thread(target=process.stderr.read, daemon=True).start()
            return port
    raise RuntimeError("The service did not start:\n" + "".join(lines[-20:]))


def costs(repeats: int) -> list[dict[str, Any]]:
    """Processor time of one batch of each size, in turns: lower quartiles, in ms."""
    model, codec, sizes = hub.load("flow-tiny"), hub.load("tiny"), (1, 2, 4, 8)
    asked: dict[tuple[str, int], Callable[[], Any]] = {}
    for n in sizes:
        for name, asks in (("evaluation of the flow", evaluating(model, n)), ("chunk to decode", decoding(codec, n))):
            asked[name, n] = partial(asks[0].together, asks)
        asked["linear layers of an evaluation", n] = partial(linear_layers, model, n)
    times: dict[tuple[str, int], list[float]] = {key: [] for key in asked}
    with torch.no_grad():
        for repeat in range(repeats + 2):
            for key, work in asked.items():
                began = time.thread_time()
                work()
                if repeat >= 2:
                    times[key].append(1000 * (time.thread_time() - began))
    return [
        {"what": name, "ms": {str(n): float(np.quantile(times[name, n], 0.25)) for n in sizes}}
        for name in dict.fromkeys(name for name, _ in asked)
    ]


def linear_layers(model: Any, rows: int) -> None:
    """The linear layers of the blocks, for so many rows of a chunk."""
    wide = torch.ones(rows, model.config.tokens, 2 * model.config.dim)
    narrow = wide[..., : model.config.dim].contiguous()
    for block in model.blocks:
        for layer, x in (
            (block.attn.qkv, narrow),
            (block.attn.out, narrow),
            (block.mlp.w1, narrow),
            (block.mlp.w2, wide),
        ):
            linear(layer, x)


def long_duo() -> bytes:
    """A .duo of the bundled codec, of `LONG` seconds."""
    codec = hub.load("tiny")
    codes = codec.encode(synthesize(1, 20.0)).codes()
    times = round(LONG / 20)
    value = codec.codes(codes.indices.repeat(1, times), codes.source.of_length(codes.source.samples * times))
    buffer = io.BytesIO()
    write_duo(buffer, value)
    return buffer.getvalue()


async def compared(options: argparse.Namespace, kind: str, duo: bytes) -> dict[str, Any]:
    """Seconds of sound a second for `ROWS` listeners, batched and one by one, in turns."""
    with serving(options, batch=ROWS, share=NO_LIMIT) as many, serving(options, batch=1, share=NO_LIMIT) as single:
        found: dict[str, list[float]] = {"batched": [], "single": []}
        listeners = {
            name: [Eager(server.url, kind, n, duo) for n in range(ROWS)]
            for name, server in (("batched", many), ("single", single))
        }
        jobs = [asyncio.ensure_future(each.run()) for each in [*listeners["batched"], *listeners["single"]]]
        try:
            while not all(each.samples for each in [*listeners["batched"], *listeners["single"]]):
                await _without_error(jobs, 0.1)
            for _ in range(options.rounds):
                for name, group in listeners.items():
                    found[name].append(await _speed(group, jobs, options.seconds))
        finally:
            for job in jobs:
                job.cancel()
            await asyncio.gather(*jobs, return_exceptions=True)
    ratios = [b / s for b, s in zip(found["batched"], found["single"], strict=True)]
    return {"kind": kind, "listeners": ROWS, **found, "ratio": statistics.median(ratios)}


async def _speed(group: Sequence[Eager], jobs: Sequence[asyncio.Future[None]], seconds: float) -> float:
    """Seconds of sound a second while the listeners are active."""
    for each in group:
        each.active = True
        await each.report()
    await _without_error(jobs, SETTLE)
    before, began = sum(each.samples for each in group), time.monotonic()
    await _without_error(jobs, seconds)
    made = sum(each.samples for each in group) - before
    speed = made * group[0].seconds_each / (time.monotonic() - began)
    for each in group:
        each.active = False
    await _without_error(jobs, SETTLE)
    return speed


async def _without_error(jobs: Sequence[asyncio.Future[None]], seconds: float) -> None:
    """Wait; raises what a listener raised."""
    done, _ = await asyncio.wait(jobs, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for job in done:
        job.result()


def sorts(count: int) -> list[str]:
    """Of which sort each listener is."""
    return ["steady" if count < 4 or i % 2 == 0 else SORTS[i // 2 % len(SORTS)] for i in range(count)]


async def loaded(server: Server, kind: str, count: int, duo: bytes, seconds: float) -> dict[str, Any]:
    """A row of the table: so many listeners at the same time."""
    until = time.monotonic() + seconds + 1
    used, began = server.processor(), time.monotonic()
    every = [Listener(server.url, kind, sort, i, duo, until) for i, sort in enumerate(sorts(count))]
    outcomes = await asyncio.gather(*(each.run() for each in every))
    share = (server.processor() - used) / (time.monotonic() - began)
    return {"kind": kind, "listeners": count, "seconds": seconds, "processor": share, **_summary(outcomes)}


def _summary(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    steady = [each for each in outcomes if each.sort == "steady" and not each.refused]
    slack = np.array([s for each in steady for s in each.slacks])
    if not len(slack):
        raise RuntimeError("No listener heard anything.")
    return {
        "refused": sum(each.refused for each in outcomes),
        "others": {sort: sum(each.sort == sort for each in outcomes) for sort in SORTS},
        "sessions": sum(each.sessions for each in outcomes), "slack_p50": float(np.quantile(slack, 0.5)),
        "slack_p99": float(np.quantile(slack, 0.01)),  # 99% of the frames have at least this
        "worst_underrun": float(max(0.0, -slack.min())), "in_time": float(np.mean(slack >= 0)),
        "lost": sorted({text for each in outcomes for text in each.lost}),
    }  # fmt: skip


def held(server: Server, seconds: float) -> dict[str, Any]:
    """One jam of the library's client."""
    playback, used = Playback(), server.processor()
    with Client(server.url).session("jam", lookahead=LOOKAHEAD) as session:
        session.command({"type": "start", "seed": 1})
        began, playback.rate = time.monotonic(), session.rate
        over = threading.Event()

        def report() -> None:
            while not over.wait(0.2):
                session.played(playback.played(time.monotonic()))

        reports = threading.Thread(target=report)
        reports.start()
        try:
            for got in session:
                if isinstance(got, Sound):
                    playback.arrive(got.place, got.wave.length, time.monotonic())
                    if playback.played(time.monotonic()) >= seconds * session.rate:
                        break
        finally:
            over.set()
            reports.join()
    slack = np.array(playback.slacks)
    return {
        "seconds": playback.played(time.monotonic()) / playback.rate, "underruns": int(np.sum(slack < 0)), "slack_p50": float(np.median(slack)),
        "slack_p99": float(np.quantile(slack, 0.01)), "least": float(slack.min()),
        "processor": (server.processor() - used) / (time.monotonic() - began),
    }  # fmt: skip


def studio(options: argparse.Namespace) -> dict[str, Any]:
    """One jam in the page, whose service has a core of its own. Raises `RuntimeError` without two cores."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise RuntimeError("The part studio needs two cores, one for the service and one for the browser.")
    with ExitStack() as stack:
        with studio_jam.on_core(cores[0]):
            server = stack.enter_context(serving(options, batch=ROWS))
        used, began = server.processor(), time.monotonic()
        with studio_jam.on_core(cores[1]):
            found = studio_jam.played(server.url, options.held)
        return {**found, "processor": (server.processor() - used) / (time.monotonic() - began)}


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown, of the parts that were measured."""
    lines = [
        "# The service under load", "",
        "The bundled pair behind `duotone serve` on loopback, from `benchmarks/bench_serve.py`. The machine is shared with other work: ratios "
        "within a run mean more than seconds.", "",
    ]  # fmt: skip
    shown = {"batching": _batching, "costs": _costs, "load": _load, "held": _held, "studio": _studio}
    for name, show in shown.items():
        if name in document:
            title, text = show(document[name]["rows"])
            lines += [f"## {title}", "", *_about(document[name]), "", *text, ""]
    return "\n".join(lines)


def _about(part: dict[str, Any]) -> list[str]:
    before, after = part["load"]
    return [
        f"`{part['command']}`", "", machine.markdown(part["machine"]),
        f"Service and listeners share {part['machine']['cores']} core(s). Runnable processes of the whole machine (mean of a minute) before and after: "
        f"{before:.1f} and {after:.1f}.",
    ]  # fmt: skip


def _batching(rows: list[dict[str, Any]]) -> tuple[str, list[str]]:
    lines = [
        f"{ROWS} listeners for whom nothing comes too fast, at two services in turns: seconds of sound a second, all together (median of the "
        "rounds), and the median of the ratios of a round. The aim is 3.", "",
        "| session | in batches of 8 | one by one | ratio |", "|---|---:|---:|---:|",
    ]  # fmt: skip
    for r in rows:
        batched, single = (statistics.median(r[name]) for name in ("batched", "single"))
        lines.append(f"| {r['kind']} | {batched:.1f} | {single:.1f} | {r['ratio']:.2f} |")
    return "Batching against one by one", lines


def _costs(rows: list[dict[str, Any]]) -> tuple[str, list[str]]:
    lines = [
        "Processor time of one batch of 1, 2, 4 and 8 rows in ms (one thread, in turns, lower quartile), and what 8 rows gain over 8 batches of one. "
        "The linear layers of one row wait for their weights; those of eight are limited by arithmetic, as is nearly all of decoding already with "
        "one row (32 time steps in the network, then phases, noise and transforms of each row alone).", "",
        "| batch | 1 | 2 | 4 | 8 | gain of 8 |", "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for r in rows:
        ms = r["ms"]
        lines.append(f"| {r['what']} | {' | '.join(f'{ms[n]:.1f}' for n in ms)} | {8 * ms['1'] / ms['8']:.2f} |")
    return "What a batch costs", lines


def _load(rows: list[dict[str, Any]]) -> tuple[str, list[str]]:
    lines = [
        "Slack is the time until a frame is due when it comes; p99 is what 99% of the frames have at least. Refused ones were told so by the "
        "admission, which promises 80% of the device. Processor: the service's share of one core; where other work leaves it less than it "
        "needs, listeners wait.", "",
        "| session | listeners | seconds | refused | slow, vanishing, reconnecting | sessions | slack p50, s | p99, s | worst underrun, s | frames in "
        "time | processor |", "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for r in rows:
        others = ", ".join(str(r["others"][sort]) for sort in SORTS)
        lines.append(
            f"| {r['kind']} | {r['listeners']} | {r['seconds']:g} | {r['refused']} | {others} | {r['sessions']} | {r['slack_p50']:.2f} | "
            f"{r['slack_p99']:.2f} | {r['worst_underrun']:.2f} | {r['in_time']:.2%} | {r['processor']:.0%} |"
        )
    return "Listeners in real time", lines


def _held(rows: list[dict[str, Any]]) -> tuple[str, list[str]]:
    (h,) = rows
    return "One jam, by the library's client", [
        f"{h['seconds']:.0f} s, look-ahead {LOOKAHEAD} chunks: {h['underruns']} underruns; slack p50 {h['slack_p50']:.2f} s, p99 "
        f"{h['slack_p99']:.2f} s, least {h['least']:.2f} s; the service used {h['processor']:.0%} of a core.",
    ]  # fmt: skip


def _studio(rows: list[dict[str, Any]]) -> tuple[str, list[str]]:
    (r,) = rows
    return "One jam, in the page", [
        f"{r['seconds']:.0f} s in Chromium {r['browser']}, look-ahead {LOOKAHEAD} chunks, the service on one core and the browser on the other: "
        f"{r['underruns']} underruns of the page's player and {r['late']} that the service counted, {r['lost']} samples lost; least slack of a "
        f"piece {r['least']:.2f} s; the service used {r['processor']:.0%} of its core, with the start of the page.",
    ]  # fmt: skip


async def batching(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Both comparisons."""
    duo = long_duo()
    return [await compared(options, kind, duo) for kind in ("decode", "jam")]


async def load(options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of the load, at one service."""
    duo, rows = long_duo(), []
    with serving(options, batch=ROWS) as server:
        for kind, counts in (("decode", options.decode), ("jam", options.jam)):
            for count in counts:
                rows.append(await loaded(server, kind, count, duo, options.seconds))
                print(rows[-1], flush=True)
                await asyncio.sleep(1.0)
    return rows


def measured(options: argparse.Namespace, name: str) -> list[dict[str, Any]]:
    """One part."""
    if name == "costs":
        return costs(10 * options.rounds)
    if name == "held":
        with serving(options, batch=ROWS) as server:
            return [held(server, options.held)]
    if name == "studio":
        return [studio(options)]
    return asyncio.run(batching(options) if name == "batching" else load(options))


def main() -> None:
    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(",") if part]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=PARTS, help=",".join(PARTS))
    parser.add_argument("--seconds", type=float, default=10.0, help="of each row, and of each window of the comparison")
    parser.add_argument("--decode", type=numbers, default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--jam", type=numbers, default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--held", type=float, default=30.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=machine.RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.parts:
        before = os.getloadavg()[0]
        rows = measured(options, name)
        part = {
            "machine": machine.describe(), "command": machine.command(), "load": [before, os.getloadavg()[0]], "rows": rows,
        }  # fmt: skip
        machine.record("serve", {**machine.read("serve", options.out), name: part}, page, options.out)
    print(page(machine.read("serve", options.out)))


if __name__ == "__main__":
    main()
