"""``duotone tokens train``: a tokenizer from a folder of codes."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.common import Json, Quiet, duration, stderr_console
from duotone.cli.failures import INTERRUPTED, tell
from duotone.cli.files import output_path
from duotone.cli.tokens.source import Books, Chunk, CodesPath, Files, Filter, Frequency, Rate, Size, Source, number
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.tokens.alphabet import Alphabet
    from duotone.tokens.report import Report
    from duotone.tokens.tokenizer import AudioTokenizer

NAME = "train"
EXAMPLES = """
Examples:

    duotone tokens train --codes-path encoded/ --vocab-size 30000 --chunk-size-secs 30 --save-path tokenizer/

    duotone tokens train --codes_path codes/ --num_codebooks 4 --max_token_codebook_ngrams 4 --pad_token "<pad>"

On Ctrl-C the merges found so far are saved next to the tokenizer's folder; the same command resumes from them.
"""


def command(
    codes_path: CodesPath,
    num_codebooks: Books = None,
    codebook_size: Size = None,
    codec_framerate: Rate = None,
    chunk_size_secs: Chunk = None,
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Total number of tokens.")] = 30_000,
    min_frequency: Frequency = 2,
    special_tokens: Annotated[
        list[str] | None, typer.Option("--special-tokens", help="Further special tokens.")
    ] = None,
    bos_token: Annotated[str | None, typer.Option("--bos-token", help="Token at the beginning of a sequence.")] = None,
    eos_token: Annotated[str | None, typer.Option("--eos-token", help="Token at the end of a sequence.")] = None,
    unk_token: Annotated[str | None, typer.Option("--unk-token", help="Token for unknown characters.")] = None,
    pad_token: Annotated[
        str | None, typer.Option("--pad-token", help="Token that pads the shorter sequences of a batch.")
    ] = None,
    max_token_codebook_ngrams: Annotated[
        int | None,
        typer.Option(
            "--max-token-codebook-ngrams", help="Maximum number of frames that a token may span (0: no merges)."
        ),
    ] = None,
    unicode_offset: Annotated[
        str | None,
        typer.Option(
            "--unicode-offset", help="Use codec-bpe's layout, starting at this character (for example 0x4E00)."
        ),
    ] = None,
    save_path: Annotated[
        Path | None, typer.Option("--save-path", metavar="DIR", parser=output_path, help="Folder for the tokenizer.")
    ] = None,
    codes_filter: Filter = None,
    num_files: Files = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a tokenizer that exists.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a tokenizer on a folder of codes; prints its folder. Without special tokens it gets `<pad>` and `<unk>`."""
    from duotone.tokens.alphabet import Alphabet
    from duotone.tokens.report import report
    from duotone.tokens.training import shortfall

    source = Source(codes_path, codes_filter, num_files, num_codebooks, codebook_size, codec_framerate)
    alphabet = Alphabet(source.codebooks, source.size, None if unicode_offset is None else number(unicode_offset))
    if not any((bos_token, eos_token, unk_token, pad_token)):
        pad_token, unk_token = "<pad>", "<unk>"
    elif unk_token is None:
        tell("No --unk-token was given: the tokenizer will skip unknown characters.")
    codec = source.info.codec or "codec"
    target = save_path or Path(f"output/{codec}_bpe_{source.codebooks}cb_{round(vocab_size / 1000)}k")
    if (target / "tokenizer.json").exists() and not force:
        raise UsageError(f"{target} holds a tokenizer already. Choose another --save-path, or --force to replace it.")
    settings = {
        "vocab_size": vocab_size, "min_frequency": min_frequency, "chunk_size_secs": chunk_size_secs,
        "max_token_codebook_ngrams": max_token_codebook_ngrams,
    }  # fmt: skip
    tokens = {
        "special_tokens": special_tokens, "bos_token": bos_token, "eos_token": eos_token, "unk_token": unk_token,
        "pad_token": pad_token,
    }  # fmt: skip
    started = time.monotonic()
    tokenizer = _train(source, alphabet, target, settings, tokens, quiet or as_json)
    seconds = time.monotonic() - started
    told, why = report(tokenizer, source), shortfall(tokenizer)
    if as_json:
        typer.echo(json.dumps({"folder": str(target), "seconds": seconds, **told.to_dict(), "shortfall": why}))
    else:
        if not quiet:
            _sum_up(tokenizer, told, len(source.files) - len(source.failed), seconds)
        if why is not None:
            tell(why)
        typer.echo(target)
    source.finish()


def _sum_up(tokenizer: AudioTokenizer, told: Report, files: int, seconds: float) -> None:
    tell(
        f"{len(tokenizer)} tokens from {told.codes} codes of {files} files in {duration(seconds)}; on these, "
        f"{told.codes_per_token:.2f} codes a token, {told.single_share:.0%} of the tokens single codes."
    )


def _train(
    source: Source, alphabet: Alphabet, target: Path, settings: dict[str, Any], tokens: dict[str, Any], quiet: bool
) -> AudioTokenizer:
    """Train and save; an interrupted training saves its merges next to `target`, and the next one resumes from them."""
    from duotone.tokens.training import train_bpe

    partial = target.with_name(target.name + ".partial")
    about = {"codec": source.info.codec or "codec", **source.info.to_about(), "files": len(source.files)}
    with _stoppable(quiet) as watch:
        try:
            tokenizer = train_bpe(
                source, alphabet, framerate=source.framerate, about=about, watch=watch,
                resume=_resumed(partial, alphabet, about | {"training": settings}), **settings, **tokens,
            )  # fmt: skip
        except _Stopped as stopped:
            stopped.so_far.save(partial)
            tell(f"Stopped on request, after {len(stopped.so_far.merges)} merges; the same command resumes from there.")
            raise typer.Exit(INTERRUPTED) from None
    tokenizer.save(target)
    shutil.rmtree(partial, ignore_errors=True)
    return tokenizer


class _Stopped(Exception):
    """Ctrl-C while training; holds the tokenizer so far."""

    def __init__(self, so_far: AudioTokenizer) -> None:
        super().__init__()
        self.so_far = so_far


@contextmanager
def _stoppable(quiet: bool) -> Iterator[Callable[..., None]]:
    """A progress bar, and a callback that stops the training after Ctrl-C."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    asked: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: asked.append(number))
    columns = (TextColumn("merging"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=stderr_console(), disable=quiet, transient=True) as bar:
            task = bar.add_task("", total=None)

            def watch(made: int, wanted: int, so_far: Callable[[], AudioTokenizer]) -> None:
                bar.update(task, completed=made, total=wanted)
                if asked:
                    raise _Stopped(so_far())

            yield watch
        if asked:  # before the first merge, or after the last
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, before)


def _resumed(partial: Path, alphabet: Alphabet, about: dict[str, Any]) -> AudioTokenizer | None:
    """Load what an interrupted training of the same recordings saved, if anything."""
    from duotone.tokens.tokenizer import AudioTokenizer

    if not (partial / "tokenizer.json").is_file():
        return None
    found = AudioTokenizer.load(partial)
    same = found.alphabet == alphabet and all(found.about.get(key) == value for key, value in about.items())
    tell(f"Resuming from {partial}." if same else f"{partial} belongs to other codes or settings; starting again.")
    return found if same else None
