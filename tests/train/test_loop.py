"""The loop: schedules, averaging, data, resume bit for bit, bad steps, recipes."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, ConfigError, WeightsError
from duotone.evaluate.metrics import measure
from duotone.evaluate.run_report import report_page
from duotone.hub import load
from duotone.train import checkpoint
from duotone.train.consistency import ConsistencyObjective, ConsistencySection
from duotone.train.data import Crops
from duotone.train.draws import Draws
from duotone.train.index import build_index
from duotone.train.loop import TrainingError, fit
from duotone.train.optimizers import Optimizers, make_optimizers
from duotone.train.read_ahead import read_ahead
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from duotone.train.schedule import EMA, rate_factor
from duotone.train.sections import SoundSection
from duotone.train.settings import OptimSection
from duotone.train.task import Batch, Objective, Task
from small import SMALL


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(3):
        write(folder / f"{i}.wav", synthesize(i, 0.3))
    write(folder / "mono.flac", Waveform(synthesize(7, 0.2).samples[:1].contiguous(), 44_100))
    (folder / "broken.wav").write_bytes(b"RIFF nonsense")
    return folder


def recipe(**train: Any) -> TrainRecipe:
    return TrainRecipe.parse(
        {
            "model": {"kind": "codicodec", "preset": "base", "replace": SMALL.to_dict()},
            "objective": {"kind": "consistency", "denoising_share": 0.5},
            "optim": {"rate": 1e-3, "warmup_steps": 2, "ema_decay": 0.9},
            "train": {
                "steps": 8,
                "batch_size": 2,
                "checkpoint_every": 3,
                "health_every": 100,
                "precision": "float32",
                "device": "cpu",
            }
            | train,
        }
    )


def test_schedules() -> None:
    cosine = OptimSection(warmup_steps=10, schedule="cosine")
    assert rate_factor(0, 110, cosine) == pytest.approx(0.1)
    assert rate_factor(9, 110, cosine) == pytest.approx(1.0)
    assert rate_factor(60, 110, cosine) == pytest.approx(0.5)
    assert rate_factor(110, 110, cosine) == pytest.approx(0.0)
    cooldown = OptimSection(warmup_steps=0, schedule="cooldown", cooldown_share=0.25)
    assert [rate_factor(s, 100, cooldown) for s in (0, 50, 75)] == [1, 1, 1]
    assert rate_factor(90, 100, cooldown) == pytest.approx(0.4)
    assert rate_factor(50, 100, OptimSection(warmup_steps=0, schedule="constant")) == 1


def test_averaging_by_its_formula() -> None:
    module = torch.nn.Linear(1, 1, bias=False)
    ema = EMA(module, 0.5)
    want = float(module.weight.detach())
    for n in range(12):
        with torch.no_grad():
            module.weight.fill_(float(n))
        decay = min(0.5, (1 + n) / (10 + n))
        want = decay * want + (1 - decay) * n
        ema.update(module)
    assert float(ema.shadow["weight"]) == pytest.approx(want, rel=1e-5)


def test_the_index_leaves_bad_files_out_and_says_so(sounds: Path, tmp_path: Path) -> None:
    found = build_index(sounds, SoundSection(validation_share=0))
    assert len(found.training) == 4 and len(found.skipped) == 1 and "broken.wav" in found.skipped[0]
    with pytest.raises(AudioError, match="holds no sound"):
        build_index(tmp_path, SoundSection())
    with pytest.raises(AudioError, match="no file or folder"):
        build_index(tmp_path / "none", SoundSection())


def test_crops_are_a_function_of_seed_step_and_place(sounds: Path) -> None:
    found = build_index(sounds, SoundSection(validation_share=0)).training
    crops = Crops(found, 48_000, 5_000, SoundSection(), 4)

    def one(crops: Crops, step: int, position: int) -> torch.Tensor:
        return crops.batch(step, range(position, position + 1))["samples"][0]

    assert torch.equal(one(crops, 3, 1), one(Crops(found, 48_000, 5_000, SoundSection(), 4), 3, 1))
    assert not torch.equal(one(crops, 3, 1), one(crops, 3, 2))
    batches = [batch["samples"] for batch in read_ahead(crops, 5, 9, range(2))]
    assert [b.shape for b in batches] == [torch.Size([2, 2, 5_000])] * 4
    assert torch.equal(batches[2][1], one(crops, 7, 1))
    long = one(Crops(found, 48_000, 100_000, SoundSection(mixing_share=0), 4), 0, 0)
    assert long.shape == (2, 100_000) and not long[:, 20_000:].any()  # files are shorter: zeros follow


def curve(run: Path) -> list[tuple[int, float, float]]:
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [(r["step"], r["loss"], r["grad_norm"]) for r in lines]


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(sounds: Path, tmp_path: Path) -> None:
    train(recipe(), sounds, tmp_path / "whole")

    class Stop(Exception):
        pass

    def stop_at(step: int) -> Any:
        def report(figures: dict[str, Any]) -> None:
            if figures["step"] == step:
                raise Stop

        return report

    for step in (1, 4, 7):
        with pytest.raises(Stop):
            train(recipe(), sounds, tmp_path / "parts", watchers=[stop_at(step)])
    train(recipe(), sounds, tmp_path / "parts")
    last = {s: (a, b) for s, a, b in curve(tmp_path / "parts")}
    assert last == {s: (a, b) for s, a, b in curve(tmp_path / "whole")} and len(last) == 8
    a, b = load(tmp_path / "whole" / "codec"), load(tmp_path / "parts" / "codec")
    assert a.fingerprint == b.fingerprint
    assert a.provenance["steps"] == 8 and a.provenance["examples"] == 16


def small_state() -> tuple[torch.nn.Module, EMA, Optimizers]:
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 2)
    optimizers = make_optimizers(recipe().optim, module)
    module(torch.ones(1, 2)).sum().backward()
    optimizers[0].step()
    return module, EMA(module, 0.9), {"main": optimizers}


def fresh_state() -> tuple[torch.nn.Module, EMA, Optimizers]:
    module = torch.nn.Linear(2, 2)
    return module, EMA(module, 0.9), {"main": make_optimizers(recipe().optim, module)}


def test_a_checkpoint_gives_everything_back(tmp_path: Path) -> None:
    module, ema, optimizers = small_state()
    ema.updates = 7
    checkpoint.save(tmp_path, checkpoint.State(5, 1, 2.5), module, ema, optimizers)
    other, average, fresh = fresh_state()
    assert checkpoint.load(tmp_path, other, average, fresh) == checkpoint.State(5, 1, 2.5)
    assert torch.equal(other.weight, module.weight) and torch.equal(average.shadow["weight"], ema.shadow["weight"])
    assert average.updates == 7
    mine, theirs = (o["main"][0].state_dict()["state"][0] for o in (fresh, optimizers))
    assert all(torch.equal(mine[k], theirs[k]) for k in ("step", "exp_avg", "exp_avg_sq"))


def test_a_checkpoint_killed_at_any_write_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call that touches the disk fails in turn; what was there before is always found whole."""
    module, ema, optimizers = small_state()
    checkpoint.save(tmp_path, checkpoint.State(5), module, ema, optimizers)

    class Killed(BaseException):
        pass

    def counted(name: str, original: Any, at: int, calls: list[str]) -> Any:
        def call(*a: Any, **k: Any) -> Any:
            calls.append(name)
            if len(calls) == at + 1:
                raise Killed
            return original(*a, **k)

        return call

    survived = 0
    for at in range(40):
        calls: list[str] = []
        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save_file", counted("save_file", checkpoint.save_file, at, calls))
            for name in ("rename", "fsync"):
                patch.setattr(os, name, counted(name, getattr(os, name), at, calls))
            patch.setattr(shutil, "rmtree", counted("rmtree", shutil.rmtree, at, calls))
            try:
                checkpoint.save(tmp_path, checkpoint.State(6 + at), module, ema, optimizers, keep=1)
                break
            except Killed:
                survived += 1
        other, average, fresh = fresh_state()
        assert checkpoint.load(tmp_path, other, average, fresh).step in (5, *range(6, 7 + at))
        assert torch.equal(other.weight, module.weight)
    assert survived > 6 and checkpoint.steps(tmp_path) == [6 + at]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, ema, optimizers = small_state()
    checkpoint.save(tmp_path, checkpoint.State(5), module, ema, optimizers)

    def full(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, checkpoint.State(6), module, ema, optimizers)
    assert checkpoint.steps(tmp_path) == [5]
    assert [p.name for p in checkpoint.folder(tmp_path).iterdir()] == ["step-000000005"]


def test_a_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    module, ema, optimizers = small_state()
    for step in (5, 6):
        checkpoint.save(tmp_path, checkpoint.State(step), module, ema, optimizers)
    path = checkpoint.folder(tmp_path) / "step-000000006" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:40])
    assert checkpoint.load(tmp_path, *fresh_state()).step == 5
    state = checkpoint.folder(tmp_path) / "step-000000005" / "state.json"
    whole = state.read_bytes()
    for damage in (b"[]", b"\xff", b"", b'{"step": 5}'):
        state.write_bytes(damage)
        with pytest.raises(WeightsError, match="No checkpoint"):
            checkpoint.load(tmp_path, *fresh_state())
    state.write_bytes(whole)
    checkpoint.load(tmp_path, *fresh_state())
    state.write_text("{")
    with pytest.raises(WeightsError, match="No checkpoint"):
        checkpoint.load(tmp_path, *fresh_state())


def test_old_checkpoints_go_and_the_best_stays(tmp_path: Path) -> None:
    module, ema, optimizers = small_state()
    for step in range(1, 7):
        checkpoint.save(tmp_path, checkpoint.State(step), module, ema, optimizers, keep=2)
        if step == 2:
            checkpoint.record_best(tmp_path, 2, 0.5)
    assert checkpoint.steps(tmp_path) == [2, 5, 6]
    for damage in (b"", b"[3]", b"\xff", b'{"step": 2}'):
        (tmp_path / "best.json").write_bytes(damage)
        assert checkpoint.best(tmp_path) is None


@pytest.mark.long
def test_a_run_killed_at_random_moments_has_the_curve_of_one_that_was_not(sounds: Path, tmp_path: Path) -> None:
    """Real processes, killed by the system (SIGKILL) wherever they happen to be."""
    plan = tmp_path / "plan.json"
    plan.write_text(recipe(steps=12, checkpoint_every=2).to_json())
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    command = [sys.executable, "-m", "duotone", "train", str(plan), "--data", str(sounds), "--quiet", "--out"]
    environment = os.environ | {"DUOTONE_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(whole)], check=True, env=environment, capture_output=True)
    rng = random.Random(1)
    kills = 0
    while kills < 4:
        process = subprocess.Popen([*command, str(parts)], env=environment, stdout=subprocess.DEVNULL)
        target = len(curve(parts)) + rng.randrange(1, 4) if (parts / "log.jsonl").is_file() else 2
        while process.poll() is None and not ((parts / "log.jsonl").is_file() and len(curve(parts)) >= target):
            time.sleep(0.001)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    subprocess.run([*command, str(parts)], check=True, env=environment, capture_output=True)
    assert kills >= 2 and curve(parts) == curve(whole)
    assert [step for step, _, _ in curve(parts)] == list(range(12))
    assert load(parts / "codec").fingerprint == load(whole / "codec").fingerprint


def test_it_stops_when_asked_and_goes_on(sounds: Path, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    train(recipe(), sounds, tmp_path / "run", watchers=[asked.append], stop=lambda: len(asked) >= 3)
    assert len(asked) == 3
    assert checkpoint.steps(tmp_path / "run") == [1, 3]  # the first validation's, the best so far, and the last
    train(recipe(), sounds, tmp_path / "run")
    assert [s for s, _, _ in curve(tmp_path / "run")] == list(range(8))


def test_passes_of_a_step_add_up_to_the_step(sounds: Path, tmp_path: Path) -> None:
    """Without statistics over the batch, a batch in two passes has the gradient of the whole."""
    curves = []
    for accumulation in (1, 2):
        values = recipe(batch_size=4, steps=4, accumulation=accumulation).to_dict()
        values["objective"]["spread_weight"] = 0.0
        folder = tmp_path / str(accumulation)
        train(TrainRecipe.parse(values), sounds, folder)
        curves.append(curve(folder))
    for (_, loss, norm), (_, other_loss, other_norm) in zip(*curves, strict=True):
        assert loss == pytest.approx(other_loss, rel=1e-4) and norm == pytest.approx(other_norm, rel=1e-3)


@pytest.mark.parametrize("settings", [{"batch_size": 1}, {"batch_size": 2, "accumulation": 2}])
def test_one_example_a_pass_trains_in_bfloat16(settings: dict[str, int], sounds: Path, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    train(recipe(steps=2, precision="bfloat16", **settings), sounds, tmp_path, watchers=[seen.append])
    assert all(math.isfinite(r["loss"]) and r["grad_norm"] > 0 and r["bad_steps"] == 0 for r in seen)


def test_a_batch_that_cannot_be_shared_out_is_refused(sounds: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="multiple of 3"):
        train(recipe(accumulation=3), sounds, tmp_path)


@pytest.mark.parametrize("name", ["radam", "adamw", "muon"])
def test_every_optimizer_trains_and_resumes(name: str, sounds: Path, tmp_path: Path) -> None:
    values = recipe(steps=4, checkpoint_every=2).to_dict()
    values["optim"]["name"] = name
    train(TrainRecipe.parse(values), sounds, tmp_path / "whole")
    seen: list[Any] = []
    train(TrainRecipe.parse(values), sounds, tmp_path / "parts", watchers=[seen.append], stop=lambda: len(seen) >= 2)
    train(TrainRecipe.parse(values), sounds, tmp_path / "parts")
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")


def test_muon_takes_the_matrices_of_the_transformers_alone() -> None:
    module = ConsistencyObjective(SMALL, ConsistencySection())
    matrices, others = (
        {id(p) for g in o.param_groups for p in g["params"]} for o in make_optimizers(OptimSection(name="muon"), module)
    )
    names = {n for n, p in module.named_parameters() if id(p) in matrices}
    assert names and all("transformer.layers" in n and n.endswith("weight") and "norm" not in n for n in names)
    assert len(matrices) + len(others) == len(list(module.parameters())) and not matrices & others


def test_validation_and_listening(sounds: Path, tmp_path: Path) -> None:
    values = recipe(validate_every=4, listen_every=8, validation_batches=1, health_every=4).to_dict()
    seen: list[dict[str, Any]] = []
    train(TrainRecipe.parse(values), sounds, tmp_path, watchers=[seen.append], measure=measure)
    validated = [r["step"] for r in seen if "validation_loss" in r]
    assert validated == [0, 3, 7] and "listen_log_mel" in seen[7] and "level_entropy" in seen[3]
    assert all(r["validation_loss"] == r["validation_log_mel"] > 0 for r in seen if "validation_loss" in r)
    best = checkpoint.best(tmp_path)
    assert best is not None and best["loss"] == min(r["validation_loss"] for r in seen if "validation_loss" in r)
    folder = tmp_path / "samples" / "step-000000008"
    assert len(list(folder.glob("*.wav"))) == 2 * 5
    rows = json.loads((folder / "metrics.json").read_text())
    assert {(r["face"], r["strategy"]) for r in rows} == {
        (face, way) for face in ("continuous", "discrete") for way in ("parallel", "autoregressive")
    }
    page, problems = report_page(tmp_path)
    assert (
        not problems
        and page.count("<audio") == 10
        and "level_entropy" in page
        and "http" not in page.replace("http-equiv", "")
    )


def test_fine_tuning_from_a_codec(sounds: Path, tmp_path: Path) -> None:
    first = train(recipe(), sounds, tmp_path / "first")
    values = recipe(steps=1).to_dict()
    values["model"]["start_from"] = str(first)
    values["optim"] |= {"rate": 1e-9}
    second = train(TrainRecipe.parse(values), sounds, tmp_path / "second")
    wave = synthesize(5, 0.1)
    a, b = (load(f, dtype="float32").encode(wave).values for f in (first, second))
    assert torch.allclose(a, b, atol=0.02)  # but for a step of next to no length, and rounding to bfloat16
    one, other = load(first), load(second)
    assert one.provenance["began_from"] is None
    assert other.provenance["began_from"] == {"fingerprint": one.fingerprint, "provenance": one.provenance}


def test_trackers_get_the_figures(sounds: Path, tmp_path: Path) -> None:
    train(recipe(steps=2, trackers=["tensorboard"]), sounds, tmp_path)
    events = [p for p in tmp_path.rglob("events.out.tfevents.*") if p.stat().st_size > 100]
    assert events


def test_wandb_gets_the_figures(sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline: what would be sent lies in a file of its own format."""
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    train(recipe(steps=2, trackers=["wandb"]), sounds, tmp_path / "run")
    assert wandb.run is None  # ended with the training
    (written,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    content = written.read_bytes()
    assert b"grad_norm" in content and b"optim.rate" in content and b"level_entropy" in content


class Breaking(Objective):
    """A model whose loss is not finite at some steps."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.bad, self.calls = bad, 0

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        self.calls += 1
        factor = math.nan if self.calls - 1 in self.bad else 1.0
        return (self.weight * factor).sum() ** 2, {}


def run_breaking(sounds: Path, folder: Path, bad: set[int], limit: int) -> list[dict[str, Any]]:
    found = build_index(sounds, SoundSection(validation_share=0)).training
    seen: list[dict[str, Any]] = []
    model = Breaking(bad)
    task = Task(Crops(found, 48_000, 100, SoundSection(), 0), model, lambda weights, state: None, folder / "none")
    fit(task, recipe(max_bad_steps=limit), folder, [seen.append])
    assert torch.isfinite(model.weight).all()
    return seen


def test_bad_steps_are_skipped_counted_and_stop_the_run(sounds: Path, tmp_path: Path) -> None:
    seen = run_breaking(sounds, tmp_path, {2, 5}, 2)
    assert [r["bad_steps"] for r in seen] == [0, 0, 1, 1, 1, 2, 2, 2]
    (tmp_path / "again").mkdir()
    with pytest.raises(TrainingError, match="not finite"):
        run_breaking(sounds, tmp_path / "again", {2, 3, 5}, 2)
