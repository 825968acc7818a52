"""``duotone prepare``: a collection of any size -> a store of its encodings; `duotone latents` shares all of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.codec_options import (
    Bandwidth,
    Codec,
    Device,
    EncodeDtype,
    Quantizers,
    Repository,
    load_codec,
    particular,
    require_face,
)
from duotone.cli.common import Json, Quiet, Reporter, Result, duration
from duotone.cli.encode import ChunkSeconds, ContextSeconds, window_of
from duotone.cli.failures import tell, verdict
from duotone.cli.files import Job as FileJob
from duotone.cli.files import Plan, output_name, plan
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.codec.contract import Codec as LoadedCodec
    from duotone.store import LatentWriter, StoreInfo
    from duotone.store.encode import Job
    from duotone.store.engines import Outcome

NAME = "prepare"
EXAMPLES = """
Examples:

    duotone prepare sounds/ -o store/

    duotone prepare sounds/ more/ -o store/ --codec codicodec/ --codes --workers 8

    duotone prepare s3://bucket/sounds -o s3://bucket/store --engine ray --workers 64

    duotone prepare sounds/ -o store/ --verify

Run again, it continues with what is missing or has changed. docs/latents.md shows how to use a store, docs/store-format.md its files.
"""
_PLAN = ".latents"  # suffix of the name that stands for a recording in any layout
_SPARE = 20  # bytes of a name reserved for the layout's suffix


class LayoutName(str, Enum):
    """How recordings are laid out in files."""

    shards = "shards"
    npy = "npy"
    safetensors = "safetensors"
    tar = "tar"


class EngineName(str, Enum):
    """What runs the workers."""

    local = "local"
    ray = "ray"


Inputs = Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders or files of sound, or a URL of fsspec.")]
Output = Annotated[
    str,
    typer.Option(
        "--output", "-o", metavar="STORE", parser=output_name, help="The folder of the store, or a URL of fsspec."
    ),
]
FileLayout = Annotated[
    LayoutName,
    typer.Option(
        "--format",
        help="Shards of many recordings, one .npy or .safetensors file per recording, or tar for WebDataset.",
    ),
]
Channels = Annotated[
    int | None,
    typer.Option(
        help="Channels of the layout that the statistics describe (default: 64 if that divides a chunk's latents)."
    ),
]
Stereo = Annotated[bool, typer.Option("--stereo", help="For mono codecs: encode both channels instead of their mean.")]
ShardSize = Annotated[int, typer.Option("--shard-mb", min=1, help="Approximate size of a shard.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Encode again what exists.")]
WithCodes = Annotated[bool, typer.Option("--codes", help="Store codes too.")]
NoLatents = Annotated[bool, typer.Option("--no-latents", help="Store no latents, only --codes.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Worker processes, each with one thread; any number gives the same bytes (default: one per processor). "
        "0: encode in this process, with all its threads.",
    ),
]
EngineOption = Annotated[
    EngineName, typer.Option("--engine", help="Workers on this machine, or on a Ray cluster (extra: ray).")
]
Verify = Annotated[
    bool, typer.Option("--verify", help="First compare the checksums of what exists, and encode again what is damaged.")
]


def command(
    inputs: Inputs,
    output: Output,
    codec: Codec = None,
    codes: WithCodes = False,
    no_latents: NoLatents = False,
    workers: Workers = None,
    engine: EngineOption = EngineName.local,
    layout: FileLayout = LayoutName.shards,
    channels: Channels = None,
    stereo: Stereo = False,
    shard_mb: ShardSize = 256,
    chunk_size_secs: ChunkSeconds = None,
    context_secs: ContextSeconds = 0.0,
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    codec_repo: Repository = None,
    device: Device = "cpu",
    dtype: EncodeDtype = "auto",
    overwrite: Overwrite = False,
    verify: Verify = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode a collection of sound once, in parallel, to a store for training: latents, codes or both."""
    from duotone.store.engines import many

    collect(
        inputs, output, partial(load_codec, codec, device, dtype, particular(bandwidth, n_quantizers, codec_repo)),
        Wishes(layout.value, codes, not no_latents, channels, stereo, chunk_size_secs, context_secs),
        many(workers if workers is not None or device == "cpu" else 1), engine.value, 1 if device.startswith("cuda") else 0, shard_mb << 20, overwrite, verify,
        Reporter(as_json, quiet),
    )  # fmt: skip


@dataclass(frozen=True)
class Wishes:
    """What the store shall hold."""

    layout: Any
    codes: bool = False
    latents: bool = True
    channels: int | None = None
    stereo: bool = False
    chunk_size_secs: float | None = None
    context_secs: float = 0.0

    def info(self, codec: LoadedCodec) -> StoreInfo:
        """The description of the store. Raises `UsageError` where the codec does not have that."""
        from duotone.store.encode import settings_for

        for wanted, face in ((self.latents, "latents"), (self.codes, "tokens")):
            if wanted:
                require_face(codec.spec, face)
        return settings_for(
            codec, self.layout, codes=self.codes, latents=self.latents, channels=self.channels, stereo=self.stereo,
            window=window_of(codec, self.chunk_size_secs, self.context_secs),
        )  # fmt: skip


def collect(
    inputs: Sequence[str],
    output: str,
    load: Callable[[], LoadedCodec],
    wishes: Wishes,
    workers: int,
    engine: str,
    gpus: float,
    shard_bytes: int,
    overwrite: bool,
    verify: bool,
    reporter: Reporter,
) -> None:
    """Encode files into a store, and report; exits with the first failure's code if any file failed."""
    from duotone.store import LatentStore, LatentWriter, missing

    jobs, found = _jobs(inputs, output)
    codec = load()
    failed: typer.Exit | None = None
    with LatentWriter(output, wishes.info(codec), shard_bytes) as writer:
        if not reporter.as_json:
            typer.echo(output)
        if verify:
            damaged = LatentStore(writer.folder).damaged()
            writer.forget(recording.name for recording in damaged)
            for recording in damaged:
                tell(f"{recording.name} is damaged in {recording.file}; it is encoded again if its sound is there.")
        left = jobs if overwrite else missing(writer, jobs)
        planned = _planned(jobs, left, found, writer)
        if reporter.begin(planned):
            run = _Run(
                writer, left, codec if workers == 0 and engine == "local" else load, workers, engine, gpus, reporter
            )
            del codec
            try:
                reporter.follow(planned, run.results(), "encoded")
            except typer.Exit as error:  # some files failed: the store is still finished with the others
                failed = error
            run.tell_of_failures()
            if failed is not None and writer.is_empty:  # no store is left of a run that encoded nothing
                raise failed
    if not reporter.quiet:
        _tell_of(output)
    if failed is not None:
        raise failed


def _jobs(inputs: Sequence[str], output: str) -> tuple[list[Job], Plan]:
    """The audio files with the names of their recordings: relative to the folder, without suffix."""
    from duotone.store.encode import Job, sounds_at
    from duotone.store.folders import is_url

    far = [name for name in inputs if is_url(name)]
    if far:
        if len(inputs) > 1:
            raise UsageError(f"Of a URL only one can be given, got {', '.join(inputs)}. Give the folder above them.")
        return sounds_at(far[0]), Plan([])
    base = "store" if is_url(output) else output
    found = plan(inputs, f"{base}/", makes=(), suffix=_PLAN, force=True, spare=_SPARE)
    named = ((Path(job.target.removesuffix(_PLAN)).relative_to(base).as_posix(), job.source) for job in found.jobs)
    return [Job(name, sound) for name, sound in named], found


def _planned(jobs: list[Job], left: list[Job], found: Plan, writer: LatentWriter) -> Plan:
    """The plan for the report; its targets are what is written to on this machine."""
    from duotone.store.folders import LocalFolder

    folder = writer.folder
    target = str(folder if isinstance(folder, LocalFolder) else folder.parts)
    todo = {job.name for job in left}
    there = [FileJob(job.sound, str(folder)) for job in jobs if job.name not in todo]
    return Plan([FileJob(job.sound, target) for job in left], there, found.left_out)


@dataclass
class _Run:
    """Encoding what is left, with progress over the whole run."""

    writer: LatentWriter
    left: list[Job]
    codec: Any
    workers: int
    engine: str
    gpus: float
    reporter: Reporter
    failures: list[str] = field(default_factory=list)

    def results(self) -> Iterator[tuple[FileJob, Result]]:
        """Yield each file with a function that returns its result."""
        from duotone.store import prepare

        with self._progress() as (tick, finished):
            outcomes = prepare(
                self.writer, self.left, self.codec, workers=self.workers, engine=self.engine, gpus=self.gpus, tick=tick
            )
            for job, outcome in outcomes:
                finished(outcome.position)
                if outcome.error is not None:
                    found = verdict(outcome.error)
                    self.failures.append(f"{job.sound}: {found[0] if found else outcome.error}")
                yield FileJob(job.sound, str(self.writer.folder)), partial(self._figures, job, outcome)

    def _figures(self, job: Job, outcome: Outcome) -> tuple[dict[str, Any], str]:
        part = outcome.check()
        seconds = part.source.seconds or part.chunks * self.writer.info.spec.chunk_seconds
        figures = {
            "input": job.sound, "output": str(self.writer.folder), "name": job.name, "chunks": part.chunks,
            "seconds": seconds, "bytes": part.size,
        }  # fmt: skip
        return figures, f"{job.sound} -> {job.name}: {duration(seconds)}, {part.chunks} chunks"

    @contextmanager
    def _progress(self) -> Iterator[tuple[Callable[[int, float, float | None], None], Callable[[int], None]]]:
        """A progress bar whose unit is a byte of the audio files: their lengths in seconds are not all known before."""
        ordered = sorted(self.left, key=lambda job: job.name)
        sizes = [os.path.getsize(job.sound) if os.path.isfile(job.sound) else 1 for job in ordered]
        done = [0.0] * len(sizes)
        with self.reporter.overall(sum(sizes)) as advance:

            def tick(position: int, seconds: float, length: float | None) -> None:
                share = min(seconds / length, 1.0) * sizes[position] if length else 0.0
                share = min(share, sizes[position] - done[position])
                done[position] += share
                advance(share, seconds)

            def finished(position: int) -> None:
                advance(sizes[position] - done[position], 0.0)
                done[position] = sizes[position]

            yield tick, finished

    def tell_of_failures(self) -> None:
        """List the files that failed, after the summary."""
        if len(self.left) > 1 and self.failures:
            tell(f"{len(self.failures)} of {len(self.left)} files are not in the store:")
            for line in sorted(self.failures):
                tell(f"  {line}")


def _tell_of(output: str) -> None:
    """One line about the store."""
    from duotone.store import LatentStore

    store = LatentStore(output)
    statistics = store.info.statistics
    shapes = ", ".join(f"{' x '.join(map(str, store.info.array(name)[1]))} {name}" for name in store.info.holds)
    told = ""
    if statistics is not None:
        told = (
            f"; {store.info.channels} channels, deviation {min(statistics.deviation):.3f} to "
            f"{max(statistics.deviation):.3f}"
        )
    length = duration(store.chunks * store.spec.chunk_seconds)
    tell(f"{output}: {len(store)} recordings, {length}, {store.chunks} chunks of {shapes}{told}.")
