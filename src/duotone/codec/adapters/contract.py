"""What every codec can do here, and how recordings of any length go through it exactly.

Legend: B segments, C channels of the codec (1 or 2), K codebooks, F frames, T samples, S streams of a recording.
A codec works in blocks: `hop` samples of sound become `frames` frames. Most have one frame a block.
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
from duotone.errors import AudioError, UsageError

Key = TypeVar("Key")

#: Segments that may wait for others of their length, in batches; more, and the oldest go on in a smaller batch.
WAITING_BATCHES = 8


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


@dataclass(frozen=True)
class Encoded:
    """Codes `[..., K, F]`, int64; and of a codec that codes loudness apart, its value at each frame `[..., F]`."""

    codes: Tensor
    scale: Tensor | None = None

    def part(self, first: int, count: int) -> Encoded:
        """The frames from `first` on, `count` of them."""
        scale = None if self.scale is None else self.scale[..., first : first + count]
        return Encoded(self.codes[..., first : first + count], scale)

    def on_cpu(self) -> Encoded:
        """The same on the CPU, int64 and float32."""
        return Encoded(self.codes.long().cpu(), None if self.scale is None else self.scale.float().cpu())

    @classmethod
    def join(cls, parts: list[Encoded]) -> Encoded:
        """Parts one after the other in time."""
        scales = [part.scale for part in parts if part.scale is not None]
        return cls(torch.cat([part.codes for part in parts], dim=-1), torch.cat(scales, dim=-1) if scales else None)


class ForeignCodec(ABC):
    """A codec. Adapters say how a batch of segments is encoded and how codes become sound.

    A codec of one channel codes each channel of a recording by itself (a stream each); one of two codes the pair.
    """

    info: Info
    hop: int  #: samples of a block
    frames: int = 1  #: frames of a block
    behind: int = 0  #: samples before its first block that a segment has to hold
    ahead: int = 0  #: samples after its last block that a segment has to hold
    channels: int = 1  #: of a stream
    scaled: bool = False  #: whether loudness is coded apart

    @abstractmethod
    def encode_batch(self, samples: Tensor) -> Encoded:
        """Samples `[B, C, behind + n * hop + ahead]` -> codes `[B, K, n * frames]` or longer, on the CPU."""

    @abstractmethod
    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """Codes `[B, K, F]`, and `[B, F]` if loudness is apart -> samples `[B, C, T]` at the decoder's rate, CPU."""

    def blocks(self, length: int) -> int:
        """Blocks that hold so many samples."""
        return -(-length // self.hop)

    def identity(self) -> dict[str, Any]:
        """What makes its codes what they are, as plain JSON values: `Info`, and more where there is more."""
        more: dict[str, Any] = {"channels": self.channels} if self.channels > 1 else {}
        return {**self.info.to_dict(), **more, **({"scale_beside": True} if self.scaled else {})}

    def streams(self, wave: Waveform) -> list[Tensor]:
        """Sound of any rate and channels -> samples `[C, T]` of each of its streams, at the encoder's rate."""
        wave = wave.resample(self.info.sampling_rate_encoder)
        if self.channels == 2:
            return [wave.to_channels(2).samples]
        return list(wave.samples[:, None])

    def encode(self, wave: Waveform, windows: Windows | None = None) -> Encoded:
        """Sound of any rate and channels -> codes `[S, K, F]`. Raises `AudioError` for zero samples."""
        encoder = Batched[int](self, windows or Windows.whole(), batch_size=1)
        found = dict(encoder.run(enumerate(self.streams(wave))))
        scales = [e.scale for _, e in sorted(found.items()) if e.scale is not None]
        return Encoded(torch.stack([found[i].codes for i in sorted(found)]), torch.stack(scales) if scales else None)

    def decode(self, codes: Tensor, scale: Tensor | float | None = None) -> Waveform:
        """Codes `[K, F]` or `[S, K, F]` -> sound; `scale` as it was encoded (`[F]`, `[S, F]`), or one for all.

        Raises `UsageError` for codes that the codec does not have, or a scale that is missing or not wanted.
        """
        info, codes = self.info, codes if codes.ndim == 3 else codes[None]
        most = 2 // self.channels
        if codes.ndim != 3 or codes.shape[1] > info.num_codebooks or not 1 <= codes.shape[0] <= most:
            raise UsageError(f"Codes got shape {list(codes.shape)}, expected [{info.num_codebooks}, frames].")
        if codes.shape[-1] == 0 or codes.shape[-1] % self.frames:
            raise UsageError(
                f"Codes got {codes.shape[-1]} frames, expected a multiple of {self.frames} above 0. "
                f"Cut off the frames of the last block of {info.codec_type} that is not whole."
            )
        if int(codes.min()) < 0 or int(codes.max()) >= info.codebook_size:
            raise UsageError(
                f"Codes got values {int(codes.min())}..{int(codes.max())}, expected 0..{info.codebook_size - 1}."
            )
        samples = self.decode_batch(codes.long(), self._scale(codes, scale)).float()
        return Waveform(samples.reshape(-1, samples.shape[-1]), info.sampling_rate_decoder)

    def _scale(self, codes: Tensor, scale: Tensor | float | None) -> Tensor | None:
        if scale is None and not self.scaled:
            return None
        if scale is None or not self.scaled:
            raise UsageError(
                f"{self.info.codec_model} codes loudness apart from its codes, and decoding got none. Pass the scale "
                f"that encoding gave, or one number for all frames (about 0.1 is the loudness of music)."
                if self.scaled
                else f"{self.info.codec_type} has its loudness in its codes, and decoding got a scale. Leave it out."
            )
        shape = (codes.shape[0], codes.shape[-1])
        values = torch.as_tensor(scale, dtype=torch.float32)
        if values.ndim and values.shape not in (shape, shape[1:]):
            raise UsageError(f"scale got shape {list(values.shape)}, expected one number or {list(shape[1:])}.")
        return values.expand(shape)


@dataclass(frozen=True)
class Windows:
    """How a recording is cut: `blocks` at a time (None: whole), each with `context` blocks of its past before it.

    Segments begin on the codec's own grid of blocks, so that they join to as many frames as the whole has.
    """

    blocks: int | None
    context: int = 0

    @classmethod
    def whole(cls) -> Windows:
        """Not cut at all."""
        return cls(None)

    @classmethod
    def of(cls, codec: ForeignCodec, chunk_secs: float | None, context_secs: float) -> Windows:
        """From seconds, as `codec-bpe` means them: windows of `context_secs` that end where their chunk ends.

        So 0.08 with 0.4 gives 80 ms at a time with 320 ms of their past. Raises `UsageError` for a chunk shorter than
        half a block, or less than no context.
        """
        if chunk_secs is None:
            return cls(None)
        rate = codec.info.sampling_rate_encoder / codec.hop  # blocks a second
        blocks = round(chunk_secs * rate)
        if blocks < 1 or context_secs < 0:
            raise UsageError(
                f"Chunks of {chunk_secs} s in windows of {context_secs} s got {blocks} blocks of "
                f"{codec.info.codec_type}; expected at least one ({1 / rate:.4f} s) and no negative context."
            )
        return cls(blocks, max(0, math.ceil(round(context_secs * rate, 6)) - blocks))

    def segments(self, samples: Tensor, codec: ForeignCodec) -> Iterator[tuple[Tensor, int, int]]:
        """Samples `[C, T]` -> padded segments, how many frames of context each begins with, and how many count after.

        Before the beginning and after the end there is silence. Raises `AudioError` for zero samples.
        """
        length, hop = samples.shape[-1], codec.hop
        if length == 0:
            raise AudioError("Encoding got a wave of zero samples; there is nothing to encode. Give at least one.")
        total = codec.blocks(length)
        before = self.context * hop + codec.behind
        padded = torch.nn.functional.pad(samples, (before, max(0, total * hop + codec.ahead - length)))
        step = self.blocks or total
        for first in range(0, total, step):
            count = min(step, total - first)
            end = (first + self.context + count) * hop + codec.behind + codec.ahead
            yield padded[..., first * hop : end], self.context * codec.frames, count * codec.frames


class Batched(Generic[Key]):
    """Encodes many recordings in batches. Only segments of one length share a batch, so none is padded for another's

    sake: what comes of a recording depends neither on its neighbours nor on the size of the batch.
    """

    def __init__(self, codec: ForeignCodec, windows: Windows, batch_size: int) -> None:
        if batch_size < 1:
            raise UsageError(f"batch_size got {batch_size}, expected at least 1.")
        self.codec, self.windows, self.batch_size = codec, windows, batch_size
        self._waiting: dict[int, list[tuple[Key, int, Tensor, int, int]]] = {}  # by length, the oldest first
        self._parts: dict[Key, dict[int, Encoded]] = {}
        self._missing: dict[Key, int] = {}

    def run(self, recordings: Iterable[tuple[Key, Tensor]]) -> Iterator[tuple[Key, Encoded]]:
        """Keys and samples `[C, T]` at the encoder's rate -> keys and codes `[K, F]`, each as soon as it is whole."""
        for key, samples in recordings:
            segments = list(self.windows.segments(samples, self.codec))
            self._parts[key], self._missing[key] = {}, len(segments)
            for i, (segment, context, count) in enumerate(segments):
                waiting = self._waiting.setdefault(segment.shape[-1], [])
                waiting.append((key, i, segment, context, count))
                if len(waiting) == self.batch_size:
                    yield from self._encode(self._waiting.pop(segment.shape[-1]))
                elif sum(map(len, self._waiting.values())) >= WAITING_BATCHES * self.batch_size:
                    yield from self._encode(self._waiting.pop(next(iter(self._waiting))))
        for length in list(self._waiting):
            yield from self._encode(self._waiting.pop(length))

    def _encode(self, batch: list[tuple[Key, int, Tensor, int, int]]) -> Iterator[tuple[Key, Encoded]]:
        found = self.codec.encode_batch(torch.stack([segment for _, _, segment, _, _ in batch]))
        for row, (key, i, _, context, count) in enumerate(batch):
            scale = None if found.scale is None else found.scale[row]
            part = Encoded(found.codes[row], scale).part(context, count)
            if part.codes.shape[-1] != count:
                raise UsageError(
                    f"{self.codec.info.codec_type} gave {found.codes.shape[-1]} frames for a segment of "
                    f"{context + count}. Use longer chunks."
                )
            self._parts[key][i] = part
            self._missing[key] -= 1
            if not self._missing[key]:
                parts = self._parts.pop(key)
                del self._missing[key]
                yield key, Encoded.join([parts[j] for j in sorted(parts)])
