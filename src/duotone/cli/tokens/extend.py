"""``duotone tokens extend``: adds audio to a text tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from duotone.cli.common import Json
from duotone.cli.files import output_path
from duotone.cli.tokens.source import Books
from duotone.errors import UsageError

NAME = "extend"
EXAMPLES = """
Example:

    duotone tokens extend --existing-tokenizer llama/ --codec-bpe-tokenizer tokenizer/ --save-path llama-audio/
"""


def command(
    existing_tokenizer: Annotated[
        Path,
        typer.Option(
            "--existing-tokenizer", metavar="DIR", help="Folder of a text tokenizer (BPE, WordPiece, Unigram)."
        ),
    ],
    codec_bpe_tokenizer: Annotated[
        Path, typer.Option("--codec-bpe-tokenizer", metavar="DIR", help="Folder of an audio tokenizer.")
    ],
    save_path: Annotated[
        Path, typer.Option("--save-path", metavar="DIR", parser=output_path, help="Folder for the extended tokenizer.")
    ],
    additional_special_tokens: Annotated[
        list[str] | None,
        typer.Option(
            "--additional-special-tokens",
            help="Special tokens that mark audio in text (default: <|audio|> and <|/audio|>).",
        ),
    ] = None,
    as_added_tokens: Annotated[
        bool, typer.Option("--as-added-tokens", help="Add special tokens without merges, as codec-bpe does.")
    ] = False,
    num_codebooks: Books = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a tokenizer that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Add audio to a text tokenizer: audio gets the ids of the audio tokenizer, text the same ids as before. Prints the folder."""
    from duotone.tokens.extend import END, START, extend
    from duotone.tokens.tokenizer import AudioTokenizer

    if (save_path / "tokenizer.json").exists() and not force:
        raise UsageError(
            f"{save_path} holds a tokenizer already. Choose another --save-path, or --force to replace it."
        )
    audio = AudioTokenizer.load(codec_bpe_tokenizer, num_codebooks)
    count = extend(existing_tokenizer, audio, save_path, additional_special_tokens or (START, END), as_added_tokens)
    typer.echo(json.dumps({"folder": str(save_path), "added": count}) if as_json else save_path)
