"""``duotone latents``: a folder of audio -> a store of latents, for training generative models."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
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
from duotone.cli.common import Json, Quiet, Reporter, duration
from duotone.cli.encode import ChunkSeconds, ContextSeconds, window_of
from duotone.cli.failures import tell
from duotone.cli.files import Job, Plan, plan

if TYPE_CHECKING:
    from duotone.codec.batches import Window
    from duotone.codec.contract import Codec as LoadedCodec
    from duotone.codec.values import Latents
    from duotone.store import LatentWriter, StoreInfo

NAME = "latents"
EXAMPLES = """
Examples:

    duotone latents sounds/ -o latents/

    duotone latents sounds/ -o shards/ --format tar --shard-mb 256

    duotone latents sounds/ more/ -o latents/ --codec stabilityai/stable-audio-open-1.0

Run again, it continues with what is missing. docs/latents.md describes the files and shows how to train a generator on them.
"""
_PLAN = ".latents"  # suffix of the name that stands for a recording in any layout
_SPARE = 20  # bytes of a name reserved for the layout's suffix


class LayoutName(str, Enum):
    """How recordings are laid out in files."""

    npy = "npy"
    safetensors = "safetensors"
    tar = "tar"


Inputs = Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders or files of sound.")]
OutputFolder = Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="The folder of the store.")]
FileLayout = Annotated[
    LayoutName,
    typer.Option("--format", help="One .npy or .safetensors file per recording, or tar shards for WebDataset."),
]
Channels = Annotated[
    int | None,
    typer.Option(
        help="Channels of the layout that the statistics describe (default: 64 if that divides a chunk's latents)."
    ),
]
Stereo = Annotated[bool, typer.Option("--stereo", help="For mono codecs: encode both channels instead of their mean.")]
ShardSize = Annotated[int, typer.Option("--shard-mb", min=1, help="Approximate size of a tar shard.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Encode again what exists.")]


def command(
    inputs: Inputs,
    output: OutputFolder,
    codec: Codec = None,
    layout: FileLayout = LayoutName.npy,
    channels: Channels = None,
    stereo: Stereo = False,
    shard_mb: ShardSize = 64,
    chunk_size_secs: ChunkSeconds = None,
    context_secs: ContextSeconds = 0.0,
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    codec_repo: Repository = None,
    device: Device = "cpu",
    dtype: EncodeDtype = "auto",
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode folders of sound to continuous latents, with a manifest and per-channel statistics."""
    from duotone.store import LatentWriter

    found = plan(inputs, f"{output}/", makes=(), suffix=_PLAN, force=True, spare=_SPARE)
    loaded = load_codec(codec, device, dtype, particular(bandwidth, n_quantizers, codec_repo))
    require_face(loaded.spec, "latents")
    window = window_of(loaded, chunk_size_secs, context_secs)
    info = _info(loaded, layout.value, channels, stereo, window)
    reporter = Reporter(as_json, quiet)
    failed: typer.Exit | None = None
    with LatentWriter(output, info, shard_mb << 20) as writer:
        if not as_json:
            typer.echo(output)
        planned = _missing(found, writer, output, overwrite)
        if reporter.begin(planned):
            work = _Work(loaded, window, 2 if stereo else 1, writer, output, reporter)
            try:
                reporter.run(planned, work.encode, "encoded")
            except typer.Exit as error:  # some files failed: the store is still finished with the others
                failed = error
    if not quiet:
        _tell_of(output)
    if failed is not None:
        raise failed


def _info(codec: LoadedCodec, layout: Any, channels: int | None, stereo: bool, window: Window) -> StoreInfo:
    """The description of the store. Raises `UsageError` for channels that do not divide a chunk's latents."""
    from duotone.codec.batches import window_for
    from duotone.store import StoreInfo
    from duotone.store.manifest import usual_channels

    window = window_for(codec.spec, window)
    spec, streams = codec.spec, 2 if stereo and codec.spec.channels == 1 else 1
    latent = spec.latent or ()
    shape = (*latent[:-1], latent[-1] * streams)
    count = usual_channels(shape) if channels is None else channels
    return StoreInfo(spec, codec.encoding_format, streams, layout, count, (window.chunks, window.context))


def _missing(found: Plan, writer: LatentWriter, output: Path, overwrite: bool) -> Plan:
    """The plan without the recordings that the store already has."""
    from duotone.store.writer import stamp_of

    there = [job for job in found.jobs if not overwrite and writer.has(_name(job, output), stamp_of(job.source))]
    return Plan([job for job in found.jobs if job not in set(there)], there, found.left_out)


def _name(job: Job, output: Path) -> str:
    """A recording's name in the store: its path relative to the folder, without suffix."""
    return Path(job.target.removesuffix(_PLAN)).relative_to(output).as_posix()


@dataclass
class _Work:
    """Encoding one recording after the other into the store."""

    codec: LoadedCodec
    window: Window
    streams: int
    writer: LatentWriter
    output: Path
    reporter: Reporter

    def encode(self, job: Job) -> tuple[dict[str, Any], str]:
        """Encode a file; what became of it, for machines and for people."""
        from duotone.audio.files import open_reader
        from duotone.store.writer import stamp_of

        stamp = stamp_of(job.source)
        with open_reader(job.source) as reader:
            # Stereo codecs get both channels (mono is duplicated); with mono codecs every recording has the same number of streams.
            channels = reader.channels if self.codec.spec.channels == 2 else self.streams
            known = None if reader.samples is None else reader.samples / reader.rate
            with (
                self.codec.encode_stream(reader.rate, channels, window=self.window) as stream,
                self.reporter.progress(job.source, known) as done,
            ):
                parts: list[Any] = []
                for block in reader:
                    parts.append(stream.push(block.to_channels(channels)))
                    done(block.seconds)
                parts.append(stream.finish())
                value: Latents = type(parts[0]).join(parts, stream.source)
        name = _name(job, self.output)
        count = self.writer.add(name, value.numpy(), value.source, job.source, stamp)
        figures = {
            "input": job.source, "output": str(self.output), "name": name, "chunks": len(value),
            "seconds": value.seconds, "bytes": count,
        }  # fmt: skip
        return figures, f"{job.source} -> {name}: {duration(value.seconds)}, {len(value)} chunks"


def _tell_of(output: Path) -> None:
    """One line about the store."""
    from duotone.store import LatentStore

    store = LatentStore(output)
    statistics = store.info.statistics
    if statistics is not None:
        tell(
            f"{output}: {len(store)} recordings, {duration(store.chunks * store.spec.chunk_seconds)}, {store.chunks} "
            f"chunks of {' x '.join(map(str, store.info.shape))}; {store.info.channels} channels, deviation "
            f"{min(statistics.deviation):.3f} to {max(statistics.deviation):.3f}."
        )
