"""``duotone demo``: a page on which a codec is compared by ear with the original and with Opus."""

from __future__ import annotations

import json
import math
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.atomic import write_text
from duotone.cli.codec_options import Bandwidth, Codec, Device, Dtype, Quantizers, Repository, load_codec, particular
from duotone.cli.common import Json, check_outputs, size, table
from duotone.cli.failures import require_stdout, tell
from duotone.cli.files import output_path
from duotone.errors import AudioError, UsageError

if TYPE_CHECKING:
    from duotone.audio.waveform import Waveform
    from duotone.codec.contract import Codec as AnyCodec
    from duotone.evaluate.continued import Continued
    from duotone.evaluate.listening import Clip

NAME = "demo"
#: Seconds of each file: three stereo clips of this length make a page of about 10 MB.
SECONDS = 10.0
EXAMPLES = """
Examples:

    duotone demo --open

    duotone demo song.mp3 voice.wav -o mine.html

    duotone demo song.mp3 --start 60 --seconds 20 --codec mimi
"""


def command(
    sounds: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Sound files (default: a recorded piece, a composed one, a voice)."),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", parser=output_path, help="The HTML file to write.")
    ] = Path("duotone-demo.html"),
    start: Annotated[float, typer.Option(help="Where to begin in each file, in seconds.")] = 0.0,
    seconds: Annotated[float, typer.Option(help="How much of each file to take, in seconds.")] = SECONDS,
    codec: Codec = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise, of codecs that decode from noise.")] = 0,
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in a browser.")] = False,
    bandwidth: Bandwidth = None,
    n_quantizers: Quantizers = None,
    codec_repo: Repository = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is not such a page.")] = False,
    as_json: Json = False,
) -> None:
    """Write a page that compares the original, the codec's tokens and latents, and Opus: one file that needs no network.

    Versions are equally loud and switch at the same instant while playing; the page has spectrograms and blind tests. Opus
    needs opus-tools, and is left out without it. The bundled flow continues the first file (of the bundled clips, the composed one).
    """
    from duotone.evaluate.listening import compare_clip
    from duotone.evaluate.listening_page import About, page
    from duotone.evaluate.opus import missing_programs

    if as_json:
        require_stdout()
    _check(output, start, seconds, force)
    chosen = [_of_file(name, start, seconds) for name in sounds] if sounds else _bundled()
    loaded = load_codec(codec, device, dtype, particular(bandwidth, n_quantizers, codec_repo))
    if missing := missing_programs():
        tell(f"Opus is left out: {' and '.join(missing)} not found (Debian: apt install opus-tools).")
    clips = [compare_clip(loaded, wave, **about, seed=seed, tell=tell) for wave, about in chosen]
    continued = _continued(loaded, *_to_continue(chosen), seed=seed)
    output.parent.mkdir(parents=True, exist_ok=True)
    text = page(About.of(loaded), clips, continued)
    write_text(output, text)
    if as_json:
        typer.echo(json.dumps({"page": str(output), "bytes": len(text.encode()), "codec": loaded.spec.model,
                               "fingerprint": loaded.fingerprint, "clips": [_figures(clip) for clip in clips],
                               "continued": _continuation(continued)}))  # fmt: skip
    else:
        typer.echo("\n".join(line for clip in clips for line in _lines(clip)))
        if continued is not None:
            typer.echo(
                f"{continued.title}: {continued.joint:.1f} s, continued to {continued.seconds:.1f} s by {continued.flow}."
            )
        typer.echo(f"Listen: {output} ({size(len(text.encode()))})")
    if open_page:
        typer.launch(str(output))


def _check(output: Path, start: float, seconds: float, force: bool) -> None:
    """Raise `UsageError` for times that cannot be, or a file that is not a page of ours; `OSError` for one that cannot be written."""
    from duotone.evaluate.listening_page import MARK

    if not (math.isfinite(start) and start >= 0 and math.isfinite(seconds) and seconds > 0):
        raise UsageError(
            f"--start got {start:g}, expected at least 0; --seconds got {seconds:g}, expected more than 0."
        )
    if output.is_dir():
        raise UsageError(f"{output} is a folder, expected an HTML file. Write for example -o {output / 'index.html'}.")
    check_outputs([output])
    if output.exists() and not force:
        with output.open("rb") as stream:
            ours = MARK.encode() in stream.read(1 << 16)
        if not ours:
            raise UsageError(
                f"{output} exists and is not a page of duotone demo. Choose another with -o, or add --force."
            )


def _bundled() -> list[tuple[Waveform, dict[str, str]]]:
    """The clips of this package and what they are."""
    from duotone.audio.files import read

    folder = files("duotone") / "assets"
    if not (folder / "clips.json").is_file():
        raise AudioError("This installation has no bundled clips (assets/clips.json). Give a file: duotone demo FILE.")
    listed = json.loads((folder / "clips.json").read_text(encoding="utf-8"))
    return [
        (
            read(str(folder / clip["file"])),
            {
                "title": clip["title"],
                "about": f"{clip['kind']}: {clip['about']}".capitalize(),
                "source": f"Source: {clip['source']}. Licence: {clip['licence']}.",
            },
        )
        for clip in listed
    ]


def _to_continue(chosen: list[tuple[Waveform, dict[str, str]]]) -> tuple[Waveform, str]:
    """The sound that a flow continues, and its title: the composed one of the bundled clips, or the first file."""
    composed = [each for each in chosen if each[1].get("about", "").startswith("Generated")]
    wave, about = (composed or chosen)[0]
    return wave, about["title"]


def _continued(codec: AnyCodec, wave: Waveform, title: str, seed: int) -> Continued | None:
    """A continuation by the bundled flow; None where there is none of this codec, or the sound is shorter than a chunk."""
    from duotone.cli.flow_options import DEFAULT_FLOW
    from duotone.evaluate.continued import continue_sound, long_enough
    from duotone.hub import bundled, load

    if DEFAULT_FLOW not in bundled("flow"):
        return None
    model = load(DEFAULT_FLOW, codec.device)
    if model.config.codec != codec.spec.space or not long_enough(codec, wave):
        return None
    tell(f"{title}: continuing")
    return continue_sound(model, codec, wave, title, DEFAULT_FLOW, seed)


def _continuation(found: Continued | None) -> dict[str, Any] | None:
    """A continuation for `--json`."""
    if found is None:
        return None
    return {"title": found.title, "flow": found.flow, "fingerprint": found.fingerprint, "seed": found.seed,
            "seconds": found.seconds, "joint": found.joint}  # fmt: skip


def _of_file(name: str, start: float, seconds: float) -> tuple[Waveform, dict[str, str]]:
    """A part of a file. Raises `AudioError` if it ends before `start`; tells what is left out."""
    import torch

    from duotone.audio.files import open_reader
    from duotone.audio.waveform import Waveform

    with open_reader(name, block=1.0) as reader:
        first, last = round(start * reader.rate), round((start + seconds) * reader.rate)
        blocks, length = [], 0
        for block in reader:
            blocks.append(block.samples[:, max(0, first - length) :])
            length += block.length
            if length > last:
                tell(f"{name} goes on after {start + seconds:g} s; the demo takes {seconds:g} s (--start, --seconds).")
                break
        if length <= first:
            raise AudioError(f"{name} lasts {length / reader.rate:.1f} s, so that nothing is left from {start:g} s on.")
        wave = Waveform(torch.cat(blocks, dim=1)[:, : max(1, last - first)].contiguous(), reader.rate)
    return wave, {"title": Path(name).name}


def _figures(clip: Clip) -> dict[str, Any]:
    """A clip for `--json`."""
    return {
        "title": clip.title,
        "seconds": clip.seconds,
        "versions": [
            {"key": v.key, "title": v.title, "bytes": v.file_bytes, "kbit_per_second": v.kbit_per_second, "gain_db": v.gain,
             "metrics": {k: x if math.isfinite(x) else None for k, x in v.metrics.items()}, "detail": v.detail}
            for v in clip.versions
        ],
    }  # fmt: skip


def _lines(clip: Clip) -> list[str]:
    """A clip as a table, in 80 columns."""
    from duotone.evaluate.listening_page import heading, number

    keys = list(dict.fromkeys(key for version in clip.versions for key in version.metrics))
    rows = [
        [v.title, f"{v.file_bytes:,}", f"{v.kbit_per_second:.2f}", *(number(v.metrics.get(k)) for k in keys)]
        for v in clip.versions
    ]
    return [
        f"{clip.title}, {clip.seconds:.1f} s",
        "",
        *table(["version", "bytes", "kbit/s", *map(heading, keys)], rows),
        "",
    ]
