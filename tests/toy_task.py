"""A task that has nothing to do with sound: two networks that play against each other, on vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from duotone.atomic import write_json
from duotone.train.checkpoint import State
from duotone.train.draws import Draws
from duotone.train.log import LOG, read_log
from duotone.train.optimizers import Optimizers, make_optimizers
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from duotone.train.sections import DataSection, ModelSection, ObjectiveSection, Parts
from duotone.train.settings import OptimSection
from duotone.train.task import Batch, Examples, Objective, Task, Validation, frozen


class Vectors(Examples):
    """Points near the unit circle."""

    def __init__(self, seed: int) -> None:
        self.seed, self.workers = seed, 2

    def batch(self, step: int, positions: range) -> Batch:
        points = [torch.Generator().manual_seed(self.seed + 1000 * step + i) for i in positions]
        angles = torch.stack([torch.rand((), generator=g) for g in points]) * 6.283
        return {"points": torch.stack([angles.cos(), angles.sin()], 1)}

    def status(self) -> dict[str, float]:
        return {"points_refused": 0}


class Duel(Objective):
    """A generator of points, a discriminator that joins at half of the training, and a teacher: the generator's average."""

    def __init__(self, rate_of_judge: float) -> None:
        super().__init__()
        self.rate_of_judge = rate_of_judge
        self.generator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 1))
        self.teacher: Tensor
        self.register_buffer("teacher", torch.zeros(8, 2))

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        real = batch["points"]
        fake = self.generator(draws.noise("noise", (2,), real.device))
        loss = (fake.norm(dim=1) - 1).square().mean() + (self.generator[0].weight - self.teacher).square().mean()
        values = {"radius": fake.norm(dim=1)}
        if progress >= 0.5:
            with frozen(self.discriminator):
                loss = loss + nn.functional.softplus(-self.discriminator(fake)).mean()
            told_apart = nn.functional.softplus(self.discriminator(fake.detach()))
            loss = loss + (told_apart + nn.functional.softplus(-self.discriminator(real))).mean()
        return loss, values

    def optimizers(self, optim: OptimSection) -> Optimizers:
        other = optim.model_copy(update={"rate": self.rate_of_judge, "name": "adamw"})
        return {
            "generator": make_optimizers(optim, self.generator),
            "discriminator": make_optimizers(other, self.discriminator),
        }

    def averaged(self) -> list[str]:
        return [name for name in super().averaged() if name.startswith("generator.")]

    @torch.no_grad()
    def after_step(self) -> None:
        self.teacher.lerp_(self.generator[0].weight, 0.1)


class Radius(Validation):
    """How far the averaged generator's last bias is from nothing."""

    def __call__(self, done: int, weights: dict[str, Tensor]) -> dict[str, Any]:
        return {"validation_loss": float(weights["generator.2.bias"].norm())}


class ToyModel(ModelSection):
    """No fields but the kind."""

    kind: Literal["toy"] = "toy"


class ToyData(DataSection):
    """No fields but the kind."""

    kind: Literal["toy"] = "toy"


class ToyObjective(ObjectiveSection):
    """The duel."""

    kind: Literal["toy"] = "toy"
    rate_of_judge: float = 2e-3

    def task(self, parts: Parts) -> Task:
        torch.manual_seed(parts.train.seed)
        target = parts.run / "generator.json"

        def export(weights: dict[str, Tensor], state: State) -> None:
            write_json(target, {"steps": state.step, **{name: value.tolist() for name, value in weights.items()}})

        return Task(
            Vectors(parts.train.seed), Duel(self.rate_of_judge), export, target, Radius(),
            {"sources": " ".join(parts.sources)},
        )  # fmt: skip


def toy_values(**train: Any) -> dict[str, Any]:
    """A recipe of the duel, as plain values."""
    return {
        "model": {"kind": "toy"},
        "objective": {"kind": "toy"},
        "data": {"kind": "toy"},
        "optim": {"rate": 1e-2, "warmup_steps": 1, "ema_decay": 0.9, "schedule": "constant"},
        "train": {
            "steps": 10, "batch_size": 4, "checkpoint_every": 3, "validate_every": 4, "precision": "float32",
            "device": "cpu", **train,
        },
    }  # fmt: skip


def train_until(step: int, recipe: TrainRecipe, run: Path) -> int:
    """Train, and stop after this step; the step that was the last."""
    seen: list[int] = []
    train(recipe, "points", run, watchers=[lambda record: seen.append(record["step"])], stop=lambda: seen[-1] >= step)
    return seen[-1]


def curve(run: Path) -> list[tuple[Any, ...]]:
    """What the log says that does not depend on time."""
    return [
        tuple((k, v) for k, v in r.items() if k not in ("seconds", "waiting_for_data")) for r in read_log(run / LOG)[0]
    ]
