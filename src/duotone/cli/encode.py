"""``duotone encode``: audio -> .duo."""

from __future__ import annotations

import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.atomic import is_stream
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
    title,
)
from duotone.cli.common import Force, Json, Quiet, Reporter, SkipExisting, binary_stdout, duration, size
from duotone.cli.files import Job, plan
from duotone.cli.remote import Remote, Server, refuse_local
from duotone.errors import UsageError
from duotone.spec import CodecSpec, Framing, Source

if TYPE_CHECKING:
    from duotone.audio.files import AudioReader
    from duotone.codec.batches import Window
    from duotone.codec.contract import Codec as LoadedCodec

NAME = "encode"
EXAMPLES = """
Examples:

    duotone encode song.wav -o song.duo

    duotone encode song.wav -o song.duo --compact

    duotone encode album/ interview.mp3 -o encoded/ --kind latents

    duotone encode album/ -o encoded/ --codec mimi --n-quantizers 8 --skip-existing

    ffmpeg -v error -i video.mp4 -f wav - | duotone encode - -o - > sound.duo
"""

ChunkSeconds = Annotated[
    float | None,
    typer.Option(
        "--chunk-size-secs",
        help="For codecs whose chunks depend on one another: encode this many seconds at a time, in constant memory "
        "(default: all at once).",
    ),
]
ContextSeconds = Annotated[
    float,
    typer.Option(
        "--context-secs",
        help="With --chunk-size-secs: length of the encoder's input for each part, including the audio before it.",
    ),
]


class Kind(str, Enum):
    """Which of the two encodings is stored: tokens or latents."""

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
    kind: Annotated[
        Kind | None,
        typer.Option(
            help="Store discrete tokens or continuous latents (larger). Default: tokens, if the codec has them."
        ),
    ] = None,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact",
            help="Fewer bytes for the same tokens, for codecs with FSQ; earlier versions of Duotone cannot read it.",
        ),
    ] = False,
    framing: Annotated[
        FramingName,
        typer.Option(
            help="exact keeps every sample; published (CoDiCodec) gives the latents of the published package."
        ),
    ] = FramingName.exact,
    chunk_size_secs: ChunkSeconds = None,
    context_secs: ContextSeconds = 0.0,
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    codec_repo: Repository = None,
    device: Device = "cpu",
    dtype: EncodeDtype = "auto",
    server: Server = None,
    force: Force = False,
    skip_existing: SkipExisting = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode sound files to .duo files; folders are walked and mirrored."""
    planned = plan(inputs, output, makes=(".duo",), suffix=".duo", force=force, skip_existing=skip_existing)
    reporter = Reporter(as_json, quiet)
    if not reporter.begin(planned):
        return
    if server is not None:
        refuse_local(
            compact=compact, framing=framing is not FramingName.exact, chunk_size_secs=chunk_size_secs is not None, context_secs=context_secs != 0,
            bandwidth=bandwidth is not None, n_quantizers=n_quantizers is not None, codec_repo=codec_repo is not None,
            device=device != "cpu", dtype=dtype != "auto",
        )  # fmt: skip
        remote = Remote(server)
        reporter.run(planned, lambda job: remote.encode(job, kind.value if kind else None, codec), "encoded")
        return
    loaded = load_codec(codec, device, dtype, particular(bandwidth, n_quantizers, codec_repo))
    face = kind.value if kind else loaded.spec.faces[-1]
    require_face(loaded.spec, face)
    require_header(loaded.spec, face, compact)
    loaded.spec.framed(framing.value)  # refuses a framing that the codec does not have
    window = window_of(loaded, chunk_size_secs, context_secs)
    work = _Work(loaded, face, framing.value, window, reporter, compact)
    reporter.run(planned, work.encode, "encoded")


def require_header(spec: CodecSpec, face: Any, compact: bool) -> None:
    """Raises `UsageError` if values of this codec cannot be compact."""
    from duotone.codec.header import Header

    Header.of(face, spec, Source(spec.rate_out, spec.channels), compact)


def window_of(codec: LoadedCodec, chunk_size_secs: float | None, context_secs: float) -> Window:
    """The window given by the options. Raises `UsageError` if it is shorter than a chunk of the codec, or is a context alone."""
    from duotone.codec.batches import Window

    if chunk_size_secs is None and context_secs:
        raise UsageError(f"--context-secs got {context_secs}, and --chunk-size-secs nothing. Give both, or neither.")
    return Window.of(codec.spec, chunk_size_secs, context_secs)


@dataclass
class _Work:
    """Encoding one file after the other."""

    codec: LoadedCodec
    face: Any
    framing: Framing
    window: Window
    reporter: Reporter
    compact: bool

    def encode(self, job: Job) -> tuple[dict[str, Any], str]:
        """Encode a file; what became of it, for machines and for people."""
        started = time.perf_counter()
        source, count = self._write(job, announce=True)
        took, seconds = time.perf_counter() - started, source.seconds or 0.0
        kbit = count * 8 / seconds / 1000
        spec = self.codec.spec
        figures = {
            "input": job.source, "output": job.target, "kind": self.face, "framing": self.framing,
            "codec": title(spec), "fingerprint": spec.fingerprint, "number_format": source.format, "seconds": seconds,
            "rate": source.rate, "channels": source.channels, "samples": source.samples, "bytes": count,
            "kbit_per_second": kbit, "took_seconds": took, "speed": seconds / took,
        }  # fmt: skip
        line = (
            f"{job.source} -> {job.target}: {duration(seconds)}, {size(count)}, "
            f"{kbit:.2f} kbit/s, {seconds / took:.1f}x real time"
        )
        return figures, line

    def _write(self, job: Job, announce: bool) -> tuple[Source, int]:
        """Write a file; returns the source and the bytes written. `announce`: write the length, if known, to the header."""
        from duotone.audio.files import open_reader
        from duotone.codec.container import DuoWriter

        with (
            open_reader(job.source) as reader,
            self.codec.encode_stream(reader.rate, reader.channels, self.framing, window=self.window) as stream,
        ):
            told = stream.source.of_length(reader.samples if announce else None)
            with (
                DuoWriter(_sink(job.target), self.codec.spec, told, self.face, compact=self.compact) as writer,
                self.reporter.progress(job.source, _seconds(reader)) as done,
            ):
                for block in reader:
                    writer.write(self._value(stream.push(block)))
                    done(block.seconds)
                writer.write(self._value(stream.finish()))
                streamed = job.target == "-" or is_stream(job.target)  # what was written to a pipe cannot be undone
                if streamed or told.samples in (None, stream.source.samples):
                    writer.finish(stream.source)
                    return stream.source, writer.bytes_written
        return self._write(job, announce=False)  # the header of the audio file stated a wrong length

    def _value(self, value: Any) -> Any:
        return value.codes() if self.face == "tokens" else value


def _seconds(reader: AudioReader) -> float | None:
    return None if reader.samples is None else reader.samples / reader.rate


def _sink(target: str) -> Any:
    """Open the output for binary writing; creates the folder of a file."""
    if target == "-":
        return binary_stdout()
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    return target
