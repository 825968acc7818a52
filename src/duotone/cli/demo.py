"""``duotone demo``: a piece goes through the codec in every way, with pictures and figures."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duotone.cli.common import Codec, Device, Dtype, Json, duration, size
from duotone.cli.failures import tell
from duotone.errors import AudioError, DuotoneError, UsageError

if TYPE_CHECKING:
    from duotone.audio.waveform import Waveform
    from duotone.cli.demo_page import Piece, Take
    from duotone.codec.codicodec import CoDiCodec
    from duotone.codec.values import Codes, Latents

NAME = "demo"
LIMIT_SECONDS = 30.0
FIGURES = "figures.json"
#: Two runs of one computation in different batches differ by rounding: by so much of the signal, at most.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.02, "float16": 0.02}
EXAMPLES = """
Examples:

    duotone demo

    duotone demo song.mp3 -o my-demo --open
"""


def command(
    file: Annotated[
        str | None, typer.Argument(metavar="[FILE]", help="A sound file (default: a bundled piece of music).")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="The folder to fill.")] = Path(
        "demo-out"
    ),
    codec: Codec = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in a browser.")] = False,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    force: Annotated[bool, typer.Option("--force", help="Write into a folder that holds other things.")] = False,
    as_json: Json = False,
) -> None:
    """Encode a piece, decode it by every strategy, and write WAVs, pictures and a page with players and figures.

    Of a long FILE the first 30 s are taken.
    """
    from duotone.cli.demo_page import page
    from duotone.hub import DEFAULT, load

    _claim(output, force)
    source = file or _bundled_piece()
    wave = _beginning(source)
    loaded = load(codec or DEFAULT, device, dtype)
    piece, takes, sounds = _perform(loaded, wave, Path(source).name, codec or DEFAULT, output, seed)
    equal, gap = _compare(sounds)
    _draw(wave, sounds, output)
    (output / "index.html").write_text(page(piece, takes, equal), encoding="utf-8")
    document = {"piece": asdict(piece), "takes": [asdict(t) for t in takes], "wavefront_gap": gap, "seed": seed}
    (output / FIGURES).write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    if as_json:
        typer.echo(json.dumps(document))
    else:
        _print(piece, takes, equal, output)
    if open_page:
        typer.launch(str(output / "index.html"))
    if gap > TOLERANCE[piece.dtype]:
        raise DuotoneError(
            f"{equal} That is a defect of Duotone on this machine; please report it with {output / FIGURES}."
        )


def _claim(folder: Path, force: bool) -> None:
    """Make the folder. Raises `UsageError` if it holds things that are not a demo's."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected a folder for the demo. Choose another with -o.")
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not (folder / FIGURES).is_file() and not force:
        raise UsageError(f"{folder} holds things that are not a demo's. Choose another folder with -o, or add --force.")


def _bundled_piece() -> str:
    path = Path(str(files("duotone") / "assets" / "demo.flac"))
    if not path.is_file():
        raise AudioError("This installation has no bundled piece (assets/demo.flac). Give one: duotone demo FILE.")
    return str(path)


def _beginning(source: str) -> Waveform:
    """At most the first 30 s; says so when there was more."""
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
    codec: CoDiCodec, wave: Waveform, name: str, codec_name: str, folder: Path, seed: int
) -> tuple[Piece, list[Take], dict[str, Waveform]]:
    """Encode once, decode in every way, and write the sounds and the .duo files."""
    from duotone.audio.files import write
    from duotone.cli.demo_page import Piece, Take
    from duotone.codec.codicodec import STRATEGIES
    from duotone.codec.codicodec.network import parameter_count
    from duotone.codec.container import write_duo
    from duotone.evaluate.metrics import measure

    _warm_up(codec)
    started = time.perf_counter()
    latents = codec.encode(wave)
    piece = Piece(
        name=name, seconds=wave.seconds, rate=wave.rate, channels=wave.channels, codec=Path(codec_name).name,
        fingerprint=codec.fingerprint, parameters=parameter_count(codec.network),
        dtype=str(codec.dtype).removeprefix("torch."), provenance=str(codec.provenance.get("weights", "")),
        encode_speed=wave.seconds / (time.perf_counter() - started),
    )  # fmt: skip
    write(folder / "original.wav", wave, force=True)
    takes: list[Take] = []
    sounds: dict[str, Waveform] = {}
    values: dict[str, Latents | Codes] = {"latents": latents, "tokens": latents.codes()}
    for face, value in values.items():
        count = write_duo(folder / f"{face}.duo", value)
        for strategy in STRATEGIES:
            tell(f"decoding {face}, {strategy}")
            started = time.perf_counter()
            sound = codec.decode(value, strategy, seed=seed)
            speed = wave.seconds / (time.perf_counter() - started)
            sounds[f"{face}-{strategy}"] = sound
            write(folder / f"{face}-{strategy}.wav", sound, force=True)
            figures = {k: v if math.isfinite(v) else None for k, v in measure(wave, sound).items()}
            kbit = count * 8 / wave.seconds / 1000
            takes.append(Take(f"{face}-{strategy}", face, strategy, count, kbit, speed, figures))
    return piece, takes, sounds


def _warm_up(codec: CoDiCodec) -> None:
    """A chunk there and back, untimed: first calls pay for allocations and compilation."""
    import torch

    from duotone.audio.waveform import Waveform
    from duotone.codec.codicodec import STRATEGIES

    latents = codec.encode(Waveform(torch.zeros(2, codec.config.chunk_samples), codec.rate))
    for strategy in STRATEGIES:
        codec.decode(latents, strategy)


def _compare(sounds: dict[str, Waveform]) -> tuple[str, float]:
    """Whether the wavefront gave the samples of the parallel strategy: a sentence, and the largest relative error."""
    gap = 0.0
    for name in [name for name in sounds if name.endswith("-parallel")]:
        parallel, wavefront = sounds[name].samples, sounds[name.replace("-parallel", "-wavefront")].samples
        scale = float(parallel.square().mean().sqrt())
        gap = max(gap, float((parallel - wavefront).square().mean().sqrt()) / max(scale, 1e-9))
    if gap == 0:
        return "Wavefront and parallel gave the same samples, bit for bit.", gap
    below = -20 * math.log10(gap)
    return f"Wavefront and parallel gave the same samples up to rounding ({below:.0f} dB below the sound).", gap


def _draw(wave: Waveform, sounds: dict[str, Waveform], folder: Path) -> None:
    """A picture of each sound, and all of them side by side (the wavefront's would be that of parallel)."""
    from duotone.evaluate.picture import png, side_by_side, spectrogram

    shown = {"original": wave, **{name: s for name, s in sounds.items() if not name.endswith("wavefront")}}
    panels = {name: spectrogram(sound) for name, sound in shown.items()}
    for name, panel in panels.items():
        (folder / f"{name}.png").write_bytes(png(panel))
    (folder / "spectrograms.png").write_bytes(png(side_by_side(list(panels.values()))))


def _print(piece: Piece, takes: list[Take], equal: str, folder: Path) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from duotone.cli.demo_page import COLUMNS, cells

    console = Console(highlight=False)
    title = Text(f"{piece.name}: {duration(piece.seconds)}, encoded {piece.encode_speed:.1f}x real time")
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("way", no_wrap=True)
    for _, heading, _ in COLUMNS:
        table.add_column(Text(heading), justify="right")
    for take in takes:
        table.add_row(f"{take.face}, {take.strategy}", *cells(take))
    console.print(table)
    for line in (
        f"As 16-bit samples the piece takes {size(piece.pcm_bytes)}: the tokens are "
        f"{piece.pcm_bytes / takes[-1].bytes:.0f} times smaller.",
        equal,
        f"Listen: {folder / 'index.html'}",
    ):
        console.print(Text(line), soft_wrap=True)
