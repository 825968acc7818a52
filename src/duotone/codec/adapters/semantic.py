"""XCodec2 and NeuCodec through Hugging Face transformers: a waveform and its mel spectrogram -> codes of one large codebook.

Their feature extractors in transformers need torchaudio, only for the mel spectrogram. Here it is computed with
`SeamlessM4TFeatureExtractor`, which both codecs were published with and which needs only NumPy; always in this way,
so the same audio has the same codes on machines with and without torchaudio.
Legend: B rows of a batch, K codebooks (1), S steps, T samples.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from duotone.codec.adapters.transformers_codecs import TransformersCodec, on_cpu
from duotone.codec.batches import Batch
from duotone.spec import CodecSpec


class XCodec2(TransformersCodec):
    """XCodec2 (arXiv 2502.04128): 16 kHz, 50 steps a second of one codebook of 65536."""

    kind, model_class, default = "xcodec2", "Xcodec2Model", "HKUSTAudio/xcodec2-hf"
    deciding = ("semantic_encoder.", "semantic_adapter.", "acoustic_encoder.", "fc_encoder.", "quantizer.")

    def __init__(self, model: Any, name: str, device: str | torch.device = "cpu") -> None:
        super().__init__(model, name, device)
        self.mel = self._import().SeamlessM4TFeatureExtractor()

    def _grid(self, name: str, config: Any) -> CodecSpec:
        return self._tokens(name, config, 1, math.prod(config.quantization_levels))

    def _margin(self) -> int:
        """Number of zeros before and after the waveform for the mel spectrogram."""
        return self.spec.chunk // 2

    def _codes_of(self, samples: Tensor) -> Batch:
        wave = torch.nn.functional.pad(samples, (0, self.spec.chunk))  # as in training; its step is dropped
        margin = self._margin()
        heard = torch.nn.functional.pad(wave, (margin, margin))[:, 0].float().cpu().numpy()
        mel = self.mel(list(heard), sampling_rate=self.spec.rate, return_tensors="pt").input_features
        return on_cpu(self.model.encode(wave, input_features=mel.to(samples)).audio_codes)

    def _sound_of(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        out: Tensor = self.model.decode(audio_codes=codes).audio_values
        return out


class NeuCodec(XCodec2):
    """NeuCodec (arXiv 2509.09550): XCodec2's encoder at 16 kHz, decoder at 24 kHz."""

    kind, model_class, default = "neucodec", "NeuCodecModel", "neuphonic/neucodec"

    def _grid(self, name: str, config: Any) -> CodecSpec:
        rates = {"rate": int(config.input_sampling_rate), "rate_out": int(config.output_sampling_rate)}
        size = math.prod(config.quantization_levels)
        return self._tokens(name, config, 1, size, chunk=int(config.encoder_hop_length), **rates)

    def _margin(self) -> int:
        return 0
