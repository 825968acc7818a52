"""The training loop: reads top to bottom, knows no model. It takes an objective that turns samples into a loss.

Devices, mixed precision, gradient accumulation and processes (DDP, FSDP2) are Hugging Face Accelerate's: start it with
`accelerate launch` or `torchrun` and nothing here changes. A recipe's batch is that of a step, however it is shared out.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.distributed.fsdp import register_fsdp_forward_method

from duotone.errors import ConfigError, DuotoneError, UsageError
from duotone.train import checkpoint
from duotone.train.data import Crops
from duotone.train.draws import Draws
from duotone.train.optimizers import make_optimizers
from duotone.train.recipe import TrainRecipe
from duotone.train.schedule import EMA, rate_factor

if TYPE_CHECKING:
    from accelerate import Accelerator

LOG = "log.jsonl"

#: Figures of a step, for whoever watches: displays, trackers, tests.
Watcher = Callable[[dict[str, Any]], None]


class TrainingError(DuotoneError):
    """Training cannot go on."""

    exit_code = 8


class Objective(Protocol):
    """What the loop needs of an objective, a `torch.nn.Module`."""

    def __call__(self, samples: Tensor, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples `[B, 2, crop]` -> the loss, and tensors `[n]` to be shown, which `bands` sums up."""
        ...

    def bands(self, figures: dict[str, Tensor]) -> dict[str, float]:
        """Means to be shown, from those tensors."""
        ...

    def health(self, samples: Tensor, seed: int = 0) -> dict[str, float]:
        """Figures on a batch that are too dear for every step."""
        ...

    def save_memory(self) -> None:
        """Turn gradient checkpointing on."""
        ...

    def compile_parts(self) -> None:
        """Compile what is worth it."""
        ...


@dataclass
class Fitted:
    """What a run came to: the averaged weights by name, and where it stands."""

    weights: dict[str, Tensor]
    state: checkpoint.State
    main: bool  # whether this process writes files


def fit(
    objective: Any,
    crops: Crops,
    recipe: TrainRecipe,
    run: Path,
    watchers: Sequence[Watcher] = (),
    validate: Callable[[int, dict[str, Tensor]], dict[str, Any]] | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Fitted:
    """Train until `train.steps` (or `max_minutes`, or `stop` says so), going on from the run's newest checkpoint.

    Each step's figures go to RUN/log.jsonl and to `watchers`. `validate` is called after the first step (to have what the
    others can be compared with), every `validate_every` steps and after the last; its
    figure `validation_loss` chooses the best checkpoint. Raises `TrainingError` after too many bad steps.
    """
    settings, optim = recipe.train, recipe.optim
    accelerator = make_accelerator(recipe, run)
    positions = _own_positions(accelerator, recipe)
    if settings.gradient_checkpointing:
        objective.save_memory()
    if settings.compile:
        objective.compile_parts()
    sharded = accelerator.distributed_type == "FSDP"
    if sharded:  # only contiguous parameters can be; pictures stay in channels-last memory all the same
        for p in objective.parameters():
            p.data = p.data.contiguous()
    objective.train()
    model, *optimizers = accelerator.prepare(objective, *make_optimizers(optim, objective))
    inner = [getattr(optimizer, "optimizer", optimizer) for optimizer in optimizers]
    bare = accelerator.unwrap_model(model)
    if sharded:
        register_fsdp_forward_method(bare, "health")  # which needs the weights whole, as `forward` does
    ema = EMA(bare, optim.ema_decay)
    state = checkpoint.load(run, bare, ema, inner)
    bad, started, spent = state.bad_steps, time.monotonic(), state.seconds
    ended = started
    shown: list[dict[str, Tensor]] = []

    def save(step: int) -> checkpoint.State:
        now = checkpoint.State(step, bad, spent + time.monotonic() - started)
        main = accelerator.is_main_process
        checkpoint.save(run, now, bare, ema, inner, keep=settings.keep_checkpoints, main=main)
        accelerator.wait_for_everyone()
        return now

    with contextlib.ExitStack() as stack:
        write = stack.enter_context(_log(run, state.step, accelerator))
        stack.callback(accelerator.end_training)
        for step, samples in enumerate(crops.batches(state.step, settings.steps, positions), start=state.step):
            waited = time.monotonic() - ended
            factor = rate_factor(step, settings.steps, optim)
            for optimizer in inner:
                for group in optimizer.param_groups:
                    group["lr"] = group["full_rate"] * factor

            losses: list[Tensor] = []
            for part, place in _passes(samples, positions, settings.accumulation):
                draws = Draws(settings.seed, step, place, len(part), settings.batch_size)
                with accelerator.accumulate(model):
                    loss, figures = model(part.to(accelerator.device), step / settings.steps, draws)
                    accelerator.backward(loss)
                    losses.append(loss.detach())
                    shown.append({k: v.detach() for k, v in figures.items()})
            norm = float(accelerator.clip_grad_norm_(model.parameters(), optim.clip))
            value = float(accelerator.reduce(torch.stack(losses).mean(), "mean"))

            if math.isfinite(value) and math.isfinite(norm):
                for optimizer in optimizers:
                    optimizer.step()
                ema.update(bare)
            else:
                bad += 1
                if bad > settings.max_bad_steps:
                    raise TrainingError(
                        f"{bad} steps had a loss or gradient that is not finite (last: step {step}, loss {value}). "
                        f"Lower optim.rate or use train.precision=float32; the last checkpoint is in {run}."
                    )
            for optimizer in optimizers:
                optimizer.zero_grad(set_to_none=True)

            record: dict[str, Any] = {
                "step": step, "loss": value, "grad_norm": norm, "rate": optim.rate * factor, "bad_steps": bad,
                "seconds": round(time.monotonic() - ended, 4), "waiting_for_data": round(waited, 4),
            }  # fmt: skip
            ended = time.monotonic()
            done = step + 1
            last = done == settings.steps
            if done % settings.health_every == 0 or last:
                record |= bare.health(samples.to(accelerator.device))
            if validate is not None and (done == 1 or done % settings.validate_every == 0 or last):
                record |= _validated(run, done, save, validate, ema, accelerator)
            if done % settings.log_every == 0 or last:
                record |= bare.bands({k: torch.cat([f[k].float() for f in shown]) for k in shown[0]}) if shown else {}
                record |= {"unreadable_files": len(crops.unreadable), "silent_crops": crops.silent_crops}
                shown.clear()
                write(record)
                for watcher in watchers if accelerator.is_main_process else ():
                    watcher(record)
            out_of_time = settings.max_minutes is not None and time.monotonic() - started > 60 * settings.max_minutes
            ending = last or out_of_time or _anyone(stop(), accelerator)
            if done % settings.checkpoint_every == 0 or ending:
                state = save(done)
            if ending:
                break
        return Fitted(ema.full(), state, accelerator.is_main_process)  # still inside: shards are gathered


def make_accelerator(recipe: TrainRecipe, run: Path) -> Accelerator:
    """Accelerate's view of the machine, as the recipe wants it. Raises `UsageError` when accelerate is not installed."""
    try:
        from accelerate import Accelerator
        from accelerate.state import AcceleratorState
    except ImportError:
        raise UsageError("Training needs Hugging Face Accelerate. Install it: pip install 'duotone[train]'.") from None

    settings = recipe.train
    AcceleratorState._reset_state()  # a second run in one process may want another precision
    wanted = settings.device
    missing = (wanted == "cuda" and not torch.cuda.is_available()) or (
        wanted == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise ConfigError(f"train.device got {wanted}, but PyTorch sees no such device here. Use train.device=auto.")
    try:
        accelerator = Accelerator(
            cpu=wanted == "cpu",
            mixed_precision="bf16" if _bfloat16(recipe) else "no",
            gradient_accumulation_steps=settings.accumulation,
            log_with=list(settings.trackers) or None,
            project_dir=run,
        )
        if settings.trackers:
            accelerator.init_trackers("duotone", config=_flat(recipe.to_dict()))
    except (ImportError, ValueError) as error:
        raise UsageError(f"A tracker of train.trackers={list(settings.trackers)} cannot start: {error}") from None
    return accelerator


def _bfloat16(recipe: TrainRecipe) -> bool:
    """bfloat16 where asked for, or (auto) where matrix units for it exist; parameters stay in float32."""
    if recipe.train.precision != "auto":
        return recipe.train.precision == "bfloat16"
    from duotone.codec.codicodec import best_dtype

    wanted = recipe.train.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return best_dtype(torch.device(wanted)) == torch.bfloat16


def _own_positions(accelerator: Accelerator, recipe: TrainRecipe) -> range:
    """The places of this process's examples in a step's batch. Raises `ConfigError` unless it divides evenly."""
    total, world, passes = recipe.train.batch_size, accelerator.num_processes, recipe.train.accumulation
    if total % (world * passes):
        raise ConfigError(
            f"train.batch_size got {total}, expected a multiple of {world * passes} "
            f"({world} processes x train.accumulation {passes})."
        )
    own = total // world
    return range(accelerator.process_index * own, (accelerator.process_index + 1) * own)


def _passes(samples: Tensor, positions: range, count: int) -> Iterator[tuple[Tensor, int]]:
    """The parts of a process's examples that are computed one after the other, with the place of each part's first."""
    size = len(samples) // count
    for i in range(count):
        yield samples[i * size : (i + 1) * size], positions.start + i * size


def _validated(
    run: Path,
    done: int,
    save: Callable[[int], checkpoint.State],
    validate: Callable[[int, dict[str, Tensor]], dict[str, Any]],
    ema: EMA,
    accelerator: Accelerator,
) -> dict[str, Any]:
    """Validate; where it is the best so far, keep this step's checkpoint."""
    weights = ema.full()
    figures = validate(done, weights) if accelerator.is_main_process else {}
    better = False
    if accelerator.is_main_process and "validation_loss" in figures:
        before = checkpoint.best(run)
        better = before is None or figures["validation_loss"] < before["loss"]
    if _anyone(better, accelerator):
        save(done)
        if accelerator.is_main_process:
            checkpoint.record_best(run, done, figures["validation_loss"])
    return figures


def _anyone(flag: bool, accelerator: Accelerator) -> bool:
    """Whether the flag is set in any process."""
    if accelerator.num_processes == 1:
        return flag
    total = accelerator.reduce(torch.tensor(float(flag), device=accelerator.device), "sum")
    return bool(total > 0)


@contextlib.contextmanager
def _log(run: Path, first: int, accelerator: Accelerator) -> Iterator[Callable[[dict[str, Any]], None]]:
    """RUN/log.jsonl, cut back to the steps before `first` (what came after them was lost with the interruption)."""
    if not accelerator.is_main_process:
        yield lambda record: None
        return
    path = run / LOG
    kept = [line for line in read_log(path) if line["step"] < first]
    temporary = path.with_suffix(".writing")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)
    with path.open("a", encoding="utf-8") as file:

        def write(record: dict[str, Any]) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()
            if accelerator.trackers:
                numbers = {k: v for k, v in record.items() if isinstance(v, int | float)}
                accelerator.log(numbers, step=record["step"])

        yield write


def read_log(path: Path) -> list[dict[str, Any]]:
    """The records of a run's log; a last line that was cut off by a crash is left out."""
    if not path.is_file():
        return []
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return records


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and plain values, as trackers want them."""
    out: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            out |= _flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value if isinstance(value, int | float | str | bool) else str(value)
    return out
