"""``duotone demo``: encode a piece and decode it in every way, with spectrograms and metrics."""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Iterator
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duotone.atomic import write_bytes, write_json, write_text
from duotone.cli.codec_options import (
    Bandwidth,
    Codec,
    Device,
    Dtype,
    Quantizers,
    Repository,
    decoding_format,
    load_codec,
    particular,
)
from duotone.cli.common import Json, check_outputs, duration, size, table
from duotone.cli.failures import require_stdout, tell
from duotone.errors import AudioError, DuotoneError, UsageError

if TYPE_CHECKING:
    from duotone.audio.waveform import Waveform
    from duotone.cli.demo_page import Piece, Take
    from duotone.codec.contract import Codec as LoadedCodec
    from duotone.codec.values import Codes, Latents

NAME = "demo"
LIMIT_SECONDS = 30.0
RESULTS = "metrics.json"
_FORMER = "figures.json"
#: What `metrics.json` says of itself: a folder with such a file is a demo's, and may be filled again.
MADE_BY = "duotone demo"
#: Two runs of one computation in different batches differ by rounding: by so much of the signal, at most.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.02, "float16": 0.02}
EXAMPLES = """
Examples:

    duotone demo

    duotone demo song.mp3 -o my-demo --open

    duotone demo song.mp3 -o mimi-demo --codec mimi
"""


def command(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A sound file (default: a bundled piece of music).")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to fill.")] = Path(
        "demo-out"
    ),
    codec: Codec = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise, of codecs that decode from noise.")] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in a browser.")] = False,
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    codec_repo: Repository = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    force: Annotated[bool, typer.Option("--force", help="Write to a folder that holds other files.")] = False,
    as_json: Json = False,
) -> None:
    """Encode a piece, decode it with every strategy, and write WAVs, spectrograms and a page with players and metrics.

    Only the first 30 s of FILE are used. The encoder works in float32 unless --dtype names a format.
    """
    from duotone.cli.demo_page import page

    if as_json:
        require_stdout()
    _check_folder(output, force)
    source = file or _bundled_piece()
    wave = _beginning(source)
    loaded = load_codec(codec, device, dtype, particular(bandwidth, n_quantizers, codec_repo))
    output.mkdir(parents=True, exist_ok=True)
    write_json(output / RESULTS, {"made_by": MADE_BY, "complete": False})
    piece, takes, sounds = _perform(loaded, wave, Path(source).name, output, seed)
    gap = _largest_gap(sounds)
    repeatable = _repeatable(piece, loaded.spec.seeded, gap)
    _draw(wave, sounds, output)
    write_text(output / "index.html", page(piece, takes, repeatable))
    document = {
        "made_by": MADE_BY, "complete": True, "piece": asdict(piece), "takes": [asdict(t) for t in takes],
        "wavefront_gap": gap, "seed": seed,
    }  # fmt: skip
    write_json(output / RESULTS, document, indent=2)
    if as_json:
        typer.echo(json.dumps(document))
    else:
        typer.echo("\n".join(_lines(piece, takes, repeatable, output)))
    if open_page:
        typer.launch(str(output / "index.html"))
    if gap is not None and gap > TOLERANCE[piece.decoded_in]:
        raise DuotoneError(
            f"Wavefront and parallel differ by {gap:.1%} of the audio's level, expected at most "
            f"{TOLERANCE[piece.decoded_in]:.1%} in {piece.decoded_in}. That is a defect of Duotone on this machine; please "
            f"report it with {output / RESULTS}."
        )


def _check_folder(folder: Path, force: bool) -> None:
    """Raise `UsageError` for a folder that holds other files, `OSError` for one that cannot be written to."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected a folder for the demo. Choose another with -o.")
    check_outputs([folder / RESULTS])
    if folder.exists() and any(folder.iterdir()) and not force and not _is_a_demo(folder):
        raise UsageError(f"{folder} holds things that are not a demo's. Choose another folder with -o, or add --force.")


def _is_a_demo(folder: Path) -> bool:
    for name in (RESULTS, _FORMER):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(found, dict) and (found.get("made_by") == MADE_BY or {"piece", "takes"} <= found.keys()):
            return True
    return False


def _bundled_piece() -> str:
    path = Path(str(files("duotone") / "assets" / "demo.flac"))
    if not path.is_file():
        raise AudioError("This installation has no bundled piece (assets/demo.flac). Give one: duotone demo FILE.")
    return str(path)


def _beginning(source: str) -> Waveform:
    """Read at most the first 30 s; prints a note if the file is longer."""
    import torch

    from duotone.audio.files import open_reader
    from duotone.audio.waveform import Waveform

    with open_reader(source, block=1.0) as reader:
        limit, blocks, length = int(LIMIT_SECONDS * reader.rate), [], 0
        for block in reader:
            blocks.append(block.samples)
            length += block.length
            if length > limit:
                tell(
                    f"{source} lasts longer than {LIMIT_SECONDS:.0f} s: the demo takes the first {LIMIT_SECONDS:.0f} s."
                )
                break
        return Waveform(torch.cat(blocks, dim=1)[:, :limit].contiguous(), reader.rate)


def _perform(
    codec: LoadedCodec, wave: Waveform, name: str, folder: Path, seed: int
) -> tuple[Piece, list[Take], dict[str, Waveform]]:
    """Encode once, decode in every way, and write the audio and .duo files."""
    from duotone.audio.files import write
    from duotone.cli.demo_page import Piece
    from duotone.codec.container import write_duo

    _warm_up(codec)
    started = time.perf_counter()
    encoded = codec.encode(wave)
    spec = codec.spec
    piece = Piece(
        name=name, seconds=wave.seconds, rate=wave.rate, channels=wave.channels, codec=Path(spec.model).name,
        fingerprint=spec.fingerprint, parameters=codec.parameter_count(), encoded_in=encoded.source.format,
        decoded_in=decoding_format(codec), provenance=str(codec.provenance.get("weights", "")),
        encode_speed=wave.seconds / (time.perf_counter() - started),
    )  # fmt: skip
    write(folder / "original.wav", wave, force=True)
    takes: list[Take] = []
    sounds: dict[str, Waveform] = {}
    for face in spec.faces:
        value = encoded.codes() if face == "tokens" else encoded
        count = write_duo(folder / f"{face}.duo", value, force=True)
        for take, sound in _decoded(codec, value, wave, face, count, seed):
            write(folder / f"{take.name}.wav", sound, force=True)
            takes.append(take)
            sounds[take.name] = sound
    return piece, takes, sounds


def _decoded(
    codec: LoadedCodec, value: Latents | Codes, wave: Waveform, face: str, count: int, seed: int
) -> Iterator[tuple[Take, Waveform]]:
    """Decode the latents or the codes, of `count` bytes in .duo, with every strategy."""
    from duotone.cli.demo_page import Take
    from duotone.evaluate.metrics import measure

    for strategy in codec.spec.strategies or ("",):
        name = "-".join(filter(None, (face, strategy)))
        tell(f"decoding {name.replace('-', ', ')}")
        started = time.perf_counter()
        sound = codec.decode(value, strategy or None, seed=seed)
        speed = wave.seconds / (time.perf_counter() - started)
        metrics = {k: v if math.isfinite(v) else None for k, v in measure(wave, sound).items()}
        yield Take(name, face, strategy, count, count * 8 / wave.seconds / 1000, speed, metrics), sound


def _warm_up(codec: LoadedCodec) -> None:
    """Encode and decode a chunk without timing it: the first calls include allocation and compilation."""
    import torch

    from duotone.audio.waveform import Waveform

    spec = codec.spec
    value = codec.encode(Waveform(torch.zeros(2, max(spec.chunk, spec.rate // 10)), spec.rate))
    for strategy in spec.strategies or (None,):
        codec.decode(value, strategy)


def _largest_gap(sounds: dict[str, Waveform]) -> float | None:
    """Largest difference between the wavefront's and the parallel samples, relative to the latter; None without both."""
    gaps = []
    for name in [name for name in sounds if name.endswith("-parallel")]:
        other = sounds.get(name.replace("-parallel", "-wavefront"))
        if other is not None:
            parallel, wavefront = sounds[name].samples, other.samples
            scale = float(parallel.square().mean().sqrt())
            gaps.append(float((parallel - wavefront).square().mean().sqrt()) / max(scale, 1e-9))
    return max(gaps, default=None)


def _repeatable(piece: Piece, seeded: bool, gap: float | None) -> str:
    """Say which results another run reproduces, given the number formats of this one."""
    if piece.encoded_in == "float32":
        told = (
            "Encoded in float32: blocks of any size give the same codes, and other machines and threads change a few in "
            "ten thousand at most."
        )
    else:
        told = f"Encoded in {piece.encoded_in}: codes depend on the machine, on threads and block sizes."
    again = "the same seed gives" if seeded else "decoding again gives"
    if piece.decoded_in == "float32":
        told += f" Decoded in float32: {again} the same samples, on other machines up to rounding."
    else:
        told += (
            f" Decoded in {piece.decoded_in}: {again} the same samples on this machine alone; --dtype float32 makes "
            f"machines agree up to rounding."
        )
    if gap == 0:
        told += " Wavefront and parallel gave the same samples, bit for bit."
    elif gap is not None:
        told += (
            f" Wavefront and parallel gave the same samples up to rounding ({-20 * math.log10(gap):.0f} dB below the "
            f"sound)."
        )
    return told


def _draw(wave: Waveform, sounds: dict[str, Waveform], folder: Path) -> None:
    """Draw a spectrogram of each result, and all of them side by side (wavefront is left out: it equals parallel)."""
    from duotone.evaluate.picture import png, side_by_side, spectrogram

    shown = {"original": wave, **{name: s for name, s in sounds.items() if not name.endswith("wavefront")}}
    panels = {name: spectrogram(sound) for name, sound in shown.items()}
    for name, panel in panels.items():
        write_bytes(folder / f"{name}.png", png(panel))
    write_bytes(folder / "spectrograms.png", png(side_by_side(list(panels.values()))))


def _lines(piece: Piece, takes: list[Take], repeatable: str, folder: Path) -> list[str]:
    """The table and a summary, in 80 columns."""
    from duotone.cli.demo_page import COLUMNS, cells

    headings = ["way", *("\n".join(textwrap.wrap(heading, 8)) for _, heading, _ in COLUMNS)]
    rows = [[", ".join(filter(None, (take.face, take.strategy))), *cells(take)] for take in takes]
    smallest = min(takes, key=lambda take: take.bytes)
    return [
        f"{piece.name}: {duration(piece.seconds)}, encoded {piece.encode_speed:.1f}x real time",
        "",
        *table(headings, rows),
        "",
        f"As 16-bit samples the piece takes {size(piece.pcm_bytes)}: the {smallest.face} are "
        f"{piece.pcm_bytes / smallest.bytes:.0f} times smaller.",
        *textwrap.wrap(repeatable, 80),
        f"Listen: {folder / 'index.html'}",
    ]
