"""Training sequences for language models: recordings of codes -> windows of token ids, as text lines or Parquet.

Legend: K codebooks, T frames, M ids of a recording, W ids of a window.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from duotone.errors import FormatError, UsageError
from duotone.tokens.convert import Int, to_points

if TYPE_CHECKING:
    from duotone.tokens.tokenizer import AudioTokenizer

Channels = Literal["separate", "interleaved", "first"]
_NAME = re.compile(r"^(?P<root>.+?)(?:_c(?P<channel>\d+))?(?:_t(?P<seconds>\d+)_(?P<ms>\d+))?$")


@dataclass(frozen=True)
class Files:
    """The files of one recording: of each channel, its pieces in time."""

    name: str
    channels: tuple[tuple[Path, ...], ...]


def group(files: Iterable[Path]) -> list[Files]:
    """Files that belong together: ``NAME_c1.npy`` is a channel, ``NAME_c1_t000030_000.npy`` a piece of one.

    Names of any other form are recordings of their own.
    """
    found: dict[Path, dict[int, list[tuple[int, Path]]]] = {}
    for file in files:
        match = _NAME.match(file.stem)
        assert match is not None
        start = 1000 * int(match["seconds"] or 0) + int(match["ms"] or 0)
        channels = found.setdefault(file.with_name(match["root"]), {})
        channels.setdefault(int(match["channel"] or 0), []).append((start, file))
    return [
        Files(root.name, tuple(tuple(path for _, path in sorted(channels[c])) for c in sorted(channels)))
        for root, channels in sorted(found.items())
    ]


def arrange(channels: Sequence[Any], how: Channels) -> list[Any]:
    """Codes `[K, T]` of a recording's channels -> the sequences of codes that are written.

    `separate`: one each. `interleaved`: a frame of each channel in turn, `[K, C*T]`. `first`: the others are left out.
    Raises `UsageError` when channels to be interleaved differ in length.
    """
    if how == "first":
        return [channels[0]]
    if how == "separate" or len(channels) == 1:
        return list(channels)
    lengths = {np.asarray(c).shape for c in channels}
    if len(lengths) > 1:
        raise UsageError(f"Channels of {sorted(lengths)} codes cannot be interleaved. Encode them together again.")
    return [np.stack(channels, axis=2).reshape(np.asarray(channels[0]).shape[0], -1)]


@dataclass(frozen=True)
class Window:
    """A training sequence: ids `[W]`, and how many of the codes in it no window before it held."""

    ids: Int
    fresh_codes: int


@dataclass(frozen=True)
class Plan:
    """How recordings become sequences of at most `length` ids, of which neighbours share `overlap`.

    Start and end tokens count towards the length; with `drop_last`, what does not fill a sequence is left out.
    """

    length: int = 4096
    overlap: int = 1024
    start: str | None = None
    end: str | None = None
    drop_last: bool = False
    _ids: tuple[int | None, int | None] = field(default=(None, None), repr=False)

    def of(self, tokenizer: AudioTokenizer) -> Plan:
        """The plan with the tokens' ids. Raises `UsageError` for unknown tokens and lengths that lead nowhere."""
        ids: list[int | None] = []
        for token in (self.start, self.end):
            ids.append(None if token is None else tokenizer.id_of(token))
        if not 0 <= self.overlap < self.body:
            raise UsageError(
                f"Sequences of {self.length} tokens that share {self.overlap} would never end: the overlap has to be "
                f"smaller than the {self.body} tokens of sound in a sequence."
            )
        return Plan(self.length, self.overlap, self.start, self.end, self.drop_last, (ids[0], ids[1]))

    @property
    def body(self) -> int:
        """Ids of sound in a full sequence."""
        return self.length - (self.start is not None) - (self.end is not None)


def windows(tokenizer: AudioTokenizer, codes: Any, plan: Plan) -> Iterator[Window]:
    """The sequences of one recording `[K, T]`; `plan` comes from `Plan.of`."""
    ids = tokenizer.encode(codes)
    lengths = tokenizer.lengths[tokenizer.own(ids)]
    before, start = plan._ids[0], 0
    after = plan._ids[1]
    while len(ids):
        stop = start + plan.body
        if plan.drop_last and stop > len(ids):
            return
        body = ids[start:stop]
        fresh = int(lengths[start + (plan.overlap if start else 0) : stop].sum())
        first, last = (np.array([] if i is None else [i], np.int64) for i in (before, after))
        yield Window(np.concatenate([first, body, last]), fresh)
        if stop >= len(ids):
            return
        start = stop - plan.overlap


def packed(sequences: Iterable[Window], length: int, separator: int) -> Iterator[Window]:
    """Sequences one behind the other, `separator` between them, cut into windows of exactly `length` ids.

    The rest at the end is left out; so are its codes in the count.
    """
    waiting: list[Int] = []
    size = fresh = 0
    for window in sequences:
        waiting += [window.ids, np.array([separator])]
        size += len(window.ids) + 1
        fresh += window.fresh_codes
        while size >= length:
            joined = np.concatenate(waiting)
            yield Window(joined[:length], round(fresh * length / size))
            fresh -= round(fresh * length / size)
            waiting, size = [joined[length:]], size - length


def write_lines(path: Path, tokenizer: AudioTokenizer, sequences: Iterable[Window]) -> int:
    """One sequence of characters a line, as `codec-bpe` writes them; returns how many. Appears whole or not at all,
    and not for no sequence."""
    texts = [*tokenizer.special_tokens, *tokenizer.tokens()]
    if tokenizer.ids is not None:
        raise UsageError("Text lines need a tokenizer in Duotone's order of ids: save it with AudioTokenizer.save.")
    temporary = path.with_name(f".{path.name}.writing")
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with temporary.open("w", encoding="utf-8") as file:
        for window in sequences:
            file.write("".join(texts[i] for i in window.ids.tolist()) + "\n")
            count += 1
    _keep(temporary, path, count)
    return count


def _keep(temporary: Path, path: Path, count: int) -> None:
    """What was written takes its place, unless nothing was."""
    if count:
        os.replace(temporary, path)
    else:
        temporary.unlink()


def write_parquet(path: Path, sequences: Iterable[Window], about: dict[str, Any], batch: int = 256) -> int:
    """Columns `input_ids` (lists of int32) and `fresh_codes`; returns the number of rows. Whole or not at all.

    Raises `UsageError` when pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install 'duotone[datasets]'. Text lines need nothing.") from None
    schema = pa.schema(
        [("input_ids", pa.list_(pa.int32())), ("fresh_codes", pa.int64())], metadata={"duotone": json.dumps(about)}
    )
    temporary = path.with_name(f".{path.name}.writing")
    path.parent.mkdir(parents=True, exist_ok=True)
    count, rows = 0, iter(sequences)
    with pq.ParquetWriter(temporary, schema) as writer:
        while True:
            some = [window for _, window in zip(range(batch), rows, strict=False)]
            if not some:
                break
            columns = [[w.ids.astype(np.int32) for w in some], [w.fresh_codes for w in some]]
            writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema))
            count += len(some)
    _keep(temporary, path, count)
    return count


@dataclass(frozen=True)
class Stats:
    """Of a data set: examples, and the seconds of sound in each; `total` counts sound that sequences share once."""

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
    """From the seconds of each example, and those of them that no example before held."""
    if not len(seconds):
        raise UsageError("The data set has no examples. Were all recordings shorter than a sequence, with drop_last?")
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
    path: Path, tokenizer: AudioTokenizer, overlap: int, framerate: float, limit: int | None = None
) -> Stats:
    """Of text lines: special tokens are left out, and what a line repeats of the one before is counted once.

    A line repeats the last `overlap` tokens of the one before if those stand at its beginning. Raises `FormatError` for a
    line that holds other characters.
    """
    alphabet, rate = tokenizer.alphabet, framerate * tokenizer.alphabet.codebooks
    special = re.compile("|".join(map(re.escape, tokenizer.special_tokens)) or r"(?!)")
    lengths: list[float] = []
    fresh: list[float] = []
    tail = ""
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if number == limit:
                break
            text = special.sub("", line.rstrip("\n"))
            numbers = alphabet.numbers(to_points(text))
            if len(numbers) and int(numbers.max()) >= len(alphabet):
                at = int(np.argmax(numbers >= len(alphabet)))
                raise FormatError(
                    f"Line {number + 1} of {path} holds U+{ord(text[at]):04X}, which is neither a code nor a special token."
                )
            shared = len(tail) if tail and text.startswith(tail) else 0
            lengths.append(len(text) / rate)
            fresh.append((len(text) - shared) / rate)
            tail = _last_tokens(tokenizer, numbers, overlap)
    return stats(lengths, fresh)


def parquet_stats(path: Path, tokenizer: AudioTokenizer, framerate: float, limit: int | None = None) -> Stats:
    """Of a Parquet file that `write_parquet` made. Raises `FormatError` for another, `UsageError` without pyarrow."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install 'duotone[datasets]'.") from None
    try:
        table = pq.read_table(path, columns=["input_ids", "fresh_codes"])
    except (pa.ArrowException, OSError) as error:
        raise FormatError(f"{path} is not a data set of Duotone: {str(error).splitlines()[0]}") from None
    rate = framerate * tokenizer.alphabet.codebooks
    lengths, own = tokenizer.lengths, tokenizer.own
    seconds = []
    for ids in table["input_ids"][:limit].to_pylist():
        sound = own(ids)
        seconds.append(int(lengths[sound[sound >= 0]].sum()) / rate)
    return stats(seconds, [codes / rate for codes in table["fresh_codes"][:limit].to_pylist()])


def _last_tokens(tokenizer: AudioTokenizer, numbers: Any, count: int) -> str:
    """The text of the last `count` tokens of a line."""
    if not count or not len(numbers):
        return ""
    own = tokenizer._encoder(numbers)[-count:]
    size = int(tokenizer.lengths[own].sum())
    return tokenizer.alphabet.text(numbers[len(numbers) - size :])
