"""Sessions: blocks of audio -> encodings of complete chunks, and encodings -> samples that are final.

A session has a spec and a callable, not a codec. Its state belongs to it alone, so sessions do not affect each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from duotone.audio.formats import check_format
from duotone.audio.resample import Resampler
from duotone.audio.waveform import Waveform
from duotone.codec.batches import (
    ENCODE_BATCH,
    Batch,
    Cutter,
    Encode,
    Segment,
    Window,
    assemble,
    empty,
    encode_rows,
    rows_of,
    whole_number,
    window_for,
)
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, UsageError
from duotone.spec import CodecSpec, Source

Self = TypeVar("Self", bound="_Session")

EMPTY = "Encoding got a wave of zero samples; there is nothing to encode. Give at least one."


class _Session:
    """A context manager that cannot be used after it was closed."""

    closed = False

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True

    def _open(self) -> None:
        if self.closed:
            raise UsageError("This stream is finished; open a new one for more.")


class EncodeSession(_Session):
    """Push blocks of audio, get the chunks that are complete; `source` has the length after `finish`.

    For codecs with independent chunks (`spec.independent`) memory is constant. Other codecs encode the whole recording at
    the end, unless `window` sets how many chunks to encode at a time.
    """

    def __init__(
        self, spec: CodecSpec, encode: Encode, source: Source, window: Window | None = None, batch: int | None = None
    ) -> None:
        check_format(source.rate, source.channels, "The stream")
        self.spec, self.source = spec, source
        self._encode = encode
        default = ENCODE_BATCH if spec.independent else 1
        self._batch = default if batch is None else whole_number(batch, "batch", 1)
        self._framed = spec.framed(source.framing)
        self._cutter = Cutter(self._framed, window_for(spec, window), source.channels)
        self._resampler = None if source.rate == spec.rate else Resampler(source.rate, spec.rate, source.channels)
        self._taken = 0  # samples at the source's rate

    def push(self, wave: Waveform) -> Latents | Codes:
        """Push a block of any length; returns the k >= 0 chunks that it completes.

        Raises `AudioError` for another rate or number of channels than the stream's.
        """
        self._open()
        if not isinstance(wave, Waveform):
            raise UsageError(f"push got {type(wave).__name__}, expected a Waveform: Waveform(array, rate).")
        if (wave.rate, wave.channels) != (self.source.rate, self.source.channels):
            raise AudioError(
                f"The stream got a block of {wave.channels} channels at {wave.rate} Hz, expected "
                f"{self.source.channels} at {self.source.rate} Hz as it was opened for."
            )
        if not torch.isfinite(wave.samples).all():
            raise AudioError("The wave holds samples that are NaN or infinite; replace them (for example by 0) first.")
        self._taken += wave.length
        samples = wave.samples.detach()
        new = samples if self._resampler is None else self._resampler.push(samples)
        return self._value(self._cutter.push(new), final=False)

    def finish(self) -> Latents | Codes:
        """Return the last chunks, padded with zeros. Raises `AudioError` if nothing was pushed."""
        self._open()
        if self._taken == 0:
            raise AudioError(EMPTY)
        rest = (
            torch.zeros(self.source.channels, 0, dtype=torch.float32)
            if self._resampler is None
            else self._resampler.finish()
        )
        if self._cutter.samples + rest.shape[1] == 0:  # a few samples at a high rate can resample to none
            rest = torch.zeros(self.source.channels, 1, dtype=torch.float32)
        self.source = self.source.of_length(self._taken)
        segments = [*self._cutter.push(rest.float()), *self._cutter.finish()]
        out = self._value(segments, final=True)
        self.closed = True
        return out

    def _value(self, segments: list[Segment], final: bool) -> Latents | Codes:
        if not segments:
            return empty(self.spec, self.source)
        tasks = [(segment, row) for segment in segments for row in rows_of(segment, self.spec)]
        found: list[Batch] = []
        for _, group in groupby(tasks, key=lambda task: task[1].shape[1]):
            equal = list(group)  # rows of equal length are batched, up to the batch size
            for first in range(0, len(equal), self._batch):
                own, rows = zip(*equal[first : first + self._batch], strict=True)
                found += encode_rows(list(rows), list(own), lambda samples: self._rows(samples, final), self.spec)
        streams = len(found) // len(segments)
        return assemble([found[i::streams] for i in range(streams)], self.spec, self.source)

    def _rows(self, samples: Tensor, final: bool) -> Batch:
        """Encode rows `[B, C, T]`; overridden by framings that treat the end differently."""
        return self._encode(samples)


class Decoder(Protocol):
    """Decodes a codec's values to samples, chunk by chunk, with its own state."""

    def push(self, value: Latents | Codes) -> Tensor:
        """Push chunks; returns the samples `[channels, T]` that are final, at the decoder's rate, on the CPU."""
        ...

    def finish(self) -> Tensor:
        """Return the remaining samples."""
        ...


@runtime_checkable
class Resumable(Decoder, Protocol):
    """A decoder whose state can be taken out and put into another one of the same codec and options."""

    def state(self) -> dict[str, Tensor]:
        """Everything that later samples depend on, as copies on the CPU."""
        ...

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave."""
        ...


@runtime_checkable
class Batched(Decoder, Protocol):
    """A decoder of which several decode chunks in one batch, each with its own state."""

    def together(self, decoders: Sequence[Any], values: Sequence[Latents | Codes]) -> list[Tensor | Exception]:
        """What `push` of each of the decoders (of one codec, this one among them) gives for its value, or raises."""
        ...


def push_together(sessions: Sequence[DecodeSession], values: Sequence[Latents | Codes]) -> list[Waveform | Exception]:
    """What `push` of each session, all of one codec, gives for its value, or raises; computed in one batch where the codec can.

    The samples are those of pushing alone, up to rounding; a single session is pushed as it is without this function.
    """
    decoders = [session._decoder for session in sessions]
    first = decoders[0]
    if len(sessions) > 1 and isinstance(first, Batched):
        for session in sessions:
            session._open()
        found = first.together(decoders, values)
    else:
        found = []
        for session, value in zip(sessions, values, strict=True):
            try:
                session._open()
                found.append(session._decoder.push(value))
            except Exception as error:  # it belongs to this session alone
                found.append(error)
    return [
        each if isinstance(each, Exception) else Waveform.of_checked(session._take(each), session.rate)
        for session, each in zip(sessions, found, strict=True)
    ]


class DecodeSession(_Session):
    """Push chunks, get the samples that are final, with the rate, channels and length of the source restored.

    While the length is not known (`source.samples` is None), up to one chunk is held back, because the last one may be
    trimmed; a `live` session holds back nothing.
    """

    def __init__(
        self, spec: CodecSpec, decoder: Decoder, source: Source, *, restore: bool = True, live: bool = False
    ) -> None:
        self.spec, self.source, self.restore = spec, source, restore
        self._decoder = decoder
        self._hold = 0 if live or source.samples is not None else round(spec.chunk * spec.rate_out / spec.rate)
        self._held = torch.zeros(self._inner, 0, dtype=torch.float32)
        self._made = 0  # samples passed on so far, at the decoder's rate
        self._out = 0  # samples returned so far, at the output's rate
        resample = restore and source.rate != spec.rate_out
        self._resampler = Resampler(spec.rate_out, source.rate, self.channels) if resample else None

    @property
    def _inner(self) -> int:
        """Number of channels from the decoder."""
        return 2 if self.spec.channels == 2 else self.source.channels

    @property
    def rate(self) -> int:
        """Sample rate of the output, in Hz."""
        return self.source.rate if self.restore else self.spec.rate_out

    @property
    def channels(self) -> int:
        """Number of channels of the output."""
        return self.source.channels if self.restore else self._inner

    @property
    def resumable(self) -> bool:
        """Whether `state` and `resume` work: the decoder has them, and nothing is resampled."""
        return self._resampler is None and isinstance(self._decoder, Resumable)

    def state(self) -> dict[str, Tensor]:
        """Everything that later samples depend on, as copies; another session of this codec, source and options goes on from it.

        Raises `UsageError` where `resumable` is False.
        """
        self._open()
        counters = torch.tensor([self._made, self._out])
        inner = {f"decoder.{name}": tensor for name, tensor in self._resumed().state().items()}
        return {**inner, "held": self._held.clone(), "counters": counters}

    def resume(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave. Raises `UsageError` for the state of another kind of session."""
        self._open()
        decoder = self._resumed()
        if not {"held", "counters"} <= state.keys() or state["held"].shape[0] != self._inner:
            raise UsageError("Got a state that no decoding session of this codec gave. Open a new stream instead.")
        decoder.restore({name[8:]: tensor for name, tensor in state.items() if name.startswith("decoder.")})
        self._held = state["held"].clone()
        self._made, self._out = (int(count) for count in state["counters"])

    def _resumed(self) -> Resumable:
        decoder = self._decoder
        if self._resampler is not None or not isinstance(decoder, Resumable):
            raise UsageError(
                "The state of this stream cannot be taken out: its decoder keeps it, or it is resampled. Push its last chunks again "
                "into a new stream."
            )
        return decoder

    def push(self, value: Latents | Codes) -> Waveform:
        """Push k >= 0 chunks; returns the samples (perhaps none) that are now final."""
        self._open()
        return Waveform.of_checked(self._take(self._decoder.push(value) if len(value) else None), self.rate)

    def finish(self, source: Source | None = None) -> Waveform:
        """Return the remaining samples; `source` gives the final length if it was not known before."""
        self._open()
        self.closed = True
        if source is not None:
            self.source = source
        self._hold = 0
        pieces = [self._take(self._decoder.finish())]
        if self._resampler is not None:
            pieces.append(self._clip(self._resampler.finish()))
        wave = torch.cat(pieces, dim=1)
        exact = self.restore and self.source.framing == "exact"
        missing = (self.source.samples or 0) - self._out if exact else 0
        return Waveform.of_checked(torch.nn.functional.pad(wave, (0, max(0, missing))), self.rate)

    def _take(self, samples: Tensor | None) -> Tensor:
        """Convert the decoder's samples to the output's rate and channels."""
        ready = self._held if samples is None else torch.cat([self._held, samples.float()], dim=1)
        keep = max(0, ready.shape[1] - self._hold)
        self._held, ready = ready[:, keep:].clone(), ready[:, :keep]
        length = self.source.at(self.spec.rate_out)
        if length is not None and (self.restore or self.source.framing == "exact"):
            ready = ready[:, : max(0, length - self._made)]
        self._made += ready.shape[1]
        if self.channels == 1:
            ready = ready.mean(0, keepdim=True)
        return self._clip(ready if self._resampler is None else self._resampler.push(ready.contiguous()))

    def _clip(self, samples: Tensor) -> Tensor:
        """Cut the output to the source's length (resampling there and back may differ by one sample)."""
        if self.restore and self.source.samples is not None:
            samples = samples[:, : max(0, self.source.samples - self._out)]
        self._out += samples.shape[1]
        return samples.contiguous()
