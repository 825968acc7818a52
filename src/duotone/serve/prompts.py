"""Prompts that were uploaded, as latents: made in pieces, so that others are served in between.

Of a long prompt the end is used, `prompt_seconds` of it: it is where a continuation begins.

Legend: c channels, T samples.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from duotone.audio.files import open_reader
from duotone.audio.waveform import Waveform
from duotone.codec.container import DuoReader
from duotone.codec.contract import Codec
from duotone.codec.header import MAGIC
from duotone.codec.values import Latents
from duotone.errors import FormatError
from duotone.flow.prompt import Given, aligning
from duotone.serve.asks import kind_of
from duotone.serve.files import check_seconds, limited
from duotone.serve.refusal import over
from duotone.serve.settings import Limits
from duotone.serve.tasks import Ask, Call

T = TypeVar("T")
_BLOCK = 5.0  # seconds of sound that are read at once


def prompt_of(file: BinaryIO, codec: Codec, limits: Limits) -> Generator[Ask, Any, Given]:
    """The latents of the end of a sound, or of a `.duo`. Raises `Refusal`, `AudioError`, `FormatError` or `CodecMismatchError`."""
    start = file.read(len(MAGIC))
    file.seek(0)
    if start == MAGIC:
        return (yield from _latents(file, codec, limits))
    wave, left_out = yield from _sound(file, limits)
    pieces = yield from _each(aligning(codec, wave), kind_of("encode", codec.spec))
    return Given(Latents.join([piece for piece in pieces if isinstance(piece, Latents)]), left_out)


def _each(pieces: Iterator[T], kind: str) -> Generator[Ask, Any, list[T]]:
    """All of them, each as an ask of its own."""
    found: list[T] = []
    while (piece := (yield Call(lambda: next(pieces, None), kind))) is not None:
        found.append(piece)
    return found


def _sound(file: BinaryIO, limits: Limits) -> Generator[Ask, Any, tuple[Waveform, float]]:
    """The end of a sound, and the seconds before it. Raises `Refusal` where it has too many seconds, or its end takes too much memory."""
    with open_reader(file, _BLOCK) as reader:
        check_seconds(reader, limits.decoded_seconds)
        tail = _Tail(round(limits.prompt_seconds * reader.rate), limits.decoded_bytes)
        yield from _each((tail.push(block.samples) for block in limited(reader, limits.decoded_seconds)), "prompt")
        wave = Waveform.of_checked(tail.whole(), reader.rate)
        return wave, (tail.pushed - wave.length) / reader.rate


def _latents(file: BinaryIO, codec: Codec, limits: Limits) -> Generator[Ask, Any, Given]:
    """The end of a `.duo` as latents."""
    most = max(1, round(limits.prompt_seconds / codec.spec.chunk_seconds))
    with DuoReader(file) as reader:
        codec.check(reader.spec)
        values, made = iter(reader), 0
        tail: deque[Latents] = deque(maxlen=most)
        while (value := (yield Call(lambda: next(values, None), "prompt"))) is not None:
            made += len(value)
            if made * codec.spec.chunk_seconds > limits.decoded_seconds + codec.spec.chunk_seconds:
                raise over("decoded_seconds", "more", f"{limits.decoded_seconds:g} s", "The prompt")
            found = value if isinstance(value, Latents) else value.latents()
            tail.extend(found[i] for i in range(len(found)))
    if not tail:
        raise FormatError("The .duo holds no chunk; it cannot be a prompt.")
    return Given(Latents.join(tail), (made - len(tail)) * codec.spec.chunk_seconds)


class _Tail:
    """The last `wanted` samples of what is pushed, in at most `room` bytes and a block more."""

    def __init__(self, wanted: int, room: int) -> None:
        self._wanted, self._room = wanted, room
        self._blocks: deque[Tensor] = deque()
        self._length = 0
        self.pushed = 0  #: samples

    def push(self, samples: Tensor) -> int:
        """Take samples `[c, T]`; returns how many are held. Raises `Refusal` where there is no room."""
        self._blocks.append(samples)
        self._length += samples.shape[1]
        self.pushed += samples.shape[1]
        while self._length - self._blocks[0].shape[1] >= self._wanted:
            self._length -= self._blocks.popleft().shape[1]
        if min(self._length, self._wanted) * samples.shape[0] * samples.element_size() > self._room:
            raise over("decoded_bytes", "more", f"{self._room} bytes of samples", "The prompt")
        return self._length

    def whole(self) -> Tensor:
        """The samples `[c, T]`."""
        return torch.cat(list(self._blocks), 1)[:, -self._wanted :]
