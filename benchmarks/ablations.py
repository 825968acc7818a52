"""Ablations of training at equal compute, and the paper's claims in small: with seeds, pairs and intervals.

    python benchmarks/ablations.py --data SOUND --heldout HELD --runs RUNS [--rows plain "no ECT start" ...]
        [--seeds 0 1 2] [--steps 300] [--seconds 4] [--files 12] [--set train.device=cuda ...]

Every row is the plain recipe with a few values replaced, trained from nothing with each seed for the same number of
arithmetic operations (counted, `operations.py`: a dearer network or batch gets fewer steps). Each codec is judged on the
same beginnings of held-out files, decoded from noise at sigma_max, both faces and both ways. A difference is taken seed
by seed against the plain row; its interval is Student's t at 95% over the seeds. Finished runs in RUNS are not run again.
Writes benchmarks/results/ablations.{json,md}, where tables of other settings stay. What the evaluation of the bundled codec of
version 0.1, which had convolutions (results/evaluate_convolutions.json), says of the claims stands beside them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

import machine
from duotone.atomic import write_json
from duotone.audio.files import read
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.weights import load_codec
from duotone.evaluate.compare import choose_files
from duotone.evaluate.metrics import METRICS
from duotone.train.consistency import ConsistencyObjective, ConsistencySection
from duotone.train.draws import Draws
from duotone.train.log import LOG, read_log
from duotone.train.loop import TrainingError
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from duotone.train.sections import CoDiCodecSection
from operations import Operations

FACES = ("continuous", "discrete")
WAYS: tuple[Literal["parallel", "autoregressive"], ...] = ("parallel", "autoregressive")
JUDGES = ("log_mel", "mr_stft")

#: The plain row: consistency training of a convolution network of 0.9M parameters.
PLAIN = """
model: {kind: codicodec, preset: base, replace: {stem: [8, 1], channels: [24, 48, 96], blocks: [1, 1, 0], factors: [[2, 4], [4, 1]], heads: 3,
  encoder_layers: 2, upsampler_layers: 1, denoiser_layers: 2, anchored: true}}
objective: {kind: consistency, continuous_share: 0.6, log_sigma_mean: 0.0, log_sigma_deviation: 1.8, weight_power: 0.25, spread_weight: 2.0,
  envelope_weight: 10.0, denoising_share: 0.5, dt_exponent_start: 0.3, dt_exponent_end: 1.0}
data: {kind: sound, mixing_share: 0.1, gain_db: [-4, 2], workers: 1, validation_share: 0}
optim: {name: adamw, rate: 1.5e-3, betas: [0.9, 0.95], warmup_steps: 30, schedule: cooldown, cooldown_share: 0.4, clip: 1.0,
  ema_decay: 0.98}
train: {steps: 300, batch_size: 4, checkpoint_every: 1000000, health_every: 1000000, log_every: 10}
"""
ROWS: dict[str, dict[str, Any]] = {
    "plain": {},
    "never unrounded (p = 0)": {"objective.continuous_share": 0.0},
    "p = 0.75": {"objective.continuous_share": 0.75},
    "never rounded (p = 1)": {"objective.continuous_share": 1.0},
    "summary latents": {"model.replace.anchored": False},
    "no ECT start": {"objective.denoising_share": 0.0},
    "denoising alone": {"objective.denoising_share": 1.0},
    "dt ends at 0.01": {"objective.dt_exponent_end": 2.0},
    "no envelope term": {"objective.envelope_weight": 0.0},
    "published noise levels and weights": {
        "objective.log_sigma_mean": -1.1, "objective.log_sigma_deviation": 2.0, "objective.weight_power": 1.0,
    },
    "RAdam": {"optim.name": "radam"},
    "Muon": {"optim.name": "muon"},
    "batch 2": {"train.batch_size": 2},
    "batch 8": {"train.batch_size": 8},
    "wider convolutions, one transformer layer fewer": {
        "model.replace.channels": [32, 64, 96 * 4 // 3], "model.replace.heads": 4, "model.replace.denoiser_layers": 1,
        "model.replace.encoder_layers": 1,
    },
    "narrower convolutions, deeper transformers": {
        "model.replace.channels": [12, 24, 96], "model.replace.encoder_layers": 4, "model.replace.denoiser_layers": 4,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What all rows share."""

    data: Path
    heldout: Path
    runs: Path
    steps: int
    seconds: float
    files: int
    overrides: tuple[str, ...]


def recipe_of(values: dict[str, Any], overrides: tuple[str, ...], seed: int, steps: int) -> TrainRecipe:
    """The plain recipe with a row's values, then the user's."""
    document = yaml.safe_load(PLAIN)
    parsed = {k: yaml.safe_load(v) for k, _, v in (word.partition("=") for word in overrides)}
    for key, value in {**values, **parsed, "train.seed": seed, "train.steps": steps}.items():
        section = document
        *path, last = key.split(".")
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return TrainRecipe.parse(document, "the ablation's recipe")


def cost(recipe: TrainRecipe) -> tuple[float, int]:
    """Operations of an average step, the denoising stage without a teacher counted as such; and parameters."""
    torch.manual_seed(0)
    assert isinstance(recipe.model, CoDiCodecSection) and isinstance(recipe.objective, ConsistencySection)
    objective = ConsistencyObjective(recipe.model.build(), recipe.objective)
    batch = recipe.train.batch_size
    samples = 0.1 * torch.randn(batch, 2, objective.crop)
    share = recipe.objective.denoising_share
    total = 0.0
    for progress, weight in ((0.0, share), (1.0, 1 - share)):
        if weight:
            with Operations() as counter:
                loss, _ = objective({"samples": samples}, progress, Draws.whole(batch, 0))
                loss.backward()
            total += weight * counter.total
    return total, sum(p.numel() for p in objective.network.parameters())


def judged(codec: CoDiCodec, setting: Setting) -> list[dict[str, Any]]:
    """A row a file, face and way: the judges' figures."""
    out = []
    for path in choose_files(setting.heldout, setting.files, seed=0):
        wave = read(path).resample(codec.rate)
        wave = Waveform(wave.samples[:, : round(setting.seconds * wave.rate)].contiguous(), wave.rate)
        latents = codec.encode(wave)
        for face, value in zip(FACES, (latents, latents.codes()), strict=True):
            for way in WAYS:
                decoded = codec.decode(value, way, seed=0)
                figures = {judge: METRICS[judge](wave, decoded) for judge in JUDGES}
                out.append({"file": path.name, "face": face, "way": way, **figures})
    return out


def result(name: str, seed: int, setting: Setting, plain_cost: float) -> dict[str, Any]:
    """One run: trained and judged, or read back."""
    trial = recipe_of(ROWS[name], setting.overrides, seed, setting.steps)
    operations, parameters = cost(trial)
    steps = max(1, round(setting.steps * plain_cost / operations))
    recipe = recipe_of(ROWS[name], setting.overrides, seed, steps)
    print(f"{name}, seed {seed}: {steps} steps", flush=True)
    identity = json.dumps([recipe.to_dict(), setting.seconds, setting.files], sort_keys=True)
    run = setting.runs / hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()
    done = run / "ablation.json"
    if not done.is_file():
        out: dict[str, Any] = {"row": name, "seed": seed, "steps": steps, "parameters": parameters}
        try:
            codec = load_codec(train(recipe, setting.data, run)).to(recipe_device(recipe))
            last = read_log(run / LOG)[0][-1]
            out |= {"level_entropy": last["level_entropy"], "saturated": last["saturated_share"]}
            out["figures"] = judged(codec, setting)
        except TrainingError as error:
            out["failed"] = str(error)
        write_json(done, out)
    found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
    return found


def recipe_device(recipe: TrainRecipe) -> str:
    """Where to judge."""
    wanted = recipe.train.device
    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def mean(run: dict[str, Any], judge: str, face: str | None = None, way: str | None = None) -> float:
    """A judge's mean over the files of a run, and over what is not named."""
    return statistics.fmean(
        f[judge] for f in run["figures"] if face in (None, f["face"]) and way in (None, f["way"])
    )  # fmt: skip


def interval(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of Student's interval at 95%; infinite for a single value."""
    n = len(values)
    if n < 2:
        return values[0], math.inf
    t = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}.get(n, 1.96 + 2.6 / (n - 1))
    return statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(n)


def text(values: list[float]) -> str:
    """Mean and interval; bold where it excludes 0."""
    middle, half = interval(values)
    if math.isinf(half):
        return f"{middle:+.3f} (one seed)"
    out = f"{middle:+.3f} ± {half:.3f}"
    return f"**{out}**" if abs(middle) > half else out


def verdict(values: list[float]) -> str:
    """Whether a difference that should lie below 0 does."""
    middle, half = interval(values)
    if abs(middle) <= half:
        return "undecided"
    return "holds" if middle < 0 else "the reverse holds"


CLAIM_HEAD = [
    "| claim | as a difference | " + " | ".join(JUDGES) + " | says |",
    "|---|---|" + "---:|" * len(JUDGES) + "---|",
]


def claim_row(claim: str, what: str, found: dict[str, list[float]], equal: bool = False) -> str:
    """A line under `CLAIM_HEAD`: each judge's differences, and what they say (of a claim that there is none: `equal`)."""
    said = [verdict(v) for v in found.values()]
    if equal:
        said = ["no difference seen" if s == "undecided" else "differs" for s in said]
    words = said[0] if len(set(said)) == 1 else ", ".join(f"{j}: {s}" for j, s in zip(found, said, strict=True))
    return f"| {claim} | {what} | " + " | ".join(text(v) for v in found.values()) + f" | {words} |"


def claims(runs: dict[str, dict[int, dict[str, Any]]]) -> list[str]:
    """The paper's claims as lines of a table; differences, so that a claim that holds is below 0."""
    lines = [*CLAIM_HEAD]

    def add(*row: Any, **options: Any) -> None:
        lines.append(claim_row(*row, **options))

    def gap(
        row: str, one: tuple[str | None, str | None], other: tuple[str | None, str | None]
    ) -> dict[str, list[float]]:
        return {j: [mean(r, j, *one) - mean(r, j, *other) for r in runs[row].values()] for j in JUDGES}

    if "plain" in runs:
        add("parallel is at least as good as autoregressive", "parallel - autoregressive",
            gap("plain", (None, "parallel"), (None, "autoregressive")))  # fmt: skip
        add("continuous is better than discrete by a little (p = 0.6)", "continuous - discrete",
            gap("plain", ("continuous", None), ("discrete", None)))  # fmt: skip
    if "never unrounded (p = 0)" in runs:
        add("without FSQ-dropout both faces are equal (p = 0)", "continuous - discrete",
            gap("never unrounded (p = 0)", ("continuous", None), ("discrete", None)), equal=True)  # fmt: skip
    for row, claim in (
        ("never unrounded (p = 0)", "FSQ-dropout betters the continuous face (p = 0.6 against 0)"),
        ("summary latents", "summary latents are better than latents in the order of time and frequency"),
    ):
        if row in runs and "plain" in runs:
            face = "continuous" if "FSQ" in claim else None
            sign = 1 if "FSQ" in claim else -1
            both = sorted(runs[row].keys() & runs["plain"].keys())
            add(claim, "plain - p = 0" if sign == 1 else "summary - plain (anchored)",
                {j: [sign * (mean(runs["plain"][s], j, face) - mean(runs[row][s], j, face)) for s in both] for j in JUDGES})  # fmt: skip
    return lines


def convolutions() -> list[str]:
    """What the evaluation of the bundled codec of version 0.1 says of two claims: one training, intervals over the files."""
    path = machine.RESULTS / "evaluate_convolutions.json"
    if not path.is_file():
        return []
    document = json.loads(path.read_text(encoding="utf-8"))
    found = {(row["system"], row["file"]): row["metrics"] for row in document["rows"]}
    files = sorted({file for _, file in found})
    lines = [*CLAIM_HEAD]
    for claim, one, other in (
        ("parallel is at least as good as autoregressive", "discrete, parallel", "discrete, autoregressive"),
        ("continuous is better than discrete by a little (p = 0.6)", "continuous, parallel", "discrete, parallel"),
    ):
        gaps = {j: [found[one, file][j] - found[other, file][j] for file in files] for j in JUDGES}
        lines.append(claim_row(claim, f"{one} - {other}", gaps))
    return [
        "## The bundled codec of version 0.1 (convolutions)", "", f"One training; intervals over the {len(files)} files of `{document['command']}`.", "", *lines, "",
    ]  # fmt: skip


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = ["# Ablations, and the paper's claims in small", "", machine.markdown(document["machine"]), *convolutions()]
    for table in document["tables"]:
        lines += section(table)
    return "\n".join(lines) + "\n"


def section(table: dict[str, Any]) -> list[str]:
    """The tables of one setting."""
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    failed = [run for run in table["runs"] if "failed" in run]
    for run in table["runs"]:
        if "failed" not in run:
            runs.setdefault(run["row"], {})[run["seed"]] = run
    setting = table["setting"]
    set_too = f", {', '.join(f'`{word}`' for word in setting['set'])} for all rows" if setting["set"] else ""
    lines = [
        f"## {setting['steps']} steps{set_too}", "", f"Made by `{table['command']}`", "",
        f"{setting['steps']} steps of the plain row, the same number of operations for every other; {setting['files']} held-out "
        f"files, {setting['seconds']:g} s of each; lower is better. Differences are taken seed by seed, with Student's 95% "
        f"interval over the seeds; bold where it excludes 0.", "",
    ]  # fmt: skip
    if any(len(found) > 1 for found in runs.values()):
        lines += [*claims(runs), ""]
    lines += [
        "| row | steps | parameters | level entropy | seeds | discrete log-mel, dB | discrete MR-STFT "
        "| log-mel against plain | MR-STFT against plain |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, found in runs.items():
        some = next(iter(found.values()))
        against = []
        for judge in JUDGES:
            both = sorted(found.keys() & runs.get("plain", {}).keys())
            values = [mean(found[s], judge, "discrete") - mean(runs["plain"][s], judge, "discrete") for s in both]
            against.append("" if name == "plain" or not values else text(values))
        entropy = statistics.fmean(run["level_entropy"] for run in found.values())
        here = [f"{statistics.fmean(mean(run, judge, 'discrete') for run in found.values()):.2f}" for judge in JUDGES]
        lines.append(
            f"| {name} | {some['steps']} | {some['parameters'] / 1e6:.2f}M | {entropy:.2f} | {len(found)} "
            f"| {' | '.join(here)} | {' | '.join(against)} |"
        )
    return [*lines, *(f"\nFailed: {run['row']}, seed {run['seed']}: {run['failed']}" for run in failed), ""]


def main() -> int:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="sound to train on")
    parser.add_argument("--heldout", type=Path, required=True, help="sound to judge on")
    parser.add_argument("--runs", type=Path, required=True, help="where runs are kept")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=300, help="of the plain row")
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--files", type=int, default=12)
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="values of the recipe for all rows")
    options = parser.parse_args()
    setting = Setting(
        options.data, options.heldout, options.runs, options.steps, options.seconds, options.files, tuple(options.set)
    )
    plain_cost, _ = cost(recipe_of({}, setting.overrides, 0, setting.steps))
    about = {"steps": setting.steps, "seconds": setting.seconds, "files": setting.files, "set": list(setting.overrides)}
    before = machine.read("ablations").get("tables", [])
    others = [table for table in before if table["setting"] != about]
    runs: list[dict[str, Any]] = []
    for seed in options.seeds:
        for name in options.rows:
            runs.append(result(name, seed, setting, plain_cost))
            runs.sort(key=lambda run: (list(ROWS).index(run["row"]), run["seed"]))
            table = {"command": machine.command(), "setting": about, "runs": runs}
            machine.record("ablations", {"machine": machine.describe(), "tables": [*others, table]}, page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
