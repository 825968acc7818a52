"""``duotone codes``: a folder of sound -> `.npy` codes of any codec, as acoustic BPE wants them; and back to sound."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.common import Device, Json, Quiet, Reporter
from duotone.cli.failures import debugging, tell, verdict
from duotone.cli.files import Job, Plan, plan
from duotone.cli.tokens import Lenient
from duotone.errors import AudioError, CodecMismatchError, DuotoneError, FormatError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from duotone.codec.adapters.contract import Encoded, ForeignCodec, Windows

NAME = "codes"
EXAMPLES = """
Examples:

    duotone codes sounds/ -o codes/ --codec mimi --n-quantizers 8

    duotone codes sounds/ -o codes/ --codec encodec --codec-model encodec_24khz/ --chunk-size-secs 0.08 --context-secs 0.4

    duotone codes sounds/ -o codes/ --codec wavtokenizer --codec-model weights/ --codec-repo WavTokenizer/

    duotone codes codes/mimi/ -o again/ --codec mimi --decode

Files go to OUT/MODEL/CHUNKs_CONTEXTs/mono (or stereo), with codec_info.json. Run again, it goes on with what is missing.
A codec that keeps loudness apart (EnCodec 48 kHz, FunCodec) gets NAME.scale.json beside NAME.npy.
"""
NAMES = "encodec, dac, mimi, xcodec, xcodec2, neucodec, distill-neucodec, higgs_audio_v2, funcodec, wavtokenizer, simvq, magicodec, or duotone (ours)"
_MARK, _SCALE = ".codes", ".scale.json"
_SPARE = 40  # bytes of a name that channel, time and endings take


#: The tokens' command, with the option of several values that only this one has.
CLASS = type("CLASS", (Lenient,), {"several": (*Lenient.several, "--extensions")})


def command(
    output: Annotated[Path, typer.Option("--output", "-o", "--codes-path", metavar="OUT", help="Folder to write to.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(metavar="DIR...", help="Folders or files of sound.", show_default=False)
    ] = None,
    audio_path: Annotated[str | None, typer.Option("--audio-path", help="The same, one folder.")] = None,
    codec: Annotated[
        str | None, typer.Option("--codec", "--codec-type", help=f"{NAMES}. Default: what --codec-model tells.")
    ] = None,
    codec_model: Annotated[
        str | None,
        typer.Option("--codec-model", help="Folder of the model, or a published one's name (is downloaded)."),
    ] = None,
    codec_repo: Annotated[
        str | None,
        typer.Option("--codec-repo", help="Cloned code of wavtokenizer, simvq, magicodec (or funcodec)."),
    ] = None,
    chunk_size_secs: Annotated[float, typer.Option("--chunk-size-secs", help="Encode so much at a time.")] = 30.0,
    context_secs: Annotated[
        float, typer.Option("--context-secs", help="In windows of this length, which end where the chunk ends.")
    ] = 0.0,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Chunks of one length encoded together.")] = 1,
    bandwidth: Annotated[
        float | None, typer.Option("--bandwidth", help="Of encodec, xcodec, higgs, funcodec: kbit/s, or bit/s.")
    ] = None,
    n_quantizers: Annotated[int | None, typer.Option("--n-quantizers", help="Of dac and mimi: codebooks.")] = None,
    stereo: Annotated[bool, typer.Option("--stereo", help="Encode both channels, not their mean.")] = False,
    file_per_chunk: Annotated[bool, typer.Option("--file-per-chunk", help="A file for each chunk.")] = False,
    extensions: Annotated[
        list[str] | None, typer.Option("--extensions", help="Of the files to take (default: all that can be read).")
    ] = None,
    audio_filter: Annotated[
        list[str] | None, typer.Option("--audio-filter", help="Parts of which a path has to hold one.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Encode again what is there.")] = False,
    codec_info_only: Annotated[bool, typer.Option("--codec-info-only", help="Write codec_info.json alone.")] = False,
    decode: Annotated[bool, typer.Option("--decode", help="Back: DIR holds .npy codes, OUT gets .wav.")] = False,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Decoding: loudness where no file tells it (music: about 0.1).")
    ] = None,
    device: Device = "cpu",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Encode sound to codes of a codec, for acoustic BPE; with --decode, codes to sound."""
    sources = [*(inputs or []), *([] if audio_path is None else [audio_path])]
    if not sources and not codec_info_only:
        raise UsageError("No folder of sound is named. Write it after the command: duotone codes sounds/ -o codes/.")
    loaded = _load(codec, codec_model, codec_repo, device, bandwidth, n_quantizers)
    reporter = Reporter(as_json, quiet)
    if decode:
        _decode_all(loaded, sources, output, audio_filter, scale, overwrite, reporter)
        return
    if scale is not None:
        raise UsageError("--scale is for --decode. Encoding finds the loudness by itself.")
    from duotone.audio.formats import READABLE
    from duotone.codec.adapters.contract import Windows

    windows = Windows.of(loaded, chunk_size_secs, context_secs)
    folder = output / Path(loaded.info.codec_model).name
    folder = folder / f"{chunk_size_secs:g}s_{context_secs:g}s" / ("stereo" if stereo else "mono")
    frames = {"chunk_frames": (windows.blocks or 0) * loaded.frames, "context_frames": windows.context * loaded.frames}
    _claim(folder, {**loaded.identity(), **frames, "file_per_chunk": file_per_chunk})
    if codec_info_only:
        typer.echo(folder)
        return
    takes = READABLE if extensions is None else [f".{e.lower().lstrip('.')}" for e in extensions]
    planned = plan(sources, f"{folder}/", takes=takes, makes=(), suffix=_MARK, force=True, spare=_SPARE)
    for line in planned.notes():
        tell(line)
    jobs = _chosen(planned.jobs, audio_filter)
    work = _Work(loaded, windows, stereo, file_per_chunk, reporter)
    wanted = [job for job in jobs if overwrite or not _done(job)]
    code = work.run(wanted, batch_size)
    if not quiet:
        tell(f"{work.files} files encoded, {len(jobs) - len(wanted)} were there, {work.failed} failed.")
    if not as_json:
        typer.echo(folder)
    if code:
        raise typer.Exit(code)


def _load(
    codec: str | None, model: str | None, repository: str | None, device: str, bandwidth: float | None,
    n_quantizers: int | None,
) -> ForeignCodec:  # fmt: skip
    """The codec that is named; ours comes from `hub`, in float32 so that codes are the same on every machine."""
    from duotone.codec.adapters.own import Own
    from duotone.codec.adapters.table import CODECS, load_codec
    from duotone.hub import DEFAULT, bundled, load, resolve_device

    options = {"bandwidth": bandwidth, "n_quantizers": n_quantizers}
    if codec == Own.kind or (codec is None and model in bundled()):
        if repository is not None or any(value is not None for value in options.values()):
            raise UsageError("--codec duotone takes no --bandwidth, --n-quantizers or --codec-repo. Leave them out.")
        return Own(load(model or DEFAULT, device, "float32"), model or DEFAULT)
    if codec is not None and codec not in CODECS:
        raise UsageError(f"--codec got {codec!r}, expected one of {', '.join((*CODECS, Own.kind))}.")
    return load_codec(codec, model, resolve_device(device), repository, **options)


def _chosen(jobs: list[Job], parts: Sequence[str] | None) -> list[Job]:
    chosen = [job for job in jobs if not parts or any(part in job.source for part in parts)]
    if not chosen:
        raise UsageError(f"--audio-filter got {list(parts or [])}, which none of the {len(jobs)} files holds.")
    return chosen


def _claim(folder: Path, settings: dict[str, Any]) -> None:
    """codec_info.json for the folder; raises `UsageError` where codes of other settings lie."""
    from duotone.tokens.collection import INFO
    from duotone.tokens.jsonfiles import read_json, write_json

    path = folder / INFO
    if path.is_file():
        found = read_json(path, "a folder of codes")
        differ = [
            f"{k}: {found.get(k)} there, {settings.get(k)} now"
            for k in {**settings, **found}
            if found.get(k) != settings.get(k)
        ]
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
        for (source, channel), found in encoder.run(self._streams(jobs, missing)):
            self._write(by_source[source], channel, found)
            missing[source] -= 1
            if not missing[source]:
                _marker(by_source[source]).touch()
                self.files += 1
                frames, target = found.codes.shape[-1], f"{_stem(by_source[source])}_c*.npy"
                self.reporter.result(
                    {"input": source, "output": target, "frames": frames}, f"{source} -> {target}, {frames} frames"
                )
        return self.code

    def _streams(self, jobs: list[Job], missing: dict[str, int]) -> Iterator[tuple[tuple[str, int], Tensor]]:
        from duotone.audio.files import read

        for job in jobs:
            try:
                wave = read(job.source)
                streams = self.codec.streams(wave if self.stereo else wave.to_channels(1))
                if streams[0].shape[-1] == 0:
                    raise AudioError(f"{job.source} holds zero samples; there is nothing to encode.")
            except (DuotoneError, OSError) as error:
                found = verdict(error)
                if found is None or debugging():
                    raise
                self.failed += 1
                self.code = self.code or found[1]
                tell(f"error: {job.source}: {found[0]}")
                continue
            missing[job.source] = len(streams)
            for channel, samples in enumerate(streams):
                yield (job.source, channel), samples

    def _write(self, job: Job, channel: int, found: Encoded) -> None:
        stem, step = _stem(job), (self.windows.blocks or 0) * self.codec.frames
        stem.parent.mkdir(parents=True, exist_ok=True)
        parts = {f"{stem.name}_c{channel}": found}
        if self.file_per_chunk and step:
            parts = {}
            for first in range(0, found.codes.shape[-1], step):
                seconds, thousandths = divmod(round(1000 * first / self.codec.info.framerate), 1000)
                name = f"{stem.name}_c{channel}_t{seconds:06d}_{thousandths:03d}"
                parts[name] = found.part(first, step)
        for name, part in parts.items():
            _save(stem.with_name(name), part)


def _save(path: Path, found: Encoded) -> None:
    """NAME.npy with codes `[1, K, F]`, the layout met most; the loudness before it, so that no codes lack theirs."""
    import numpy as np

    from duotone.tokens.jsonfiles import write_json

    if found.scale is not None:
        import torch

        values, counts = torch.unique_consecutive(found.scale, return_counts=True)
        write_json(path.with_name(path.name + _SCALE), {"scale": values.tolist(), "frames": counts.tolist()})
    temporary = path.with_name(f".{path.name}.npy.writing")
    with temporary.open("wb") as file:
        np.save(file, found.codes[None].numpy())
    os.replace(temporary, path.with_name(path.name + ".npy"))


def _decode_all(
    codec: ForeignCodec, sources: list[str], output: Path, parts: Sequence[str] | None, scale: float | None,
    overwrite: bool, reporter: Reporter,
) -> None:  # fmt: skip
    """Every `.npy` of codes to a `.wav` of its own."""
    import torch

    from duotone.audio.files import write
    from duotone.tokens.collection import load_npy

    def work(job: Job) -> tuple[dict[str, Any], str]:
        path = Path(job.source)
        _check(path, codec)
        codes = torch.from_numpy(load_npy(path).astype("int64"))
        beside = path.with_name(path.name.removesuffix(".npy") + _SCALE)
        loudness = _read_scale(beside, codes.shape[-1]) if codec.scaled and beside.is_file() else scale
        wave = codec.decode(codes, loudness)
        Path(job.target).parent.mkdir(parents=True, exist_ok=True)
        write(job.target, wave, force=True)
        return {"input": job.source, "output": job.target, "seconds": wave.seconds}, f"{job.source} -> {job.target}"

    planned = plan(sources, f"{output}/", takes=(".npy",), makes=(), suffix=".wav", force=overwrite)
    reporter.run(Plan(_chosen(planned.jobs, parts), [], planned.left_out), work, "decoded")


def _check(path: Path, codec: ForeignCodec) -> None:
    """Raise `CodecMismatchError` where a codec_info.json above the codes tells of another codec."""
    from duotone.tokens.collection import INFO
    from duotone.tokens.jsonfiles import read_json

    near = next((folder / INFO for folder in path.absolute().parents if (folder / INFO).is_file()), None)
    if near is None:
        return
    there, here = read_json(near, "a folder of codes"), codec.identity()
    for key in ("codec_type", "codebook_size", "sampling_rate_decoder", "fingerprint"):
        if there.get(key) != here.get(key):
            raise CodecMismatchError(
                f"{near} tells of {key} {there.get(key)}, but the codec at hand has {here.get(key)}. "
                f"Decode with the codec that made the codes: {there.get('codec_model')}."
            )


def _read_scale(path: Path, frames: int) -> Tensor:
    """The loudness of each frame `[F]`. Raises `FormatError` for a file that does not fit its codes."""
    import torch

    from duotone.tokens.jsonfiles import read_json

    found = read_json(path, "the loudness of codes")
    try:
        values, counts = torch.tensor(found["scale"], dtype=torch.float32), torch.tensor(found["frames"])
        scale = values.repeat_interleave(counts)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FormatError(f"{path} is damaged ({error!r}): expected lists 'scale' and 'frames'.") from None
    if scale.shape != (frames,):
        raise FormatError(f"{path} tells of {list(scale.shape)} frames, but its codes have {frames}. Encode it again.")
    return scale
