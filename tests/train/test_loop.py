"""The loop: schedules, averaging, data, resume bit for bit, bad steps, recipes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, ConfigError
from duotone.hub import load
from duotone.train import checkpoint
from duotone.train.data import Crops, index
from duotone.train.loop import TrainingError, fit, make_optimizer
from duotone.train.recipe import DataSection, OptimSection, TrainRecipe
from duotone.train.run import train
from duotone.train.schedule import EMA, rate_factor
from small import SMALL

RECIPES = sorted((Path(__file__).resolve().parents[2] / "recipes").glob("*.yaml"))


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
            "codec": {"preset": "tiny", "replace": SMALL.to_dict()},
            "objective": {"denoising_share": 0.5},
            "optim": {"rate": 1e-3, "warmup_steps": 2, "ema_decay": 0.9},
            "train": {"steps": 8, "batch_size": 2, "checkpoint_every": 3, "health_every": 100, "precision": "float32"}
            | train,
        }
    )


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_shipped_recipes_are_valid(path: Path) -> None:
    assert TrainRecipe.load(path).codec.build().family == "codicodec"


def test_overrides(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("train: {steps: 5}\n")
    loaded = TrainRecipe.load(path, ["train.batch_size=3", "optim.rate=2e-3", "codec.replace.latents=64"])
    assert (loaded.train.steps, loaded.train.batch_size, loaded.optim.rate) == (5, 3, 2e-3)
    assert loaded.codec.replace == {"latents": 64}
    for wrong in ("train.stepz=5", "nothing=1", "train.steps.more=2", "train.steps"):
        with pytest.raises(ConfigError):
            TrainRecipe.load(path, [wrong])
    with pytest.raises(ConfigError, match="batch_size"):
        TrainRecipe.load(path, ["train.batch_size=0"])


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
    found, skipped = index(sounds)
    assert len(found) == 4 and len(skipped) == 1 and "broken.wav" in skipped[0]
    with pytest.raises(AudioError, match="holds no sound"):
        index(tmp_path)
    with pytest.raises(AudioError, match="no folder"):
        index(tmp_path / "none")


def test_crops_are_a_function_of_seed_step_and_place(sounds: Path) -> None:
    found, _ = index(sounds)
    crops = Crops(found, 48_000, 5_000, DataSection(), 4)
    assert torch.equal(crops.example(3, 1), Crops(found, 48_000, 5_000, DataSection(), 4).example(3, 1))
    assert not torch.equal(crops.example(3, 1), crops.example(3, 2))
    batches = list(crops.batches(5, 9, 2))
    assert [b.shape for b in batches] == [torch.Size([2, 2, 5_000])] * 4
    assert torch.equal(batches[2][1], crops.example(7, 1))
    long = Crops(found, 48_000, 100_000, DataSection(mixing_share=0), 4).example(0, 0)
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
            train(recipe(), sounds, tmp_path / "parts", report=stop_at(step))
    train(recipe(), sounds, tmp_path / "parts")
    last = {s: (a, b) for s, a, b in curve(tmp_path / "parts")}
    assert last == {s: (a, b) for s, a, b in curve(tmp_path / "whole")} and len(last) == 8
    a, b = load(tmp_path / "whole" / "codec"), load(tmp_path / "parts" / "codec")
    assert a.fingerprint == b.fingerprint
    assert a.provenance["steps"] == 8 and a.provenance["examples"] == 16


def test_a_checkpoint_killed_between_renames_is_found(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 2)
    optimizer = make_optimizer(recipe(), module)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    ema = EMA(module, 0.9)
    checkpoint.save(tmp_path, 5, module, ema, optimizer)
    (tmp_path / "checkpoint").rename(tmp_path / ".checkpoint.old")
    other = torch.nn.Linear(2, 2)
    fresh = make_optimizer(recipe(), other)
    assert checkpoint.load(tmp_path, other, EMA(other, 0.9), fresh) == 5
    assert torch.equal(other.weight, module.weight)
    assert fresh.state_dict()["state"][0]["exp_avg"].equal(optimizer.state_dict()["state"][0]["exp_avg"])


class Breaking(torch.nn.Module):
    """A model whose loss is not finite at some steps."""

    def __init__(self, bad: set[int]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.bad, self.calls = bad, 0

    def forward(self, samples: torch.Tensor, progress: float, generator: torch.Generator) -> torch.Tensor:
        self.calls += 1
        factor = math.nan if self.calls - 1 in self.bad else 1.0
        return (self.weight * factor).sum() ** 2

    def health(self, samples: torch.Tensor, seed: int = 0) -> dict[str, float]:
        return {}


def run_breaking(sounds: Path, folder: Path, bad: set[int], limit: int) -> list[dict[str, Any]]:
    found, _ = index(sounds)
    seen: list[dict[str, Any]] = []
    model = Breaking(bad)
    fit(model, Crops(found, 48_000, 100, DataSection(), 0), recipe(max_bad_steps=limit), folder, seen.append)
    assert torch.isfinite(model.weight).all()
    return seen


def test_bad_steps_are_skipped_counted_and_stop_the_run(sounds: Path, tmp_path: Path) -> None:
    seen = run_breaking(sounds, tmp_path, {2, 5}, 2)
    assert [r["bad_steps"] for r in seen] == [0, 0, 1, 1, 1, 2, 2, 2]
    (tmp_path / "again").mkdir()
    with pytest.raises(TrainingError, match="not finite"):
        run_breaking(sounds, tmp_path / "again", {2, 3, 5}, 2)
