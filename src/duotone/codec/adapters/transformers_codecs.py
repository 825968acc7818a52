"""EnCodec, DAC, Mimi, X-Codec and Higgs Audio through Hugging Face transformers; one class a codec.

A model is a folder or a name on the Hub, which is asked only then. `transformers` is imported when a codec is made.
Legend: B segments, C channels, K codebooks, F frames, T samples, N blocks.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from duotone.codec.adapters.contract import Encoded, ForeignCodec, Info
from duotone.errors import UsageError, WeightsError

#: Blocks of a chunked EnCodec that go through its network together.
BLOCKS_AT_ONCE = 16


class TransformersCodec(ForeignCodec):
    """What they share: finding the class, the device, and the particulars from the model's configuration."""

    kind: ClassVar[str]  # its name here
    model_class: ClassVar[str]  # its name in transformers
    default: ClassVar[str]  # the usual weights
    options: ClassVar[tuple[str, ...]] = ()  # of `load`

    def __init__(self, model: Any, name: str, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device).float().eval()
        self.device = torch.device(device)
        config = model.config
        self.hop = self._hop(config)
        encoder, decoder = self._rates(config)
        framerate = encoder / self.hop * self.frames
        self.info = Info(self.kind, name, encoder, decoder, self._codebooks(), self._codebook_size(config), framerate)

    @classmethod
    def load(cls, name: str | None = None, device: str | torch.device = "cpu", **options: Any) -> TransformersCodec:
        """From a folder, or a name on the Hub.

        Raises `WeightsError` where it is not found or is another model, `UsageError` where a package is missing or
        an option does not fit.
        """
        transformers = import_transformers()
        wanted = name or cls.default
        if not Path(wanted).is_dir() and (wanted.startswith((".", "/", "~")) or wanted.count("/") != 1):
            raise WeightsError(f"No model at {wanted}. Give a folder, or a name on the Hub such as {cls.default}.")
        if not hasattr(transformers, cls.model_class):
            raise UsageError(
                f"transformers {transformers.__version__} has no {cls.model_class}, which {cls.kind} needs. "
                f"Update it: pip install -U transformers."
            )
        found = getattr(transformers, cls.model_class)
        try:
            expected = found.config_class.model_type
            got = found.config_class.get_config_dict(wanted)[0].get("model_type", expected)
            if got != expected:
                raise WeightsError(f"{wanted} holds a model of type {got!r}, expected {expected!r} for {cls.kind}.")
            model = found.from_pretrained(wanted)
        except ImportError as error:  # transformers puts a stand-in where a package is missing
            raise UsageError(f"{cls.kind} cannot be loaded here: {_sentence(error)}") from None
        except (OSError, ValueError) as error:
            if isinstance(error, WeightsError):
                raise
            raise WeightsError(f"{wanted} could not be loaded as {cls.kind}: {_sentence(error)}") from None
        return cls(model, wanted, device, **options)

    def _hop(self, config: Any) -> int:
        return int(config.hop_length)

    def _rates(self, config: Any) -> tuple[int, int]:
        """Of what the encoder takes, and of what the decoder gives."""
        rate = int(getattr(config, "sampling_rate", 0) or config.sample_rate)
        return rate, rate

    def _codebook_size(self, config: Any) -> int:
        return int(config.codebook_size)

    @abstractmethod
    def _codebooks(self) -> int:
        """Codebooks that `encode_batch` gives."""

    @torch.inference_mode()
    def encode_batch(self, samples: Tensor) -> Encoded:
        """See the contract."""
        found = self._encode(samples.to(self.device, self.model.dtype))
        return found.on_cpu()

    @torch.inference_mode()
    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """See the contract."""
        out = self._decode(codes.to(self.device), None if scale is None else scale.to(self.device, self.model.dtype))
        return out.reshape(codes.shape[0], self.channels, -1).float().cpu()

    @abstractmethod
    def _encode(self, samples: Tensor) -> Encoded:
        """Samples `[B, C, T]` -> codes `[B, K, F]`."""

    @abstractmethod
    def _decode(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """Codes `[B, K, F]` -> samples `[B, C, T]`."""


class _OfBandwidth(TransformersCodec):
    """Codecs whose number of codebooks follows from the bit rate that is asked for."""

    options = ("bandwidth",)
    least: ClassVar[bool]  # whether the default is the lowest of its bit rates, as in its own package, or the highest

    def __init__(
        self, model: Any, name: str, device: str | torch.device = "cpu", bandwidth: float | None = None
    ) -> None:
        rates = [float(rate) for rate in model.config.target_bandwidths]
        wanted = bandwidth if bandwidth is None or bandwidth <= max(rates) else bandwidth / 1000  # bits a second
        self.bandwidth = (min(rates) if self.least else max(rates)) if wanted is None else wanted
        if self.bandwidth not in rates:
            raise UsageError(f"bandwidth got {bandwidth}, expected one of {rates} (kbit/s).")
        super().__init__(model, name, device)

    def _codebooks(self) -> int:
        return int(self.model.quantizer.get_num_quantizers_for_bandwidth(self.bandwidth))


class EnCodec(_OfBandwidth):
    """EnCodec (arXiv 2210.13438): 24 kHz, one channel; or 48 kHz, stereo, in blocks of a second.

    The blocks of the 48 kHz model overlap by 1% and are coded by themselves: 150 frames for each 0.99 s, one block
    after the other. Each is divided by its loudness first; that is the scale beside its codes.
    """

    kind, model_class, default = "encodec", "EncodecModel", "facebook/encodec_24khz"
    least = True

    def __init__(
        self, model: Any, name: str, device: str | torch.device = "cpu", bandwidth: float | None = None
    ) -> None:
        config = model.config
        self.channels, self.scaled = int(config.audio_channels), bool(config.normalize)
        self.stride = int(config.chunk_stride or 0)  # 0: not in blocks
        if self.stride:
            self.ahead = int(config.chunk_length) - self.stride
            self.frames = -(-int(config.chunk_length) // int(config.hop_length))
        super().__init__(model, name, device, bandwidth)

    def _hop(self, config: Any) -> int:
        return self.stride or int(config.hop_length)

    def _encode(self, samples: Tensor) -> Encoded:
        if not self.stride:
            return self._one(samples)
        blocks = samples.unfold(-1, self.stride + self.ahead, self.stride)  # [B, C, N, T of a block]
        b, n = blocks.shape[0], blocks.shape[2]
        each = blocks.transpose(1, 2).flatten(0, 1)
        found = [self._one(each[i : i + BLOCKS_AT_ONCE]) for i in range(0, len(each), BLOCKS_AT_ONCE)]
        codes = torch.cat([part.codes for part in found])  # [B * N, K, frames]
        scales = [part.scale for part in found if part.scale is not None]
        return Encoded(
            codes.reshape(b, n, *codes.shape[1:]).transpose(1, 2).flatten(2),
            torch.cat(scales).reshape(b, -1) if scales else None,
        )

    def _one(self, samples: Tensor) -> Encoded:
        """Samples of one block each -> its codes. What transformers makes of the overlap alone is left out."""
        mask = torch.ones_like(samples, dtype=torch.bool)
        found = self.model.encode(samples, mask, bandwidth=self.bandwidth)
        codes, scale = found.audio_codes[0], found.audio_scales[0]
        return Encoded(codes, None if scale is None else scale.expand(-1, codes.shape[-1]))

    def _decode(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        frames = self.frames if self.stride else codes.shape[-1]
        each = codes.reshape(*codes.shape[:2], -1, frames).movedim(2, 0)  # [N, B, K, frames]
        scales = [None] * len(each) if scale is None else list(scale[:, ::frames].T[..., None])
        out: Tensor = self.model.decode(each, scales).audio_values
        return out


class XCodec(_OfBandwidth):
    """X-Codec (arXiv 2408.17175), 16 kHz: acoustic codes that know of meaning through HuBERT."""

    kind, model_class, default = "xcodec", "XcodecModel", "hf-audio/xcodec-hubert-librispeech"
    least = False

    def _encode(self, samples: Tensor) -> Encoded:
        return Encoded(self.model.encode(samples, bandwidth=self.bandwidth).audio_codes)

    def _decode(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        out: Tensor = self.model.decode(codes).audio_values
        return out


class HiggsAudio(XCodec):
    """The tokenizer of Higgs Audio v2, 24 kHz. Its class in transformers needs torchaudio."""

    kind, model_class = "higgs_audio_v2", "HiggsAudioV2TokenizerModel"
    default = "bosonai/higgs-audio-v2-tokenizer"


class _SomeCodebooks(TransformersCodec):
    """Codecs of which any number of the codebooks may be used."""

    options = ("n_quantizers",)

    def __init__(
        self, model: Any, name: str, device: str | torch.device = "cpu", n_quantizers: int | None = None
    ) -> None:
        most = self._all_codebooks(model.config)
        self.n_quantizers = most if n_quantizers is None else n_quantizers
        if not 1 <= self.n_quantizers <= most:
            raise UsageError(f"n_quantizers got {n_quantizers}, expected 1..{most}.")
        super().__init__(model, name, device)

    @abstractmethod
    def _all_codebooks(self, config: Any) -> int:
        """How many there are."""

    def _codebooks(self) -> int:
        return self.n_quantizers


class DAC(_SomeCodebooks):
    """Descript audio codec at 16, 24 or 44.1 kHz (arXiv 2306.06546)."""

    kind, model_class, default = "dac", "DacModel", "descript/dac_44khz"

    def _all_codebooks(self, config: Any) -> int:
        return int(config.n_codebooks)

    def _encode(self, samples: Tensor) -> Encoded:
        return Encoded(self.model.encode(samples, n_quantizers=self.n_quantizers).audio_codes)

    def _decode(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        out: Tensor = self.model.decode(audio_codes=codes).audio_values
        return out


class Mimi(_SomeCodebooks):
    """Mimi, of Moshi (arXiv 2410.00037)."""

    kind, model_class, default = "mimi", "MimiModel", "kyutai/mimi"

    def _hop(self, config: Any) -> int:
        return int(config.sampling_rate / config.frame_rate)

    def _all_codebooks(self, config: Any) -> int:
        return int(config.num_quantizers)

    def _encode(self, samples: Tensor) -> Encoded:
        return Encoded(self.model.encode(samples, num_quantizers=self.n_quantizers).audio_codes)

    def _decode(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        out: Tensor = self.model.decode(codes).audio_values
        return out


def import_transformers() -> Any:
    """The package. Raises `UsageError` where it is not installed."""
    try:
        import transformers
    except ImportError:
        raise UsageError("Codecs of others need Hugging Face transformers: pip install 'duotone[codecs]'.") from None
    return transformers


def _sentence(error: Exception) -> str:
    """The first line of a message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
