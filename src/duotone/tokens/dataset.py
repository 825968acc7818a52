"""Training sequences for language models: recordings of codes -> windows of token ids, as text lines or Parquet.

Legend: K codebooks, T frames (a frame: the K codes of one step of the codec), M ids of a recording, W ids of a window.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from duotone.atomic import replacing
from duotone.errors import UsageError
from duotone.tokens.convert import Points, to_numbers
from duotone.tokens.jsonfiles import make_folder
from duotone.tokens.values import ByValue, Int, as_codes

if TYPE_CHECKING:
    from duotone.tokens.tokenizer import AudioTokenizer

Channels = Literal["separate", "interleaved", "first"]
Grid = Literal["token", "frame", "chunk"]
_NAME = re.compile(r"^(?P<root>.+?)(?:_c(?P<channel>\d+))?(?:_t(?P<seconds>\d+)_(?P<ms>\d+))?$", re.DOTALL)


@dataclass(frozen=True)
class Files:
    """The files of one recording: for each channel, its parts in order of time."""

    name: str
    channels: tuple[tuple[Path, ...], ...]


def group(files: Iterable[Path]) -> list[Files]:
    """Group the files of each recording: ``NAME_c1.npy`` is a channel, ``NAME_c1_t000030_000.npy`` a piece of one.

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

    `separate`: one per channel. `interleaved`: a frame of each channel in turn, `[K, C*T]`. `first`: only the first channel.
    Raises `UsageError` when channels to be interleaved differ in length.
    """
    arrays = [as_codes(codes) for codes in channels]
    if how == "first":
        return arrays[:1]
    if how == "separate" or len(arrays) == 1:
        return arrays
    shapes = {codes.shape for codes in arrays}
    if len(shapes) > 1:
        raise UsageError(f"Channels of {sorted(shapes)} codes cannot be interleaved. Encode them together again.")
    return [np.stack(arrays, axis=2).reshape(len(arrays[0]), -1)]


@dataclass(frozen=True, eq=False, repr=False)
class Window(ByValue):
    """A training sequence: ids `[W]`, and the number of its codes that no earlier window contains.

    `cuts` `[W]`: whether the grid allows a cut after each id; None: everywhere.
    """

    ids: Int
    fresh_codes: int
    cuts: NDArray[np.bool_] | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"Window({len(self.ids)} ids, {self.fresh_codes} fresh codes)"


@dataclass(frozen=True)
class Plan:
    """How recordings are divided into sequences of at most `length` ids, of which consecutive ones share at most `overlap`.

    The length includes start and end tokens; with `drop_last`, the end of a recording that does not fill a sequence
    is left out. `grid` sets where a sequence may begin and end: at any token (as `codec-bpe`, which cuts inside frames),
    at any frame, or at any chunk of the codec. With chunks, each chunk is tokenized separately, so that no token spans
    two chunks (`FrameGrammar(group=...)` makes a model generate such sequences).
    """

    length: int = 4096
    overlap: int = 1024
    start: str | None = None
    end: str | None = None
    drop_last: bool = False
    grid: Grid = "frame"
    _ids: tuple[int | None, int | None] = field(default=(None, None), repr=False)
    _unit: int = field(default=1, repr=False)  # number of codes between two positions where a sequence may begin or end

    def of(self, tokenizer: AudioTokenizer, steps: int | None = None) -> Plan:
        """The plan with the tokens' ids; `steps`: frames per chunk of the codec, if the tokenizer does not have it.

        Raises `UsageError` for unknown tokens, impossible lengths, and a grid that does not fit the tokenizer.
        """
        ids = [None if token is None else tokenizer.id_of(token) for token in (self.start, self.end)]
        if not 0 <= self.overlap < self.body:
            raise UsageError(
                f"Sequences of {self.length} tokens that share {self.overlap} would never end: the overlap has to be "
                f"smaller than the {self.body} tokens of sound in a sequence."
            )
        return replace(self, _ids=(ids[0], ids[1]), _unit=self._codes(tokenizer, steps))

    def _codes(self, tokenizer: AudioTokenizer, steps: int | None) -> int:
        k = tokenizer.alphabet.codebooks
        if self.grid == "token":
            return 1
        if self.grid not in ("frame", "chunk"):
            raise UsageError(f"grid got {self.grid!r}, expected token, frame or chunk.")
        if tokenizer.pattern != "frames" and k > 1:
            raise UsageError(
                f"A tokenizer of the pattern {tokenizer.pattern!r} cannot be cut between frames. Use grid token."
            )
        if self.body < k:
            raise UsageError(
                f"Sequences of {self.length} tokens have room for {self.body} of sound, but a frame can take {k}."
            )
        if self.grid == "frame":
            return k
        found = steps or steps_of(tokenizer)
        if found is None:
            raise UsageError(
                "Neither codec_info.json nor the tokenizer says how many frames a chunk of the codec has. "
                "Use grid frame, or encode the codes again."
            )
        return k * found

    @property
    def body(self) -> int:
        """Number of audio ids in a full sequence."""
        return self.length - (self.start is not None) - (self.end is not None)


def steps_of(tokenizer: AudioTokenizer) -> int | None:
    """Frames per chunk of the codec that the tokenizer was trained on; None if it is not stored."""
    spec = tokenizer.about.get("spec")
    steps = spec.get("steps") if isinstance(spec, dict) else None
    return steps if isinstance(steps, int) and steps > 0 else None


def windows(tokenizer: AudioTokenizer, codes: Any, plan: Plan, channels: int = 1) -> Iterator[Window]:
    """The sequences of one recording `[K, T]`; `plan` comes from `Plan.of`.

    `channels`: number of interleaved channels, whose simultaneous frames are kept together. Raises `UsageError` if a
    chunk has more tokens than fit into a sequence.
    """
    unit = plan._unit * (1 if plan.grid == "token" else channels)
    sound = _Recording(tokenizer, to_numbers(codes, tokenizer.alphabet, tokenizer.pattern), unit, plan.grid == "chunk")
    begin = done = 0
    while done < sound.length:
        stop, part = sound.most(begin, plan.body)
        if stop <= done:  # the overlap with the previous sequence leaves no room for new codes
            begin += unit
            continue
        last = stop >= sound.length
        if last and plan.drop_last and len(part) + unit <= plan.body:
            return
        yield _window(plan, sound, part, stop - max(begin, done))
        shared = int(sound.lengths[part[-plan.overlap :]].sum()) if plan.overlap else 0
        begin, done = max(begin + unit, stop - shared // unit * unit), stop


def _window(plan: Plan, sound: _Recording, part: NDArray[np.int32], fresh: int) -> Window:
    """A sequence of some tokens (own numbering), with its start and end tokens."""
    before, after = ([] if i is None else [i] for i in plan._ids)
    if plan.grid == "token" and not before and not after:
        return Window(sound.tokenizer.audio_ids[part], fresh)
    cuts = np.cumsum(sound.lengths[part]) % sound.unit == 0
    cuts[-1] = not after
    ids = np.concatenate([before, sound.tokenizer.audio_ids[part], after]).astype(np.int64)
    return Window(ids, fresh, np.concatenate([[False] * len(before), cuts, [True] * len(after)]))


class _Recording:
    """Codes of a recording as numbers `[N]`, and their tokens; a part that cuts a token is tokenized again."""

    def __init__(self, tokenizer: AudioTokenizer, numbers: Points, unit: int, apart: bool) -> None:
        self.tokenizer, self.numbers, self.unit, self.length = tokenizer, numbers, unit, len(numbers)
        self.lengths = tokenizer.lengths
        self.own = encode_apart(tokenizer, numbers, unit if apart else None)
        self.ends = np.cumsum(self.lengths[self.own])

    def most(self, begin: int, room: int) -> tuple[int, NDArray[np.int32]]:
        """The largest number of units from `begin` on that have at most `room` tokens: their end, and the tokens."""
        first = int(np.searchsorted(self.ends, begin, side="right"))
        stop = int(self.ends[min(first + room, len(self.ends)) - 1])
        if stop < self.length:
            stop -= (stop - begin) % self.unit
        part = self.part(begin, stop)
        while len(part) > room:  # at its edges, tokens were cut into several
            stop -= (stop - begin - 1) % self.unit + 1
            part = self.part(begin, stop)
        if not len(part):
            raise UsageError(
                f"{self.unit} codes that must stay together need more than the {room} tokens that fit into a sequence. "
                f"Make sequences longer, or use another grid."
            )
        return stop, part

    def part(self, begin: int, stop: int) -> NDArray[np.int32]:
        """The tokens of some codes."""
        first, last = self._tokens_before(begin), self._tokens_before(stop)
        if first is None or last is None:
            return self.tokenizer.encode_numbers(self.numbers[begin:stop])
        return self.own[first:last]

    def _tokens_before(self, place: int) -> int | None:
        """Number of tokens that end at a position or before it; None if the position is inside a token."""
        count = int(np.searchsorted(self.ends, place, side="right"))
        return count if (self.ends[count - 1] if count else 0) == place else None


def encode_apart(tokenizer: AudioTokenizer, numbers: Points, apart: int | None) -> NDArray[np.int32]:
    """Numbers of codes `[N]` -> tokens in own numbering; with `apart`, each part of that many codes is encoded separately."""
    if apart is None or not len(numbers):
        return tokenizer.encode_numbers(numbers)
    return np.concatenate([tokenizer.encode_numbers(numbers[i : i + apart]) for i in range(0, len(numbers), apart)])


def packed(sequences: Iterable[Window], length: int, separator: int) -> Iterator[Window]:
    """Join sequences with `separator` between them, and cut the result into windows of exactly `length` ids.

    If the grid allows no cut there, the window ends earlier and is padded with separators. The rest at the end is left
    out, and its codes are not counted.
    """
    ids, cuts, fresh = np.zeros(0, np.int64), np.zeros(0, np.bool_), 0
    for window in sequences:
        ids = np.concatenate([ids, window.ids, [separator]])
        own = np.ones(len(window.ids), np.bool_) if window.cuts is None else window.cuts
        cuts = np.concatenate([cuts, own, [True]])
        fresh += window.fresh_codes
        while len(ids) >= length:
            allowed = np.flatnonzero(cuts[:length])
            size = int(allowed[-1]) + 1 if len(allowed) else length
            share = round(fresh * size / len(ids))
            yield Window(np.concatenate([ids[:size], np.full(length - size, separator)]), share)
            fresh, ids, cuts = fresh - share, ids[size:], cuts[size:]


def write_lines(path: str | os.PathLike[str], tokenizer: AudioTokenizer, sequences: Iterable[Window]) -> int:
    """One sequence of characters a line, as `codec-bpe` writes them; returns how many.

    The file appears whole or not at all, and not for no sequence.
    """
    if tokenizer.ids is not None:
        raise UsageError(
            "Text lines need a tokenizer in Duotone's order of ids (save it with AudioTokenizer.save). Write Parquet."
        )
    texts, waiting = [*tokenizer.special_tokens, *tokenizer.tokens()], iter(sequences)
    first = next(waiting, None)
    if first is None:
        return 0
    make_folder(Path(path).parent)
    count = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for window in itertools.chain([first], waiting):
            file.write("".join(texts[i] for i in window.ids.tolist()) + "\n")
            count += 1
    return count


def write_parquet(
    path: str | os.PathLike[str], sequences: Iterable[Window], about: dict[str, Any], batch: int = 256
) -> int:
    """Columns `input_ids` (lists of int32) and `fresh_codes`; returns the number of rows.

    The file appears whole or not at all, and not for no sequence. Raises `UsageError` when pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise UsageError("Parquet needs pyarrow: pip install 'duotone[datasets]'. Text lines need nothing.") from None
    schema = pa.schema(
        [("input_ids", pa.list_(pa.int32())), ("fresh_codes", pa.int64())], metadata={"duotone": json.dumps(about)}
    )
    rows = iter(sequences)
    some = list(itertools.islice(rows, batch))
    if not some:
        return 0
    make_folder(Path(path).parent)
    count = 0
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        pq.ParquetWriter(file, schema) as writer,
    ):
        while some:
            columns = [[w.ids.astype(np.int32) for w in some], [w.fresh_codes for w in some]]
            writer.write_table(pa.table([pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema))
            count += len(some)
            some = list(itertools.islice(rows, batch))
    return count
