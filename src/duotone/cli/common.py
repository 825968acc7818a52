"""What the commands share: options, running over several files, and showing progress."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from duotone.cli.failures import EXPECTED, debugging, require_stdout, tell, verdict
from duotone.cli.files import Job
from duotone.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

Codec = Annotated[
    str | None,
    typer.Option(
        "--codec", metavar="CODEC", help="Bundled name, folder, .pt file or org/name on the Hub (default: tiny)."
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:N or mps.")]
Dtype = Annotated[str, typer.Option(help="auto (the fastest that the device has), float32, bfloat16 or float16.")]
Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on standard output, an object a line.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no summary; warnings and errors stay.")]


def stderr_console() -> Console:
    """A console for progress, on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def binary_stdout() -> BinaryIO:
    """Standard output for bytes. Raises `UsageError` when it is a terminal, which bytes would garble, or closed."""
    require_stdout()
    if sys.stdout.isatty():
        raise UsageError("Standard output is a terminal, which cannot show this. Redirect it, or name a file with -o.")
    return sys.stdout.buffer


class Reporter:
    """Tells people (standard error) and machines (standard output, `--json`) how it goes."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet

    def result(self, figures: dict[str, Any], line: str) -> None:
        """What came of one file: an object for machines, a line for people."""
        if self.as_json:
            typer.echo(json.dumps(figures))
        elif not self.quiet:
            tell(line)

    def run(self, jobs: list[Job], work: Callable[[Job], tuple[dict[str, Any], str]]) -> None:
        """Do every job, going on after one that fails; exits with the first failure's code if any failed.

        Raises `UsageError` when JSON and the output itself would both go to standard output.
        """
        if self.as_json and jobs[0].target == "-":
            raise UsageError("--json and -o - would both write to standard output. Name a file with -o.")
        if self.as_json:
            require_stdout()
        code = 0
        for number, job in enumerate(jobs, start=1):
            try:
                self.result(*work(job))
            except BrokenPipeError:
                raise
            except EXPECTED as error:
                found = verdict(error)
                if found is None or debugging():
                    raise
                message, code = found[0], code or found[1]
                if self.as_json:
                    typer.echo(json.dumps({"input": job.source, "error": message, "exit_code": found[1]}))
                at = f"{job.source}: " if len(jobs) > 1 and job.source not in message else ""
                tell(f"error: {at}{message}")
                if len(jobs) > 1 and number < len(jobs):
                    tell("Going on with the other files.")
        if code:
            raise typer.Exit(code)

    @contextmanager
    def progress(self, name: str, seconds: float | None) -> Iterator[Callable[[float], None]]:
        """A bar with share, speed (x real time) and time left; call what it gives with the seconds of sound done."""
        console = stderr_console()
        if self.quiet or not console.is_terminal:
            yield lambda done: None
            return
        done, started = 0.0, time.perf_counter()
        with _bar(console) as bar:
            task = bar.add_task(Path(name).name, total=seconds, speed="")

            def advance(more: float) -> None:
                nonlocal done
                done += more
                speed = done / max(1e-9, time.perf_counter() - started)
                bar.update(task, completed=done, speed=f"{speed:.1f}x real time")

            yield advance


def _bar(console: Console) -> Bar:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[speed]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


def duration(seconds: float) -> str:
    """``0.512 s``, ``42.1 s``, ``3:05``, ``1:02:03``."""
    if seconds < 10:
        return f"{seconds:.3f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def size(count: int) -> str:
    """``812 bytes``, ``64.2 kB``, ``1.3 MB``."""
    if count < 1000:
        return f"{count} bytes"
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    return f"{count / 1_000_000:.1f} MB"
