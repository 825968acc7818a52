"""``duotone evaluate``: a codec against held-out sound, against Opus, and against other codecs."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from duotone.cli.codec_options import Device, Dtype
from duotone.cli.common import Json, Quiet
from duotone.cli.failures import tell

NAME = "evaluate"
EXAMPLES = """
Examples:

    duotone evaluate tiny --data heldout/

    duotone evaluate runs/first/codec --data heldout/ --against opus:6k --against tiny --limit 20 --json

    duotone evaluate tiny --data heldout/ --frechet clap:laion/larger_clap_music --html evaluation.html
"""


def command(
    codec: Annotated[
        str, typer.Argument(metavar="CODEC", help="Bundled name, folder, .pt file or org/name on the Hub.")
    ],
    data: Annotated[Path, typer.Option(metavar="DIR", help="A folder of sound files.")],
    against: Annotated[
        list[str] | None,
        typer.Option(metavar="RIVAL", help="opus:6k and the like (needs opus-tools), or another codec; repeatable."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many files, drawn by the seed.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Only the beginning of each file.")] = None,
    speech: Annotated[
        str, typer.Option(metavar="PART", help="Files with this in their name get STOI and PESQ.")
    ] = "speech",
    frechet: Annotated[
        str, typer.Option(metavar="EMBEDDING", help="logmel (a stand-in without weights), clap:NAME or ast:NAME.")
    ] = "logmel",
    seed: Annotated[int, typer.Option(help="Seed of the noise, of the draw and of the intervals.")] = 0,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with every row too.")] = None,
    device: Device = "cpu",
    dtype: Dtype = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure what a codec keeps: SI-SDR, log-mel and spectral distances, stereo, speech, bit rate, speed.

    Decoding always starts from noise at sigma_max.
    """
    from rich.console import Console

    from duotone.evaluate import speech as spoken
    from duotone.evaluate.compare import evaluate_folder
    from duotone.evaluate.frechet import load_embedder
    from duotone.evaluate.report import html_page
    from duotone.hub import load

    loaded = load(codec, device, dtype)
    rivals = [spec for spec in against or [] if spec.startswith("opus")]
    others = {Path(spec).name: load(spec, device, dtype) for spec in against or [] if spec not in rivals}
    embedder = load_embedder(frechet)
    if not (quiet or as_json) and spoken.missing():
        tell(f"Not installed, so not measured: {', '.join(spoken.missing())} (pip install 'duotone[speech]').")
    report = evaluate_folder(
        loaded, data, rivals, limit, seed, seconds=seconds, name=Path(codec).name or codec, others=others,
        speech=speech, embedder=embedder, progress=None if quiet or as_json else tell,
    )  # fmt: skip
    if html is not None:
        with tempfile.NamedTemporaryFile("w", dir=html.parent, delete=False, encoding="utf-8") as file:
            file.write(html_page(report))
        os.chmod(file.name, 0o644)
        os.replace(file.name, html)
    if as_json:
        typer.echo(report.to_json(), nl=False)
    else:
        report.print_table(Console())
