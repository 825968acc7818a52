"""``duotone make-sounds``: generates music, speech and synthesized audio for training and evaluation; equal seeds give equal audio."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from duotone.cli.common import Force, Quiet, stderr_console
from duotone.cli.failures import tell
from duotone.errors import UsageError

NAME = "make-sounds"
EXAMPLES = """
Examples:

    duotone make-sounds sounds/ --minutes 60

    duotone make-sounds heldout/ --minutes 8 --split heldout --seed 1

    duotone make-sounds speech/ --minutes 60 --kinds speech --workers 4
"""


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def command(
    out: Annotated[str, typer.Argument(metavar="DIR", help="Folder for the FLAC files and manifest.json.")],
    minutes: Annotated[float, typer.Option(help="Total length; each piece lasts 20 s.")] = 30.0,
    split: Annotated[
        str, typer.Option(help="train, or heldout (with other instruments, tempi and voices than train).")
    ] = "train",
    seed: Annotated[int, typer.Option(help="Seed of the pieces.")] = 0,
    kinds: Annotated[
        str | None,
        typer.Option(help="One or more of music,speech,synth (default: all that can be generated on this machine)."),
    ] = None,
    soundfont: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="A .sf2 or .sf3 file for all music (default: those of the split that are installed)."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes that share the work (default: one for each core).")
    ] = None,
    plain: Annotated[
        bool,
        typer.Option(help="Make no band-limited, reverberant, mono or narrow variants (held-out pieces never are)."),
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Generate a collection of audio. Music needs fluidsynth and a soundfont, speech needs espeak-ng, flite or festival, synth needs nothing.

    Soundfonts and voices are those of Debian packages that are installed; manifest.json names those of each piece, and their licence.

    Existing pieces are kept, so the same command resumes after an interruption. Other files in DIR are not changed.
    """
    from duotone.audio.collection import PIECE_SECONDS, SHARES, make_collection, makeable, missing_packages

    if not out:
        raise UsageError("DIR is an empty name (a variable that is not set?). Write the name of a folder.")
    if split not in SHARES:
        raise UsageError(f"--split got {split!r}, expected one of: {', '.join(SHARES)}.")
    chosen: Any
    if kinds is None:
        chosen, lacking = makeable(split, soundfont)
        for line in lacking:
            tell(f"Left out, {line}")
        if not lacking:
            chosen = None  # the default shares of the split
    else:
        chosen = [k.strip() for k in kinds.split(",") if k.strip()]
        unknown = sorted(set(chosen) - {"music", "speech", "synth"})
        if unknown or not chosen:
            raise UsageError(f"--kinds got {kinds!r}, expected some of music,speech,synth.")
    if not quiet and soundfont is None and (packages := missing_packages(split, chosen or list(SHARES[split]))):
        tell(f"More soundfonts and voices: apt install {' '.join(packages)}")
    if workers is None:  # a process takes seconds to start
        workers = max(1, min(available_cores(), round(minutes * 60 / PIECE_SECONDS) // 8))
    console = stderr_console()
    if quiet or not console.is_terminal:
        folder = make_collection(out, minutes, split, seed, soundfont, chosen, None, force, workers, plain)
    else:
        from rich.progress import Progress

        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("making sounds", total=None)
            folder = make_collection(
                out, minutes, split, seed, soundfont, chosen,
                lambda done, total: bar.update(task, completed=done, total=total), force, workers, plain,
            )  # fmt: skip
    typer.echo(folder)
