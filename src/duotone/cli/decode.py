"""``duotone decode``: .duo -> sound, in constant memory."""

from __future__ import annotations

import sys
import time
from enum import Enum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.common import Codec, Device, Dtype, Force, Json, Quiet, Reporter, SkipExisting, binary_stdout, duration
from duotone.cli.failures import tell
from duotone.cli.files import Job, plan
from duotone.cli.salvage import Mute, explain
from duotone.errors import FormatError, UsageError

if TYPE_CHECKING:
    from duotone.audio.waveform import Waveform
    from duotone.codec.codicodec import CoDiCodec
    from duotone.codec.container import DuoReader
    from duotone.codec.values import Particulars

NAME = "decode"
EXAMPLES = """
Examples:

    duotone decode song.duo -o song.wav

    duotone decode encoded/ -o decoded/ --format flac --strategy autoregressive

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
        StrategyName, typer.Option(help="wavefront and parallel give the same samples; all run in constant memory.")
    ] = StrategyName.wavefront,
    steps: Annotated[int | None, typer.Option(help="Denoising steps (default: the codec's).")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise; the same seed gives the same samples.")] = 0,
    time_prompt: Annotated[
        float | None, typer.Option(min=0, max=1, help="Noise position of the left chunk (only autoregressive).")
    ] = None,
    format: Annotated[FormatName | None, typer.Option(help="Format (default: by the name, else wav).")] = None,
    native_rate: Annotated[
        bool, typer.Option("--native-rate", help="The codec's own rate and stereo, instead of the source's.")
    ] = False,
    salvage: Annotated[bool, typer.Option("--salvage", help="Put silence for damaged chunks, and say so.")] = False,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    force: Force = False,
    skip_existing: SkipExisting = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode .duo files to sound files; folders are walked and mirrored."""
    from duotone.audio.files import EXTENSIONS

    if time_prompt is not None and strategy is not StrategyName.autoregressive:
        raise UsageError(f"--time-prompt does nothing with --strategy {strategy.value}; it is for autoregressive.")
    makes = EXTENSIONS if format is None else (f".{format.value}",)
    planned = plan(
        inputs,
        output,
        takes=(".duo",),
        makes=makes,
        suffix=f".{format.value if format else 'wav'}",
        force=force,
        skip_existing=skip_existing,
    )
    options = {
        "strategy": strategy.value, "steps": steps, "seed": seed, "time_prompt": time_prompt,
        "restore": not native_rate,
    }  # fmt: skip
    reporter = Reporter(as_json, quiet)
    if reporter.begin(planned):
        codecs = _Codecs(codec, device, dtype)
        work = partial(
            _one, codecs=codecs, options=options, format=format and format.value, salvage=salvage, reporter=reporter
        )
        reporter.run(planned, work, "decoded")


class _Codecs:
    """Finds the codec that made a file: the one asked for, or else the bundled one with the file's fingerprint."""

    def __init__(self, name: str | None, device: str, dtype: str) -> None:
        from duotone.hub import DEFAULT, bundled

        self.names = [name] if name else [DEFAULT, *(n for n in bundled() if n != DEFAULT)]
        self.device, self.dtype = device, dtype
        self.loaded: list[CoDiCodec] = []

    def find(self, about: Particulars) -> CoDiCodec:
        """The codec; raises `CodecMismatchError` when none fits, `FormatError` when the header contradicts it."""
        from duotone.hub import load

        for i, name in enumerate(self.names):
            if i == len(self.loaded):
                self.loaded.append(load(name, self.device, self.dtype))
            if self.loaded[i].fingerprint == about.fingerprint:
                _check_sizes(self.loaded[i], about)
                return self.loaded[i]
        self.loaded[0].check(about)  # raises, naming both fingerprints
        raise AssertionError("a codec of another fingerprint passed the check")


def _check_sizes(codec: CoDiCodec, about: Particulars) -> None:
    config = codec.config
    got = (about.rate, about.chunk_samples, about.latents, about.levels)
    want = (config.rate, config.chunk_samples, config.latents, config.levels)
    if got != want:
        raise FormatError(
            f"The header's rate, chunk, latents and levels are {got}, but its codec {codec.fingerprint} has {want}. "
            f"The file was altered; encode the sound again."
        )


def _one(
    job: Job, codecs: _Codecs, options: dict[str, Any], format: str | None, salvage: bool, reporter: Reporter
) -> tuple[dict[str, Any], str]:
    from duotone.audio.files import open_writer
    from duotone.codec.container import DuoReader

    started = time.perf_counter()
    with DuoReader(sys.stdin.buffer if job.source == "-" else job.source, salvage) as reader:
        codec = codecs.find(reader.about)
        if job.target == "-":
            binary_stdout()
        else:
            Path(job.target).parent.mkdir(parents=True, exist_ok=True)
        # While salvaging, the length is not known before the end: a cut file may give less than its header says.
        about = reader.about.with_samples(0, 0) if salvage else reader.about
        stream = codec.decode_stream(about, **options)
        with stream, open_writer(job.target, stream.rate, stream.channels, format=format) as writer:
            samples = _through(reader, stream, writer, codec, job.source, reporter)
    seconds, took = samples / stream.rate, time.perf_counter() - started
    lost = sum(d.chunks for d in reader.damage)
    if reader.damage:
        tell(f"warning: {explain(reader, job.source)}")
    figures = {
        "input": job.source, "output": job.target, "codec": codec.fingerprint, "strategy": options["strategy"],
        "seconds": seconds, "rate": stream.rate, "channels": stream.channels, "samples": samples,
        "lost_chunks": lost, "damage": [vars(d) for d in reader.damage], "took_seconds": took, "speed": seconds / took,
    }  # fmt: skip
    return figures, f"{job.source} -> {job.target}: {duration(seconds)}, {seconds / took:.1f}x real time"


def _through(reader: DuoReader, stream: Any, writer: Any, codec: CoDiCodec, name: str, reporter: Reporter) -> int:
    """Every piece through the stream into the writer; returns the samples written."""
    mute = Mute(reader, codec, stream.rate)
    written, chunks = 0, 0

    def put(wave: Waveform) -> None:
        nonlocal written
        written += wave.length
        if wave.length:
            writer.write(mute(wave))

    with reporter.progress(name, _seconds(reader.about)) as done:
        for piece in reader:
            put(stream.push(piece))
            chunks += len(piece)
            done(len(piece) * codec.config.chunk_samples / codec.rate)
        if chunks == 0:
            raise FormatError(
                f"{reader.name} holds no intact chunk; there is nothing to decode. Encode the sound again."
            )
        put(stream.finish(reader.about))
    if reader.salvage:
        for silence in mute.rest(written, stream.channels):
            put(silence)
    return written


def _seconds(about: Particulars) -> float | None:
    return about.source_samples / about.source_rate if about.source_samples else None
