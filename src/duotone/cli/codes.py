"""``duotone codes``: a folder of sound -> `.npy` codes of a codec of others, as acoustic BPE wants them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.common import Device, Json, Quiet, Reporter
from duotone.cli.failures import debugging, tell, verdict
from duotone.cli.files import Job, plan
from duotone.cli.tokens import Lenient
from duotone.errors import DuotoneError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from duotone.codec.adapters.contract import ForeignCodec, Windows

NAME = "codes"
EXAMPLES = """
Examples:

    duotone codes sounds/ -o codes/ --codec mimi --n-quantizers 8

    duotone codes sounds/ -o codes/ --codec encodec --codec-model encodec_24khz/ --chunk-size-secs 0.08 --context-secs 0.4

Files go to OUT/MODEL/CHUNKs_CONTEXTs/mono (or stereo), with codec_info.json. Run again, it goes on with what is missing.
"""
CLASS = Lenient
_MARK = ".codes"


def command(
    inputs: Annotated[list[str], typer.Argument(metavar="DIR...", help="Folders or files of sound.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT", help="Folder for the codes.")],
    codec: Annotated[str, typer.Option("--codec", "--codec-type", help="encodec, dac or mimi.")],
    codec_model: Annotated[
        str | None, typer.Option("--codec-model", help="Folder of the model, or its name on the Hub (is downloaded).")
    ] = None,
    chunk_size_secs: Annotated[float, typer.Option("--chunk-size-secs", help="Encode so much at a time.")] = 30.0,
    context_secs: Annotated[float, typer.Option("--context-secs", help="With so much of its past before it.")] = 0.0,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Chunks of one length encoded together.")] = 1,
    bandwidth: Annotated[float | None, typer.Option("--bandwidth", help="Of encodec: kbit/s, or bit/s.")] = None,
    n_quantizers: Annotated[int | None, typer.Option("--n-quantizers", help="Of dac and mimi: codebooks.")] = None,
    stereo: Annotated[bool, typer.Option("--stereo", help="Encode channels apart, not their mean.")] = False,
    file_per_chunk: Annotated[bool, typer.Option("--file-per-chunk", help="A file for each chunk.")] = False,
    audio_filter: Annotated[
        list[str] | None, typer.Option("--audio-filter", help="Parts of which a path has to hold one.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Encode again what is there.")] = False,
    codec_info_only: Annotated[bool, typer.Option("--codec-info-only", help="Write codec_info.json alone.")] = False,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode sound to codes of EnCodec, DAC or Mimi, for acoustic BPE."""
    from duotone.audio.files import EXTENSIONS
    from duotone.codec.adapters.contract import Windows
    from duotone.codec.adapters.transformers_codecs import CODECS
    from duotone.hub import resolve_device

    if codec not in CODECS:
        raise UsageError(f"--codec got {codec!r}, expected one of {', '.join(sorted(CODECS))}.")
    options: dict[str, Any] = {}
    for flag, value in (("bandwidth", bandwidth), ("n_quantizers", n_quantizers)):
        if value is not None:
            if (flag == "bandwidth") != (codec == "encodec"):
                raise UsageError(f"--{flag.replace('_', '-')} is not an option of {codec}.")
            options[flag] = value
    loaded = CODECS[codec].load(codec_model, resolve_device(device), **options)
    windows = Windows.of(loaded.info, chunk_size_secs, context_secs)
    folder = output / Path(loaded.info.codec_model).name
    folder = folder / f"{chunk_size_secs:g}s_{context_secs:g}s" / ("stereo" if stereo else "mono")
    settings = {**loaded.info.to_dict(), "chunk_frames": windows.frames, "context_frames": windows.context}
    _claim(folder, settings | {"file_per_chunk": file_per_chunk})
    if codec_info_only:
        typer.echo(folder)
        return
    jobs = plan(inputs, f"{folder}/", takes=EXTENSIONS, makes=(), suffix=_MARK, force=True)
    if audio_filter:
        jobs = [job for job in jobs if any(part in job.source for part in audio_filter)]
    work = _Work(loaded, windows, stereo, file_per_chunk, Reporter(as_json, quiet))
    wanted = [job for job in jobs if overwrite or not _done(job)]
    code = work.run(wanted, batch_size)
    if not quiet:
        tell(f"{work.files} files encoded, {len(jobs) - len(wanted)} were there, {work.failed} failed.")
    if not as_json:
        typer.echo(folder)
    if code:
        raise typer.Exit(code)


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """codec_info.json for the folder; raises `UsageError` where codes of other settings lie."""
    from duotone.tokens.collection import INFO
    from duotone.tokens.jsonfiles import read_json, write_json

    path = folder / INFO
    if path.is_file():
        found = read_json(path, "a folder of codes")
        differ = [f"{k}: {found.get(k)} there, {v} now" for k, v in settings.items() if found.get(k) != v]
        if differ:
            raise UsageError(f"{folder} holds codes of other settings ({'; '.join(differ)}). Choose another -o.")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _stem(job: Job) -> Path:
    return Path(job.target.removesuffix(_MARK))


def _done(job: Job) -> bool:
    """A file's last mark: its channels are written before it."""
    return _marker(job).exists()


def _marker(job: Job) -> Path:
    stem = _stem(job)
    return stem.with_name(f".{stem.name}.done")


@dataclass
class _Work:
    """Reading, encoding and writing; a file that fails is told of, and the others go on."""

    codec: ForeignCodec
    windows: Windows
    stereo: bool
    file_per_chunk: bool
    reporter: Reporter
    files: int = 0
    failed: int = 0
    code: int = 0

    def run(self, jobs: list[Job], batch_size: int) -> int:
        """Encode and write all; returns the first failure's exit code."""
        from duotone.codec.adapters.contract import Batched

        missing: dict[str, int] = {}
        by_source = {job.source: job for job in jobs}
        encoder = Batched[tuple[str, int]](self.codec, self.windows, batch_size)
        for (source, channel), codes in encoder.run(self._channels(jobs, missing)):
            self._write(by_source[source], channel, codes)
            missing[source] -= 1
            if not missing[source]:
                _marker(by_source[source]).touch()
                self.files += 1
                self.reporter.result(
                    {"input": source, "output": f"{_stem(by_source[source])}_c*.npy", "frames": codes.shape[1]},
                    f"{source} -> {_stem(by_source[source])}_c*.npy, {codes.shape[1]} frames",
                )
        return self.code

    def _channels(self, jobs: list[Job], missing: dict[str, int]) -> Iterator[tuple[tuple[str, int], Tensor]]:
        from duotone.audio.files import read

        for job in jobs:
            try:
                wave = read(job.source).resample(self.codec.info.sampling_rate_encoder)
            except (DuotoneError, OSError) as error:
                found = verdict(error)
                if found is None or debugging():
                    raise
                self.failed += 1
                self.code = self.code or found[1]
                tell(f"error: {job.source}: {found[0]}")
                continue
            wave = wave if self.stereo else wave.to_channels(1)
            missing[job.source] = wave.channels
            for channel in range(wave.channels):
                yield (job.source, channel), wave.samples[channel]

    def _write(self, job: Job, channel: int, codes: Tensor) -> None:
        import numpy as np

        stem, step = _stem(job), self.windows.frames
        stem.parent.mkdir(parents=True, exist_ok=True)
        parts = {f"{stem.name}_c{channel}.npy": codes}
        if self.file_per_chunk and step:
            parts = {}
            for first in range(0, codes.shape[1], step):
                seconds = first / self.codec.info.framerate
                slot = f"_t{int(seconds):06d}_{round(1000 * (seconds - int(seconds))):03d}"
                parts[f"{stem.name}_c{channel}{slot}.npy"] = codes[:, first : first + step]
        for name, part in parts.items():
            temporary = stem.with_name(f".{name}.writing")
            with temporary.open("wb") as file:
                np.save(file, part[None].numpy())  # [1, K, T], the layout met most
            os.replace(temporary, stem.with_name(name))
