"""Autoencoders without codes: PocketTTS and VibeVoice of transformers, Oobleck and SAME of diffusers.

Their latents are continuous and unbounded, one vector per chunk. Where a model gives a distribution, its mean is used, so
that the same audio has the same latents.
Legend: B rows of a batch, C channels, N chunks, d dimensions of a latent, T samples.
"""

from __future__ import annotations

import json
import math
import warnings
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotone.codec.adapters.base import PretrainedCodec
from duotone.codec.adapters.transformers_codecs import TransformersModel
from duotone.codec.batches import Batch
from duotone.errors import WeightsError
from duotone.spec import CodecSpec

#: Chunks of a long recording that go through Oobleck or SAME together, with what they see on both sides.
CHUNKS_AT_ONCE = 128


class LatentCodec(PretrainedCodec):
    """Base of the autoencoders: encode to and decode from latents `[B, N, d]`."""

    @abstractmethod
    def _latents_of(self, samples: Tensor) -> Tensor:
        """Samples `[B, C, N * chunk]` -> latents `[B, N, d]`."""

    @abstractmethod
    def _sound_of(self, latents: Tensor) -> Tensor:
        """Latents `[B, N, d]` -> samples `[B, C, T]`."""

    def _spec(self, name: str, rate: int, chunk: int, size: int, channels: int = 1) -> CodecSpec:
        """The spec of a codec with latents only, without hashes."""
        return CodecSpec(self.kind, name, "", "", rate, rate, channels, chunk, latent=(size,), bounded=False)

    def encode_batch(self, samples: Tensor) -> Batch:
        """Samples `[B, C, n * chunk]` -> latents `[B, n, d]`, on the CPU."""
        return Batch(latents=self._latents_of(samples.to(self.device, self.model.dtype)).float().cpu())

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """Latents `[B, N, d]` -> samples `[B, C, T]`, on the CPU."""
        out = self._sound_of(codes.to(self.device, self.model.dtype))
        return out.reshape(codes.shape[0], self.spec.channels, -1).float().cpu()


class _TransformersLatents(LatentCodec, TransformersModel):
    """An autoencoder of transformers."""

    deciding = ("encoder.",)

    def __init__(self, model: Any, name: str, device: str | torch.device = "cpu") -> None:
        if model.encoder is None or model.decoder is None:
            part = "encoder" if model.encoder is None else "decoder"
            raise WeightsError(f"{name} has no {part}; {self.kind} needs both. Name a model with encoder and decoder.")
        super().__init__(model, name, device)


class PocketTTS(_TransformersLatents):
    """The tokenizer of Pocket TTS (arXiv 2509.06926): 24 kHz, 12.5 latents of 32 dimensions a second.

    It is in transformers from 5.23 on.
    """

    kind, model_class = "pocket_tts", "PocketTTSAudioTokenizerModel"
    default = "eustlb/pocket-tts-audio-tokenizer"

    def _grid(self, name: str, config: Any) -> CodecSpec:
        return self._spec(name, int(config.sampling_rate), int(config.frame_size), int(config.latent_dim))

    def _latents_of(self, samples: Tensor) -> Tensor:
        latents: Tensor = self.model.encode(samples).latents
        return latents

    def _sound_of(self, latents: Tensor) -> Tensor:
        out: Tensor = self.model.decode(latents).audio_values
        return out


class VibeVoice(_TransformersLatents):
    """The acoustic tokenizer of VibeVoice (arXiv 2508.19205): 24 kHz, 7.5 latents of 64 dimensions a second.

    Its own feature extractor normalises each recording to -25 dB; here the loudness is not changed.
    """

    kind, model_class = "vibevoice", "VibeVoiceAcousticTokenizerModel"
    default = "microsoft/VibeVoice-AcousticTokenizer"

    def _grid(self, name: str, config: Any) -> CodecSpec:
        rate = 24_000  # not in its configuration
        return self._spec(name, rate, int(config.hop_length), int(config.hidden_size), int(config.channels))

    def _latents_of(self, samples: Tensor) -> Tensor:
        latents: Tensor = self.model.encode(samples, sample=False).latents
        return latents

    def _sound_of(self, latents: Tensor) -> Tensor:
        out: Tensor = self.model.decode(latents).audio
        return out


class DiffusersCodec(LatentCodec):
    """An autoencoder of diffusers, from its folder or that of a pipeline that has one as its `vae`."""

    library = "diffusers"
    deciding = ("encoder.", "bottleneck.")

    @classmethod
    def _library(cls) -> Any:
        import diffusers

        return diffusers

    @classmethod
    def _from(cls, found: Any, name: str) -> Any:
        subfolder, config = _configuration(found, name)
        got = config.get("_class_name", cls.model_class)
        if got != cls.model_class:
            raise WeightsError(f"{name} holds a model of type {got!r}, expected {cls.model_class!r} for {cls.kind}.")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.nn.utils.weight_norm` is deprecated", FutureWarning)  # its own
            return found.from_pretrained(name, subfolder=subfolder, low_cpu_mem_usage=False)


class Oobleck(DiffusersCodec):
    """The autoencoder of Stable Audio Open (44.1 kHz, arXiv 2407.14358) and of ACE-Step 1.5 (48 kHz), in stereo."""

    kind, model_class, default = "oobleck", "AutoencoderOobleck", "stabilityai/stable-audio-open-1.0"

    def _grid(self, name: str, config: Any) -> CodecSpec:
        chunk, size = math.prod(config.downsampling_ratios), int(config.decoder_input_channels)
        return self._spec(name, int(config.sampling_rate), chunk, size, int(config.audio_channels))

    def _latents_of(self, samples: Tensor) -> Tensor:
        def mean(part: Tensor) -> Tensor:
            found: Tensor = self.model.encode(part).latent_dist.mode()
            return found

        return in_tiles(mean, samples, self.spec.chunk, self._reach()[0]).transpose(1, 2)

    def _sound_of(self, latents: Tensor) -> Tensor:
        return in_tiles(lambda part: self.model.decode(part).sample, latents.transpose(1, 2), 1, self._reach()[1])

    def _reach(self) -> tuple[int | None, int | None]:
        """Number of chunks on each side that a latent, and a chunk of samples, depends on; None: cannot be tiled."""
        ratios = list(self.model.config.downsampling_ratios)
        if any(ratio % 2 for ratio in ratios):
            return None, None  # a transposed convolution of odd stride gives a sample too few
        residual = 3 * (1 + 3 + 9)  # receptive field to each side, in samples, of three dilated convolutions of width 7
        into, out, step = 3.0, 3.0, 1  # in samples
        for ratio in ratios:
            into += step * (residual + ratio / 2)
            out += step * (residual + ratio)
            step *= ratio
        return math.ceil(into / step) + 1, math.ceil(out / step) + 3


class SAME(DiffusersCodec):
    """The autoencoder of Stable Audio 3 (arXiv 2605.17991): 44.1 kHz, stereo, 10.8 latents of 256 dimensions a second.

    It is in diffusers from 0.41 on.
    """

    kind, model_class, default = "same", "AutoencoderSAME", "stabilityai/stable-audio-3-medium"

    def _grid(self, name: str, config: Any) -> CodecSpec:
        chunk, channels = int(self.model.downsampling_ratio), int(config.audio_channels)
        return self._spec(name, int(config.sampling_rate), chunk, int(config.latent_dim), channels)

    def _latents_of(self, samples: Tensor) -> Tensor:
        return in_tiles(
            lambda part: self.model.encode(part).latents, samples, self.spec.chunk, self._reach()
        ).transpose(1, 2)

    def _sound_of(self, latents: Tensor) -> Tensor:
        return in_tiles(lambda part: self.model.decode(part).sample, latents.transpose(1, 2), 1, self._reach())

    def _reach(self) -> int:
        """Number of chunks on each side that a latent depends on: the attention window of each layer adds to it."""
        config = self.model.config
        reach, step = 0.0, 1.0  # in latents
        for ratio, depth in reversed(list(zip(config.encoder_strides, config.encoder_transformer_depths, strict=True))):
            reach += depth * config.sliding_window * step
            step /= ratio
        return math.ceil(reach)


def in_tiles(run: Callable[[Tensor], Tensor], values: Tensor, unit: int, reach: int | None) -> Tensor:
    """Apply `run` to overlapping parts of a long input `[B, C, N * unit]`; equals the whole up to rounding.

    A chunk of the output depends on `reach` chunks to each side; None: do not cut.
    """
    count = values.shape[-1] // unit
    if reach is None or count <= CHUNKS_AT_ONCE + 2 * reach:
        return run(values)
    parts = []
    for first in range(0, count, CHUNKS_AT_ONCE):
        last = min(first + CHUNKS_AT_ONCE, count)
        start, end = max(0, first - reach), min(count, last + reach)
        out = run(values[..., start * unit : end * unit])
        each = out.shape[-1] // (end - start)
        parts.append(out[..., (first - start) * each : (last - start) * each])
    return torch.cat(parts, dim=-1)


def _configuration(found: Any, name: str) -> tuple[str | None, dict[str, Any]]:
    """The subfolder of an autoencoder in a folder or repository, and its configuration."""
    if Path(name).is_dir():
        place = next((p for p in (Path(name), Path(name, "vae")) if (p / "config.json").is_file()), Path(name))
        text = (place / "config.json").read_text(encoding="utf-8")
        document = json.loads(text)
        return (None if place == Path(name) else "vae"), document if isinstance(document, dict) else {}
    try:
        return None, found.load_config(name)
    except OSError:  # the repository of a pipeline
        return "vae", found.load_config(name, subfolder="vae")
