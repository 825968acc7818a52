"""Ablations of the bundled codecs' trainings, from nothing at equal compute: what each choice of the recipe buys, and claims of papers.

    python benchmarks/ablate_training.py --data made/train/music made/train/speech recorded/train/music recorded/train/speech --heldout HELD
        --runs RUNS [--of tiny | lycodec-tiny] [--rows plain "summary queries" ...] [--seeds 0 1] [--steps 600] [--files 3] [--set KEY=VALUE ...]

The plain row is `recipes/tiny-1-estimate.yaml` or `recipes/lycodec-tiny.yaml` with fewer steps; every other row replaces a few of its values and is trained for the same number
of arithmetic operations (counted, `operations.py`: a dearer step means fewer of them). Each codec is judged on the same middles of held-out
files of four kinds (`evaluate/heldout.py`), both faces. A difference is taken file by file against the plain row of the same seed; its interval is a
bootstrap over the files of all seeds. Figures of finished runs stand in benchmarks/results/ablate_CODEC.json: those of the same setting are not
run again, so rows may be added later, on another machine too.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

import duotone
import machine
from duotone.codec.contract import Codec
from duotone.codec.families import load_own
from duotone.evaluate.compare import excerpt, named_files
from duotone.evaluate.heldout import kinds_of
from duotone.evaluate.metrics import measure
from duotone.evaluate.report import bootstrap
from duotone.train.codec_objective import CodecObjective
from duotone.train.codicodec_objective import CoDiCodecObjectiveSection
from duotone.train.draws import Draws
from duotone.train.log import LOG, read_log
from duotone.train.loop import TrainingError
from duotone.train.lycodec import LycodecObjective, LycodecObjectiveSection, LycodecSection
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from duotone.train.sections import CoDiCodecSection
from operations import Operations

JUDGES = ("log_mel", "mr_stft", "stoi", "ild", "harmonics")
FACES = ("discrete", "continuous")
#: Codes decoded in the other way, of codecs that have two.
OTHER_WAY = "discrete, autoregressive"
#: Values of a recipe that are replaced, by the name of the row.
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Codecs:
    """A codec's recipe, and its rows; the first, plain, is what the others are compared with.

    A row in `later` has a third of its operations in a later stage: another recipe, and its replaced values.
    """

    recipe: str
    rows: Rows
    later: dict[str, tuple[str, dict[str, Any]]] = field(default_factory=dict)


#: By the codec that the recipe trains.
TABLES = {
    "tiny": Codecs("tiny-1-estimate", {
        "plain": {},
        "summary queries": {"model.replace.summary": 8},
        "iFSQ: 2 sigmoid(1.6 x) - 1 = tanh(0.8 x)": {"objective.deviation": 0.64},
        "always rounded (no FSQ-dropout)": {"objective.continuous_share": 0.0},
        "no source-filter head, no salience": {"model.replace.pitches": 0},
        "no salience": {"model.replace.salience": False},
        "|r| in place of e^r - r - 1": {"objective.likelihood_weight": 0.0, "objective.absolute_weight": 1.2},
        "no stereo term": {"objective.stereo_weight": 0.0},
        "AdamW": {"optim.name": "adamw"},
        "generated sound alone": {"data": "made"},
        "time steps of 512 samples, windows of 1024": {"model.replace.tokens": 64, "model.replace.n_fft": 1024},
        "one consistency loss, no estimate": {
            "objective.kind": "consistency", "objective.chunks": 2, "objective.denoising_share": 0.25, "objective.weight_power": 0.5,
            "model.replace.layers": 4, "model.replace.refinement": "{start: noise, noise: {sigma_max: 80.0}, dim: 192, heads: 6, "
            "layers: 3, units: [64, 24], decode: {parallel_steps: 4, autoregressive_steps: 2}}",
        },
        "a third of it adversarial": {},
        "a third of it refinement, decoded in two steps": {},
    }, {
        "a third of it adversarial": ("tiny-3-adversarial", {"optim.muon_rate": 3e-3, "optim.rate": 7.5e-4, "optim.warmup_steps": 20}),
        "a third of it refinement, decoded in two steps": (
            "tiny-2-refinement", {"model.replace.refinement": "{begin: 0.05, decode: {parallel_steps: 2, autoregressive_steps: 2}}"},
        ),
    }),
    "lycodec-tiny": Codecs("lycodec-tiny", {
        "plain": {},
        "no true residual in training": {"objective.hybrid_share": "[[0, 0.0]]"},
        "residual predicted from the codes": {"model.replace.predictor_units": 256},
        "no stereo head": {"model.replace.stereo": False},
        "no band-split head": {"model.replace.split_channels": 0},
        "patches of 16 bins": {"model.replace.patch_bins": 16},
        "patches of 8 bins": {"model.replace.patch_bins": 8},
        "terms as described (consistency first, spectral 1, mel 0)": {
            "objective.mel_weight": 0.0, "objective.spectral_weight": 1.0, "objective.weight_power": 1.0, "objective.top_share": 0.0,
            "objective.spread_weight": 0.05, "objective.level_weight": 0.1, "objective.time_weight": 0.1, "objective.side_weight": 0.1,
        },
    }),
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What all rows share; `of` names the codec."""

    of: str
    steps: int
    seconds: float
    files: int
    set: tuple[str, ...]


def recipe_of(name: str, setting: Setting, seed: int, steps: int) -> TrainRecipe:
    """A row's recipe: its values, then the user's."""
    table = TABLES[setting.of]
    return recipe(table.recipe, {k: v for k, v in table.rows[name].items() if k != "data"}, setting, seed, steps)


def recipe(name: str, values: dict[str, Any], setting: Setting, seed: int, steps: int) -> TrainRecipe:
    """A recipe with so many steps, its values replaced, and the user's."""
    fixed = {
        "train.steps": steps, "train.seed": seed, "train.validate_every": 1 << 40, "train.health_every": steps,
        "train.checkpoint_every": max(1, steps // 3),
    }  # fmt: skip
    return TrainRecipe.load(name, [*(f"{k}={v}" for k, v in {**values, **fixed}.items()), *setting.set])


def cost(recipe: TrainRecipe) -> tuple[float, int]:
    """Operations of a step, and parameters."""
    torch.manual_seed(0)
    objective = objective_of(recipe)
    batch = recipe.train.batch_size
    with Operations() as counter:
        loss, _ = objective({"samples": 0.1 * torch.randn(batch, 2, objective.crop)}, 1.0, Draws.whole(batch, 0))
        loss.backward()
    return float(counter.total), sum(p.numel() for p in objective.parameters() if p.requires_grad)


def objective_of(recipe: TrainRecipe) -> CodecObjective:
    """The objective of a recipe, with random weights."""
    if isinstance(recipe.model, LycodecSection) and isinstance(recipe.objective, LycodecObjectiveSection):
        return LycodecObjective(recipe.model.build(), recipe.objective)
    assert isinstance(recipe.model, CoDiCodecSection) and isinstance(recipe.objective, CoDiCodecObjectiveSection)
    return recipe.objective.objective(recipe.model.build())


def judged(codec: Codec, heldout: Path, setting: Setting) -> list[dict[str, Any]]:
    """The judges' figures of each file and face, and of codes decoded autoregressively where that differs."""
    out = []
    alike = (*codec.equal_strategies, *codec.alike_by_default)
    other = "autoregressive" in codec.spec.strategies and "autoregressive" not in alike
    for file, path in named_files(kinds_of(heldout), setting.files, 0).items():
        wave = excerpt(path, setting.seconds, middle=True)
        latents = codec.encode(wave)
        codes = latents.codes()
        decoded = dict(zip(FACES, (codec.decode(value, seed=0) for value in (codes, latents)), strict=True))
        if other:
            decoded[OTHER_WAY] = codec.decode(codes, seed=0, strategy="autoregressive")
        for face, made in decoded.items():
            found = measure(wave, made, speech=file.startswith("speech"))
            figures = {judge: found[judge] for judge in JUDGES if math.isfinite(found.get(judge, math.nan))}
            out.append({"file": file, "face": face, **figures})
    return out


def sources_of(values: dict[str, Any], data: Sequence[Path]) -> list[Path]:
    """The data of a row: all, or what has the word of its `data` in its path."""
    word = values.get("data", "")
    return [path for path in data if word in str(path)]


def result(name: str, seed: int, setting: Setting, options: argparse.Namespace, plain: float) -> dict[str, Any]:
    """Train and judge a row with a seed; the folder of the run is removed."""
    later = TABLES[setting.of].later.get(name)
    operations, parameters = cost(recipe_of(name, setting, seed, setting.steps))
    total = setting.steps * plain
    steps = max(3, round(total * (2 / 3 if later else 1) / operations))
    data = sources_of(TABLES[setting.of].rows[name], options.data)
    print(f"{name}, seed {seed}: {steps} steps", flush=True)
    run = options.runs / f"{name.translate(str.maketrans(' ,:|^/', '______'))}-{seed}"
    out: dict[str, Any] = {"row": name, "seed": seed, "steps": steps, "parameters": parameters}
    try:
        folder = train(recipe_of(name, setting, seed, steps), data, run, load=duotone.load)
        if later:
            values = {**later[1], "model.start_from": folder}
            dearer, _ = cost(recipe(later[0], values, setting, seed, steps))
            out["later_steps"] = max(3, round(total / 3 / dearer))
            print(f"{name}, seed {seed}: {out['later_steps']} later steps", flush=True)
            then = recipe(later[0], values, setting, seed, out["later_steps"])
            shutil.rmtree(second := run.with_name(run.name + "-later"), ignore_errors=True)
            folder = train(then, data, second, load=duotone.load)
    except TrainingError as error:
        return {**out, "failed": str(error)}
    last = read_log(run / LOG)[0][-1]
    out |= {key: last[key] for key in ("level_entropy", "saturated_share") if key in last}
    out["figures"] = judged(load_own(folder), options.heldout, setting)
    for each in (run, run.with_name(run.name + "-later")):
        shutil.rmtree(each, ignore_errors=True)
    return out


def mean(runs: list[dict[str, Any]], judge: str) -> str:
    """A judge's mean over the files of all runs that have it, discrete."""
    found = [f[judge] for run in runs for f in run["figures"] if f["face"] == "discrete" and judge in f]
    return f"{statistics.fmean(found):.3f}" if found else ""


def gaps(ours: dict[str, Any], theirs: dict[str, Any], judge: str, faces: tuple[str, str]) -> list[float]:
    """Differences of a judge, file by file."""
    one, other = (
        {f["file"]: f[judge] for f in run["figures"] if f["face"] == face and judge in f}
        for run, face in zip((ours, theirs), faces, strict=True)
    )
    return [value - other[file] for file, value in one.items() if file in other]


def steps_of(run: dict[str, Any]) -> str:
    """The steps of its stages."""
    return f"{run['steps']} + {run['later_steps']}" if "later_steps" in run else str(run["steps"])


def cell(name: str) -> str:
    """The name of a row, for a table: a bar begins another cell there."""
    return name.replace("|", "\\|")


def text(values: list[float]) -> str:
    """Mean and 95% interval; bold where it excludes 0."""
    if not values:
        return ""
    found = bootstrap(values, 0)
    out = f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    return f"**{out}**" if found.low > 0 or found.high < 0 else out


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    lines = [f"# Ablations of the training of {document['of']}", "", machine.markdown(document["machine"])]
    for table in document["tables"]:
        lines += section(table)
    return "\n".join(lines) + "\n"


def section(table: dict[str, Any]) -> list[str]:
    """The table of one setting."""
    setting, runs = table["setting"], {(run["row"], run["seed"]): run for run in table["runs"] if "failed" not in run}
    head = ["log-mel, dB", "MR-STFT", "STOI of speech", "ILD, dB", "harmonics, dB"]
    commands = dict.fromkeys(run.get("command", table["command"]) for run in table["runs"])
    lines = [
        f"## {setting['steps']} steps" + (f", {' '.join(setting['set'])}" if setting["set"] else ""), "",
        f"Made by {' and '.join(f'`{command}`' for command in commands)}", "",
        f"{setting['steps']} steps of the plain row, as many operations for the others; {setting['files']} held-out files a kind, {setting['seconds']:g} s of "
        f"each, discrete unless said otherwise. Differences file by file against plain with the same seed, 95% intervals over files; bold where 0 lies outside.", "",
        f"| row | seeds | steps | {' | '.join(head)} | {' | '.join(f'{h}, against plain' for h in head)} |", "|---|---:|---:|" + "---:|" * 2 * len(head),
    ]  # fmt: skip
    for name in TABLES[setting["of"]].rows:
        mine = [run for (row, _), run in runs.items() if row == name]
        if not mine:
            continue
        here = [mean(mine, judge) for judge in JUDGES]
        pairs = [
            (run, runs["plain", run["seed"]]) for run in mine if name != "plain" and ("plain", run["seed"]) in runs
        ]
        against = [text([g for a, b in pairs for g in gaps(a, b, judge, ("discrete", "discrete"))]) for judge in JUDGES]
        lines.append(
            f"| {cell(name)} | {len(mine)} | {steps_of(mine[0])} | {' | '.join(here)} | {' | '.join(against)} |"
        )  # fmt: skip
    lines += [
        "",
        "Of the same codes or latents, file by file:",
        "",
        f"| row, decoded | {' | '.join(head)} |",
        "|---|" + "---:|" * len(head),
    ]
    for name in TABLES[setting["of"]].rows:
        mine = [run for (row, _), run in runs.items() if row == name]
        for way in ("continuous", OTHER_WAY):
            found = [text([g for run in mine for g in gaps(run, run, judge, (way, "discrete"))]) for judge in JUDGES]
            if any(found):
                lines.append(f"| {cell(name)}: {way} less discrete | {' | '.join(found)} |")
    failed = [run for run in table["runs"] if "failed" in run]
    return [*lines, *(f"\nFailed: {run['row']}, seed {run['seed']}: {run['failed']}" for run in failed), ""]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        required=True,
        help="sound to train on; those with 'made' in their path are generated",
    )
    parser.add_argument("--heldout", type=Path, required=True, help="sound to judge on, by kinds")
    parser.add_argument("--runs", type=Path, required=True, help="where runs are kept while they last")
    parser.add_argument("--of", choices=list(TABLES), default="tiny", help="the codec that is trained (default: tiny)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--steps", type=int, default=600, help="of the plain row")
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--files", type=int, default=3, help="of each kind")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="values of the recipe for all rows")
    parser.add_argument("--results", type=Path, default=machine.RESULTS)
    options = parser.parse_args(arguments)
    rows = list(TABLES[options.of].rows)
    if unknown := [row for row in options.rows or rows if row not in rows]:
        parser.error(f"--rows got {', '.join(unknown)}, expected some of: {', '.join(rows)}")
    name_of_results = f"ablate_{options.of}"
    setting = Setting(options.of, options.steps, options.seconds, options.files, tuple(options.set))
    about = {**asdict(setting), "set": list(setting.set)}
    tables = machine.read(name_of_results, options.results).get("tables", [])
    others = [table for table in tables if table["setting"] != about]
    runs = [run for table in tables if table["setting"] == about for run in table["runs"]]
    plain, _ = cost(recipe_of("plain", setting, 0, setting.steps))
    for seed in options.seeds:
        for name in options.rows or rows:
            if any(run["row"] == name and run["seed"] == seed for run in runs):
                continue
            runs.append({"command": machine.command(arguments), **result(name, seed, setting, options, plain)})
            runs.sort(key=lambda run: (rows.index(run["row"]), run["seed"]))
            table = {"command": machine.command(arguments), "setting": about, "runs": runs}
            document = {"of": options.of, "machine": machine.describe(), "tables": [*others, table]}
            machine.record(name_of_results, document, page, options.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
