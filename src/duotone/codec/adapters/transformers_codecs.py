"""EnCodec, DAC, Mimi, X-Codec, Higgs Audio and WavTokenizer through Hugging Face transformers; one class per codec.

A model is a folder, or a name on the Hub. `transformers` is imported when a codec is loaded.
Legend: B rows of a batch, C channels, K codebooks, S steps, T samples, N chunks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from duotone.codec.adapters.base import PretrainedCodec, louder
from duotone.codec.batches import Batch
from duotone.errors import UsageError, WeightsError
from duotone.spec import CodecSpec

#: Chunks of a chunked EnCodec that go through its network together.
CHUNKS_AT_ONCE = 16


class TransformersModel(PretrainedCodec):
    """A model of transformers."""

    library = "transformers"

    @classmethod
    def _library(cls) -> Any:
        import transformers

        return transformers

    @classmethod
    def _from(cls, found: Any, name: str) -> Any:
        expected = found.config_class.model_type
        got = found.config_class.get_config_dict(name)[0].get("model_type", expected)
        if got != expected:
            raise WeightsError(f"{name} holds a model of type {got!r}, expected {expected!r} for {cls.kind}.")
        with _without_bars(name):
            return found.from_pretrained(name)


@contextmanager
def _without_bars(name: str) -> Iterator[None]:
    """No progress bars while a folder is read, which takes a moment; downloads keep theirs."""
    from transformers.utils import logging as found

    logging: Any = found
    if not Path(name).is_dir() or not logging.is_progress_bar_enabled():
        yield
        return
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.enable_progress_bar()


class TransformersCodec(TransformersModel):
    """A codec with tokens."""

    def _tokens(self, name: str, config: Any, books: int, size: int | None = None, **other: Any) -> CodecSpec:
        """The spec of a codec with tokens; `other` replaces fields that differ from most configurations."""
        rate = other.pop("rate", 0) or int(getattr(config, "sampling_rate", 0) or config.sample_rate)
        chunk = other.pop("chunk", 0) or int(config.hop_length)
        fields = {"rate_out": rate, "channels": 1, "bounded": False, **other}
        codebooks = (size or int(config.codebook_size),) * books
        return CodecSpec(self.kind, name, "", "", rate, chunk=chunk, codebooks=codebooks, **fields)

    def encode_batch(self, samples: Tensor) -> Batch:
        """Samples `[B, C, n * chunk + ahead]` -> codes `[B, K, n * steps]` or longer, on the CPU."""
        return self._codes_of(samples.to(self.device, self.model.dtype))

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """Codes `[B, K, S]`, and loudness `[B, N]` if it is coded separately -> samples `[B, C, T]`, on the CPU."""
        out = self._sound_of(codes.to(self.device), None if scale is None else scale.to(self.device, self.model.dtype))
        return out.reshape(codes.shape[0], self.spec.channels, -1).float().cpu()

    @abstractmethod
    def _codes_of(self, samples: Tensor) -> Batch:
        """Samples `[B, C, T]` -> codes, on the CPU."""

    @abstractmethod
    def _sound_of(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """Codes `[B, K, S]` -> samples, B of them first."""


def on_cpu(codes: Tensor, scale: Tensor | None = None) -> Batch:
    """Results of an encoder as int64 and float32, on the CPU."""
    return Batch(codes=codes.long().cpu(), scale=None if scale is None else scale.float().cpu())


class _OfBandwidth(TransformersCodec):
    """Codecs whose number of codebooks follows from the bit rate."""

    options = ("bandwidth",)
    least: ClassVar[bool]  #: whether the default is the lowest of its bit rates, as in its own package, or the highest

    def __init__(
        self, model: Any, name: str, device: str | torch.device = "cpu", bandwidth: float | None = None
    ) -> None:
        rates = [float(rate) for rate in model.config.target_bandwidths]
        wanted = bandwidth if bandwidth is None or bandwidth <= max(rates) else bandwidth / 1000  # bits a second
        self.bandwidth = (min(rates) if self.least else max(rates)) if wanted is None else float(wanted)
        if self.bandwidth not in rates:
            raise UsageError(f"bandwidth got {bandwidth}, expected one of {rates} (kbit/s).")
        self.books = int(model.quantizer.get_num_quantizers_for_bandwidth(self.bandwidth))
        super().__init__(model, name, device, bandwidth=self.bandwidth)

    def _grid(self, name: str, config: Any) -> CodecSpec:
        return self._tokens(name, config, self.books)


class EnCodec(_OfBandwidth):
    """EnCodec (arXiv 2210.13438): 24 kHz, one channel; or 48 kHz, stereo, in chunks of a second.

    The chunks of the 48 kHz model overlap by 1% and are encoded separately: 150 steps for each 0.99 s, one chunk
    after the other. Each is first divided by its loudness, which is the scale of its codes.
    """

    kind, model_class, default = "encodec", "EncodecModel", "facebook/encodec_24khz"
    deciding = ("encoder.", "quantizer.")
    least = True

    def _grid(self, name: str, config: Any) -> CodecSpec:
        channels, scaled, stride = int(config.audio_channels), bool(config.normalize), int(config.chunk_stride or 0)
        if not stride:
            return self._tokens(name, config, self.books, channels=channels, scaled=scaled)
        length = int(config.chunk_length)
        steps = -(-length // int(config.hop_length))
        return self._tokens(
            name, config, self.books, chunk=stride, ahead=length - stride, steps=steps, channels=channels,
            scaled=scaled, independent=True,
        )  # fmt: skip

    def _move(self, device: torch.device, dtype: torch.dtype | None) -> None:
        if self.spec.independent and dtype not in (None, torch.float32):
            raise UsageError(
                f"{self.spec.model} cross-fades its chunks, for which {str(dtype).removeprefix('torch.')} is "
                f"too coarse. Use float32."
            )
        super()._move(device, dtype)

    def _codes_of(self, samples: Tensor) -> Batch:
        spec = self.spec
        if not spec.independent:
            whole = self._one(samples)
            n = whole.chunks(spec.steps)
            return whole if whole.scale is None else Batch(codes=whole.codes, scale=whole.scale.expand(-1, n))
        chunks = samples.unfold(-1, spec.chunk + spec.ahead, spec.chunk)  # [B, C, N, T of a chunk]
        b, n = chunks.shape[0], chunks.shape[2]
        each = chunks.transpose(1, 2).flatten(0, 1)
        parts = [self._one(each[i : i + CHUNKS_AT_ONCE]) for i in range(0, len(each), CHUNKS_AT_ONCE)]
        codes = torch.cat([part.codes for part in parts if part.codes is not None])  # [B * N, K, steps]
        scales = [part.scale for part in parts if part.scale is not None]
        return Batch(
            codes=codes.reshape(b, n, *codes.shape[1:]).transpose(1, 2).flatten(2),
            scale=torch.cat(scales).reshape(b, n) if scales else None,
        )

    def _one(self, samples: Tensor) -> Batch:
        """Samples of one chunk each -> its codes, and its loudness `[B, 1]`. Codes of a remainder that is only the overlap are dropped."""
        mask = torch.ones_like(samples, dtype=torch.bool)
        found = self.model.encode(samples, mask, bandwidth=self.bandwidth)
        return on_cpu(found.audio_codes[0], found.audio_scales[0])

    def _sound_of(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        if not self.spec.independent:
            out: Tensor = self.model.decode(codes[None], [None]).audio_values
            return out if scale is None else louder(out, scale)
        each = codes.reshape(*codes.shape[:2], -1, self.spec.steps).movedim(2, 0)  # [N, B, K, steps]
        scales = [None] * len(each) if scale is None else list(scale.T[..., None])
        joined: Tensor = self.model.decode(each, scales).audio_values
        return joined


class XCodec(_OfBandwidth):
    """X-Codec (arXiv 2408.17175), 16 kHz: acoustic codes that include semantic features of HuBERT."""

    kind, model_class, default = "xcodec", "XcodecModel", "hf-audio/xcodec-hubert-librispeech"
    deciding = ("acoustic_encoder.", "encoder_semantic.", "semantic_model.", "fc.", "quantizer.")
    least = False

    def _codes_of(self, samples: Tensor) -> Batch:
        return on_cpu(self.model.encode(samples, bandwidth=self.bandwidth).audio_codes)

    def _sound_of(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        out: Tensor = self.model.decode(codes).audio_values
        return out


class HiggsAudio(XCodec):
    """The tokenizer of Higgs Audio v2, 24 kHz. Its class in transformers needs torchaudio."""

    kind, model_class = "higgs_audio_v2", "HiggsAudioV2TokenizerModel"
    default = "bosonai/higgs-audio-v2-tokenizer"


class _SomeCodebooks(TransformersCodec):
    """Codecs of which the first n codebooks can be used alone."""

    options = ("n_quantizers",)

    def __init__(
        self, model: Any, name: str, device: str | torch.device = "cpu", n_quantizers: int | None = None
    ) -> None:
        most = self._all_codebooks(model.config)
        wanted = most if n_quantizers is None else n_quantizers
        if wanted not in range(1, most + 1):
            raise UsageError(f"n_quantizers got {n_quantizers}, expected 1..{most}.")
        self.n_quantizers = int(wanted)
        super().__init__(model, name, device, n_quantizers=self.n_quantizers)

    @abstractmethod
    def _all_codebooks(self, config: Any) -> int:
        """Number of codebooks."""

    def _grid(self, name: str, config: Any) -> CodecSpec:
        return self._tokens(name, config, self.n_quantizers)


class DAC(_SomeCodebooks):
    """Descript audio codec at 16, 24 or 44.1 kHz (arXiv 2306.06546)."""

    kind, model_class, default = "dac", "DacModel", "descript/dac_44khz"
    deciding = ("encoder.", "quantizer.")

    def _all_codebooks(self, config: Any) -> int:
        return int(config.n_codebooks)

    def _codes_of(self, samples: Tensor) -> Batch:
        return on_cpu(self.model.encode(samples, n_quantizers=self.n_quantizers).audio_codes)

    def _sound_of(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        out: Tensor = self.model.decode(audio_codes=codes).audio_values
        return out


class Mimi(_SomeCodebooks):
    """Mimi, of Moshi (arXiv 2410.00037)."""

    kind, model_class, default = "mimi", "MimiModel", "kyutai/mimi"
    deciding = ("encoder.", "encoder_transformer.", "downsample.", "quantizer.")

    def _all_codebooks(self, config: Any) -> int:
        return int(config.num_quantizers)

    def _grid(self, name: str, config: Any) -> CodecSpec:
        return self._tokens(name, config, self.n_quantizers, chunk=int(config.sampling_rate / config.frame_rate))

    def _move(self, device: torch.device, dtype: torch.dtype | None) -> None:
        super()._move(device, dtype)
        for module in self.model.modules():
            if hasattr(module, "_embed"):  # a cached codebook, which `to` does not move
                module._embed = None

    def _codes_of(self, samples: Tensor) -> Batch:
        return on_cpu(self.model.encode(samples, num_quantizers=self.n_quantizers).audio_codes)

    def _sound_of(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        out: Tensor = self.model.decode(codes).audio_values
        return out


class WavTokenizer(TransformersCodec):
    """WavTokenizer (arXiv 2408.16532): 24 kHz, one codebook of 4096; from transformers 5.24 on."""

    kind, model_class = "wavtokenizer", "WavTokenizerModel"
    default = "swiss-ai/wavtokenizer-large-unify-40token"
    deciding = ("encoder_model.",)

    def _grid(self, name: str, config: Any) -> CodecSpec:
        return self._tokens(name, config, 1)

    def _codes_of(self, samples: Tensor) -> Batch:
        return on_cpu(self.model.encode(samples).audio_codes)

    def _sound_of(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        out: Tensor = self.model.decode(codes).audio_values
        return out
