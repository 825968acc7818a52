"""``duotone tokens``: acoustic BPE. Commands take `codec-bpe`'s flags under their own names, dashes or underscores."""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from duotone.cli.common import Json, Quiet, duration, stderr_console
from duotone.cli.failures import INTERRUPTED, tell
from duotone.errors import UsageError

if TYPE_CHECKING:
    from duotone.tokens.alphabet import Alphabet
    from duotone.tokens.collection import Info
    from duotone.tokens.dataset import Window
    from duotone.tokens.tokenizer import AudioTokenizer

NAME = "tokens"
HELP = "Acoustic BPE: codes of any codec -> tokens for language models."
_SUFFIXES = (".npy", ".duo")


class Lenient(TyperCommand):
    """Underscores in option names, and options that take several values (``--special-tokens a b``)."""

    several = ("--special-tokens", "--codes-filter", "--vocab-sizes", "--additional-special-tokens", "--audio-filter")

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Rewrite the arguments into the form that typer knows."""
        out: list[str] = []
        option: str | None = None
        for arg in args:
            name, equals, value = arg.partition("=")
            if name.startswith("--"):
                name = name.replace("_", "-")
                option, arg = (name if name in self.several else None), name + equals + value
                out.append(arg)
                fresh = not equals
            elif option is not None and not arg.startswith("-"):
                out += [arg] if fresh else [option, arg]
                fresh = False
            else:
                option = None
                out.append(arg)
        rest: list[str] = super().parse_args(ctx, out)
        return rest


app = typer.Typer(help=HELP, no_args_is_help=True, rich_markup_mode="markdown")

CodesPath = Annotated[Path, typer.Option("--codes-path", metavar="DIR", help="Folder of .npy or .duo files.")]
Books = Annotated[int | None, typer.Option("--num-codebooks", help="Codebooks to use (default: codec_info.json).")]
Size = Annotated[int | None, typer.Option("--codebook-size", help="Codes of a codebook (default: codec_info.json).")]
Rate = Annotated[float | None, typer.Option("--codec-framerate", help="Frames a second (default: codec_info.json).")]
Chunk = Annotated[int | None, typer.Option("--chunk-size-secs", help="Length of a training word (default: a file).")]
Frequency = Annotated[int, typer.Option("--min-frequency", help="Rarer pairs are not merged.")]
Filter = Annotated[list[str] | None, typer.Option("--codes-filter", help="Parts of which a path has to hold one.")]
Files = Annotated[int | None, typer.Option("--num-files", help="Read only the first so many files.")]


class Source:
    """The recordings of a folder: codes `[K, T]`, and what is known of them."""

    def __init__(
        self, folder: Path, only: Sequence[str], limit: int | None, codebooks: int | None, size: int | None,
        framerate: float | None,
    ) -> None:  # fmt: skip
        from duotone.tokens.collection import find, read_info

        self.files = find(folder, _SUFFIXES, only, limit)
        info = read_info(folder)
        if info.codebooks is None and all(file.suffix == ".duo" for file in self.files):
            info = _duo_info(self.files[0])
        self.codec = info.codec
        self.framerate = framerate or info.framerate
        missing = [
            flag
            for flag, value in (
                ("--num-codebooks", codebooks or info.codebooks),
                ("--codebook-size", size or info.size),
            )
            if value is None
        ]
        if missing:
            raise UsageError(
                f"{folder} has no codec_info.json that tells what its codes are. Give {' and '.join(missing)}."
            )
        self.codebooks = int(codebooks or info.codebooks or 0)
        self.size = int(size or info.size or 0)

    def __iter__(self) -> Iterator[Any]:
        from duotone.tokens.collection import load_npy

        for file in self.files:
            yield _read_duo(file) if file.suffix == ".duo" else load_npy(file, self.codebooks)

    def recordings(self, channels: Any) -> Iterator[Any]:
        """The same with files of one recording joined in time, and its channels arranged (`dataset.arrange`)."""
        import numpy as np

        from duotone.tokens.collection import load_npy
        from duotone.tokens.dataset import arrange, group

        for recording in group(self.files):
            parts = [
                [_read_duo(f) if f.suffix == ".duo" else load_npy(f, self.codebooks) for f in pieces]
                for pieces in recording.channels
            ]
            yield from arrange([np.concatenate(pieces, axis=1) for pieces in parts], channels)

    def split(self, share: float) -> tuple[list[Any], list[Any]]:
        """Recordings to train on and recordings held out; of a single one, its end. Raises `UsageError` for too few."""
        recordings = list(self)
        if len(recordings) == 1:
            cut = int(recordings[0].shape[1] * (1 - share))
            return [recordings[0][:, :cut]], [recordings[0][:, cut:]]
        every = max(2, round(1 / share))
        held = recordings[every - 1 :: every] or recordings[-1:]
        return [r for i, r in enumerate(recordings) if (i + 1) % every and r is not held[-1]], held


def _duo_info(file: Path) -> Info:
    from duotone.codec.container import DuoReader
    from duotone.tokens.collection import Info

    with DuoReader(file) as reader:
        header = reader.header
    return Info(1, header.size, header.latents * header.rate / header.chunk_samples, "codicodec")


def _read_duo(file: Path) -> Any:
    from duotone.codec.container import read_duo
    from duotone.codec.values import Codes

    value = read_duo(file)
    if not isinstance(value, Codes):
        raise UsageError(f"{file} holds latents, expected tokens: encode with --kind tokens.")
    return value.indices.numpy()


@app.command("train", cls=Lenient, epilog="""
Examples:

    duotone tokens train --codes-path encoded/ --vocab-size 30000 --chunk-size-secs 30 --save-path tokenizer/

    duotone tokens train --codes_path codes/ --num_codebooks 4 --max_token_codebook_ngrams 4 --pad_token "<pad>"

Interrupted (Ctrl-C), it keeps what it has beside the tokenizer's folder; the same command goes on from there.
""")  # fmt: skip
def train(
    codes_path: CodesPath,
    num_codebooks: Books = None,
    codebook_size: Size = None,
    codec_framerate: Rate = None,
    chunk_size_secs: Chunk = None,
    vocab_size: Annotated[int, typer.Option("--vocab-size", help="Tokens in all.")] = 30_000,
    min_frequency: Frequency = 2,
    special_tokens: Annotated[
        list[str] | None, typer.Option("--special-tokens", help="Further special tokens.")
    ] = None,
    bos_token: Annotated[str | None, typer.Option("--bos-token")] = None,
    eos_token: Annotated[str | None, typer.Option("--eos-token")] = None,
    unk_token: Annotated[str | None, typer.Option("--unk-token")] = None,
    pad_token: Annotated[str | None, typer.Option("--pad-token")] = None,
    max_token_codebook_ngrams: Annotated[
        int | None, typer.Option("--max-token-codebook-ngrams", help="Frames that a token may span (0: no merges).")
    ] = None,
    unicode_offset: Annotated[
        str | None,
        typer.Option("--unicode-offset", help="codec-bpe's plain layout from this character on (0x4E00, say)."),
    ] = None,
    save_path: Annotated[
        Path | None, typer.Option("--save-path", metavar="DIR", help="Where the tokenizer goes.")
    ] = None,
    codes_filter: Filter = None,
    num_files: Files = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a tokenizer that exists.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a tokenizer on a folder of codes; prints its folder. Without special tokens it gets `<pad>` and `<unk>`."""
    import json

    from duotone.tokens.alphabet import Alphabet
    from duotone.tokens.report import report
    from duotone.tokens.training import train_bpe

    source = Source(codes_path, codes_filter or (), num_files, num_codebooks, codebook_size, codec_framerate)
    offset = None if unicode_offset is None else _number(unicode_offset)
    alphabet = Alphabet(source.codebooks, source.size, offset)
    if not any((bos_token, eos_token, unk_token, pad_token)):
        pad_token, unk_token = "<pad>", "<unk>"
    elif unk_token is None:
        tell("No --unk-token: a tokenizer without one passes over characters that it does not know.")
    codec = source.codec or "codec"
    target = save_path or Path(f"output/{codec}_bpe_{source.codebooks}cb_{round(vocab_size / 1000)}k")
    if (target / "tokenizer.json").exists() and not force:
        raise UsageError(f"{target} holds a tokenizer already. Choose another --save-path, or --force to replace it.")
    partial = target.with_name(target.name + ".partial")
    about = {"codec": codec, "files": len(source.files)}
    settings = {
        "vocab_size": vocab_size, "min_frequency": min_frequency, "chunk_size_secs": chunk_size_secs,
        "max_token_codebook_ngrams": max_token_codebook_ngrams,
    }  # fmt: skip
    started = time.monotonic()
    with _stoppable(quiet or as_json) as watch:
        try:
            tokenizer = train_bpe(
                source, alphabet, framerate=source.framerate, chunk_size_secs=chunk_size_secs, vocab_size=vocab_size,
                min_frequency=min_frequency, special_tokens=special_tokens, bos_token=bos_token, eos_token=eos_token,
                unk_token=unk_token, pad_token=pad_token, max_token_codebook_ngrams=max_token_codebook_ngrams,
                about=about, watch=watch, resume=_resumed(partial, alphabet, about | {"training": settings}),
            )  # fmt: skip
        except _Stopped as stopped:
            stopped.so_far.save(partial)
            tell(f"Stopped as asked, after {len(stopped.so_far.merges)} merges; the same command goes on from there.")
            raise typer.Exit(INTERRUPTED) from None
    tokenizer.save(target)
    shutil.rmtree(partial, ignore_errors=True)
    told = report(tokenizer, source)
    if as_json:
        typer.echo(json.dumps({"folder": str(target), "seconds": time.monotonic() - started, **told.to_dict()}))
        return
    if not quiet:
        tell(
            f"{len(tokenizer)} tokens from {told.codes} codes of {len(source.files)} files in "
            f"{duration(time.monotonic() - started)}; on these, {told.codes_per_token:.2f} codes a token, "
            f"{told.single_share:.0%} of the tokens single codes."
        )
    typer.echo(target)


@app.command("report", cls=Lenient, epilog="""
Example:

    duotone tokens report tokenizer/ --codes-path held-out/
""")  # fmt: skip
def report_command(
    tokenizer: Annotated[Path, typer.Argument(metavar="TOKENIZER", help="Folder of a tokenizer.")],
    codes_path: CodesPath,
    num_codebooks: Books = None,
    codes_filter: Filter = None,
    num_files: Files = None,
    as_json: Json = False,
) -> None:
    """What a tokenizer does to recordings: codes a token, share of single codes, the longest tokens."""
    import json

    from duotone.tokens.report import report
    from duotone.tokens.tokenizer import AudioTokenizer

    loaded = AudioTokenizer.load(tokenizer, num_codebooks)
    alphabet = loaded.alphabet
    told = report(loaded, Source(codes_path, codes_filter or (), num_files, alphabet.codebooks, alphabet.size, None))
    if as_json:
        typer.echo(json.dumps(told.to_dict()))
        return
    typer.echo(
        f"{told.codes} codes became {told.tokens} tokens: {told.codes_per_token:.3f} codes a token\n"
        f"{told.single_share:.1%} of the tokens are single codes; {told.used} of {told.vocabulary} tokens came up\n"
        + "longest: "
        + ", ".join(f"{codes} codes ({count} times)" for codes, count in told.longest)
    )


@app.command("advise", cls=Lenient, epilog="""
Example:

    duotone tokens advise --codes-path encoded/ --vocab-sizes 16000 20000 30000
""")  # fmt: skip
def advise_command(
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
    """Compression on held-out recordings (a tenth) over vocabulary size and the limit of frames a token may span."""
    import json
    from dataclasses import asdict

    from duotone.tokens.alphabet import Alphabet
    from duotone.tokens.report import advise

    source = Source(codes_path, codes_filter or (), num_files, num_codebooks, codebook_size, codec_framerate)
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
        return
    typer.echo(f"{'vocabulary':>10} {'frames a token':>15} {'codes a token':>14} {'single codes':>13}")
    for point in points:
        limit = "any" if point.ngrams is None else f"at most {point.ngrams}"
        typer.echo(f"{point.vocabulary:>10} {limit:>15} {point.codes_per_token:>14.3f} {point.single_share:>13.1%}")
    best = max(points, key=lambda point: point.codes_per_token)
    typer.echo(
        f"Each doubling of the vocabulary should earn its keep: the best of these, {best.vocabulary} tokens, writes "
        f"{best.codes_per_token:.2f} codes a token."
    )


@app.command("dataset", cls=Lenient, epilog="""
Examples:

    duotone tokens dataset --tokenizer tokenizer/ --codes-path encoded/ --save-path lm.parquet

    duotone tokens dataset --tokenizer tokenizer/ --codes_path codes/ --audio_start_token "<audio>" --save_path lm.txt
""")  # fmt: skip
def dataset_command(
    tokenizer: Annotated[Path, typer.Option("--tokenizer", metavar="DIR", help="Folder of a tokenizer.")],
    codes_path: CodesPath,
    num_codebooks: Books = None,
    codebook_size: Size = None,
    audio_start_token: Annotated[str | None, typer.Option("--audio-start-token", help="Before each sequence.")] = None,
    audio_end_token: Annotated[str | None, typer.Option("--audio-end-token", help="Behind each sequence.")] = None,
    unicode_offset: Annotated[str | None, typer.Option("--unicode-offset", help="Taken from the tokenizer.")] = None,
    sequence_length: Annotated[int, typer.Option("--sequence-length", help="Tokens of a sequence.")] = 4096,
    overlap_length: Annotated[int, typer.Option("--overlap-length", help="Tokens that neighbours share.")] = 1024,
    drop_last: Annotated[bool, typer.Option("--drop-last", help="Leave out what does not fill a sequence.")] = False,
    channels: Annotated[
        str, typer.Option("--channels", help="separate sequences, interleaved (frame by frame), or the first alone.")
    ] = "separate",
    pack: Annotated[
        str | None, typer.Option("--pack", metavar="TOKEN", help="Join sequences by this token, cut to full length.")
    ] = None,
    save_path: Annotated[
        Path, typer.Option("--save-path", metavar="FILE", help=".txt: a text line each; .parquet: token ids.")
    ] = Path("output/lm_dataset.txt"),
    codes_filter: Filter = None,
    num_examples: Annotated[int | None, typer.Option("--num-examples", help="Only the first so many.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Training sequences for a language model from a folder of codes; prints the file."""
    import itertools
    import json

    from duotone.tokens.dataset import Plan, packed, windows, write_lines, write_parquet
    from duotone.tokens.tokenizer import AudioTokenizer

    if save_path.suffix not in (".txt", ".parquet"):
        raise UsageError(f"--save-path got {save_path}, expected a name ending in .txt or .parquet.")
    if save_path.exists() and not force:
        raise UsageError(f"{save_path} exists already. Choose another --save-path, or --force to replace it.")
    if channels not in ("separate", "interleaved", "first"):
        raise UsageError(f"--channels got {channels!r}, expected separate, interleaved or first.")
    loaded = AudioTokenizer.load(tokenizer, num_codebooks)
    alphabet = loaded.alphabet
    if unicode_offset is not None and _number(unicode_offset) != alphabet.ranges[0][0]:
        raise UsageError(f"--unicode-offset got {unicode_offset}, but the tokenizer has {alphabet.ranges[0][0]:#x}.")
    if codebook_size not in (None, alphabet.size):
        raise UsageError(f"--codebook-size got {codebook_size}, but the tokenizer has {alphabet.size}.")
    source = Source(codes_path, codes_filter or (), None, alphabet.codebooks, alphabet.size, None)
    plan = Plan(sequence_length, overlap_length, audio_start_token, audio_end_token, drop_last).of(loaded)
    sequences: Iterator[Window] = (w for codes in source.recordings(channels) for w in windows(loaded, codes, plan))
    if pack is not None:
        sequences = packed(sequences, sequence_length, loaded.id_of(pack))
    chosen = itertools.islice(sequences, num_examples)
    about = {"framerate": source.framerate, "codebooks": alphabet.codebooks, "channels": channels}
    if save_path.suffix == ".txt":
        count = write_lines(save_path, loaded, chosen)
    else:
        count = write_parquet(save_path, chosen, about)
    if not count:
        raise UsageError(
            f"No sequence came of {codes_path}, so nothing was written. Use shorter ones, or no --drop-last."
        )
    typer.echo(json.dumps({"file": str(save_path), "examples": count}) if as_json else save_path)


@app.command("extend", cls=Lenient, epilog="""
Example:

    duotone tokens extend --existing-tokenizer llama/ --codec-bpe-tokenizer tokenizer/ --save-path llama-audio/
""")  # fmt: skip
def extend_command(
    existing_tokenizer: Annotated[
        Path,
        typer.Option(
            "--existing-tokenizer", metavar="DIR", help="Folder of a text tokenizer (BPE, WordPiece, Unigram)."
        ),
    ],
    codec_bpe_tokenizer: Annotated[
        Path, typer.Option("--codec-bpe-tokenizer", metavar="DIR", help="Folder of an audio tokenizer.")
    ],
    save_path: Annotated[Path, typer.Option("--save-path", metavar="DIR", help="Where the extended one goes.")],
    additional_special_tokens: Annotated[
        list[str] | None,
        typer.Option("--additional-special-tokens", help="By which sound is told from text (default: two)."),
    ] = None,
    as_added_tokens: Annotated[
        bool, typer.Option("--as-added-tokens", help="As codec-bpe: special tokens without merges. Loses the BPE.")
    ] = False,
    num_codebooks: Books = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a tokenizer that exists.")] = False,
    as_json: Json = False,
) -> None:
    """Teach a text tokenizer audio: in sound exactly the trained BPE, in text exactly what it was. Prints the folder."""
    import json

    from duotone.tokens.extend import END, START, extend
    from duotone.tokens.tokenizer import AudioTokenizer

    if (save_path / "tokenizer.json").exists() and not force:
        raise UsageError(
            f"{save_path} holds a tokenizer already. Choose another --save-path, or --force to replace it."
        )
    audio = AudioTokenizer.load(codec_bpe_tokenizer, num_codebooks)
    count = extend(existing_tokenizer, audio, save_path, additional_special_tokens or (START, END), as_added_tokens)
    typer.echo(json.dumps({"folder": str(save_path), "added": count}) if as_json else save_path)


@app.command("stats", cls=Lenient, epilog="""
Example:

    duotone tokens stats --dataset-path lm.txt --tokenizer tokenizer/ --codec-framerate 75
""")  # fmt: skip
def stats_command(
    dataset_path: Annotated[Path, typer.Option("--dataset-path", metavar="FILE", help="What `dataset` wrote.")],
    tokenizer: Annotated[Path, typer.Option("--tokenizer", metavar="DIR", help="The tokenizer it was written with.")],
    num_codebooks: Books = None,
    codec_framerate: Rate = None,
    overlap_length: Annotated[int, typer.Option("--overlap-length", help="Tokens that neighbours share.")] = 1024,
    num_examples: Annotated[int | None, typer.Option("--num-examples", help="Only the first so many.")] = None,
    as_json: Json = False,
) -> None:
    """Examples and seconds of a data set; sound that sequences share is counted once."""
    import json

    from duotone.tokens.dataset import line_stats, parquet_stats
    from duotone.tokens.tokenizer import AudioTokenizer

    if not dataset_path.is_file():
        raise UsageError(f"No data set at {dataset_path}. Make one with duotone tokens dataset.")
    loaded = AudioTokenizer.load(tokenizer, num_codebooks)
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
    typer.echo(f"{told.examples} examples, {told.total:.2f} seconds ({told.total / 3600:.2f} hours) of sound in all")
    for name in ("minimum", "maximum", "median", "mean", "deviation"):
        typer.echo(f"{name:>10}: {getattr(told, name):.2f} seconds an example")


class _Stopped(Exception):
    """Ctrl-C while training; holds the tokenizer so far."""

    def __init__(self, so_far: AudioTokenizer) -> None:
        super().__init__()
        self.so_far = so_far


@contextmanager
def _stoppable(quiet: bool) -> Iterator[Callable[..., None]]:
    """A progress bar, and a watcher that stops the training when Ctrl-C was pressed."""
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
    """What an interrupted training of the same recordings left, if it did."""
    from duotone.tokens.tokenizer import AudioTokenizer

    if not (partial / "tokenizer.json").is_file():
        return None
    found = AudioTokenizer.load(partial)
    same = found.alphabet == alphabet and all(found.about.get(key) == value for key, value in about.items())
    tell(f"Going on from {partial}." if same else f"{partial} is of other codes or settings; starting anew.")
    return found if same else None


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"--unicode-offset got {text!r}, expected a number such as 0x4E00 or 57344.") from None
