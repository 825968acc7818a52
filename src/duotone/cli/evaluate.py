"""``duotone evaluate``: a codec against held-out sound, and against Opus."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotone.cli.common import Device, Dtype, Json, Quiet
from duotone.cli.failures import tell

NAME = "evaluate"
EXAMPLES = """
Examples:

    duotone evaluate tiny --data heldout/

    duotone evaluate runs/first/codec --data heldout/ --against opus:6k --against opus:12k --limit 20 --json
"""


def command(
    codec: Annotated[
        str, typer.Argument(metavar="CODEC", help="Bundled name, folder, .pt file or org/name on the Hub.")
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A folder of sound files.")],
    against: Annotated[
        list[str] | None, typer.Option(metavar="RIVAL", help="opus:6k and the like, repeatable (needs opus-tools).")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many files, drawn by the seed.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise, of the draw and of the intervals.")] = 0,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what a codec keeps: SI-SDR, log-mel and spectral distances, bit rate, speed."""
    from rich.console import Console

    from duotone.evaluate.compare import evaluate_folder
    from duotone.hub import load

    loaded = load(codec, device, dtype)
    name = Path(codec).name or codec
    report = evaluate_folder(
        loaded, data, against or [], limit, seed, name=name, progress=None if quiet or as_json else tell
    )
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        report.print_table(Console())
