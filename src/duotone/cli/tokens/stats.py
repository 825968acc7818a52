"""``duotone tokens stats``: how much audio a dataset holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from duotone.cli.common import Json
from duotone.cli.tokens.source import Books, Rate, load_tokenizer
from duotone.errors import UsageError

NAME = "stats"
EXAMPLES = """
Example:

    duotone tokens stats --dataset-path lm.txt --tokenizer tokenizer/ --codec-framerate 75
"""


def command(
    dataset_path: Annotated[
        Path, typer.Option("--dataset-path", metavar="FILE", help="File written by `duotone tokens dataset`.")
    ],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", metavar="DIR", help="The tokenizer it was written with.")],
    num_codebooks: Books = None,
    codec_framerate: Rate = None,
    overlap_length: Annotated[
        int, typer.Option("--overlap-length", help="Number of tokens that consecutive sequences share.")
    ] = 1024,
    num_examples: Annotated[
        int | None, typer.Option("--num-examples", help="Read at most this many sequences.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Count the sequences and seconds of a dataset; audio that sequences share is counted once."""
    from duotone.tokens.dataset_stats import line_stats, parquet_stats

    if not dataset_path.is_file():
        raise UsageError(f"No dataset at {dataset_path}. Make one with duotone tokens dataset.")
    loaded = load_tokenizer(tokenizer, num_codebooks)
    framerate = codec_framerate or loaded.about.get("framerate")
    if framerate is None:
        raise UsageError("The tokenizer does not know the codec's frame rate. Give --codec-framerate.")
    if dataset_path.suffix == ".parquet":
        told = parquet_stats(dataset_path, loaded, framerate, num_examples)
    else:
        told = line_stats(dataset_path, loaded, overlap_length, framerate, num_examples)
    if as_json:
        typer.echo(json.dumps(told.to_dict()))
        return
    typer.echo(f"{told.examples} examples, {told.total:.2f} seconds ({told.total / 3600:.2f} hours) of audio in total")
    for name in ("minimum", "maximum", "median", "mean", "deviation"):
        typer.echo(f"{name:>10}: {getattr(told, name):.2f} seconds an example")
