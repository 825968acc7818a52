"""Encode a collection into a store: what is missing or has changed, in parallel, in an order that does not depend on it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from duotone.errors import UsageError
from duotone.store.engines import Loader, Outcome, Tick, encode_here, encode_in_processes, encode_on_ray
from duotone.store.parts import Part
from duotone.store.writer import LatentWriter

if TYPE_CHECKING:
    from duotone.codec.contract import Codec
    from duotone.store.encode import Job


def missing(writer: LatentWriter, jobs: Sequence[Job]) -> list[Job]:
    """The jobs whose recordings the store lacks, or whose audio files have changed since."""
    from duotone.store.encode import stamp_of_sound

    return [job for job in jobs if not writer.has(job.name, stamp_of_sound(job.sound))]


def prepare(
    writer: LatentWriter,
    jobs: Sequence[Job],
    codec: Codec | Loader,
    *,
    workers: int = 0,
    engine: str = "local",
    gpus: float = 0,
    tick: Tick | None = None,
) -> Iterator[tuple[Job, Outcome]]:
    """Encode audio files into a store; yields each with what became of it, in the order of completion.

    With `workers` of 0, `codec` encodes in this process; else it is a function that loads the codec in each worker, and the
    bytes of the store are the same for any number of workers, for each engine (local, ray), and after any number of interruptions.
    Recordings are stored in the order of their names. Files that fail are left out; `Outcome.check` raises why.
    `gpus` is what each worker takes of a Ray cluster's. `tick` gets the position of a job in that order, the seconds of audio just encoded, and the length of the file or None.
    """
    from duotone.store.encode import stamp_of_sound

    ordered = sorted(jobs, key=lambda job: job.name)
    arranged = _Arranged(writer)
    left = []
    for position, job in enumerate(ordered):
        part = writer.encoded(job.name, stamp_of_sound(job.sound))
        if part is None:
            left.append((position, job))
        else:
            arranged.put(Outcome(position, part))
            yield job, Outcome(position, part)
    for outcome in _run(writer, left, codec, workers, engine, gpus, tick):
        arranged.put(outcome)
        yield ordered[outcome.position], outcome


def _run(
    writer: LatentWriter,
    jobs: list[tuple[int, Job]],
    codec: Codec | Loader,
    workers: int,
    engine: str,
    gpus: float,
    tick: Tick | None,
) -> Iterable[Outcome]:
    if not jobs:
        return ()
    if engine not in ("local", "ray"):
        raise UsageError(f"engine got {engine!r}, expected one of local, ray.")
    given: Any = codec
    info, folder = writer.info, writer.folder.parts
    if engine == "ray":
        return encode_on_ray(given, info, jobs, folder, max(1, workers), gpus)
    if workers == 0:
        return encode_here(given, info, jobs, folder, tick)
    return encode_in_processes(given, info, jobs, folder, workers, tick)


class _Arranged:
    """Hands parts to the writer in the order of the jobs."""

    def __init__(self, writer: LatentWriter) -> None:
        self._writer, self._next = writer, 0
        self._waiting: dict[int, Part | None] = {}

    def put(self, outcome: Outcome) -> None:
        """Take the outcome of a job in; the writer gets it when all before it are there."""
        self._waiting[outcome.position] = outcome.part
        while self._next in self._waiting:
            part = self._waiting.pop(self._next)
            self._next += 1
            if part is not None:
                self._writer.take(part)
