"""XCodec2 and NeuCodec through Hugging Face transformers: a wave and its mel spectrum in, one big codebook out.

Their feature extractors in transformers need torchaudio for the mel spectrum alone. Here it comes from
`SeamlessM4TFeatureExtractor`, which both codecs were published with and which needs NumPy only; one way everywhere,
so the same sound has the same codes on machines with torchaudio and without.
Legend: B segments, K codebooks (1), F frames, T samples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from duotone.codec.adapters.contract import Encoded
from duotone.codec.adapters.transformers_codecs import TransformersCodec, import_transformers


class XCodec2(TransformersCodec):
    """XCodec2 (arXiv 2502.04128): 16 kHz, 50 frames a second of one codebook of 65536."""

    kind, model_class, default = "xcodec2", "Xcodec2Model", "HKUSTAudio/xcodec2-hf"

    def __init__(self, model: Any, name: str, device: str | torch.device = "cpu") -> None:
        super().__init__(model, name, device)
        self.mel = import_transformers().SeamlessM4TFeatureExtractor()

    def _codebooks(self) -> int:
        return 1

    def _codebook_size(self, config: Any) -> int:
        return math.prod(config.quantization_levels)

    def _margin(self) -> int:
        """Zeros before and after the wave of which the mel spectrum is taken."""
        return self.hop // 2

    def _encode(self, samples: Tensor) -> Encoded:
        wave = torch.nn.functional.pad(samples, (0, self.hop))  # both were trained so; its frame is not kept
        margin = self._margin()
        heard = torch.nn.functional.pad(wave, (margin, margin))[:, 0].float().cpu().numpy()
        mel = self.mel(list(heard), sampling_rate=self.info.sampling_rate_encoder, return_tensors="pt").input_features
        codes = self.model.encode(wave, input_features=mel.to(samples)).audio_codes
        return Encoded(codes)

    def _decode(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        out: Tensor = self.model.decode(audio_codes=codes).audio_values
        return out


class NeuCodec(XCodec2):
    """NeuCodec (arXiv 2509.09550): XCodec2's way in at 16 kHz, and out at 24 kHz."""

    kind, model_class, default = "neucodec", "NeuCodecModel", "neuphonic/neucodec"

    def _hop(self, config: Any) -> int:
        return int(config.encoder_hop_length)

    def _rates(self, config: Any) -> tuple[int, int]:
        return int(config.input_sampling_rate), int(config.output_sampling_rate)

    def _margin(self) -> int:
        return 0
