"""``duotone store join``: several stores to one, or one to another layout."""

from __future__ import annotations

from typing import Annotated

import typer

from duotone.cli.failures import tell
from duotone.cli.prepare import LayoutName, Output, ShardSize

NAME = "join"
EXAMPLES = """
Examples:

    duotone store join store/ more/ -o both/

    duotone store join store/ -o dataset/ --format tar
"""


def command(
    stores: Annotated[list[str], typer.Argument(metavar="STORE...", help="Folders of stores, or URLs of fsspec.")],
    output: Output,
    layout: Annotated[
        LayoutName | None, typer.Option("--format", help="The layout of the files (default: that of the first store).")
    ] = None,
    shard_mb: ShardSize = 256,
) -> None:
    """Copy stores of the same codec and settings into a new one, without the bytes of recordings that were replaced."""
    from duotone.store import LatentStore
    from duotone.store.join import join

    found = join([LatentStore(each) for each in stores], output, layout.value if layout else None, shard_mb << 20)
    tell(f"{output}: {len(found)} recordings, {found.chunks} chunks.")
