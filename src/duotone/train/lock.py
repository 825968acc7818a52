"""A lock on a run's folder: one process trains in it at a time."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from duotone.atomic import write_json
from duotone.errors import UsageError

LOCK, HOLDER = ".lock", ".holder.json"


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Make RUN if need be, and hold its lock. The operating system releases it when the process ends in any way.

    A folder that was made here, and that nothing was written to, is removed at the end. Raises `UsageError` when another process holds it, `OSError` when RUN cannot be written.
    """
    from filelock import FileLock, Timeout

    is_new = not run.is_dir()
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise UsageError(
            f"{run} is being trained in by {_holder(run)}. Wait for its end, stop it, or give another --out."
        ) from None
    try:
        write_json(run / HOLDER, {"process": os.getpid(), "machine": socket.gethostname()})
        yield
    finally:
        (run / HOLDER).unlink(missing_ok=True)
        lock.release()
        if is_new and os.listdir(run) == [LOCK]:
            (run / LOCK).unlink()
            run.rmdir()


def _holder(run: Path) -> str:
    try:
        about = json.loads((run / HOLDER).read_text(encoding="utf-8"))
        return f"process {about['process']} on {about['machine']}"
    except (OSError, ValueError, KeyError, TypeError):  # it has not written its description yet, or is about to end
        return "another process"
