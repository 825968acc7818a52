"""``duotone decode``: .duo -> audio."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.codec_options import (
    Bandwidth,
    Codec,
    Device,
    Dtype,
    Particular,
    Quantizers,
    Repository,
    load_codec,
    particular,
    title,
)
from duotone.cli.common import Force, Json, Quiet, Reporter, SkipExisting, binary_stdout, duration
from duotone.cli.failures import tell
from duotone.cli.files import Job, plan
from duotone.cli.remote import Remote, Server, refuse_local
from duotone.cli.salvage import Mute, explain
from duotone.errors import CodecMismatchError, FormatError, UsageError
from duotone.spec import CodecSpec

if TYPE_CHECKING:
    from duotone.audio.files import AudioWriter
    from duotone.audio.waveform import Waveform
    from duotone.codec.container import DuoReader
    from duotone.codec.contract import Codec as LoadedCodec
    from duotone.codec.sessions import DecodeSession

NAME = "decode"
EXAMPLES = """
Examples:

    duotone decode song.duo -o song.wav

    duotone decode encoded/ -o decoded/ --format flac --iterations 8

    duotone decode broken.duo -o rescued.wav --salvage
"""


class StrategyName(str, Enum):
    """How chunks are decoded."""

    wavefront = "wavefront"
    parallel = "parallel"
    autoregressive = "autoregressive"


class FormatName(str, Enum):
    """Sound file formats."""

    wav = "wav"
    flac = "flac"
    ogg = "ogg"
    opus = "opus"
    mp3 = "mp3"


def command(
    inputs: Annotated[list[str], typer.Argument(metavar="IN...", help=".duo files, folders, or - for standard input.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="A sound file, a folder, or - for standard output.")
    ],
    codec: Codec = None,
    strategy: Annotated[
        StrategyName | None,
        typer.Option(
            help="For CoDiCodec with convolutions (base) or a refinement: wavefront (default) and parallel give the same samples up to rounding."
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="For CoDiCodec: number of denoising steps (default: the codec's). With bands (tiny, small), steps of the refinement, "
            "where the weights have one; 0: the estimate alone."
        ),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="For CoDiCodec with bands (tiny, small): iterations of fast Griffin-Lim, which improve phases (default: the codec's).",
        ),
    ] = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the noise; the same seed gives the same samples on one machine.")
    ] = 0,
    time_prompt: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Noise level of the previous chunk, as a position of the schedule (only autoregressive)."
        ),
    ] = None,
    format: Annotated[FormatName | None, typer.Option(help="Format (default: by the name, else wav).")] = None,
    native_rate: Annotated[
        bool, typer.Option("--native-rate", help="Write the codec's own rate and channels, not those of the source.")
    ] = False,
    salvage: Annotated[
        bool, typer.Option("--salvage", help="Replace damaged chunks by silence and report them.")
    ] = False,
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    codec_repo: Repository = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    server: Server = None,
    force: Force = False,
    skip_existing: SkipExisting = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode .duo files to sound files; folders are walked and mirrored."""
    from duotone.audio.files import WRITABLE

    if time_prompt is not None and strategy is not StrategyName.autoregressive:
        raise UsageError("--time-prompt is for --strategy autoregressive. Add that, or leave --time-prompt out.")
    makes = WRITABLE if format is None else (f".{format.value}",)
    suffix = f".{format.value if format else 'wav'}"
    planned = plan(
        inputs, output, takes=(".duo",), makes=makes, suffix=suffix, force=force, skip_existing=skip_existing
    )
    reporter = Reporter(as_json, quiet)
    if not reporter.begin(planned):
        return
    asked = {
        "strategy": strategy and strategy.value, "steps": steps, "iterations": iterations, "time_prompt": time_prompt
    }  # fmt: skip
    options: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if server is not None:
        refuse_local(
            time_prompt=time_prompt is not None, native_rate=native_rate, salvage=salvage, bandwidth=bandwidth is not None,
            n_quantizers=n_quantizers is not None, codec_repo=codec_repo is not None, device=device != "cpu", dtype=dtype != "auto",
        )  # fmt: skip
        remote = Remote(server)
        reporter.run(planned, lambda job: remote.decode(job, format and format.value, codec, seed, options), "decoded")
        return
    codecs = Codecs(codec, device, dtype, particular(bandwidth, n_quantizers, codec_repo))
    if codec is not None:  # else each file's codec refuses options that it does not have
        named = codecs.loaded[0]
        named.decode_stream(named.source(), seed=seed, **options)
    options |= {"seed": seed, "restore": not native_rate}
    work = _Work(codecs, options, format and format.value, salvage, reporter)
    reporter.run(planned, work.decode, "decoded")


class Codecs:
    """Finds the codec of a file: the one given by `--codec`, else the bundled one with the file's `space`."""

    def __init__(self, name: str | None, device: str, dtype: str, options: Particular) -> None:
        from duotone.hub import DEFAULT, bundled

        self.named = name is not None
        self.names = [name] if name is not None else [DEFAULT, *(n for n in bundled() if n != DEFAULT)]
        self._load = partial(load_codec, device=device, dtype=dtype, options=options)
        self.loaded: list[LoadedCodec] = [self._load(self.names[0])]

    def find(self, spec: CodecSpec) -> LoadedCodec:
        """Return the codec. Raises `CodecMismatchError` if no codec fits, or the header contradicts it."""
        for i, name in enumerate(self.names):
            if i == len(self.loaded):
                self.loaded.append(self._load(name))
            own = self.loaded[i].spec
            if spec.space == own.space or spec.fingerprint == own.fingerprint:
                self.loaded[i].check(spec)
                return self.loaded[i]
        count, own = len(spec.codebooks), self.loaded[0].spec
        if self.named and spec.family == own.family and count != len(own.codebooks):
            raise CodecMismatchError(
                f"This file was made by {title(spec)} with {count} codebooks, and {title(own)} was loaded with "
                f"{len(own.codebooks)}. Add --n-quantizers {count}, or the --bandwidth that it was encoded with."
            )
        if self.named:
            self.loaded[0].check(spec)
        raise CodecMismatchError(
            f"This file was made by codec {spec.space or spec.fingerprint} ({title(spec)}), which is not a bundled one "
            f"({', '.join(self.names)}). Name it with --codec."
        )


@dataclass
class _Work:
    """Decoding one file after the other."""

    codecs: Codecs
    options: dict[str, Any]
    format: str | None
    salvage: bool
    reporter: Reporter

    def decode(self, job: Job) -> tuple[dict[str, Any], str]:
        """Decode a file; returns the result as an object and as a line of text."""
        from duotone.audio.files import open_writer
        from duotone.codec.container import DuoReader

        started = time.perf_counter()
        with DuoReader(sys.stdin.buffer if job.source == "-" else job.source, self.salvage) as reader:
            codec = self.codecs.find(reader.spec)
            # While salvaging, the length is not known before the end: a truncated file may give less than its header states.
            source = reader.source.of_length(None) if self.salvage else reader.source
            stream = codec.decode_stream(source, **self.options)
            if job.target == "-":
                binary_stdout()
            else:
                Path(job.target).parent.mkdir(parents=True, exist_ok=True)
            with stream, open_writer(job.target, stream.rate, stream.channels, format=self.format) as writer:
                samples = self._through(reader, stream, writer, job.source)
        seconds, took = samples / stream.rate, time.perf_counter() - started
        if reader.damage:
            tell(f"warning: {explain(reader, job.source)}")
        figures = {
            "input": job.source, "output": job.target, "codec": title(codec.spec), "fingerprint": codec.fingerprint,
            "strategy": self.options.get("strategy"), "seconds": seconds, "rate": stream.rate,
            "channels": stream.channels, "samples": samples, "lost_chunks": sum(d.chunks for d in reader.damage),
            "damage": [vars(d) for d in reader.damage], "took_seconds": took, "speed": seconds / took,
        }  # fmt: skip
        return figures, f"{job.source} -> {job.target}: {duration(seconds)}, {seconds / took:.1f}x real time"

    def _through(self, reader: DuoReader, stream: DecodeSession, writer: AudioWriter, name: str) -> int:
        """Decode every piece and write it; returns the number of samples written."""
        mute = Mute(reader, stream.rate)
        written, chunks = 0, 0

        def put(wave: Waveform) -> None:
            nonlocal written
            written += wave.length
            if wave.length:
                writer.write(mute(wave))

        with self.reporter.progress(name, reader.source.seconds) as done:
            for piece in reader:
                put(stream.push(piece))
                chunks += len(piece)
                done(len(piece) * reader.spec.chunk_seconds)
            if chunks == 0:
                raise FormatError(
                    f"{reader.name} holds no intact chunk; there is nothing to decode. Encode the sound again."
                )
            put(stream.finish(reader.source))
        if reader.salvage:
            for silence in mute.rest(written, stream.channels):
                put(silence)
        return written
