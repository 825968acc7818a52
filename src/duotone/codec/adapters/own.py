"""Our own codec behind the contract of the others: sound in, codes `[1, F]` out, 128 a chunk, and back.

Chunks are framed as `CoDiCodec.encode` frames them (*exact*), and each is coded by itself.
Legend: B segments, N chunks, F steps (128 a chunk), T samples.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.codec.adapters.contract import Encoded, ForeignCodec, Info
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.network import stft_of
from duotone.codec.streams import ENCODE_BATCH
from duotone.codec.values import Codes
from duotone.represent.framing import Layout
from duotone.represent.stft import to_spectrum


class Own(ForeignCodec):
    """A loaded `CoDiCodec`; always in stereo, a mono sound doubled."""

    kind = "duotone"
    channels = 2

    def __init__(self, codec: CoDiCodec, name: str) -> None:
        config = codec.config
        self.codec, self.layout = codec, Layout(config.n_fft, config.hop, config.frames, "exact")
        self.hop, self.frames, self.behind = config.chunk_samples, config.latents, self.layout.lead
        rate = config.latents * codec.rate / config.chunk_samples
        self.info = Info(self.kind, name, codec.rate, codec.rate, 1, codec.fsq.size, rate)

    def blocks(self, length: int) -> int:
        """Chunks for so many samples: one more where the last sample would lie under one frame only."""
        return self.layout.chunks(length)

    def identity(self) -> dict[str, Any]:
        """With the fingerprint, which tells codecs of one name apart."""
        return {**super().identity(), "fingerprint": self.codec.fingerprint}

    @torch.inference_mode()
    def encode_batch(self, samples: Tensor) -> Encoded:
        """See the contract."""
        stft = stft_of(self.codec.config)
        chunks = samples.unfold(-1, self.hop + self.behind, self.hop)  # [B, 2, N, T of a chunk]
        each = chunks.transpose(1, 2).flatten(0, 1)
        spectra = (
            to_spectrum(each[i : i + ENCODE_BATCH].to(self.codec.device), stft)
            for i in range(0, len(each), ENCODE_BATCH)
        )
        latents = torch.cat([self.codec.encode_spectrum(spectrum) for spectrum in spectra])
        return Encoded(self.codec.fsq.bounded_to_index(latents).reshape(len(samples), 1, -1))

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """See the contract. The parallel strategy from seed 0, as `CoDiCodec.decode` has it."""
        length = self.layout.length(codes.shape[-1] // self.frames)
        about = self.codec.particulars(samples=length)
        waves: list[Waveform] = [self.codec.decode(Codes(row, about), restore=False) for row in codes]
        return torch.stack([wave.samples for wave in waves])
