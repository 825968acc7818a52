"""What every codec of others can do here, and how recordings of any length go through it exactly.

Legend: B segments, K codebooks, F frames, T samples; a frame is `hop` samples.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError

Key = TypeVar("Key")


@dataclass(frozen=True)
class Info:
    """What has to be known of a codec's codes; written beside them as `codec_info.json`, in the field's own names."""

    codec_type: str
    codec_model: str
    sampling_rate_encoder: int
    sampling_rate_decoder: int
    num_codebooks: int
    codebook_size: int
    framerate: float

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


class ForeignCodec(ABC):
    """A codec of one channel. Adapters say how a batch of segments is encoded and how codes become sound."""

    info: Info
    hop: int

    @abstractmethod
    def encode_batch(self, samples: Tensor) -> Tensor:
        """Samples `[B, T]`, T a multiple of `hop` -> codes `[B, K, F]`, F at least T / hop, on the CPU."""

    @abstractmethod
    def decode_batch(self, codes: Tensor) -> Tensor:
        """Codes `[B, K, F]` -> samples `[B, T]` at the decoder's rate, on the CPU."""

    def encode(self, wave: Waveform, windows: Windows | None = None) -> Tensor:
        """Sound of any rate and channels -> codes `[C, K, F]`, each channel by itself."""
        wave = wave.resample(self.info.sampling_rate_encoder)
        plan = windows or Windows.whole()
        encoder = Batched[int](self, plan, batch_size=1)
        found = dict(encoder.run((c, wave.samples[c]) for c in range(wave.channels)))
        return torch.stack([found[c] for c in range(wave.channels)])

    def decode(self, codes: Tensor) -> Waveform:
        """Codes `[K, F]` or `[C, K, F]` -> sound. Raises `UsageError` for codes that the codec does not have."""
        codes = codes if codes.ndim == 3 else codes[None]
        if codes.ndim != 3 or codes.shape[1] > self.info.num_codebooks or codes.shape[-1] == 0:
            raise UsageError(f"Codes got shape {list(codes.shape)}, expected [{self.info.num_codebooks}, frames].")
        if int(codes.min()) < 0 or int(codes.max()) >= self.info.codebook_size:
            raise UsageError(
                f"Codes got values {int(codes.min())}..{int(codes.max())}, expected 0..{self.info.codebook_size - 1}."
            )
        return Waveform(self.decode_batch(codes.long()).float(), self.info.sampling_rate_decoder)


@dataclass(frozen=True)
class Windows:
    """How a recording is cut: `frames` at a time (None: whole), each with `context` frames of its past before it.

    Segments begin on the codec's own grid of frames, so that they join to as many frames as the whole has.
    """

    frames: int | None
    context: int = 0

    @classmethod
    def whole(cls) -> Windows:
        """Not cut at all."""
        return cls(None)

    @classmethod
    def of(cls, info: Info, chunk_secs: float | None, context_secs: float) -> Windows:
        """From seconds. Raises `UsageError` for less than nothing, or a chunk shorter than half a frame."""
        if chunk_secs is None:
            return cls(None)
        frames = round(chunk_secs * info.framerate)
        if frames < 1 or context_secs < 0:
            raise UsageError(
                f"Chunks of {chunk_secs} s with {context_secs} s before them are {frames} frames of {info.codec_type}; "
                f"expected at least one frame ({1 / info.framerate:.4f} s) and no negative context."
            )
        return cls(frames, math.ceil(round(context_secs * info.framerate, 6)))

    def segments(self, samples: Tensor, hop: int) -> Iterator[tuple[Tensor, int, int]]:
        """Samples `[T]` -> padded segments, how many frames of context each begins with, and how many count after."""
        total = -(-samples.shape[0] // hop)
        step = self.frames or total
        padded = torch.nn.functional.pad(samples, (self.context * hop, total * hop - samples.shape[0]))
        for first in range(0, total, max(1, step)):
            count = min(step, total - first)
            yield padded[first * hop : (first + self.context + count) * hop], self.context, count


class Batched(Generic[Key]):
    """Encodes many recordings in batches. Only segments of one length share a batch, so none is padded for another's

    sake: what comes of a recording depends neither on its neighbours nor on the size of the batch.
    """

    def __init__(self, codec: ForeignCodec, windows: Windows, batch_size: int) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size got {batch_size}, expected at least 1.")
        self.codec, self.windows, self.batch_size = codec, windows, batch_size
        self._waiting: dict[int, list[tuple[Key, int, Tensor, int, int]]] = {}
        self._parts: dict[Key, dict[int, Tensor]] = {}
        self._missing: dict[Key, int] = {}

    def run(self, recordings: Iterable[tuple[Key, Tensor]]) -> Iterator[tuple[Key, Tensor]]:
        """Keys and samples `[T]` at the encoder's rate -> keys and codes `[K, F]`, each as soon as it is whole."""
        for key, samples in recordings:
            segments = list(self.windows.segments(samples, self.codec.hop))
            self._parts[key], self._missing[key] = {}, len(segments)
            for i, (segment, context, count) in enumerate(segments):
                waiting = self._waiting.setdefault(segment.shape[0], [])
                waiting.append((key, i, segment, context, count))
                if len(waiting) == self.batch_size:
                    yield from self._encode(self._waiting.pop(segment.shape[0]))
        for length in list(self._waiting):
            yield from self._encode(self._waiting.pop(length))

    def _encode(self, batch: list[tuple[Key, int, Tensor, int, int]]) -> Iterator[tuple[Key, Tensor]]:
        codes = self.codec.encode_batch(torch.stack([segment for _, _, segment, _, _ in batch]))
        for (key, i, _, context, count), found in zip(batch, codes, strict=True):
            part = found[:, context : context + count]
            if part.shape[1] != count:
                raise UsageError(
                    f"{self.codec.info.codec_type} gave {found.shape[1]} frames for a segment of {context + count}. "
                    f"Use longer chunks."
                )
            self._parts[key][i] = part
            self._missing[key] -= 1
            if not self._missing[key]:
                parts = self._parts.pop(key)
                del self._missing[key]
                yield key, torch.cat([parts[j] for j in sorted(parts)], dim=1)
