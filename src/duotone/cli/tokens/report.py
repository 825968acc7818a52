"""``duotone tokens report``: how much a tokenizer compresses recordings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from duotone.cli.common import Json
from duotone.cli.tokens.source import Books, CodesPath, Files, Filter, Source, load_tokenizer

NAME = "report"
EXAMPLES = """
Example:

    duotone tokens report tokenizer/ --codes-path held-out/
"""


def command(
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="Folder of a tokenizer.")],
    codes_path: CodesPath,
    num_codebooks: Books = None,
    codes_filter: Filter = None,
    num_files: Files = None,
    as_json: Json = False,
) -> None:
    """Report a tokenizer's compression of recordings: codes per token, share of single codes, the longest tokens."""
    from duotone.tokens.report import report

    loaded = load_tokenizer(tokenizer, num_codebooks)
    source = Source(codes_path, codes_filter, num_files, tokenizer=loaded)
    told = report(loaded, source)
    if as_json:
        typer.echo(json.dumps(told.to_dict()))
    else:
        typer.echo(
            f"{told.codes} codes became {told.tokens} tokens: {told.codes_per_token:.3f} codes a token\n"
            f"{told.single_share:.1%} of the tokens are single codes; {told.used} of {told.vocabulary} tokens occurred\n"
            + "longest: "
            + ", ".join(f"{codes} codes ({count} times)" for codes, count in told.longest)
        )
    source.finish()
