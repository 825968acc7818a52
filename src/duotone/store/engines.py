"""Encode many files: in this process, in worker processes, or on a Ray cluster. The parts are the same bytes.

Each worker computes with one thread: sums that are divided among threads round differently.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duotone.errors import AudioError, DuotoneError, UsageError
from duotone.store.manifest import StoreInfo
from duotone.store.parts import Part, keep_part

if TYPE_CHECKING:
    from duotone.codec.contract import Codec
    from duotone.store.encode import Job

#: Loads the codec in a worker: a function that can be sent to another process.
Loader = Callable[[], "Codec"]
#: Position of a job, the seconds of audio that were encoded, and the length of the file, None if not known.
Tick = Callable[[int, float, float | None], object]
#: Errors that end a run, because the next file would fail in the same way.
_FATAL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES, errno.EPERM)
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_ATTEMPTS = 2  # of a file whose worker was killed


@dataclass(frozen=True)
class Outcome:
    """What became of a job, given by its position: a part, or the error."""

    position: int
    part: Part | None = None
    error: Exception | None = None

    def check(self) -> Part:
        """The part. Raises the error."""
        if self.error is not None:
            raise self.error
        assert self.part is not None
        return self.part


Jobs = Sequence[tuple[int, "Job"]]


def encode_here(codec: Codec, info: StoreInfo, jobs: Jobs, folder: Path, tick: Tick | None = None) -> Iterator[Outcome]:
    """Encode in this process, with all of its threads. Raises `OSError` where the disk cannot be written."""
    for position, job in jobs:
        yield _attempt(codec, info, position, job, folder, tick)


def _attempt(codec: Codec, info: StoreInfo, position: int, job: Job, folder: Path, tick: Tick | None = None) -> Outcome:
    from duotone.store.encode import encode_file

    def told(seconds: float, length: float | None) -> None:
        if tick is not None:
            tick(position, seconds, length)

    try:
        return Outcome(position, encode_file(codec, info, job, folder, told))
    except (DuotoneError, OSError, MemoryError, RuntimeError, UnicodeError) as error:
        if isinstance(error, BrokenPipeError) or (isinstance(error, OSError) and error.errno in _FATAL):
            raise
        return Outcome(position, error=error)


def encode_in_processes(
    loader: Loader, info: StoreInfo, jobs: Jobs, folder: Path, workers: int, tick: Tick | None = None
) -> Iterator[Outcome]:
    """Encode in `workers` processes of one thread each; yields in the order of completion.

    A file whose process is killed is tried once more, then it counts as failed. Raises what `loader` raises, and
    `OSError` where the disk cannot be written. In a script, call it below ``if __name__ == "__main__":``.
    """
    waiting = deque(jobs)
    attempts = dict.fromkeys((position for position, _ in jobs), 0)
    pool: dict[Connection, _Worker] = {}
    try:
        while waiting or any(worker.job is not None for worker in pool.values()):
            while waiting and len(pool) < min(workers, len(jobs)):
                worker = _Worker(loader, info, folder)
                pool[worker.connection] = worker
                worker.give(waiting.popleft())
            for ready in wait(list(pool)):
                worker = pool[ready]  # type: ignore[index]
                try:
                    kind, told = worker.connection.recv()
                except (EOFError, ConnectionResetError):  # it was killed
                    del pool[worker.connection]
                    outcome = worker.lost(attempts)
                    if outcome is None:
                        waiting.appendleft(worker.job)  # type: ignore[arg-type]
                    else:
                        yield outcome
                    continue
                if kind == "tick":
                    if tick is not None:
                        tick(*told)
                elif kind == "error":
                    raise told
                else:
                    worker.job = None
                    if waiting:
                        worker.give(waiting.popleft())
                    yield told
    finally:
        for worker in pool.values():
            worker.end()


class _Worker:
    """A worker process, and the job that it has."""

    def __init__(self, loader: Loader, info: StoreInfo, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other,), daemon=True)
        self.job: tuple[int, Job] | None = None
        with _one_thread():
            self.process.start()
        other.close()
        self._send((loader, info, folder))

    def give(self, job: tuple[int, Job]) -> None:
        """Let it encode a file."""
        self.job = job
        self._send(job)

    def _send(self, message: Any) -> None:
        with suppress(BrokenPipeError):  # it was killed: receiving tells
            self.connection.send(message)

    def lost(self, attempts: dict[int, int]) -> Outcome | None:
        """After it was killed: None where its file is to be tried again. Raises `UsageError` if it did not start."""
        self.process.join()
        self.connection.close()
        if self.job is None:
            raise UsageError("A worker process ended before it had a file.")
        position, job = self.job
        attempts[position] += 1
        if attempts[position] < _ATTEMPTS:
            return None
        code = self.process.exitcode or 0
        how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
        return Outcome(
            position,
            error=AudioError(
                f"{job.sound} ended its worker process {_ATTEMPTS} times, at last {how}. Did memory run out? Try fewer workers; "
                f"or leave the file out."
            ),
        )

    def end(self) -> None:
        """End the process."""
        self.connection.close()
        self.process.terminate()
        self.process.join()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Processes that are started inside compute with one thread."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection) -> None:
    """The main function of a worker process: receives the loader and then jobs, until the connection is closed."""
    try:
        loader, info, folder = connection.recv()
        codec = loader()
        while True:
            position, job = connection.recv()
            told = _attempt(codec, info, position, job, folder, lambda *done: connection.send(("tick", done)))
            connection.send(("done", told))
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):  # the run has ended, or was killed
        return
    except Exception as error:
        connection.send(("error", error))


def encode_on_ray(
    loader: Loader, info: StoreInfo, jobs: Jobs, folder: Path, workers: int, gpus: float = 0
) -> Iterator[Outcome]:
    """Encode on a Ray cluster, with Ray Data: `workers` actors of one processor, and `gpus`, each; yields as they are done.

    Connects to the running cluster (RAY_ADDRESS), else starts one on this machine. Audio files must have the same paths on
    all of its machines, or be URLs. Work of an actor that is killed is done again by another. Raises `UsageError` where
    ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UsageError(f"The engine ray needs a package that is missing ({error}). Install duotone[ray].") from None
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    items = [{"position": position, "name": job.name, "sound": job.sound} for position, job in jobs]
    worker: Any = _RayWorker  # Ray's annotations of map have functions of one dict alone
    data = ray.data.from_items(items, override_num_blocks=max(1, len(items))).map(
        worker, fn_constructor_args=(loader, info), concurrency=(1, max(1, min(workers, len(items)))), num_cpus=1,
        num_gpus=gpus, runtime_env={"env_vars": dict.fromkeys(_THREADS, "1")},
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for row in data.iter_rows():
        yield _received(row, info, folder)


class _RayWorker:
    """Encodes files in an actor; a row comes back with the bytes, because the actor may be on another machine."""

    def __init__(self, loader: Loader, info: StoreInfo) -> None:
        self._codec, self._info = loader(), info

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        from duotone.store.encode import Job

        job = Job(row["name"], row["sound"])
        with tempfile.TemporaryDirectory(prefix="duotone-") as folder:
            found = _attempt(self._codec, self._info, row["position"], job, Path(folder))
            arrays = dict.fromkeys(map(str, self._info.holds), b"")
            if found.part is not None:
                arrays = {array: found.part.path(array).read_bytes() for array in arrays}
            about = "" if found.part is None else found.part.to_json()
            kind = "" if found.error is None else type(found.error).__name__
            return {
                "position": found.position,
                "part": about,
                "error": kind,
                "message": str(found.error or ""),
                **arrays,
            }


def _received(row: dict[str, Any], info: StoreInfo, folder: Path) -> Outcome:
    """The outcome in a row of `_RayWorker`; its part is written to a local folder."""
    from duotone import errors

    if row["error"]:
        kind = getattr(errors, row["error"], RuntimeError)
        return Outcome(int(row["position"]), error=kind(row["message"]))
    part = Part.from_json(row["part"], str(folder))
    return Outcome(int(row["position"]), keep_part(part, {array: row[array] for array in info.holds}))


def many(workers: int | None) -> int:
    """The number of worker processes: as many as this process may use processors, if not given."""
    if workers is not None:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
