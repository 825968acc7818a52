"""``duotone store import``: Parquet, or the published `.pt` shards of latents, to a store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from duotone.cli.codec_options import Codec, load_codec
from duotone.cli.failures import tell
from duotone.cli.prepare import LayoutName, Output, ShardSize
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.store import LatentStore

NAME = "import"
EXAMPLES = """
Examples:

    duotone store import parquet/ -o store/

    duotone store import latents/ -o store/ --codec codicodec/
"""


def command(
    source: Annotated[str, typer.Argument(metavar="IN", help="A folder of .parquet or .pt files, or one of them.")],
    output: Output,
    codec: Codec = None,
    layout: Annotated[LayoutName, typer.Option("--format", help="The layout of the files.")] = LayoutName.shards,
    shard_mb: ShardSize = 256,
) -> None:
    """Make a store of Parquet files of an exported store, or of published .pt shards (with the codec that made them)."""
    from duotone.store.parquet import import_parquet

    if _endings(source) == {".pt"}:
        found = from_shards(source, output, codec, layout, shard_mb)
    else:
        if codec is not None:
            raise UsageError("--codec is for .pt shards; Parquet files of a store name their codec.")
        found = import_parquet(source, output, layout.value, shard_mb << 20)
    tell(told(source, output, found))


def from_shards(
    source: str,
    output: str,
    codec: str | None,
    layout: LayoutName = LayoutName.shards,
    shard_mb: int = 256,
) -> LatentStore:
    """A store of published shards, a file or a folder of them. Raises `UsageError` without a codec, and as `import_shards` does."""
    if codec is None:
        raise UsageError("Published .pt shards do not tell which codec made them. Name it with --codec.")
    from duotone.store.published import import_shards

    return import_shards([source], output, load_codec(codec, "cpu", "auto"), layout.value, shard_mb << 20)


def told(source: str, output: str, found: LatentStore) -> str:
    """A line about an imported store."""
    return f"{source} -> {output}: {len(found)} recordings, {found.chunks} chunks."


def _endings(source: str) -> set[str]:
    """Which of the two formats there is. Raises `UsageError` for none and for both."""
    files = Path(source).rglob("*") if os.path.isdir(source) else [Path(source)]
    found = {path.suffix for path in files if path.suffix in (".pt", ".parquet") and path.is_file()}
    if len(found) != 1:
        raise UsageError(
            f"{source} holds {' and '.join(sorted(found)) or 'neither .parquet nor .pt'} files, expected one kind."
        )
    return found
