"""What a training run shows in a terminal: progress, losses by noise level, the bottleneck's health with its warnings."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from duotone.cli.common import duration, stderr_console
from duotone.cli.failures import tell
from duotone.config import CoDiCodecConfig
from duotone.train.recipe import TrainRecipe

Watch = Callable[[dict[str, Any]], None]
Progress = Callable[[int, int], None]

#: Of each figure of health: when it is bad, and what to say then.
WARNINGS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("saturated_share", lambda v: v > 0.2, "latents saturate: lower objective.deviation or optim.rate"),
    ("pre_tanh_deviation", lambda v: v < 0.15, "latents die in the zero bin: raise objective.spread_weight"),
    ("level_entropy", lambda v: v < 0.6, "few of the FSQ levels are used"),
)
_AVERAGED = 50  # steps


def warnings(figures: dict[str, Any]) -> list[str]:
    """A line for each figure of health that has gone bad."""
    return [f"{key} {figures[key]:.3g}: {text}" for key, bad, text in WARNINGS if key in figures and bad(figures[key])]


class Board:
    """Collects figures and draws them."""

    def __init__(self, recipe: TrainRecipe, config: CoDiCodecConfig) -> None:
        self.recipe = recipe
        self.pair_seconds = 2 * config.chunk_samples / config.rate
        self.recent: deque[dict[str, Any]] = deque(maxlen=_AVERAGED)
        self.last: dict[str, Any] = {}  # the newest value of every figure
        self.first: int | None = None

    def add(self, figures: dict[str, Any]) -> None:
        """Take in a step's figures."""
        self.first = figures["step"] if self.first is None else self.first
        self.recent.append(figures)
        self.last |= figures

    def step_seconds(self) -> float:
        """Mean time of the recent steps."""
        return float(sum(f["seconds"] for f in self.recent)) / max(1, len(self.recent))

    def line(self) -> str:
        """The state in one line, for logs."""
        loss = sum(f["loss"] for f in self.recent) / len(self.recent)
        return (
            f"step {self.last['step'] + 1}/{self.recipe.train.steps}  loss {loss:.4g}  rate {self.last['rate']:.2e}  "
            f"gradient {self.last['grad_norm']:.3g}  {1 / max(1e-9, self.step_seconds()):.2f} steps/s  "
            f"{duration(self.left())} left"
        )

    def left(self) -> float:
        """Seconds to the end of the schedule."""
        return float(self.recipe.train.steps - self.last["step"] - 1) * self.step_seconds()

    def __rich__(self) -> RenderableType:
        """The live picture."""
        if not self.recent:
            return Text("starting ...")
        done, total = self.last["step"] + 1, self.recipe.train.steps
        speed = 1 / max(1e-9, self.step_seconds())
        sound = speed * self.recipe.train.batch_size * self.pair_seconds
        parts: list[RenderableType] = [
            Text(
                f"step {done:,} of {total:,}   {speed:.2f} steps/s   {sound:,.1f} s of sound/s   {duration(self.left())} left"
            ),
            ProgressBar(total=total, completed=done, width=72),
        ]
        table = Table(box=None, pad_edge=False, show_header=False)
        for _ in range(4):
            table.add_column()
        mean_loss = sum(f["loss"] for f in self.recent) / len(self.recent)
        cells = [("loss", mean_loss), ("learning rate", self.last["rate"]), ("gradient norm", self.last["grad_norm"]),
                 ("bad steps", self.last["bad_steps"])]  # fmt: skip
        shown = {"step", "loss", "rate", "grad_norm", "bad_steps", "seconds"}
        for key in sorted(set(self.last) - shown):
            seen = [f[key] for f in self.recent if key in f]
            value = sum(seen) / len(seen) if seen else self.last[key]
            if isinstance(value, int | float) and not (key in ("unreadable_files", "silent_crops") and not value):
                cells.append((key.replace("_", " "), value))
        for i in range(0, len(cells), 2):
            row = [text for name, value in cells[i : i + 2] for text in (name, f"{value:.4g}")]
            table.add_row(*row)
        parts.append(table)
        parts += [Text(f"warning: {line}", style="bold red") for line in warnings(self.last)]
        return Group(*parts)


@contextmanager
def display(recipe: TrainRecipe, quiet: bool) -> Iterator[tuple[Watch, Progress]]:
    """What watches the steps and the measuring of files: live in a terminal, a line now and then in a log."""
    board, console = Board(recipe, recipe.codec.build()), stderr_console()
    if quiet:
        yield board.add, lambda done, total: None
        return
    warned: set[str] = set()
    if not console.is_terminal:
        last = 0.0

        def watch(figures: dict[str, Any]) -> None:
            nonlocal last
            board.add(figures)
            for line in warnings(figures):
                if line.split(" ")[0] not in warned:
                    warned.add(line.split(" ")[0])
                    tell(f"warning: {line}")
            if time.monotonic() - last > 10 or figures["step"] + 1 == recipe.train.steps:
                last = time.monotonic()
                tell(board.line())

        yield watch, lambda done, total: None
        return
    from rich.live import Live

    with Live(Text("measuring files ..."), console=console, refresh_per_second=4) as live:

        def watch_live(figures: dict[str, Any]) -> None:
            board.add(figures)
            live.update(board)

        def progress(done: int, total: int) -> None:
            live.update(
                Group(
                    Text(f"measuring files: {done:,} of {total:,}"), ProgressBar(total=total, completed=done, width=72)
                )
            )

        yield watch_live, progress
