"""``duotone store verify``: compare all checksums of a store."""

from __future__ import annotations

from typing import Annotated

import typer

from duotone.cli.failures import tell

NAME = "verify"
EXAMPLES = """
Example:

    duotone store verify store/
"""
Store = Annotated[str, typer.Argument(metavar="STORE", help="The folder of a store, or a URL of fsspec.")]


def command(store: Store) -> None:
    """Compare the checksums of all recordings; exit code 4 if some are damaged."""
    from duotone.store import LatentStore

    found = LatentStore(store)
    found.verify()
    tell(f"{store}: the bytes of all {len(found)} recordings are those that were written.")
