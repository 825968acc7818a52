"""How much sound a dataset of training sequences holds."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from duotone.errors import FormatError, UsageError
from duotone.tokens.convert import Points, to_points
from duotone.tokens.dataset import encode_apart, steps_of
from duotone.tokens.textfiles import encoding_of

if TYPE_CHECKING:
    from duotone.tokens.tokenizer import AudioTokenizer


@dataclass(frozen=True)
class Stats:
    """Number of examples in a dataset, and the seconds of audio in each; in `total`, audio that sequences share counts once."""

    examples: int
    total: float
    minimum: float
    maximum: float
    median: float
    mean: float
    deviation: float

    def to_dict(self) -> dict[str, float]:
        """As plain JSON values, in seconds."""
        return dict(vars(self))


def stats(seconds: Sequence[float], fresh: Sequence[float]) -> Stats:
    """From the seconds of each example, and the seconds in it that no earlier example contains."""
    if not len(seconds):
        raise UsageError("The dataset has no examples. Were all recordings shorter than a sequence, with drop_last?")
    s = np.asarray(seconds, np.float64)
    return Stats(
        len(s),
        float(np.sum(fresh)),
        float(s.min()),
        float(s.max()),
        float(np.median(s)),
        float(s.mean()),
        float(s.std()),
    )


def line_stats(
    path: str | os.PathLike[str], tokenizer: AudioTokenizer, overlap: int, framerate: float, limit: int | None = None
) -> Stats:
    """Statistics of text lines, without special tokens; the overlap with the previous line is counted once.

    A line may begin with the last `overlap` tokens of the previous line, or with as many of them as the grid allows. Raises `FormatError` for a line that holds other characters.
    """
    alphabet, rate = tokenizer.alphabet, framerate * tokenizer.alphabet.codebooks
    special = re.compile("|".join(map(re.escape, tokenizer.special_tokens)) or r"(?!)")
    lengths: list[float] = []
    fresh: list[float] = []
    before, tails = "", [0]
    path = Path(path)
    with path.open(encoding=encoding_of(path)) as file:
        try:
            for number, line in enumerate(itertools.islice(file, limit)):
                text = special.sub("", line.rstrip("\n"))
                numbers = alphabet.numbers(to_points(text))
                if len(numbers) and int(numbers.max()) >= len(alphabet):
                    at = int(np.argmax(numbers >= len(alphabet)))
                    raise FormatError(
                        f"Line {number + 1} of {path} holds U+{ord(text[at]):04X}, which is neither a code nor a "
                        f"special token."
                    )
                shared = next(size for size in tails if text.startswith(before[len(before) - size :]))
                lengths.append(len(text) / rate)
                fresh.append((len(text) - shared) / rate)
                before, tails = text, _tails(tokenizer, numbers, overlap)
        except UnicodeDecodeError as error:
            raise FormatError(f"{path} is not text: {error}.") from None
    return stats(lengths, fresh)


def parquet_stats(
    path: str | os.PathLike[str], tokenizer: AudioTokenizer, framerate: float, limit: int | None = None
) -> Stats:
    """Statistics of a Parquet file from `write_parquet`. Raises `FormatError` for another, `UsageError` without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install 'duotone[datasets]'.") from None
    try:
        table = pq.read_table(path, columns=["input_ids", "fresh_codes"])
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} is not a dataset of Duotone: {str(error).splitlines()[0]}") from None
    rate = framerate * tokenizer.alphabet.codebooks
    lengths, own = tokenizer.lengths, tokenizer.own
    seconds = []
    for ids in table["input_ids"][:limit].to_pylist():
        sound = own(ids)
        seconds.append(int(lengths[sound[sound >= 0]].sum()) / rate)
    return stats(seconds, [codes / rate for codes in table["fresh_codes"][:limit].to_pylist()])


def _tails(tokenizer: AudioTokenizer, numbers: Points, overlap: int) -> list[int]:
    """Numbers of codes that the next line may repeat, largest first: those of the last tokens, under each grid."""
    if not overlap or not len(numbers):
        return [0]
    k, steps = tokenizer.alphabet.codebooks, steps_of(tokenizer)
    units = [k * channels * frames for channels in (1, 2) for frames in (1, *([] if steps is None else [steps]))]
    found = {0}
    for apart in (None, *units[1:]):
        own = encode_apart(tokenizer, numbers, apart)
        size = int(tokenizer.lengths[own[-overlap:]].sum())
        found |= {min(size // unit * unit, max(0, len(numbers) - unit)) for unit in (1, *units)}
    return sorted(found, reverse=True)
