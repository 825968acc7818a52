"""``duotone train``: a recipe and a folder of sound -> a codec."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from duotone.cli.common import Quiet
from duotone.cli.failures import tell

NAME = "train"
EXAMPLES = """
Examples:

    duotone train recipes/tiny.yaml --data sounds/ --out runs/first

    duotone train recipes/tiny.yaml --data sounds/ --out runs/short train.steps=200 optim.rate=1e-4
"""


def command(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What to train, and how.")],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A folder of sound files.")],
    out: Annotated[
        Path, typer.Option(metavar="RUN", help="Log, checkpoint and codec go here; the same folder resumes.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Replaces keys of the recipe.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a codec; run again with the same --out, it goes on where it stopped. Prints the codec's folder."""
    from duotone.train.run import train

    started = time.monotonic()

    def report(figures: dict[str, Any]) -> None:
        if not quiet:
            shown = (f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items())
            tell(f"{time.monotonic() - started:8.1f} s  " + "  ".join(shown))

    typer.echo(train(recipe, data, out, overrides or [], report))
