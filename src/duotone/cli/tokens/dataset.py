"""``duotone tokens dataset``: training sequences for a language model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from duotone.cli.common import Json
from duotone.cli.files import output_path
from duotone.cli.tokens.source import (
    Books,
    CodesPath,
    Filter,
    Size,
    Source,
    TokenizerFolder,
    load_tokenizer,
    number,
)
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.tokens.dataset import Window

NAME = "dataset"
EXAMPLES = """
Examples:

    duotone tokens dataset --tokenizer tokenizer/ --codes-path encoded/ --save-path lm.parquet

    duotone tokens dataset --tokenizer tokenizer/ --codes_path codes/ --audio_start_token "<audio>" --save_path lm.txt

    duotone tokens dataset --tokenizer tokenizer/ --codes-path encoded/ --grid chunk --save-path lm.parquet
"""


def command(
    tokenizer: TokenizerFolder,
    codes_path: CodesPath,
    num_codebooks: Books = None,
    codebook_size: Size = None,
    audio_start_token: Annotated[str | None, typer.Option("--audio-start-token", help="Before each sequence.")] = None,
    audio_end_token: Annotated[str | None, typer.Option("--audio-end-token", help="After each sequence.")] = None,
    unicode_offset: Annotated[
        str | None, typer.Option("--unicode-offset", help="Optional: must agree with the tokenizer's.")
    ] = None,
    sequence_length: Annotated[int, typer.Option("--sequence-length", help="Number of tokens per sequence.")] = 4096,
    overlap_length: Annotated[
        int, typer.Option("--overlap-length", help="Maximum number of tokens that consecutive sequences share.")
    ] = 1024,
    grid: Annotated[
        str,
        typer.Option(
            "--grid",
            help="Where sequences begin and end: at a frame (the codes of one step), at a chunk of the codec, or at any "
            "token, as codec-bpe.",
        ),
    ] = "frame",
    drop_last: Annotated[
        bool, typer.Option("--drop-last", help="Leave out a last sequence that is shorter than the others.")
    ] = False,
    channels: Annotated[
        str,
        typer.Option(
            "--channels",
            help="separate (one sequence per channel), interleaved (frame by frame), or first (only the first channel).",
        ),
    ] = "separate",
    pack: Annotated[
        str | None,
        typer.Option(
            "--pack",
            metavar="TOKEN",
            help="Join sequences with this token and cut the result to sequences of full length.",
        ),
    ] = None,
    save_path: Annotated[
        Path,
        typer.Option(
            "--save-path",
            metavar="FILE",
            parser=output_path,
            help=".txt: one line of text per sequence; .parquet: token ids.",
        ),
    ] = Path("output/lm_dataset.txt"),
    codes_filter: Filter = None,
    num_examples: Annotated[
        int | None, typer.Option("--num-examples", help="Write at most this many sequences.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Write training sequences for a language model from a folder of codes; prints the file."""
    from duotone.tokens.dataset import Plan, packed, windows, write_lines, write_parquet

    _check(save_path, force, channels)
    loaded = load_tokenizer(tokenizer, num_codebooks)
    alphabet = loaded.alphabet
    if unicode_offset is not None and number(unicode_offset) != alphabet.ranges[0][0]:
        raise UsageError(f"--unicode-offset got {unicode_offset}, but the tokenizer has {alphabet.ranges[0][0]:#x}.")
    if codebook_size not in (None, alphabet.size):
        raise UsageError(f"--codebook-size got {codebook_size}, but the tokenizer has {alphabet.size}.")
    source = Source(codes_path, codes_filter, tokenizer=loaded)
    plan = Plan(sequence_length, overlap_length, audio_start_token, audio_end_token, drop_last, cast(Any, grid))
    plan = plan.of(loaded, source.info.steps)
    sequences: Iterator[Window] = (
        window for codes, width in source.recordings(channels) for window in windows(loaded, codes, plan, width)
    )
    if pack is not None:
        sequences = packed(sequences, sequence_length, loaded.id_of(pack))
    chosen = itertools.islice(sequences, num_examples)
    if save_path.suffix == ".txt":
        count = write_lines(save_path, loaded, chosen)
    else:
        about = {"framerate": source.framerate, "codebooks": alphabet.codebooks, "channels": channels, "grid": grid}
        count = write_parquet(save_path, chosen, {**source.info.to_about(), **about})
    if not count:
        raise UsageError(
            f"No sequence could be made from {codes_path}, so nothing was written. Use a smaller --sequence-length, or leave out --drop-last."
        )
    typer.echo(json.dumps({"file": str(save_path), "examples": count}) if as_json else save_path)
    source.finish()


def _check(save_path: Path, force: bool, channels: str) -> None:
    """Raise `UsageError` for invalid options, before any work."""
    if save_path.suffix not in (".txt", ".parquet"):
        raise UsageError(f"--save-path got {save_path}, expected a name ending in .txt or .parquet.")
    if save_path.exists() and not force:
        raise UsageError(f"{save_path} exists already. Choose another --save-path, or --force to replace it.")
    if channels not in ("separate", "interleaved", "first"):
        raise UsageError(f"--channels got {channels!r}, expected separate, interleaved or first.")
