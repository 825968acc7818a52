"""What the commands share: options, running over several files, and showing progress."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from duotone.audio.walk import explain
from duotone.cli.failures import EXPECTED, debugging, one_line, require_stdout, shown, tell, verdict
from duotone.cli.files import Job, Plan
from duotone.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bar

#: Gives what came of a file, for machines and for people, or raises why it failed.
Result = Callable[[], tuple[dict[str, Any], str]]

_EVERY = 30.0  # seconds between lines of progress where there is no terminal

Force = Annotated[bool, typer.Option("--force", help="Replace outputs that exist.")]
Json = Annotated[bool, typer.Option("--json", help="Results as JSON on standard output, one object per line.")]
SkipExisting = Annotated[
    bool,
    typer.Option("--skip-existing", help="Keep outputs that exist and make only the others, for example after a stop."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Show no progress and no summary, only warnings and errors.")
]


def stderr_console() -> Console:
    """A console for progress, on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def binary_stdout() -> BinaryIO:
    """Standard output for binary data. Raises `UsageError` if it is a terminal or closed."""
    require_stdout()
    if sys.stdout.isatty():
        raise UsageError(
            "Standard output is a terminal, which cannot show binary data. Redirect it, or name a file with -o."
        )
    return sys.stdout.buffer


def check_outputs(targets: Iterable[str | Path]) -> None:
    """Check before the work whether files can be written. Raises `OSError` for a folder that cannot be used.

    For a folder that does not exist yet, the nearest existing parent is checked.
    """
    folders = {Path(target).absolute().parent for target in targets if str(target) != "-"}
    for folder in sorted(folders):
        near = next(f for f in (folder, *folder.parents) if os.path.lexists(f))
        if not near.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
        if not os.access(near, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(near))


class Reporter:
    """Reports progress and results: as text on standard error, as JSON on standard output with `--json`."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._place = ""  # "[3/19] " while the third of 19 files is processed

    def begin(self, planned: Plan) -> bool:
        """Call before the codec is loaded: reports skipped files and returns whether there is anything to do.

        Raises `UsageError` when JSON and the output itself would both go to standard output, `OSError` when an output
        cannot be written.
        """
        if self.as_json:
            if any(job.target == "-" for job in planned.jobs):
                raise UsageError("--json and -o - would both write to standard output. Name a file with -o.")
            require_stdout()
        check_outputs(job.target for job in planned.jobs)
        for line in explain(planned.left_out) if self.quiet else planned.notes():
            tell(line)
        if self.as_json:
            for job in planned.skipped:
                typer.echo(json.dumps({"input": job.source, "output": job.target, "skipped": True}))
        return bool(planned.jobs)

    def result(self, figures: dict[str, Any], line: str) -> None:
        """Report the result of one file: an object for `--json`, else a line of text."""
        if self.as_json:
            typer.echo(json.dumps(figures))
        elif not self.quiet:
            tell(one_line(f"{self._place}{line}"))

    def run(self, planned: Plan, work: Callable[[Job], tuple[dict[str, Any], str]], done: str) -> None:
        """Do every job, also after one has failed, and print a summary; exits with the first failure's code if any failed.

        `done` is the word for a file that succeeded, such as "encoded".
        """
        self.follow(planned, ((job, partial(work, job)) for job in planned.jobs), done)

    def follow(self, planned: Plan, results: Iterable[tuple[Job, Result]], done: str) -> None:
        """Like `run`, for jobs that are processed together: each comes with a function that returns its result or raises."""
        count, sums = len(planned.jobs), Sums(skipped=len(planned.skipped), left_out=len(planned.left_out))
        self._place = f"[1/{count}] " if count > 1 else ""
        for number, (job, result) in enumerate(results, start=1):
            try:
                figures, line = result()
                self.result(figures, line)
                sums.add(job, figures)
            except EXPECTED as error:
                sums.fail(self.failure(job.source, error, alone=count == 1))
            self._place = f"[{number + 1}/{count}] " if count > 1 else ""
        if not self.quiet and sums.files > 1:
            tell(sums.line(done))
        if sums.code:
            raise typer.Exit(sums.code)

    def failure(self, source: str, error: BaseException, alone: bool = False) -> int:
        """Report a file that failed and return its exit code; an error that does not concern the file is raised."""
        found = verdict(error)
        if found is None or debugging() or isinstance(error, BrokenPipeError):
            raise error
        message, code = found
        if self.as_json:
            typer.echo(json.dumps({"input": source, "error": message, "exit_code": code}))
        at = f"{source}: " if not alone and source not in message else ""
        tell(f"{self._place}error: {at}{message}" if not alone else f"error: {message}")
        return code

    @contextmanager
    def progress(self, name: str, seconds: float | None) -> Iterator[Callable[[float], None]]:
        """A progress bar with share, speed (x real time) and time left; yields a function that takes the seconds of audio done."""
        console = stderr_console()
        if self.quiet or not console.is_terminal:
            yield lambda done: None
            return
        done, started = 0.0, time.perf_counter()
        with _bar(console) as bar:
            task = bar.add_task(self._place + shown(Path(name).name), total=seconds, speed="")

            def advance(more: float) -> None:
                nonlocal done
                done += more
                speed = done / max(1e-9, time.perf_counter() - started)
                bar.update(task, completed=done, speed=f"{speed:.1f}x real time")

            yield advance

    @contextmanager
    def overall(self, total: float) -> Iterator[Callable[[float, float], None]]:
        """Progress over a whole run: yields a function that takes the share of `total`, and the seconds of audio, just done.

        On a terminal a bar with speed and time left; elsewhere a line now and then.
        """
        console = stderr_console()
        if self.quiet:
            yield lambda share, seconds: None
            return
        done, audio, started, told = 0.0, 0.0, time.perf_counter(), time.perf_counter()

        def speed() -> str:
            return f"{audio / max(1e-9, time.perf_counter() - started):.1f}x real time"

        if not console.is_terminal:

            def advance(share: float, seconds: float) -> None:
                nonlocal done, audio, told
                done, audio, now = done + share, audio + seconds, time.perf_counter()
                if now - told >= _EVERY and 0 < done < total:
                    told = now
                    left = duration((now - started) * (total - done) / done)
                    tell(f"{done / total:.0%} done, {speed()}, about {left} left.")

            yield advance
            return
        with _bar(console) as bar:
            task = bar.add_task("all files", total=total, speed="")

            def move(share: float, seconds: float) -> None:
                nonlocal audio
                audio += seconds
                bar.update(task, advance=share, speed=speed())

            yield move


@dataclass
class Sums:
    """Counts of a run over several files."""

    skipped: int = 0
    left_out: int = 0
    succeeded: int = 0
    failed: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    code: int = 0  #: the first failure's exit code

    @property
    def files(self) -> int:
        """All files that were named."""
        return self.succeeded + self.failed + self.skipped

    def add(self, job: Job, figures: dict[str, Any]) -> None:
        """Count a file that succeeded; `figures` may hold the bytes written."""
        self.succeeded += 1
        self.bytes_in += _size(job.source)
        self.bytes_out += figures.get("bytes", _size(job.target))

    def fail(self, code: int) -> None:
        """Count a file that failed."""
        self.failed += 1
        self.code = self.code or code

    def line(self, done: str) -> str:
        """The summary as a line of text."""
        parts = [
            f"{self.succeeded} {'file' if self.succeeded == 1 else 'files'} {done} ({size(self.bytes_in)} in, {size(self.bytes_out)} out)"
        ]
        parts += [f"{self.failed} failed"] * bool(self.failed)
        parts += [f"{self.skipped} skipped because they exist already"] * bool(self.skipped)
        parts += [f"{self.left_out} left out"] * bool(self.left_out)
        return ", ".join(parts) + "."


def _size(name: str) -> int:
    return os.path.getsize(name) if os.path.isfile(name) else 0


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


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Lines of aligned text: the first `left` columns to the left, the others to the right.

    A heading may have several lines.
    """
    body = [list(row) for row in rows]
    tops = [heading.split("\n") for heading in headings]
    height = max(map(len, tops))
    head = [[([""] * (height - len(top)) + top)[i] for top in tops] for i in range(height)]
    widths = [max(len(row[i]) for row in (*head, *body)) for i in range(len(headings))]
    rule = ["-" * width for width in widths]

    def line(row: Sequence[str]) -> str:
        cells = (c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        return "  ".join(cells).rstrip()

    return [line(row) for row in (*head, rule, *body)]


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
    """``812 bytes``, ``64.2 kB``, ``1.3 MB``, ``2.4 GB``."""
    if count < 1000:
        return f"{count} bytes"
    if count < 1_000_000:
        return f"{count / 1000:.1f} kB"
    if count < 1_000_000_000:
        return f"{count / 1_000_000:.1f} MB"
    return f"{count / 1_000_000_000:.1f} GB"
