"""``duotone store export``: a store to Parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from duotone.cli.failures import tell
from duotone.cli.files import output_path
from duotone.cli.stores.verified import Store

NAME = "export"
EXAMPLES = """
Example:

    duotone store export store/ -o parquet/
"""


def command(
    store: Store,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", parser=output_path, help="The folder of the Parquet files.")
    ],
    file_mb: Annotated[int, typer.Option("--file-mb", min=1, help="Approximate size of a file.")] = 256,
) -> None:
    """Write a store as Parquet files, a row for each recording, as Hugging Face datasets reads them."""
    from duotone.store import LatentStore
    from duotone.store.parquet import export_parquet

    found = LatentStore(store)
    files = export_parquet(found, output, file_mb << 20)
    tell(f"{store} -> {output}: {len(found)} recordings in {len(files)} {'file' if len(files) == 1 else 'files'}.")
