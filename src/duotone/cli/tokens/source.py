"""What the commands share: options, folders of codes, loading tokenizers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duotone.cli.failures import tell, verdict
from duotone.errors import FormatError, UsageError

if TYPE_CHECKING:
    from duotone.tokens.collection import Info
    from duotone.tokens.tokenizer import AudioTokenizer

SUFFIXES = (".npy", ".duo")
_TOLD = 10  # unreadable files that are named; further ones are only counted

CodesPath = Annotated[Path, typer.Option("--codes-path", metavar="DIR", help="Folder of .npy or .duo files.")]
Books = Annotated[
    int | None, typer.Option("--num-codebooks", help="Number of codebooks to use (default: from codec_info.json).")
]
Size = Annotated[
    int | None, typer.Option("--codebook-size", help="Number of codes per codebook (default: from codec_info.json).")
]
Rate = Annotated[
    float | None,
    typer.Option("--codec-framerate", help="Frames (steps of the codec) per second (default: from codec_info.json)."),
]
Chunk = Annotated[
    int | None,
    typer.Option(
        "--chunk-size-secs", help="Split recordings into training words of this length (default: one word per file)."
    ),
]
Frequency = Annotated[int, typer.Option("--min-frequency", help="Do not merge pairs that occur less often.")]
Filter = Annotated[
    list[str] | None, typer.Option("--codes-filter", help="Use only files whose path contains one of these texts.")
]
Files = Annotated[int | None, typer.Option("--num-files", help="Read at most this many files.")]
TokenizerFolder = Annotated[Path, typer.Option("--tokenizer", metavar="DIR", help="Folder of a tokenizer.")]


class Source:
    """The recordings of a folder: codes `[K, T]` and their description.

    All files must come from one codec and number format (those of `tokenizer`, if given). Unreadable files are left
    out; `finish` reports them.
    """

    def __init__(
        self,
        folder: Path,
        only: Sequence[str] | None = None,
        limit: int | None = None,
        codebooks: int | None = None,
        size: int | None = None,
        framerate: float | None = None,
        tokenizer: AudioTokenizer | None = None,
    ) -> None:
        from duotone.tokens.collection import Info, agreed

        self.folder, self.files = folder, find(folder, only or (), limit)
        self.failed: dict[Path, Exception] = {}
        places = dict(self._places())
        info = agreed(places.items())
        if tokenizer is not None:
            alphabet = tokenizer.alphabet
            codebooks, size = alphabet.codebooks, alphabet.size
            trained = Info.from_about(tokenizer.about)
            agreed([("The codes that the tokenizer was trained on", trained), (str(folder), info)])
        missing = [
            flag
            for flag, value in (
                ("--num-codebooks", codebooks or info.codebooks),
                ("--codebook-size", size or info.size),
            )
            if value is None
        ]
        if missing:
            raise UsageError(f"{folder} has no codec_info.json that describes its codes. Give {' and '.join(missing)}.")
        self.info = info
        self.framerate = framerate or info.framerate
        self.codebooks, self.size = int(codebooks or info.codebooks or 0), int(size or info.size or 0)

    def _places(self) -> Iterator[tuple[str, Info]]:
        """The files that describe the codes: each codec_info.json once, and each .duo file."""
        from duotone.tokens.collection import INFO, folder_of_info, read_info

        folders = dict.fromkeys(file.parent for file in self.files if file.suffix.lower() == ".npy")
        near = dict.fromkeys(folder_of_info(folder / "x") for folder in folders)
        yield from ((str(place / INFO), read_info(place)) for place in near if place is not None)
        for file in self.files:
            if file.suffix.lower() == ".duo":
                try:
                    yield str(file), _duo_info(file)
                except (FormatError, OSError) as error:
                    self.failed[file] = error

    def __iter__(self) -> Iterator[Any]:
        for file in self.files:
            yield from self.streams(file)
        self._check()

    def recordings(self, channels: Any) -> Iterator[tuple[Any, int]]:
        """Yield each recording, with its files joined and its channels arranged (`dataset.arrange`), and the number of channels."""
        import numpy as np

        from duotone.tokens.dataset import arrange, group

        for recording in group(self.files):
            parts = [[self.streams(file) for file in pieces] for pieces in recording.channels]
            if any(not streams for pieces in parts for streams in pieces):
                continue  # a part could not be read
            whole = [
                np.concatenate(same, axis=1)
                for pieces in parts
                for same in zip(*pieces, strict=False)
            ]  # fmt: skip
            width = len(whole) if channels == "interleaved" else 1
            try:
                arranged = arrange(whole, channels)
            except UsageError as error:
                self.failed[recording.channels[0][0]] = UsageError(f"{recording.name}: {error}")
                continue
            yield from ((codes, width) for codes in arranged)
        self._check()

    def streams(self, file: Path) -> list[Any]:
        """The codes `[K, T]` of a file: one array, or one per channel. None if the file cannot be read."""
        from duotone.tokens.collection import load_npy

        if file in self.failed:
            return []
        try:
            if file.suffix.lower() == ".npy":
                return [load_npy(file, self.codebooks, self.size)]
            return _read_duo(file, self.codebooks)
        except (FormatError, OSError) as error:
            self.failed[file] = error
            return []

    def split(self, share: float) -> tuple[list[Any], list[Any]]:
        """Split into training and held-out recordings; of a single recording the end is held out."""
        recordings = list(self)
        if len(recordings) == 1:
            cut = int(recordings[0].shape[1] * (1 - share))
            return [recordings[0][:, :cut]], [recordings[0][:, cut:]]
        every = max(2, round(1 / share))
        held = recordings[every - 1 :: every] or recordings[-1:]
        return [r for i, r in enumerate(recordings) if (i + 1) % every and r is not held[-1]], held

    def _check(self) -> None:
        """Raise the first error if no file could be read."""
        if len(self.failed) == len(self.files):
            raise next(iter(self.failed.values()))

    def finish(self) -> None:
        """Report files that could not be read; if there are any, exits with the first one's code."""
        if not self.failed:
            return
        found = [verdict(error) for error in self.failed.values()]
        told = [
            (str(error), 1) if known is None else known
            for known, error in zip(found, self.failed.values(), strict=True)
        ]
        for message, _ in told[:_TOLD]:
            tell(f"error: {message}")
        tell(f"{len(told)} of {len(self.files)} files could not be read and were left out (see above).")
        raise typer.Exit(told[0][1])


def find(folder: Path, only: Sequence[str], limit: int | None) -> list[Path]:
    """Find files of codes in a folder, sorted by name. `only`: texts of which a path must contain one.

    Raises `UsageError` where there are none.
    """
    from duotone.audio.walk import explain, walk

    kinds = " or ".join(SUFFIXES)
    if not folder.is_dir():
        raise UsageError(f"No folder at {folder}. Give the folder that holds the codes ({', '.join(SUFFIXES)}).")
    found = walk(folder, SUFFIXES, ())
    for line in explain(found.left_out):
        tell(line)
    chosen = [file for file in found.files if not only or any(part in str(file) for part in only)]
    if not chosen:
        why = f"none of the {len(found.files)} files match {list(only)}" if found.files else f"no {kinds} file is there"
        raise UsageError(f"Nothing to read below {folder}: {why}.")
    return chosen[:limit]


def load_tokenizer(folder: Path, codebooks: int | None = None) -> AudioTokenizer:
    """Load an audio tokenizer, or the audio part of an extended text tokenizer, with its ids there."""
    from duotone.tokens.extended import is_extended, load_extended
    from duotone.tokens.tokenizer import AudioTokenizer

    if not is_extended(folder):
        return AudioTokenizer.load(folder, codebooks)
    loaded = load_extended(folder)
    if codebooks not in (None, loaded.alphabet.codebooks):
        raise UsageError(f"--num-codebooks got {codebooks}, but {folder} was made for {loaded.alphabet.codebooks}.")
    return loaded


def number(text: str) -> int:
    """Parse a character's number. Raises `UsageError`."""
    try:
        return int(text, 0)
    except ValueError:
        raise UsageError(f"--unicode-offset got {text!r}, expected a number such as 0x4E00 or 57344.") from None


def _duo_info(file: Path) -> Info:
    from duotone.codec.duofile import RecordReader
    from duotone.tokens.collection import Info

    reader = RecordReader(file)
    reader.close()
    header = reader.header
    if header.kind != "tokens":
        raise UsageError(f"{file} holds latents, expected tokens: encode with --kind tokens.")
    return Info.of(header.spec, None if header.version == 1 else header.source.format)


def _read_duo(file: Path, codebooks: int) -> list[Any]:
    """The codes of a `.duo` file, `[K, S]` of each stream."""
    import numpy as np

    from duotone.codec.duofile import RecordReader

    reader = RecordReader(file)
    try:
        own = len(reader.header.spec.codebooks)
        if own < codebooks:
            raise FormatError(f"{file} holds {own} codebooks, expected at least {codebooks}.")
        parts = [record.values.reshape(-1, record.values.shape[-1]) for record in reader.records()]
    finally:
        reader.close()
    rows = np.concatenate(parts).T if parts else np.zeros((own, 0), np.int64)
    return [rows[first : first + codebooks] for first in range(0, len(rows), own)]
