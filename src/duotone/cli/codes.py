"""``duotone codes``: audio -> `.npy` files of codes for acoustic BPE, and such files -> audio."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.codec_options import (
    Bandwidth,
    Device,
    EncodeDtype,
    Particular,
    Quantizers,
    Repository,
    load_codec,
    particular,
    require_face,
    title,
)
from duotone.cli.codes_files import SCALE, SPARE, check, claim, finish, is_finished, read_scale, save
from duotone.cli.common import Json, Quiet, Reporter, Result
from duotone.cli.encode import window_of
from duotone.cli.failures import EXPECTED, tell
from duotone.cli.files import Job, Plan, plan
from duotone.cli.tokens import Lenient
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.audio.waveform import Waveform
    from duotone.codec.batches import Window
    from duotone.codec.contract import Codec as LoadedCodec
    from duotone.codec.values import Codes

NAME = "codes"
EXAMPLES = """
Examples:

    duotone codes sounds/ -o codes/ --codec mimi --n-quantizers 8

    duotone codes sounds/ -o codes/ --codec encodec --codec-model encodec_24khz/ --chunk-size-secs 0.08 --context-secs 0.4

    duotone codes sounds/ -o codes/ --codec wavtokenizer --codec-model weights/ --codec-repo WavTokenizer/

    duotone codes codes/mimi/ -o again/ --codec mimi --decode

Files go to OUT/MODEL/CHUNKs_CONTEXTs/mono (or stereo), with codec_info.json. Run again, it continues with what is missing.
A codec that codes loudness separately (EnCodec 48 kHz, FunCodec) also gets NAME.scale.json.
"""
NAMES = "encodec, dac, mimi, xcodec, xcodec2, neucodec, distill-neucodec, higgs_audio_v2, funcodec, wavtokenizer, simvq, magicodec, or duotone (ours)"
_PLAN = ".codes"  # suffix of the name that stands for all files of a recording


#: The tokens' command, with the option of several values that only this one has.
CLASS = type("CLASS", (Lenient,), {"several": (*Lenient.several, "--extensions")})


OutputFolder = Annotated[
    Path, typer.Option("--output", "-o", "--codes-path", metavar="OUT", help="Folder to write to.")
]
Inputs = Annotated[
    list[str] | None, typer.Argument(metavar="DIR...", help="Folders or files of sound.", show_default=False)
]
AudioPath = Annotated[
    str | None, typer.Option("--audio-path", help="A folder of sound, as codec-bpe names it (in place of DIR).")
]
CodecName = Annotated[
    str | None, typer.Option("--codec", "--codec-type", help=f"{NAMES}. Default: found from --codec-model.")
]
CodecModel = Annotated[
    str | None, typer.Option("--codec-model", help="Folder of the model, or the name of a published one (downloaded).")
]
ChunkSeconds = Annotated[float, typer.Option("--chunk-size-secs", help="Encode this many seconds at a time.")]
ContextSeconds = Annotated[
    float,
    typer.Option("--context-secs", help="Length of the encoder's input for each chunk, including the audio before it."),
]
BatchSize = Annotated[int, typer.Option("--batch-size", min=1, help="Number of chunks encoded together.")]
Stereo = Annotated[bool, typer.Option("--stereo", help="Encode both channels instead of their mean.")]
FilePerChunk = Annotated[bool, typer.Option("--file-per-chunk", help="A file for each chunk.")]
Extensions = Annotated[
    list[str] | None, typer.Option("--extensions", help="Endings of the files to take (default: all that can be read).")
]
AudioFilter = Annotated[
    list[str] | None, typer.Option("--audio-filter", help="Take only paths that contain one of these texts.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Encode again what exists.")]
InfoOnly = Annotated[bool, typer.Option("--codec-info-only", help="Write only codec_info.json.")]
Decode = Annotated[bool, typer.Option("--decode", help="Decode: DIR holds .npy codes, OUT gets .wav files.")]
Scale = Annotated[
    float | None, typer.Option("--scale", help="With --decode: loudness where no file gives it (music: about 0.1).")
]


def command(
    output: OutputFolder,
    inputs: Inputs = None,
    audio_path: AudioPath = None,
    codec: CodecName = None,
    codec_model: CodecModel = None,
    codec_repo: Repository = None,
    chunk_size_secs: ChunkSeconds = 30.0,
    context_secs: ContextSeconds = 0.0,
    batch_size: BatchSize = 1,
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    stereo: Stereo = False,
    file_per_chunk: FilePerChunk = False,
    extensions: Extensions = None,
    audio_filter: AudioFilter = None,
    overwrite: Overwrite = False,
    codec_info_only: InfoOnly = False,
    decode: Decode = False,
    scale: Scale = None,
    device: Device = "cpu",
    dtype: EncodeDtype = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode sound to codes of a codec, for acoustic BPE; with --decode, codes to sound."""
    sources = [*(inputs or []), *([] if audio_path is None else [audio_path])]
    if not sources and not codec_info_only:
        raise UsageError("No folder of audio was given. Write it after the command: duotone codes sounds/ -o codes/.")
    if scale is not None and not decode:
        raise UsageError("--scale is only for --decode. Encoding measures the loudness itself.")
    loaded = _load(codec, codec_model, device, dtype, particular(bandwidth, n_quantizers, codec_repo))
    require_face(loaded.spec, "tokens")
    reporter = Reporter(as_json, quiet)
    if decode:
        planned = plan(sources, f"{output}/", takes=(".npy",), makes=(), suffix=".wav", force=overwrite)
        planned = _chosen(planned, audio_filter)
        if reporter.begin(planned):
            reporter.run(planned, partial(_decode, codec=loaded, scale=scale), "decoded")
        return
    window = window_of(loaded, chunk_size_secs, context_secs)
    folder = output / Path(title(loaded.spec)).name / f"{chunk_size_secs:g}s_{context_secs:g}s"
    folder = folder / ("stereo" if stereo else "mono")
    claim(folder, _settings(loaded, window, file_per_chunk))
    if codec_info_only:
        typer.echo(folder)
        return
    planned = _plan(sources, folder, extensions, audio_filter, overwrite)
    if not as_json:
        typer.echo(folder)
    if reporter.begin(planned):
        steps = (window.chunks or 0) * loaded.spec.steps
        work = _Work(loaded, window, stereo, steps if file_per_chunk else None, reporter)
        reporter.follow(planned, work.results(planned.jobs, batch_size), "encoded")


def _load(codec: str | None, model: str | None, device: str, dtype: str, options: Particular) -> LoadedCodec:
    """The codec that `--codec`, `--codec-model` or both name."""
    from duotone.codec.adapters.table import CODECS
    from duotone.codec.adapters.table import load_codec as load_adapter
    from duotone.codec.contract import resolve_device

    if codec is None and model is None:
        raise UsageError(
            "No codec was named. Give --codec (duotone for the bundled one, or mimi, dac, ...) or --codec-model FOLDER."
        )
    if codec in (None, "duotone") or model is None:
        return load_codec(model or codec, device, dtype, options)
    if codec not in CODECS:
        raise UsageError(f"--codec got {codec!r}, expected one of {', '.join(CODECS)} or duotone.")
    wanted: dict[str, Any] = {**options}
    return load_adapter(codec, model, resolve_device(device), say=tell, **wanted).to(None, dtype)


def _settings(codec: LoadedCodec, window: Window, file_per_chunk: bool) -> dict[str, Any]:
    """The content of codec_info.json."""
    from duotone.tokens.collection import codec_info

    spec = codec.spec
    return {
        **codec_info(spec, codec.encoding_format), **({"channels": 2} if spec.channels == 2 else {}),
        **({"scale_beside": True} if spec.scaled else {}), "chunk_frames": (window.chunks or 0) * spec.steps,
        "context_frames": window.context * spec.steps, "file_per_chunk": file_per_chunk,
    }  # fmt: skip


def _plan(
    sources: list[str], folder: Path, extensions: list[str] | None, parts: Sequence[str] | None, overwrite: bool
) -> Plan:
    """Plan which recordings to encode; finished ones are skipped."""
    from duotone.audio.formats import READABLE

    takes = READABLE if extensions is None else [f".{e.lower().lstrip('.')}" for e in extensions]
    found = plan(sources, f"{folder}/", takes=takes, makes=(), suffix=_PLAN, force=True, spare=SPARE)
    chosen = _chosen(found, parts)
    done = {job for job in chosen.jobs if not overwrite and is_finished(_stem(job), job.source)}
    jobs = [job for job in chosen.jobs if job not in done]
    return Plan(jobs, [job for job in chosen.jobs if job in done], chosen.left_out)


def _chosen(planned: Plan, parts: Sequence[str] | None) -> Plan:
    """Select jobs whose path contains one of the parts. Raises `UsageError` if none does."""
    jobs = [job for job in planned.jobs if not parts or any(part in job.source for part in parts)]
    if not jobs:
        raise UsageError(
            f"--audio-filter got {list(parts or [])}, but no path of the {len(planned.jobs)} files contains any of these."
        )
    return Plan(jobs, planned.skipped, planned.left_out)


def _stem(job: Job) -> Path:
    return Path(job.target.removesuffix(_PLAN))


@dataclass
class _Work:
    """Encoding recordings one by one, or in batches, and writing their codes."""

    codec: LoadedCodec
    window: Window
    stereo: bool
    per_file: int | None
    reporter: Reporter

    def results(self, jobs: list[Job], batch_size: int) -> Iterator[tuple[Job, Result]]:
        """Yield each job with a function that returns its result."""
        if batch_size == 1:
            yield from ((job, partial(self._one, job)) for job in jobs)
            return
        failed: list[tuple[Job, Result]] = []
        waiting: deque[Job] = deque()  # read but not encoded yet; encodings come in the same order
        waves = self._waves(jobs, waiting, failed)
        for value in self.codec.encode_many(waves, window=self.window, batch=batch_size):
            yield from failed
            failed.clear()
            job = waiting.popleft()
            yield job, partial(self._save, job, value.codes())
        yield from failed

    def _waves(self, jobs: list[Job], waiting: deque[Job], failed: list[tuple[Job, Result]]) -> Iterator[Waveform]:
        """Yield the audio of files that can be read; add the others to `failed`."""
        from duotone.audio.files import read

        for job in jobs:
            try:
                wave = read(job.source)
            except EXPECTED as error:
                failed.append((job, partial(_raise, error)))
                continue
            waiting.append(job)
            yield wave if self.stereo else wave.to_channels(1)

    def _one(self, job: Job) -> tuple[dict[str, Any], str]:
        """Encode a file block by block."""
        from duotone.audio.files import open_reader

        with open_reader(job.source) as reader:
            channels = reader.channels if self.stereo else 1
            known = None if reader.samples is None else reader.samples / reader.rate
            with (
                self.codec.encode_stream(reader.rate, channels, window=self.window) as stream,
                self.reporter.progress(job.source, known) as done,
            ):
                parts = []
                for block in reader:
                    parts.append(stream.push(block.to_channels(channels)).codes())
                    done(block.seconds)
                parts.append(stream.finish().codes())
                return self._save(job, type(parts[0]).join(parts, stream.source))

    def _save(self, job: Job, codes: Codes) -> tuple[dict[str, Any], str]:
        count = finish(_stem(job), job.source, save(_stem(job), codes, self.per_file))
        frames, target = codes.indices.shape[1], f"{_stem(job)}_c*.npy"
        figures = {
            "input": job.source, "output": target, "frames": frames, "seconds": codes.seconds, "bytes": count,
        }  # fmt: skip
        return figures, f"{job.source} -> {target}, {frames} frames"


def _raise(error: BaseException) -> tuple[dict[str, Any], str]:
    raise error


def _decode(job: Job, codec: LoadedCodec, scale: float | None) -> tuple[dict[str, Any], str]:
    """One `.npy` of codes to a `.wav`."""
    from duotone.audio.files import write
    from duotone.spec import Source
    from duotone.tokens.collection import codec_info, load_npy

    path, spec = Path(job.source), codec.spec
    check(path, spec, codec_info(spec, codec.encoding_format))
    indices = load_npy(path).astype("int64")
    beside = path.with_name(path.name.removesuffix(".npy") + SCALE)
    loudness: Any = scale
    if spec.scaled and beside.is_file():
        loudness = read_scale(beside, spec.steps, indices.shape[1] // spec.steps)
    wave = codec.decode(codec.codes(indices, Source(spec.rate_out, spec.channels), loudness))
    Path(job.target).parent.mkdir(parents=True, exist_ok=True)
    write(job.target, wave, force=True)
    return {"input": job.source, "output": job.target, "seconds": wave.seconds}, f"{job.source} -> {job.target}"
