"""``duotone encode``: sound -> .duo, in constant memory."""

from __future__ import annotations

import time
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.common import (
    Codec,
    Device,
    Dtype,
    Force,
    Json,
    Quiet,
    Reporter,
    SkipExisting,
    binary_stdout,
    duration,
    size,
)
from duotone.cli.files import Job, plan

if TYPE_CHECKING:
    from duotone.audio.files import AudioReader
    from duotone.codec.codicodec import CoDiCodec
    from duotone.codec.values import Codes, Latents, Particulars

NAME = "encode"
EXAMPLES = """
Examples:

    duotone encode song.wav -o song.duo

    duotone encode album/ interview.mp3 -o encoded/ --kind latents

    ffmpeg -v error -i video.mp4 -f wav - | duotone encode - -o - > sound.duo
"""

#: Formats whose headers count samples exactly, so that the length can stand in the .duo header.
_COUNTED = (".wav", ".flac")


class Kind(str, Enum):
    """Which face of the encoding is stored."""

    tokens = "tokens"
    latents = "latents"


class FramingName(str, Enum):
    """How the wave is cut into frames."""

    exact = "exact"
    published = "published"


def command(
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Sound files, folders, or - for standard input.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="A .duo file, a folder, or - for standard output.")
    ],
    codec: Codec = None,
    kind: Annotated[Kind, typer.Option(help="Store discrete tokens or continuous latents (larger).")] = Kind.tokens,
    framing: Annotated[
        FramingName, typer.Option(help="exact gives every sample back; published equals the published package.")
    ] = FramingName.exact,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    force: Force = False,
    skip_existing: SkipExisting = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode sound files to .duo files; folders are walked and mirrored."""
    from duotone.hub import DEFAULT, load

    planned = plan(inputs, output, makes=(".duo",), suffix=".duo", force=force, skip_existing=skip_existing)
    reporter = Reporter(as_json, quiet)
    if reporter.begin(planned):
        loaded = load(codec or DEFAULT, device, dtype)
        reporter.run(planned, lambda job: _one(job, loaded, kind.value, framing.value, reporter), "encoded")


def _one(job: Job, codec: CoDiCodec, kind: Any, framing: Any, reporter: Reporter) -> tuple[dict[str, Any], str]:
    from duotone.audio.files import open_reader
    from duotone.codec.container import DuoWriter

    def face(latents: Latents) -> Latents | Codes:
        return latents.codes() if kind == "tokens" else latents

    started = time.perf_counter()
    with open_reader(job.source) as reader, codec.encode_stream(reader.rate, reader.channels, framing) as stream:
        about = _announce(stream.about, reader, job.source)
        with (
            DuoWriter(_sink(job.target), about, kind) as writer,
            reporter.progress(job.source, _seconds(reader)) as done,
        ):
            for block in reader:
                writer.write(face(stream.push(block)))
                done(block.seconds)
            writer.write(face(stream.finish()))
            writer.finish(stream.about)
    about, took = stream.about, time.perf_counter() - started
    seconds, count = about.source_samples / about.source_rate, writer.bytes_written
    kbit = count * 8 / seconds / 1000
    figures = {
        "input": job.source, "output": job.target, "kind": kind, "framing": framing, "codec": codec.fingerprint,
        "seconds": seconds, "rate": about.source_rate, "channels": about.source_channels,
        "samples": about.source_samples, "bytes": count, "kbit_per_second": kbit,
        "took_seconds": took, "speed": seconds / took,
    }  # fmt: skip
    line = (
        f"{job.source} -> {job.target}: {duration(seconds)}, {size(count)}, "
        f"{kbit:.2f} kbit/s, {seconds / took:.1f}x real time"
    )
    return figures, line


def _announce(about: Particulars, reader: AudioReader, source: str) -> Particulars:
    """The particulars with the length, where it is surely known beforehand; the end record confirms it."""
    if reader.samples is None or Path(source).suffix.lower() not in _COUNTED:
        return about
    return about.with_samples(max(1, round(reader.samples * about.rate / about.source_rate)), reader.samples)


def _seconds(reader: AudioReader) -> float | None:
    return None if reader.samples is None else reader.samples / reader.rate


def _sink(target: str) -> Any:
    """Where the bytes go; makes the folder of a file."""
    if target == "-":
        return binary_stdout()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    return target
