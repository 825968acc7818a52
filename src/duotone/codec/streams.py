"""Sessions: blocks of a wave -> latents, and latents -> blocks of a wave, in constant memory.

A stream is a value held by its session, never a field of the codec: two listeners never meet.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from duotone.audio.resample import Resampler
from duotone.audio.waveform import Waveform
from duotone.codec.network import stft_of
from duotone.codec.values import Codes, Latents, Particulars
from duotone.config import Framing
from duotone.errors import AudioError, UsageError
from duotone.represent.framing import Layout
from duotone.represent.stft import OverlapAdd, to_frames, to_spectrum

if TYPE_CHECKING:
    from duotone.codec.codicodec import CoDiCodec

#: Chunks that go through the encoder together.
ENCODE_BATCH = 8


class _Session:
    """A context manager that refuses use after it was closed."""

    closed = False

    def _open(self) -> None:
        if self.closed:
            raise UsageError("This stream is finished; open a new one for more.")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


class EncodeStream(_Session):
    """Push blocks of a wave, get latents as soon as their chunk is complete; `about` is final after `finish`."""

    def __init__(self, codec: CoDiCodec, rate: int, channels: int, framing: Framing) -> None:
        if framing not in ("exact", "published"):
            raise UsageError(f"framing got {framing!r}, expected 'exact' or 'published'.")
        if channels not in (1, 2):
            raise AudioError(f"The codec got {channels} channels, expected 1 or 2. Mix the sound down to stereo first.")
        config = codec.config
        self.codec, self.layout = codec, Layout(config.n_fft, config.hop, config.frames, framing)
        self.about = codec.particulars(rate, channels, framing)
        self._resampler = None if rate == codec.rate else Resampler(rate, codec.rate, channels)
        self._waiting = torch.zeros(channels, self.layout.lead)
        self._samples, self._source_samples, self._chunks = 0, 0, 0

    def __enter__(self) -> EncodeStream:
        return self

    def push(self, wave: Waveform) -> Latents:
        """A block of any length -> latents `[k, L, d]` of the k >= 0 chunks that it completes.

        Raises `AudioError` for another rate or number of channels than the stream's, or samples that are not finite.
        """
        self._open()
        if (wave.rate, wave.channels) != (self.about.source_rate, self.about.source_channels):
            raise AudioError(
                f"The stream got a block of {wave.channels} channels at {wave.rate} Hz, expected "
                f"{self.about.source_channels} at {self.about.source_rate} Hz as it was opened for."
            )
        if not torch.isfinite(wave.samples).all():
            raise AudioError("The wave holds samples that are NaN or infinite; replace them (for example by 0) first.")
        self._source_samples += wave.length
        new = wave.samples if self._resampler is None else self._resampler.push(wave.samples)
        return self._take(new, final=False)

    def finish(self) -> Latents:
        """The last chunks, filled up with zeros. Raises `AudioError` when nothing was pushed."""
        self._open()
        if self._source_samples == 0:
            raise AudioError("Encoding got a wave of zero samples; there is nothing to encode. Give at least one.")
        rest = torch.zeros(self.about.source_channels, 0) if self._resampler is None else self._resampler.finish()
        if self._samples + rest.shape[1] == 0:  # a few samples at a high rate can resample to none
            rest = torch.zeros(self.about.source_channels, 1)
        out = self._take(rest, final=True)
        self.closed = True
        return out

    def _take(self, new: Tensor, final: bool) -> Latents:
        """Append samples at the codec's rate, encode every chunk that is complete (or all, at the end)."""
        config = self.codec.config
        self._samples += new.shape[1]
        self._waiting = torch.cat([self._waiting, new], dim=1)
        step, span = config.chunk_samples, config.chunk_samples + config.hop
        if final:
            self.about = self.about.with_samples(self._samples, self._source_samples)
            count = self.layout.chunks(self._samples) - self._chunks
            missing = max(0, count * step + config.hop - self._waiting.shape[1])
            self._waiting = torch.nn.functional.pad(self._waiting, (0, missing))
        else:
            count = max(0, (self._waiting.shape[1] - config.hop) // step)
        pieces = [torch.zeros(0, config.latents, len(config.levels))]
        for first in range(0, count, ENCODE_BATCH):
            size = min(ENCODE_BATCH, count - first)
            batch = self._waiting.unfold(1, span, step)[:, first : first + size].transpose(0, 1)
            pieces.append(self._encode(batch, self._chunks + first, final))
        self._chunks += count
        self._waiting = self._waiting[:, count * step :].clone()
        return Latents(torch.cat(pieces), self.about)

    def _encode(self, batch: Tensor, first: int, final: bool) -> Tensor:
        config = self.codec.config
        stereo = batch if batch.shape[1] == 2 else batch.expand(-1, 2, -1)
        spectrum = to_spectrum(stereo.to(self.codec.device), stft_of(config))
        if final and self.layout.framing == "published":  # frames past the last whole one are zero there
            real = self.layout.frames(self._samples) - first * config.frames
            index = torch.arange(len(batch) * config.frames, device=spectrum.device).view(len(batch), 1, 1, -1)
            spectrum = spectrum * (index < real)
        return self.codec.encode_spectrum(spectrum)


class _Decoder(Protocol):
    def push(self, values: Tensor) -> list[Tensor]: ...

    def finish(self) -> list[Tensor]: ...


class DecodeStream(_Session):
    """Push latents or codes of some chunks, get the samples that are final.

    While the length is not known (`about.samples` is 0) up to one chunk is held back, since the last may be trimmed.
    """

    def __init__(self, codec: CoDiCodec, engine: _Decoder | None, about: Particulars, restore: bool) -> None:
        self.codec, self.engine, self.about, self.restore = codec, engine, about, restore
        self._stft = stft_of(codec.config)
        self._layout = Layout(self._stft.n_fft, self._stft.hop, codec.config.frames, about.framing)
        self._add = OverlapAdd(self._stft.n_fft, self._stft.hop, codec.config.audio_channels)
        self._hold = codec.config.chunk_samples if about.samples == 0 else 0
        self._drop = self._layout.lead
        self._held = torch.zeros(2, 0)
        self._made = 0  # samples at the codec's rate handed on so far
        self._out = 0  # samples at the output's rate given so far
        resample = restore and about.source_rate != codec.rate
        self._resampler = Resampler(codec.rate, about.source_rate, self.channels) if resample else None

    @property
    def rate(self) -> int:
        """Samples a second of what comes out."""
        return self.about.source_rate if self.restore else self.codec.rate

    @property
    def channels(self) -> int:
        """Channels of what comes out."""
        return self.about.source_channels if self.restore else 2

    def without_holding(self) -> DecodeStream:
        """This stream giving every sample at once, for sessions of no set length."""
        self._hold = 0
        return self

    def __enter__(self) -> DecodeStream:
        return self

    def push(self, value: Latents | Codes) -> Waveform:
        """Latents or codes of k >= 0 chunks -> the samples (perhaps none) that they make final."""
        self._open()
        self.codec.check(value.about)
        if self.engine is None:
            raise AssertionError("this stream only joins spectra")
        latents = value.latents() if isinstance(value, Codes) else value
        with torch.inference_mode():
            return self.join(self.engine.push(latents.values))

    def finish(self, about: Particulars | None = None) -> Waveform:
        """The rest; `about` gives the final length where it was not known before."""
        self._open()
        self.closed = True
        if about is not None:
            self.about = about
        with torch.inference_mode():
            spectra = self.engine.finish() if self.engine is not None else []
            pieces = [self.join(spectra).samples]
            tail = self._add.finish().cpu() if self.about.framing == "published" else torch.zeros(2, 0)
            last = torch.cat([self._held, tail], dim=1)
            self._held = torch.zeros(2, 0)
            pieces.append(self._give(last))
            if self._resampler is not None:
                pieces.append(self._clip(self._resampler.finish()))
        wave = torch.cat(pieces, dim=1)
        missing = self.about.source_samples - self._out if self.restore and self.about.framing == "exact" else 0
        return Waveform(torch.nn.functional.pad(wave, (0, max(0, missing))), self.rate)

    def join(self, spectra: list[Tensor]) -> Waveform:
        """Clean spectra `[C, F, T]` of the next chunks -> the samples that they make final."""
        pieces = [self._held]
        for spectrum in spectra:
            samples = self._add.push(to_frames(spectrum[None], self._stft)[0]).cpu()
            pieces.append(samples[:, self._drop :])
            self._drop = 0
        ready = torch.cat(pieces, dim=1)
        keep = max(0, ready.shape[1] - self._hold)
        self._held = ready[:, keep:].clone()
        return Waveform(self._give(ready[:, :keep]), self.rate)

    def _give(self, samples: Tensor) -> Tensor:
        """Samples at the codec's rate -> trimmed to the length, mixed and resampled as the output wants."""
        if self.about.samples and (self.restore or self.about.framing == "exact"):
            samples = samples[:, : max(0, self.about.samples - self._made)]
        self._made += samples.shape[1]
        if self.channels == 1:
            samples = samples.mean(0, keepdim=True)
        return self._clip(samples if self._resampler is None else self._resampler.push(samples.contiguous()))

    def _clip(self, samples: Tensor) -> Tensor:
        """Never give more samples than came in (resampling there and back may differ by one)."""
        if self.restore and self.about.source_samples:
            samples = samples[:, : max(0, self.about.source_samples - self._out)]
        self._out += samples.shape[1]
        return samples.contiguous()
