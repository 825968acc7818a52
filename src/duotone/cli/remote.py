"""Files through a service: what `--server` does."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from duotone.atomic import is_stream, replacing
from duotone.cli.common import binary_stdout, duration, size
from duotone.cli.files import Job
from duotone.errors import UsageError

Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        help="Let a service do it (duotone serve); its token, if it wants one, is $DUOTONE_TOKEN.",
    ),
]


def refuse_local(**given: bool) -> None:
    """Raise `UsageError` for options that a service does not take."""
    named = [f"--{name.replace('_', '-')}" for name, there in given.items() if there]
    if named:
        raise UsageError(
            f"--server does not go together with {', '.join(named)}. Leave {'it' if len(named) == 1 else 'them'} out."
        )


class Remote:
    """Encoding and decoding by a service, one file after the other."""

    def __init__(self, url: str) -> None:
        from duotone.client.files import Client

        self.client = Client(url, os.environ.get("DUOTONE_TOKEN") or None)

    def encode(self, job: Job, kind: str | None, model: str | None) -> tuple[dict[str, Any], str]:
        """A sound to a `.duo`."""
        found: Any = kind
        return self._through(job, lambda file: self.client.encode(file, found, model))

    def decode(
        self, job: Job, format: str | None, model: str | None, seed: int, options: dict[str, Any]
    ) -> tuple[dict[str, Any], str]:
        """A `.duo` to a sound."""
        wanted: Any = format or (Path(job.target).suffix.lower().lstrip(".") if job.target != "-" else "wav") or "wav"
        if wanted not in ("wav", "flac"):
            raise UsageError(
                f"A service gives wav or flac, and {job.target} wants {wanted}. Name a .wav or .flac file."
            )
        return self._through(job, lambda file: self.client.decode(file, wanted, model, seed, **options))

    def _through(self, job: Job, ask: Callable[[BinaryIO], Iterator[bytes]]) -> tuple[dict[str, Any], str]:
        began, count = time.perf_counter(), 0
        with ExitStack() as stack:
            source = stack.enter_context(_source(job.source))
            pieces = ask(source)
            first = next(pieces, b"")  # errors come before anything is written
            sink: BinaryIO = binary_stdout() if job.target == "-" else stack.enter_context(_sink(stack, job.target))
            for piece in itertools.chain([first], pieces):
                sink.write(piece)
                count += len(piece)
            sink.flush()
        took = time.perf_counter() - began
        figures = {
            "input": job.source, "output": job.target, "server": self.client.url, "bytes": count, "took_seconds": took
        }  # fmt: skip
        return figures, f"{job.source} -> {job.target}: {size(count)} from {self.client.url} in {duration(took)}"


def _source(name: str) -> Any:
    """A file open for reading; standard input goes through a temporary one, because its length is told first."""
    if name != "-":
        return open(name, "rb")
    spool = tempfile.TemporaryFile(prefix="duotone-")  # noqa: SIM115 (closed by whoever asks for it)
    while data := sys.stdin.buffer.read(1 << 20):
        spool.write(data)
    spool.seek(0)
    return spool


def _sink(stack: ExitStack, target: str) -> Any:
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    return open(Path(target) if is_stream(target) else stack.enter_context(replacing(target)), "wb")
