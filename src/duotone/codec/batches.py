"""Cut recordings into segments of whole chunks, and encode segments of many recordings in batches.

Only segments of equal length share a batch, so none is padded: the encoding of a recording depends
neither on the other recordings nor (up to rounding) on the batch size.

Legend: B rows of a batch, C channels of a stream, N chunks, K codebooks, S steps, T samples.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from duotone.codec.values import Codes, Latents
from duotone.errors import UsageError
from duotone.spec import CodecSpec, Source

#: Segments that go through the encoder together, of a codec whose chunks are independent.
ENCODE_BATCH = 8
#: Segments that may wait for others of their length, in batches; more, and the oldest go on in a smaller batch.
WAITING_BATCHES = 8


@dataclass(frozen=True)
class Batch:
    """Result of encoding B rows: latents `[B, N, *latent]` float32, or codes `[B, K, S]` int64; on the CPU.

    `scale` `[B, N]` is the loudness of each chunk, for codecs that code it separately.
    """

    latents: Tensor | None = None
    codes: Tensor | None = None
    scale: Tensor | None = None

    def part(self, row: int, first: int, count: int, steps: int) -> Batch:
        """Some chunks of one row, as a batch of one."""
        codes = self.codes
        return Batch(
            None if self.latents is None else self.latents[row : row + 1, first : first + count],
            None if codes is None else codes[row : row + 1, :, first * steps : (first + count) * steps],
            None if self.scale is None else self.scale[row : row + 1, first : first + count],
        )

    def ordinary(self) -> Batch:
        """The same in ordinary tensors, which can be changed and trained on; inference mode gives others."""
        return Batch(*(None if t is None else t.clone() for t in (self.latents, self.codes, self.scale)))

    def chunks(self, steps: int) -> int:
        """Chunks of each row."""
        if self.latents is not None:
            return int(self.latents.shape[1])
        return 0 if self.codes is None else int(self.codes.shape[2]) // steps


@dataclass(frozen=True)
class Window:
    """How a recording is cut: `chunks` at a time (None: whole), each with the `context` chunks before it as input."""

    chunks: int | None = None
    context: int = 0

    @classmethod
    def of(cls, spec: CodecSpec, chunk_secs: float | None, context_secs: float = 0.0) -> Window:
        """From seconds, as in `codec-bpe`: windows of length `context_secs` that end where their chunk ends.

        So 0.08 with 0.4 encodes 80 ms at a time, with the 320 ms before them. Raises `UsageError` for less than half a chunk
        of the codec, or negative context.
        """
        if chunk_secs is None:
            return cls()
        if not (math.isfinite(chunk_secs) and math.isfinite(context_secs)):
            raise UsageError(
                f"A chunk size of {chunk_secs} s with a context of {context_secs} s was given, expected finite numbers."
            )
        per_second = spec.rate / spec.chunk
        chunks = round(chunk_secs * per_second)
        if chunks < 1 or context_secs < 0:
            raise UsageError(
                f"A chunk size of {chunk_secs} s with a context of {context_secs} s was given, expected at least one chunk of "
                f"{spec.model or spec.family} ({1 / per_second:.4f} s), and a context of 0 or more."
            )
        return cls(chunks, max(0, math.ceil(round(context_secs * per_second, 6)) - chunks))


def whole_number(value: Any, name: str, least: int | None = None) -> int:
    """An integer of any type. Raises `UsageError` for other values, and for less than `least`."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UsageError(f"{name} got {value!r}, expected a whole number.") from None
    if least is not None and number < least:
        raise UsageError(f"{name} got {number}, expected at least {least}.")
    return int(number)


def window_for(spec: CodecSpec, window: Window | None) -> Window:
    """The window to use: single chunks for codecs with independent chunks, else `window`, or the whole by default."""
    if window is not None and not isinstance(window, Window):
        raise UsageError(f"window got {window!r}, expected a Window: Window.of(codec.spec, chunk_secs=2.0).")
    if spec.independent:  # then neither windows nor context change the result
        return Window(1)
    return window or Window()


@dataclass(frozen=True)
class Segment:
    """Samples `[channels, T]` of consecutive chunks: the first `context` are only input, the next `count` are encoded."""

    samples: Tensor
    context: int
    count: int


class Cutter:
    """Cuts one recording, at the codec's rate, into segments; before its beginning and after its end there is silence."""

    def __init__(self, spec: CodecSpec, window: Window, channels: int) -> None:
        self.spec, self.window = spec, window
        self._waiting = torch.zeros(channels, window.context * spec.chunk + spec.behind, dtype=torch.float32)
        self.samples = 0  # so far
        self._done = 0  # chunks cut so far

    def push(self, samples: Tensor) -> list[Segment]:
        """Samples `[channels, T]` -> the segments that they complete."""
        self.samples += samples.shape[1]
        self._waiting = torch.cat([self._waiting, samples], dim=1)
        size = self.window.chunks
        if size is None:
            return []
        spare = self._waiting.shape[1] - self.window.context * self.spec.chunk - self.spec.behind - self.spec.ahead
        return self._cut(max(0, spare // (size * self.spec.chunk)) * size)

    def finish(self) -> list[Segment]:
        """The remaining segments, padded with zeros."""
        spec, count = self.spec, self.spec.chunks(self.samples) - self._done
        wanted = (self.window.context + count) * spec.chunk + spec.behind + spec.ahead
        self._waiting = torch.nn.functional.pad(self._waiting, (0, max(0, wanted - self._waiting.shape[1])))
        return self._cut(count)

    def _cut(self, count: int) -> list[Segment]:
        spec, context = self.spec, self.window.context
        segments = []
        size = self.window.chunks or count
        for first in range(0, count, size):
            own = min(size, count - first)
            start, end = first * spec.chunk, (first + context + own) * spec.chunk + spec.behind + spec.ahead
            segments.append(Segment(self._waiting[:, start:end], context, own))
        self._done += count
        if count:
            self._waiting = self._waiting[:, count * spec.chunk :].clone()
        return segments


def rows_of(segment: Segment, spec: CodecSpec) -> list[Tensor]:
    """A segment's streams `[C, T]`: one for each channel with a mono codec, one for both (mono duplicated) with a stereo codec."""
    samples = segment.samples
    if spec.channels == 1:
        return [samples[i : i + 1] for i in range(samples.shape[0])]
    return [samples if samples.shape[0] == 2 else samples.expand(2, -1)]


Encode = Callable[[Tensor], Batch]


def encode_rows(rows: list[Tensor], segments: list[Segment], encode: Encode, spec: CodecSpec) -> list[Batch]:
    """Encode rows of equal length -> the chunks without context of each. Raises `UsageError` if the codec gives too few."""
    found = encode(torch.stack(rows))
    out = []
    for i, segment in enumerate(segments):
        if found.chunks(spec.steps) < segment.context + segment.count:
            raise UsageError(
                f"{spec.model or spec.family} gave {found.chunks(spec.steps)} chunks for a segment of "
                f"{segment.context + segment.count}. Use longer segments."
            )
        out.append(found.part(i, segment.context, segment.count, spec.steps))
    return out


def assemble(parts: list[list[Batch]], spec: CodecSpec, source: Source) -> Latents | Codes:
    """Join the encoded parts of each stream, in order, to one value."""
    if spec.latent is not None:
        streams = [torch.cat([_not_none(p.latents)[0] for p in stream]) for stream in parts]
        return Latents(torch.cat(streams, dim=-1), spec, source)
    codes = torch.cat([torch.cat([_not_none(p.codes)[0] for p in stream], dim=1) for stream in parts])
    scale = None
    if spec.scaled:
        scale = torch.stack([torch.cat([_not_none(p.scale)[0] for p in stream]) for stream in parts])
    return Codes(codes, spec, source, scale)


def empty(spec: CodecSpec, source: Source) -> Latents | Codes:
    """A value of no chunks."""
    streams = source.channels if spec.channels == 1 else 1
    if spec.latent is not None:
        return Latents(torch.zeros(0, *spec.latent[:-1], streams * spec.latent[-1], dtype=torch.float32), spec, source)
    codes = torch.zeros(streams * len(spec.codebooks), 0, dtype=torch.int64)
    return Codes(codes, spec, source, torch.zeros(streams, 0, dtype=torch.float32) if spec.scaled else None)


def _not_none(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise AssertionError("an encoder gave no latents or no codes although its spec declares them")
    return tensor


@dataclass
class _Recording:
    """A recording being encoded: its source, and the encoded parts of each stream by position."""

    source: Source
    parts: list[list[Batch | None]]
    missing: int


def encode_recordings(
    recordings: Iterable[tuple[Tensor, Source]], encode: Encode, spec: CodecSpec, window: Window, batch: int
) -> Iterator[Latents | Codes]:
    """Encode samples `[channels, T]` at the codec's rate, given with their sources; yields values in the same order."""
    batch = whole_number(batch, "batch", 1)
    waiting: dict[int, list[tuple[_Recording, int, int, Tensor, Segment]]] = {}  # segments by length, the oldest first
    queue: list[_Recording] = []

    def run(length: int) -> None:
        tasks = waiting.pop(length)
        found = encode_rows([t[3] for t in tasks], [t[4] for t in tasks], encode, spec)
        for (recording, stream, place, _, _), part in zip(tasks, found, strict=True):
            recording.parts[stream][place] = part
            recording.missing -= 1

    def ready() -> Iterator[Latents | Codes]:
        while queue and not queue[0].missing:
            done = queue.pop(0)
            yield assemble([[p for p in stream if p is not None] for stream in done.parts], spec, done.source)

    for samples, source in recordings:
        cutter = Cutter(spec, window, samples.shape[0])
        segments = [*cutter.push(samples), *cutter.finish()]
        rows = [rows_of(segment, spec) for segment in segments]
        recording = _Recording(source, [[None] * len(segments) for _ in rows[0]], len(segments) * len(rows[0]))
        queue.append(recording)
        for place, (segment, streams) in enumerate(zip(segments, rows, strict=True)):
            for stream, row in enumerate(streams):
                length = row.shape[1]
                waiting.setdefault(length, []).append((recording, stream, place, row, segment))
                if len(waiting[length]) == batch:
                    run(length)
                elif sum(map(len, waiting.values())) >= WAITING_BATCHES * batch:
                    run(next(iter(waiting)))
        yield from ready()
    for length in list(waiting):
        run(length)
    yield from ready()
