"""The training loop, independent of models and kinds of data.

A task consists of four parts (see `task`). Hugging Face Accelerate handles devices, mixed precision, gradient accumulation
and processes (DDP, FSDP2): start the program with `accelerate launch` or `torchrun`. A recipe's batch size is that of a
step over all processes.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method

from duotone.errors import DuotoneError
from duotone.train import checkpoint
from duotone.train.accelerators import anyone, make_accelerator, own_positions
from duotone.train.draws import Draws
from duotone.train.log import LOG, Record, writing_log
from duotone.train.optimizers import Optimizers
from duotone.train.read_ahead import read_ahead
from duotone.train.recipe import TrainRecipe
from duotone.train.schedule import EMA, rate_factor
from duotone.train.task import Batch, Objective, Task

#: Takes the metrics of a step: displays, trackers, tests.
Watcher = Callable[[Record], None]


class TrainingError(DuotoneError):
    """Training cannot continue."""

    exit_code = 8


@dataclass
class Fitted:
    """The result of a run: the averaged weights by name, and its state."""

    weights: dict[str, Tensor]
    state: checkpoint.State
    main: bool  # whether this process writes files


def fit(
    task: Task,
    recipe: TrainRecipe,
    run: Path,
    watchers: Sequence[Watcher] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train until `train.steps` (or `max_minutes`, or until `stop` returns true), from the run's newest checkpoint on.

    Each step's metrics go to RUN/log.jsonl and to `watchers`. The task is validated after the first step (as a
    reference), every `validate_every` steps and after the last. Raises `TrainingError` after too
    many bad steps.
    """
    settings = recipe.train
    fitting = _Fitting(task, recipe, run)
    state, accelerator = fitting.state, fitting.accelerator
    with contextlib.ExitStack() as stack:
        write = stack.enter_context(fitting.log())
        stack.callback(accelerator.end_training)
        batches = read_ahead(task.examples, state.step, settings.steps, fitting.positions)
        stack.enter_context(contextlib.closing(batches))
        for step in range(state.step, settings.steps):
            asked = time.monotonic()
            batch = next(batches)
            waited = time.monotonic() - asked
            loss, norms = fitting.step(step, batch)
            done, last = step + 1, step + 1 == settings.steps
            record = fitting.record(step, loss, norms, waited)
            if done % settings.health_every == 0 or last:
                record |= fitting.bare.health(fitting.on_device(batch))
            if done == 1 or done % settings.validate_every == 0 or last:
                record |= fitting.validate(done)
            if done % settings.log_every == 0 or last:
                record |= fitting.summary() | task.examples.status()
                write(record)
                for watcher in watchers if accelerator.is_main_process else ():
                    watcher(record)
            ending = last or anyone(fitting.out_of_time() or stop(), accelerator)
            if done % settings.checkpoint_every == 0 or ending:
                state = fitting.save(done)
            if ending:
                break
        return Fitted(
            fitting.ema.full(), state, accelerator.is_main_process
        )  # still inside the block: shards are gathered


class _Fitting:
    """The state of a run (model, optimizers, averages, counters), and the operations of a step."""

    def __init__(self, task: Task, recipe: TrainRecipe, run: Path) -> None:
        self.task, self.recipe, self.run = task, recipe, run
        settings, objective = recipe.train, task.objective
        self.positions = own_positions(settings)
        self.accelerator = make_accelerator(recipe, objective, run)
        if settings.gradient_checkpointing:
            objective.save_memory()
        if settings.compile:
            objective.compile_parts()
        sharded = self.accelerator.distributed_type == "FSDP"
        if sharded:  # only contiguous parameters can be; feature maps stay in channels-last memory all the same
            for p in objective.parameters():
                p.data = p.data.contiguous()
        objective.train()
        groups = objective.optimizers(recipe.optim)
        self.model, *self.optimizers = self.accelerator.prepare(objective, *(o for g in groups.values() for o in g))
        self.bare: Objective = self.accelerator.unwrap_model(self.model)
        if sharded:
            register_fsdp_forward_method(self.bare, "health")  # it needs unsharded weights, as `forward` does
        inner = iter([getattr(optimizer, "optimizer", optimizer) for optimizer in self.optimizers])
        self.groups: Optimizers = {name: [next(inner) for _ in several] for name, several in groups.items()}
        self.ema = EMA(self.bare, recipe.optim.ema_decay, set(self.bare.averaged()))
        self.state = checkpoint.load(run, self.bare, self.ema, self.groups)
        self.bad = self.state.bad_steps
        self.values: list[dict[str, Tensor]] = []  # values of the objective since the last record
        self.started = self.recorded = time.monotonic()

    def on_device(self, batch: Batch) -> Batch:
        """The batch on the model's device."""
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}

    def step(self, step: int, batch: Batch) -> tuple[float, dict[str, float]]:
        """One step of every optimizer: the loss, and the norm of the gradients of each group before clipping.

        A step whose loss or gradients are not finite changes no weights; too many such steps raise `TrainingError`.
        """
        settings, optim = self.recipe.train, self.recipe.optim
        factor = rate_factor(step, settings.steps, optim)
        for optimizer in (o for several in self.groups.values() for o in several):
            for group in optimizer.param_groups:
                group["lr"] = group["full_rate"] * factor

        losses: list[Tensor] = []
        for part, place in _passes(batch, self.positions, settings.accumulation):
            draws = Draws(settings.seed, step, place, len(next(iter(part.values()))), settings.batch_size)
            with self.accelerator.accumulate(self.model):
                loss, values = self.model(self.on_device(part), step / settings.steps, draws)
                self.accelerator.backward(loss)
                losses.append(loss.detach())
                self.values.append({k: v.detach() for k, v in values.items()})
        norms = {name: self._clip(several) for name, several in self.groups.items()}
        value = float(self.accelerator.reduce(torch.stack(losses).mean(), "mean"))

        if math.isfinite(value) and all(map(math.isfinite, norms.values())):
            for optimizer in self.optimizers:
                optimizer.step()
            self.ema.update(self.bare)
            self.bare.after_step()
        else:
            self._count_bad_step(step, value)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        return value, norms

    def _clip(self, optimizers: list[torch.optim.Optimizer]) -> float:
        """Clip the gradients of a group of optimizers together; returns their norm before clipping."""
        trained = {id(p) for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]}
        parameters = [p for p in self.model.parameters() if id(p) in trained]
        return float(self.accelerator.clip_grad_norm_(parameters, self.recipe.optim.clip))

    def _count_bad_step(self, step: int, loss: float) -> None:
        self.bad += 1
        if self.bad > self.recipe.train.max_bad_steps:
            raise TrainingError(
                f"{self.bad} steps had a loss or gradient that is not finite (last: step {step}, loss {loss}). "
                f"Lower optim.rate or use train.precision=float32; the last checkpoint is in {self.run}."
            )

    def record(self, step: int, loss: float, norms: dict[str, float], waited: float) -> Record:
        """The log's record of a step. `seconds` is the time since the previous record, including validation."""
        now = time.monotonic()
        seconds, self.recorded = now - self.recorded, now
        optim = self.recipe.optim
        first, *others = norms
        return {
            "step": step, "loss": loss, "grad_norm": norms[first],
            **{f"grad_norm_{name}": norms[name] for name in others},
            "rate": optim.rate * rate_factor(step, self.recipe.train.steps, optim), "bad_steps": self.bad,
            "seconds": round(seconds, 4), "waiting_for_data": round(waited, 4),
        }  # fmt: skip

    def summary(self) -> dict[str, float]:
        """Metrics from the objective's values since the last summary."""
        if not self.values:
            return {}
        values = {k: torch.cat([v[k].float() for v in self.values]) for k in self.values[0]}
        self.values.clear()
        return self.bare.summarise(values)

    def validate(self, done: int) -> dict[str, Any]:
        """Validate the averaged weights; if they are the best so far, keep this step's checkpoint."""
        if self.task.validation is None:
            return {}
        weights, main = self.ema.full(), self.accelerator.is_main_process
        metrics = self.task.validation(done, weights) if main else {}
        loss = metrics.get("validation_loss")
        best = checkpoint.best(self.run) if main else None
        better = loss is not None and math.isfinite(loss) and (best is None or loss < best["loss"])
        if anyone(better, self.accelerator):
            self.save(done)
            if main and loss is not None:
                checkpoint.record_best(self.run, done, loss)
        return metrics

    def save(self, done: int) -> checkpoint.State:
        """Write a checkpoint."""
        now = checkpoint.State(done, self.bad, self.state.seconds + time.monotonic() - self.started)
        checkpoint.save(
            self.run, now, self.bare, self.ema, self.groups, keep=self.recipe.train.keep_checkpoints,
            main=self.accelerator.is_main_process,
        )  # fmt: skip
        self.accelerator.wait_for_everyone()
        return now

    def out_of_time(self) -> bool:
        """Whether the run has used its `max_minutes`."""
        minutes = self.recipe.train.max_minutes
        return minutes is not None and time.monotonic() - self.started > 60 * minutes

    @contextlib.contextmanager
    def log(self) -> Iterator[Callable[[Record], None]]:
        """Write to RUN/log.jsonl and the trackers; only the main process writes."""
        if not self.accelerator.is_main_process:
            yield lambda record: None
            return
        with writing_log(self.run / LOG, self.state.step) as to_file:

            def write(record: Record) -> None:
                to_file(record)
                if self.accelerator.trackers:
                    numbers = {k: v for k, v in record.items() if isinstance(v, int | float)}
                    self.accelerator.log(numbers, step=record["step"])

            yield write


def _passes(batch: Batch, positions: range, count: int) -> Iterator[tuple[Batch, int]]:
    """The passes of a process's examples, each with the position of its first example."""
    size = len(positions) // count
    for i in range(count):
        yield {k: v[i * size : (i + 1) * size] for k, v in batch.items()}, positions.start + i * size
