"""The training loop: reads top to bottom, knows no model. It takes an objective that turns samples into a loss."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from duotone.errors import DuotoneError
from duotone.train import checkpoint
from duotone.train.data import Crops
from duotone.train.recipe import TrainRecipe
from duotone.train.schedule import EMA, rate_factor


class TrainingError(DuotoneError):
    """Training cannot go on."""

    exit_code = 8


class Objective(Protocol):
    """What the loop needs of an objective (a `torch.nn.Module` with these two)."""

    def __call__(self, samples: Tensor, progress: float, generator: torch.Generator) -> Tensor: ...

    def health(self, samples: Tensor, seed: int = 0) -> dict[str, float]:
        """Figures on a batch that are too dear for every step."""
        ...


def make_optimizer(recipe: TrainRecipe, module: torch.nn.Module) -> torch.optim.Optimizer:
    """The recipe's optimizer over a module's parameters."""
    optim = recipe.optim
    kind = torch.optim.RAdam if optim.name == "radam" else torch.optim.AdamW
    return kind(module.parameters(), lr=optim.rate, betas=optim.betas, weight_decay=optim.weight_decay)


def fit(objective: Any, crops: Crops, recipe: TrainRecipe, run: Path, report: Callable[[dict[str, Any]], None]) -> EMA:
    """Train until `train.steps` (or `max_minutes`), resuming RUN's checkpoint; returns the averaged weights.

    Each step's figures go to RUN/log.jsonl and to `report`. Raises `TrainingError` after too many bad steps.
    """
    settings, device = recipe.train, torch.device(recipe.train.device)
    objective.to(device).train()
    optimizer = make_optimizer(recipe, objective)
    ema = EMA(objective, recipe.optim.ema_decay)
    first = checkpoint.load(run, objective, ema, optimizer)
    step_loss = torch.compile(objective) if settings.compile else objective
    bad, started = 0, time.monotonic()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context((run / "log.jsonl").open("a", encoding="utf-8"))
        batches = crops.batches(first, settings.steps, settings.batch_size)
        stack.callback(batches.close)  # type: ignore[attr-defined]
        for step, samples in enumerate(batches, start=first):
            begun = time.monotonic()
            samples = samples.to(device)
            generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
            factor = rate_factor(step, settings.steps, recipe.optim)
            for group in optimizer.param_groups:
                group["lr"] = recipe.optim.rate * factor

            with _autocast(settings.precision, device):
                loss = step_loss(samples, step / settings.steps, generator)
            loss.backward()
            norm = float(torch.nn.utils.clip_grad_norm_(objective.parameters(), recipe.optim.clip))

            value = float(loss.detach())
            if math.isfinite(value) and math.isfinite(norm):
                optimizer.step()
                ema.update(objective)
            else:
                bad += 1
                if bad > settings.max_bad_steps:
                    raise TrainingError(
                        f"{bad} steps had a loss or gradient that is not finite (last: step {step}, loss {value}). "
                        f"Lower optim.rate or use train.precision=float32; the last checkpoint is in {run}."
                    )
            optimizer.zero_grad(set_to_none=True)

            figures: dict[str, Any] = {
                "step": step, "loss": value, "grad_norm": norm, "rate": recipe.optim.rate * factor, "bad_steps": bad,
                "seconds": round(time.monotonic() - begun, 4),
            }  # fmt: skip
            if (step + 1) % settings.health_every == 0 or step + 1 == settings.steps:
                figures |= objective.health(samples)
            if (step + 1) % settings.log_every == 0:
                log.write(json.dumps(figures) + "\n")
                log.flush()
                report(figures)
            out_of_time = settings.max_minutes is not None and time.monotonic() - started > 60 * settings.max_minutes
            if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps or out_of_time:
                checkpoint.save(run, step + 1, objective, ema, optimizer)
            if out_of_time:
                break
    return ema


def _autocast(precision: str, device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """bfloat16 where asked for, or (auto) where matrix units for it exist; parameters stay in float32."""
    if precision == "auto":
        from duotone.codec.codicodec import best_dtype

        precision = str(best_dtype(device)).removeprefix("torch.")
    if precision == "bfloat16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
