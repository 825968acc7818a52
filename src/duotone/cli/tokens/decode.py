"""``duotone tokens decode``: token ids or text from a language model -> codes or audio."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from duotone.cli.codec_options import (
    Bandwidth,
    Codec,
    Device,
    Particular,
    Quantizers,
    Repository,
    load_codec,
    particular,
)
from duotone.cli.common import Force, Json, Quiet, Reporter
from duotone.cli.failures import tell
from duotone.cli.files import Job, plan
from duotone.cli.tokens.source import Books, TokenizerFolder, load_tokenizer
from duotone.errors import CodecMismatchError, UsageError, WeightsError

if TYPE_CHECKING:
    from duotone.tokens.collection import Info
    from duotone.tokens.convert import Decoded
    from duotone.tokens.sequences import Sequence
    from duotone.tokens.tokenizer import AudioTokenizer

NAME = "decode"
EXAMPLES = """
Examples:

    duotone tokens decode --tokenizer tokenizer/ generated.npy -o generated.wav

    duotone tokens decode --tokenizer tokenizer/ lm.txt -o codes/

    python generate.py | duotone tokens decode --tokenizer llama-audio/ - -o out.wav

IN holds token ids (.npy; lines of numbers; JSON) or text, one or several sequences. Audio output needs a codec: the one
that the tokenizer was trained on, or --codec.
"""
_TAKES = (".npy", ".txt", ".json", ".jsonl")
_SPARE = 12  # bytes of a name reserved for the numbers of sequence and channel


def command(
    tokenizer: TokenizerFolder,
    inputs: Annotated[
        list[str], typer.Argument(metavar="IN...", help="Files of ids or text, folders, or - for standard input.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="OUT", help="A sound file, an .npy file of codes, or a folder.")
    ],
    format: Annotated[
        str | None,
        typer.Option(
            "--format", help="Format of files in an output folder: npy (codes), or wav, flac, ogg, opus, mp3."
        ),
    ] = None,
    codec: Codec = None,
    num_codebooks: Books = None,
    damaged: Annotated[
        str,
        typer.Option(
            "--damaged",
            help="At a damaged frame: leave out the frame (drop_frame), only the damaged code (drop_code), or stop (raise).",
        ),
    ] = "drop_frame",
    channels: Annotated[
        int, typer.Option("--channels", min=1, max=2, help="2: two channels, interleaved frame by frame.")
    ] = 1,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Loudness, for codecs that code it separately (music: about 0.1).")
    ] = None,
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    codec_repo: Repository = None,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the noise; the same seed gives the same samples.")] = 0,
    device: Device = "cpu",
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Decode token ids or text to codes (.npy with codec_info.json) or to audio."""
    from duotone.audio.formats import WRITABLE

    if damaged not in ("drop_frame", "drop_code", "raise"):
        raise UsageError(f"--damaged got {damaged!r}, expected drop_frame, drop_code or raise.")
    makes = (".npy", *WRITABLE) if format is None else (f".{format.lstrip('.')}",)
    if makes[0] not in (".npy", *WRITABLE):
        raise UsageError(f"--format got {format}, expected npy, {', '.join(e.lstrip('.') for e in WRITABLE)}.")
    planned = plan(inputs, output, takes=_TAKES, makes=makes, suffix=makes[0], force=force, spare=_SPARE)
    if any(job.target == "-" for job in planned.jobs):
        raise UsageError(
            "-o - is not possible for codes, because they need two files (codes and codec_info.json). Name a file or a folder."
        )
    reporter = Reporter(as_json, quiet)
    if reporter.begin(planned):
        loaded = load_tokenizer(tokenizer, num_codebooks)
        options = particular(bandwidth, n_quantizers, codec_repo)
        decoder = _Decoder(loaded, damaged, channels, codec, device, options, seed, scale, force)
        reporter.run(planned, partial(_one, decoder), "decoded")


def _one(decoder: _Decoder, job: Job) -> tuple[dict[str, Any], str]:
    """Decode the sequences of a file; several get numbered names."""
    from duotone.tokens.sequences import read_sequences

    data = sys.stdin.buffer.read() if job.source == "-" else Path(job.source).read_bytes()
    found = read_sequences(data, "standard input" if job.source == "-" else job.source)
    target = Path(job.target)
    targets = [target]
    if len(found) > 1:
        targets = [target.with_name(f"{target.stem}_{i:03d}{target.suffix}") for i in range(len(found))]
        there = [str(place) for place in targets if place.exists()]
        if there and not decoder.force:
            raise UsageError(f"{there[0]} exists already. Add --force to replace, or choose another name with -o.")
    target.parent.mkdir(parents=True, exist_ok=True)
    frames = dropped = 0
    for sequence, place in zip(found, targets, strict=True):
        told = decoder.codes(sequence)
        frames, dropped = frames + told.codes.shape[1], dropped + told.dropped
        decoder.write(told, place)
    figures: dict[str, Any] = {
        "input": job.source, "output": str(target) if len(found) == 1 else [str(t) for t in targets],
        "sequences": len(found), "frames": frames, "dropped": dropped,
    }  # fmt: skip
    rate = decoder.info.framerate
    if rate:
        figures["seconds"] = frames / rate / decoder.channels
    parts = [f"{frames} frames", *([f"{figures['seconds']:.2f} s"] if rate else [])]
    if dropped:
        parts.append(f"{dropped} tokens or characters were not audio, or misplaced, and are left out")
    where = str(target) if len(found) == 1 else f"{len(found)} files, {targets[0]} ..."
    return figures, f"{job.source} -> {where}: {', '.join(parts)}"


@dataclass
class _Decoder:
    """Sequences -> codes -> files."""

    tokenizer: AudioTokenizer
    damaged: str
    channels: int
    codec_name: str | None
    device: str
    particular: Particular
    seed: int
    scale: float | None
    force: bool

    @cached_property
    def info(self) -> Info:
        """What the tokenizer's folder says about its codes."""
        from duotone.tokens.collection import Info

        return Info.from_about(self.tokenizer.about)

    def codes(self, sequence: Sequence) -> Decoded:
        """The complete frames of a sequence. Raises `UsageError` if there are none."""
        from duotone.tokens.convert import to_codes

        tokenizer, damaged = self.tokenizer, cast(Any, self.damaged)
        if isinstance(sequence, str):
            special = re.compile("|".join(map(re.escape, tokenizer.special_tokens)) or r"(?!)")
            told = to_codes(special.sub("", sequence), tokenizer.alphabet, damaged, tokenizer.pattern)
        else:
            ids = sequence[~_is_special(tokenizer, sequence)]
            told = tokenizer.decode(ids, damaged)
        if not told.codes.shape[1]:
            raise UsageError(
                f"No complete frame of audio was found in a sequence of {len(sequence)} "
                f"{'characters' if isinstance(sequence, str) else 'ids'}. Was it made with this tokenizer?"
            )
        return told

    def write(self, told: Decoded, target: Path) -> None:
        """Write codes to an `.npy` file, or the decoded audio to an audio file."""
        codes = told.codes[:, : told.codes.shape[1] // self.channels * self.channels]
        streams = [codes[:, i :: self.channels] for i in range(self.channels)]
        if target.suffix.lower() == ".npy":
            self._write_codes(streams, target)
        else:
            self._write_sound(streams, target)

    def _write_codes(self, streams: list[Any], target: Path) -> None:
        """Write codes `[1, K, T]` as `duotone codes` does: one file per channel, and `codec_info.json`."""
        import numpy as np

        from duotone.atomic import replacing
        from duotone.tokens.collection import INFO, agreed, read_info
        from duotone.tokens.jsonfiles import write_json

        beside = target.parent / INFO
        if beside.is_file():
            agreed([("The codes of the tokenizer", self.info), (str(beside), read_info(target.parent))])
        else:
            write_json(beside, self._description())
        names = (
            [target]
            if self.channels == 1
            else [target.with_name(f"{target.stem}_c{i}.npy") for i in range(self.channels)]
        )
        for codes, name in zip(streams, names, strict=True):
            with replacing(name) as temporary, temporary.open("wb") as file:
                np.save(file, np.ascontiguousarray(codes[None]))

    def _description(self) -> dict[str, Any]:
        """The content of `codec_info.json`, as far as the tokenizer has it."""
        from dataclasses import replace

        from duotone.tokens.collection import codec_info

        alphabet, info = self.tokenizer.alphabet, self.info
        if info.spec is not None:
            return codec_info(replace(info.spec, codebooks=info.spec.codebooks[: alphabet.codebooks]), info.format)
        known = {"codec_type": info.codec or "codec", "codec_model": info.model, "framerate": info.framerate}
        sizes = {"num_codebooks": alphabet.codebooks, "codebook_size": alphabet.size}
        return {
            k: v for k, v in {**known, **sizes, "space": info.space, "format": info.format}.items() if v is not None
        }

    def _write_sound(self, streams: list[Any], target: Path) -> None:
        import numpy as np

        from duotone.audio.files import write

        codec = self.codec
        frames = streams[0].shape[1] // codec.spec.steps * codec.spec.steps
        left = streams[0].shape[1] - frames
        if not frames:
            raise UsageError(
                f"{left} frames do not fill a chunk of the codec, which needs {codec.spec.steps}. Generate more, or write codes."
            )
        if left:
            tell(
                f"{target}: the last {left} frames do not fill a chunk of the codec ({codec.spec.steps} frames) and are left out."
            )
        codes = np.concatenate([stream[:, :frames] for stream in streams])
        write(target, codec.decode(self._value(codes), seed=self.seed), force=True)

    def _value(self, codes: Any) -> Any:
        from duotone.spec import Source

        spec = self.codec.spec
        rows = len(codes) // self.channels
        if spec.channels * self.channels > 2:
            raise UsageError(
                f"The codec codes {spec.channels} channels together, so --channels {self.channels} is not possible."
            )
        source = Source(spec.rate_out, max(spec.channels, self.channels))
        if self.channels == 1:
            return self.codec.codes(codes, source, self.scale)
        from dataclasses import replace

        from duotone.codec.values import Codes

        return Codes(codes, replace(spec, codebooks=spec.codebooks[:rows]), source, self.scale)  # type: ignore[arg-type]

    @cached_property
    def codec(self) -> Any:
        """The codec given by `--codec`, or that the tokenizer was trained on. Raises `CodecMismatchError` if they differ."""
        trained = self.info.spec
        name = self.codec_name or (trained and (trained.model or trained.family)) or self.info.model or self.info.codec
        if name is None:
            raise UsageError("The tokenizer does not say which codec its codes are of. Name it with --codec.")
        try:
            codec = load_codec(name, self.device, "auto", self.particular)
        except WeightsError as error:
            if self.codec_name is not None:
                raise
            raise WeightsError(
                f"{error} The tokenizer was trained on codes of {self.info}: name that codec with --codec."
            ) from None
        if trained is not None:
            have, want = len(codec.spec.codebooks), len(trained.codebooks)
            if codec.spec.family == trained.family and have != want:
                raise CodecMismatchError(
                    f"The tokenizer was trained on codes of {self.info}, but {name} has {have} codebooks here. Give "
                    f"--n-quantizers {want}, or the --bandwidth that the codes were made with."
                )
            codec.check(trained)
        return codec


def _is_special(tokenizer: AudioTokenizer, ids: Any) -> Any:
    """Which ids are special tokens."""
    import numpy as np

    places = [tokenizer.id_of(token) for token in tokenizer.special_tokens]
    return np.isin(ids, places)
