"""Both faces of one codec generate, and are measured alike: a flow on its latents, a language model on its codes.

    python benchmarks/compare_faces.py --flow RUN/flow --lm RUN/lm --heldout FOLDER
    python benchmarks/compare_faces.py --flow flow-tiny --lm lm-tiny --heldout FOLDER --rollouts 64 --positions 16 128

Held-out recordings are encoded once. Each rollout continues the first chunks of a window of them. All that is compared, the real chunks
too, is rounded to the codec's levels, so that the language model gains or loses nothing by writing codes: figures are of the rounded, bounded values.

- Rollouts: `duotone.evaluate.rollouts`. Deviation and mean in deviations of the real chunks (1 and 0 are right); Fréchet distances of
  chunks, and of the differences of consecutive ones, to half of the real windows. The other half and shuffled chunks stand beside.
- Repetition: share of generated chunks whose codes are those of an earlier chunk of the same rollout.
- Distance to the prompt: cosine similarity of the mean chunk of the first window to that of its own prompt, and to those of others.
- Cost: parameters, bytes, minutes of training, seconds a chunk for one listener, on one thread.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import duotone
import machine
from duotone import flow, lm
from duotone.audio.walk import walk
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, UsageError
from duotone.evaluate import rollouts
from duotone.flow.model import FlowModel
from duotone.flow.weights import provenance as flow_provenance
from duotone.hub import bundled_folder
from duotone.lm.model import provenance as lm_provenance
from duotone.spec import CodecSpec

NAME = "compare_faces"
CHANNELS = 64
SPEED_CHUNKS = 8  # timed for one listener

Make = Callable[[Sequence[int]], rollouts.Rolling]


def encoded(codec: Codec, folder: Path, least: int) -> list[Codes]:
    """The codes of all recordings of a folder that have at least `least` chunks. Raises `AudioError` without any."""
    found = [codec.encode(duotone.read(path)).codes() for path in walk(folder).files]
    kept = [codes for codes in found if len(codes) >= least]
    if not kept:
        longest = max(map(len, found), default=0)
        raise AudioError(
            f"{folder}: the longest of {len(found)} recordings has {longest} chunks, expected {least}. Give longer ones, or a shorter --prompt "
            f"and --window."
        )
    return kept


def windows(recordings: Sequence[Codes], length: int, count: int, seed: int) -> list[Codes]:
    """Random windows of chunks, each position equally likely."""
    places = [(codes, first) for codes in recordings for first in range(len(codes) - length + 1)]
    chosen = np.random.default_rng(seed).integers(len(places), size=count)
    return [places[i][0][places[i][1] : places[i][1] + length] for i in chosen]


def unit(codes: Codes) -> Tensor:
    """Codes -> latents `[n, M, C]` in the codec's unit scale."""
    return codes.latents().channels(CHANNELS)


def rounded(x: Tensor, spec: CodecSpec) -> Tensor:
    """Latents `[R, W, M, C]` in the codec's unit scale -> the bounded values of the levels that they are rounded to."""
    flat = Latents.from_channels(x.flatten(0, 1).cpu(), spec).codes().latents().values
    return flat.reshape(x.shape)


def repeated(x: Tensor) -> float:
    """Share of the chunks `[R, W, M, C]` that equal an earlier one of the same window."""
    same = (x.flatten(2)[:, :, None] == x.flatten(2)[:, None]).all(-1)
    return float(same.tril(-1).any(-1).float()[:, 1:].mean())


def nearness(x: Tensor, prompts: Tensor) -> tuple[float, float]:
    """Cosine similarity of the mean chunks of windows `[R, W, M, C]` to their own prompts' `[R, n, M, C]`, and to the others'."""
    mean = prompts.mean((0, 1))
    a, b = ((each.mean(1) - mean).flatten(1) for each in (x, prompts))
    cosines = torch.nn.functional.normalize(a, dim=1) @ torch.nn.functional.normalize(b, dim=1).T
    count = len(cosines)
    own = float(cosines.diagonal().mean())
    return own, float((cosines.sum() - cosines.diagonal().sum()) / max(1, count * (count - 1)))


def seconds_a_chunk(make: Make, prompt: Tensor) -> float:
    """The median time of a chunk for one listener, after the first."""
    rows, times = make([0]), []
    rows.push(prompt[None])
    for _ in range(SPEED_CHUNKS + 1):
        began = time.perf_counter()
        rows.next()
        times.append(time.perf_counter() - began)
    return float(np.median(times[1:]))


def measured(make: Make, prompts: Tensor, real: Tensor, spec: CodecSpec, options: argparse.Namespace) -> dict[str, Any]:
    """All figures of a face; `prompts` `[R, n, M, C]` in the unit scale, `real` rounded."""
    found = rollouts.roll(
        make, len(prompts), options.positions, real.shape[1], prompts=prompts, batch=options.batch, progress=_tell
    )
    values = {position: rounded(x, spec) for position, x in found.items()}
    rows = rollouts.to_dict(rollouts.statistics(values, real))
    first = values[min(values)]
    own, others = nearness(first, rounded(prompts, spec))
    return {
        "rows": rows, "repeated": {str(position): repeated(x) for position, x in values.items()}, "near_own": own,
        "near_others": others, "seconds_a_chunk": seconds_a_chunk(make, prompts[0]),
    }  # fmt: skip


def _tell(done: int, total: int) -> None:
    if done == total or done % max(1, total // 20) < 1:
        print(f"{done} of {total} chunks", file=sys.stderr, flush=True)


def about(folder: Path, parameters: int, told: dict[str, Any]) -> dict[str, Any]:
    """What a face cost to make and to store."""
    size = sum(path.stat().st_size for path in folder.iterdir())
    return {
        "parameters": parameters,
        "bytes": size,
        "minutes": told.get("minutes"),
        "hours_of_sound": told.get("hours_of_sound"),
    }


def faces(options: argparse.Namespace, spec: CodecSpec) -> dict[str, tuple[Make, dict[str, Any]]]:
    """How to make rows of each face, and what is known of it. Raises `UsageError` for models of another kind or codec."""
    flowing, writing = duotone.load(options.flow), duotone.load(options.lm)
    if not isinstance(flowing, FlowModel) or not isinstance(writing, lm.LanguageModel):
        raise UsageError(
            f"Got {type(flowing).__name__} and {type(writing).__name__}, expected a flow and a language model."
        )
    writing.check(spec)
    if flowing.config.codec not in (None, spec.space):
        raise UsageError(f"--flow was trained on the codec space {flowing.config.codec}, --codec has {spec.space}.")
    of_flow, of_lm = (bundled_folder(name) or Path(name) for name in (options.flow, options.lm))
    count = sum(p.numel() for p in flowing.parameters())
    return {
        "flow": (lambda seeds: flow.Sampler(flowing, seeds), about(of_flow, count, flow_provenance(of_flow))),
        "language model": (
            lambda seeds: lm.LatentRows(writing, seeds, channels=CHANNELS),
            about(of_lm, sum(p.numel() for p in writing.network.parameters()), lm_provenance(of_lm)),
        ),
    }  # fmt: skip


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [
        "# Two faces, compared", "", machine.markdown(document["machine"]), f"Made by `{document['command']}`", "",
        "| | parameters | MiB | minutes of training | hours of sound | seconds a chunk |", "|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for name, face in document["faces"].items():
        minutes, hours = (_cell(face[key], 1) for key in ("minutes", "hours_of_sound"))
        lines.append(
            f"| {name} | {face['parameters']:,} | {face['bytes'] / 2**20:.1f} | {minutes} | {hours} | {face['seconds_a_chunk']:.3f} |"
        )
    setting = document["setting"]
    lines += [
        "", f"{setting['rollouts']} rollouts, each after {setting['prompt']} chunks of a held-out recording; pooled over {setting['window']} chunks.",
        "", "| | chunks around | deviation | mean | Fréchet, chunks | Fréchet, differences | repeated |", "|---|---|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for i, (name, face) in enumerate(document["faces"].items()):
        for row in face["rows"]:
            if row["name"] == "generated" or i == 0:
                title = name if row["name"] == "generated" else row["name"]
                cells = " | ".join(_cell(row[key], 3) for key in ("deviation", "mean", "frechet", "frechet_steps"))
                share = f"{face['repeated'][str(row['position'])]:.1%}" if row["name"] == "generated" else ""
                lines.append(f"| {title} | {row['position'] or ''} | {cells} | {share} |")
    lines += ["", "| | like its own prompt | like others' prompts |", "|---|---:|---:|"]
    lines += [
        f"| {name} | {face['near_own']:.3f} | {face['near_others']:.3f} |" for name, face in document["faces"].items()
    ]
    return "\n".join(lines) + "\n"


def _cell(value: float | None, digits: int) -> str:
    return "unknown" if value is None else f"{value:.{digits}f}"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure both, write the table, and return what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flow", default="flow-tiny", help="bundled name, or folder")
    parser.add_argument("--lm", default="lm-tiny", help="bundled name, or folder")
    parser.add_argument("--codec", default="tiny", help="the codec of both")
    parser.add_argument("--heldout", type=Path, required=True, help="folder of recordings that neither was trained on")
    parser.add_argument("--rollouts", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=8, help="chunks that each rollout continues")
    parser.add_argument("--window", type=int, default=rollouts.WINDOW, help="chunks around each position")
    parser.add_argument("--positions", type=int, nargs="+", default=[16, 128], metavar="CHUNK")
    parser.add_argument("--batch", type=int, default=16, help="rollouts side by side")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder of the table")
    options = parser.parse_args(arguments)
    codec = duotone.load(options.codec)
    made = faces(options, codec.spec)
    recordings = encoded(codec, options.heldout, max(options.prompt, options.window))
    prompts = torch.stack([unit(codes) for codes in windows(recordings, options.prompt, options.rollouts, 0)])
    chosen = windows(recordings, options.window, 2 * max(2, options.rollouts), 1)
    real = rounded(torch.stack([unit(codes) for codes in chosen]), codec.spec)
    setting = {key: getattr(options, key) for key in ("rollouts", "prompt", "window", "positions")}
    document = {
        "machine": machine.describe(), "command": machine.command(arguments, __file__), "setting": setting,
        "recordings": len(recordings),
        "faces": {name: {**told, **measured(make, prompts, real, codec.spec, options)} for name, (make, told) in made.items()},
    }  # fmt: skip
    machine.record(NAME, document, page, options.out)
    print(page(document))
    return document


if __name__ == "__main__":
    main()
