"""``duotone fetch-sounds``: freely licensed music and speech from Debian packages, for training and evaluation."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Annotated

import typer

from duotone.cli.common import Force, Quiet, stderr_console
from duotone.cli.failures import tell
from duotone.errors import UsageError

NAME = "fetch-sounds"
EXAMPLES = """
Examples:

    duotone fetch-sounds recorded/ --split heldout

    duotone fetch-sounds recorded/ --only klettres-data --only singularity-music

    duotone fetch-sounds --licences
"""


def command(
    out: Annotated[
        str | None, typer.Argument(metavar="DIR", help="Folder for the FLAC files, manifest.jsonl and LICENCES.md.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="train or heldout, which share no package (default: both).")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PACKAGE", help="Only this package; may be given several times.")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            help="A Debian mirror: an address, a folder laid out like one, or apt (the mirrors that apt uses)."
        ),
    ] = None,
    licences: Annotated[
        bool, typer.Option("--licences", help="Print a Markdown table of authors and licences; fetch nothing.")
    ] = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Fetch recordings from Debian packages (over 1 GB for training, 0.2 GB for evaluation), each with its licence.

    Packages are verified by their hash. Finished ones are kept, so the same command resumes after an interruption.
    """
    from duotone.audio.catalogue import SPLITS, catalogue, licence_table, splits
    from duotone.audio.recordings import fetch_recordings

    if split is not None and split not in SPLITS:
        raise UsageError(f"--split got {split!r}, expected one of: {', '.join(SPLITS)}.")
    if licences:
        known, split_of = catalogue(), splits()
        chosen = known.choose(only or [p.package for p in known.packages])
        table = licence_table([p for p in chosen if split in (None, split_of[p.package])], known, split_of)
        typer.echo(table, nl=False)
        return
    if not out:
        raise UsageError("DIR is missing. Write the name of a folder, or --licences to print the licences alone.")
    fetch = partial(fetch_recordings, out, split, only or (), [mirror] if mirror else (), force)
    console = stderr_console()
    if quiet or not console.is_terminal:
        fetched = fetch()
    else:
        from rich.progress import Progress

        with Progress(console=console, transient=True) as bar:
            task = bar.add_task("fetching sounds", total=None)
            fetched = fetch(lambda what, done, of: bar.update(task, description=what, completed=done, total=of))
    if not quiet:
        tell(", ".join(f"{hours:.2f} h of {kind}" for kind, hours in fetched.hours().items()))
        for reason, count in Counter(left["reason"].partition(":")[0] for left in fetched.left_out).most_common():
            tell(f"Left out {count} members: {reason} (see {out}/packages/)")
    typer.echo(out)
