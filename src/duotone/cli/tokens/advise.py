"""``duotone tokens advise``: compression for several vocabulary sizes and maximum token lengths."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from duotone.cli.common import Json
from duotone.cli.tokens.source import Books, Chunk, CodesPath, Files, Filter, Frequency, Rate, Size, Source

if TYPE_CHECKING:
    from duotone.tokens.report import Advice

NAME = "advise"
EXAMPLES = """
Example:

    duotone tokens advise --codes-path encoded/ --vocab-sizes 16000 20000 30000
"""


def command(
    codes_path: CodesPath,
    num_codebooks: Books = None,
    codebook_size: Size = None,
    codec_framerate: Rate = None,
    chunk_size_secs: Chunk = None,
    min_frequency: Frequency = 2,
    vocab_sizes: Annotated[
        list[int] | None,
        typer.Option("--vocab-sizes", help="Sizes to try (default: 1.25, 2, 4 and 8 times the codes)."),
    ] = None,
    codes_filter: Filter = None,
    num_files: Files = None,
    as_json: Json = False,
) -> None:
    """Measure compression on a held-out tenth of the recordings, for several vocabulary sizes and maximum token lengths in frames."""
    from duotone.tokens.alphabet import Alphabet
    from duotone.tokens.report import advise

    source = Source(codes_path, codes_filter, num_files, num_codebooks, codebook_size, codec_framerate)
    alphabet = Alphabet(source.codebooks, source.size)
    sizes = vocab_sizes or [int(factor * len(alphabet)) + 2 for factor in (1.25, 2, 4, 8)]
    training, held_out = source.split(0.1)
    points = advise(
        training, held_out, alphabet, sizes, framerate=source.framerate, chunk_size_secs=chunk_size_secs,
        min_frequency=min_frequency,
    )  # fmt: skip
    if as_json:
        for point in points:
            typer.echo(json.dumps(asdict(point)))
    else:
        _show(points, sizes)
    source.finish()


def _show(points: Sequence[Advice], sizes: Sequence[int]) -> None:
    typer.echo(f"{'vocabulary':>10} {'frames a token':>15} {'codes a token':>14} {'single codes':>13}")
    for point in points:
        limit = "any" if point.ngrams is None else f"at most {point.ngrams}"
        typer.echo(f"{point.vocabulary:>10} {limit:>15} {point.codes_per_token:>14.3f} {point.single_share:>13.1%}")
    best = max(points, key=lambda point: point.codes_per_token)
    typer.echo(
        f"{best.vocabulary} tokens compress best: {best.codes_per_token:.2f} codes a token. A larger vocabulary "
        f"also needs more embeddings in the model: compare the gain of each doubling."
    )
    short = {point.ngrams for point in points if point.vocabulary < max(sizes)}
    full = {point.ngrams for point in points if point.vocabulary == max(sizes)}
    if short - full:
        typer.echo("Rows are missing where no pairs were left to merge, so that the vocabulary stayed smaller.")
