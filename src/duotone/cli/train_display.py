"""What a training run shows in a terminal: progress, metrics, and warnings about bad metrics."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from duotone.cli.common import duration, stderr_console
from duotone.cli.failures import tell
from duotone.train.log import Record
from duotone.train.recipe import TrainRecipe
from duotone.train.sections import Warn

Watch = Callable[[Record], None]
Progress = Callable[[int, int], None]

_AVERAGED = 50  # steps
#: Counts that are shown only where there are any.
_COUNTS = ("unreadable_files", "silent_crops")


def warnings(metrics: Record, watched: Sequence[Warn]) -> list[str]:
    """A line for each monitored metric whose value is bad."""
    values = [(w, metrics[w.metric]) for w in watched if isinstance(metrics.get(w.metric), int | float)]
    return [f"{w.metric} {value:.3g}: {w.advice}" for w, value in values if w.bad(value)]


class Board:
    """Collects metrics and displays them."""

    def __init__(self, recipe: TrainRecipe) -> None:
        self.recipe = recipe
        self.seconds = recipe.seconds()  # of audio in an example
        self.recent: deque[Record] = deque(maxlen=_AVERAGED)
        self.last: Record = {}  # the newest value of every metric

    def add(self, metrics: Record) -> None:
        """Add a step's metrics."""
        self.recent.append(metrics)
        self.last |= metrics

    def mean(self, key: str) -> float:
        """Mean of a metric over the recent steps that have it, else its newest value."""
        seen = [record[key] for record in self.recent if isinstance(record.get(key), int | float)]
        return sum(seen) / len(seen) if seen else float(self.last[key])

    def step_seconds(self) -> float:
        """Mean time of a step."""
        return max(1e-9, self.mean("seconds"))

    def left(self) -> float:
        """Seconds to the end of the schedule."""
        return float(self.recipe.train.steps - self.last["step"] - 1) * self.step_seconds()

    def line(self) -> str:
        """The state in one line, for logs."""
        return (
            f"step {self.last['step'] + 1}/{self.recipe.train.steps}  loss {self.mean('loss'):.4g}  "
            f"rate {self.last['rate']:.2e}  gradient {self.last['grad_norm']:.3g}  "
            f"{1 / self.step_seconds():.2f} steps/s  {duration(self.left())} left"
        )

    def __rich__(self) -> RenderableType:
        """The live display."""
        if not self.recent:
            return Text("starting ...")
        done, total = self.last["step"] + 1, self.recipe.train.steps
        speed = 1 / self.step_seconds()
        examples = speed * self.recipe.train.batch_size
        if self.seconds is None:
            rate = f"{examples:,.1f} examples/s"
        else:
            rate = f"{examples * self.seconds:,.1f} s of sound/s"
        head = f"step {done:,} of {total:,}   {speed:.2f} steps/s   {rate}   {duration(self.left())} left"
        lines = warnings(self.last, self.recipe.objective.warnings)
        return Group(
            Text(head),
            ProgressBar(total=total, completed=done, width=72),
            self._table(),
            *(Text(f"warning: {line}", style="bold red") for line in lines),
        )

    def _table(self) -> Table:
        """All metrics of the log, two per row."""
        table = Table(box=None, pad_edge=False, show_header=False)
        for _ in range(4):
            table.add_column()
        cells = [("loss", self.mean("loss")), ("learning rate", self.last["rate"]),
                 ("gradient norm", self.last["grad_norm"]), ("bad steps", self.last["bad_steps"])]  # fmt: skip
        shown = {"step", "loss", "rate", "grad_norm", "bad_steps", "seconds"}
        for key in sorted(set(self.last) - shown):
            if isinstance(self.last[key], int | float) and not (key in _COUNTS and not self.last[key]):
                cells.append((key.replace("_", " "), self.mean(key)))
        for i in range(0, len(cells), 2):
            table.add_row(*(text for name, value in cells[i : i + 2] for text in (name, f"{value:.4g}")))
        return table


@contextmanager
def display(recipe: TrainRecipe, quiet: bool) -> Iterator[tuple[Watch, Progress]]:
    """Callbacks for training steps and for measuring files: a live display in a terminal, else occasional lines."""
    board, console = Board(recipe), stderr_console()
    if quiet:
        yield board.add, lambda done, total: None
    elif console.is_terminal:
        with _live(board) as watching:
            yield watching
    else:
        yield _lines(board), lambda done, total: None


def _lines(board: Board) -> Watch:
    """Prints a line every ten seconds and at the end, and each warning once."""
    warned: set[str] = set()
    last = 0.0

    def watch(metrics: Record) -> None:
        nonlocal last
        board.add(metrics)
        for line in warnings(metrics, board.recipe.objective.warnings):
            advice = line.split(": ", 1)[1]
            if advice not in warned:
                warned.add(advice)
                tell(f"warning: {line}")
        if time.monotonic() - last > 10 or metrics["step"] + 1 == board.recipe.train.steps:
            last = time.monotonic()
            tell(board.line())

    return watch


@contextmanager
def _live(board: Board) -> Iterator[tuple[Watch, Progress]]:
    from rich.live import Live

    with Live(Text("starting ..."), console=stderr_console(), refresh_per_second=4) as live:

        def watch(metrics: Record) -> None:
            board.add(metrics)
            live.update(board)

        def progress(done: int, total: int) -> None:
            text, bar = f"measuring files: {done:,} of {total:,}", ProgressBar(total=total, completed=done, width=72)
            live.update(Group(Text(text), bar))

        yield watch, progress
