"""EnCodec, DAC and Mimi through Hugging Face transformers; one class a codec.

A model is a folder or a name on the Hub, which is asked only then. `transformers` is imported when a codec is made.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotone.codec.adapters.contract import ForeignCodec, Info
from duotone.errors import UsageError, WeightsError


class TransformersCodec(ForeignCodec):
    """What they share: finding the class, the device, and the particulars from the model's configuration."""

    kind: str  # its name here
    classes: tuple[str, ...]  # of transformers
    default: str  # the usual weights

    def __init__(self, model: Any, name: str, device: str | torch.device = "cpu") -> None:
        self.model = model.to(device).eval()
        self.device = torch.device(device)
        config = model.config
        self.hop = self._hop(config)
        rate = int(getattr(config, "sampling_rate", 0) or config.sample_rate)
        self.info = Info(self.kind, name, rate, rate, self._codebooks(), int(config.codebook_size), rate / self.hop)

    @classmethod
    def load(cls, name: str | None = None, device: str | torch.device = "cpu", **options: Any) -> TransformersCodec:
        """From a folder, or a name on the Hub. Raises `WeightsError` where it is not found or is another model."""
        transformers = _transformers()
        wanted = name or cls.default
        if Path(wanted).is_dir() is False and (wanted.startswith((".", "/", "~")) or wanted.count("/") != 1):
            raise WeightsError(f"No model at {wanted}. Give a folder, or a name on the Hub such as {cls.default}.")
        found = [getattr(transformers, n) for n in cls.classes if hasattr(transformers, n)]
        if not found:
            raise UsageError(f"This transformers has no {cls.classes[0]}. Update it: pip install -U transformers.")
        try:
            model = found[0].from_pretrained(wanted)
        except (OSError, ValueError) as error:
            raise WeightsError(f"{wanted} could not be loaded as {cls.kind}: {str(error).splitlines()[0]}") from None
        return cls(model, wanted, device, **options)

    def _hop(self, config: Any) -> int:
        return int(config.hop_length)

    @abstractmethod
    def _codebooks(self) -> int:
        """Codebooks that `encode_batch` gives."""

    @torch.inference_mode()
    def encode_batch(self, samples: Tensor) -> Tensor:
        """See the contract."""
        return self._encode(samples[:, None].to(self.device)).cpu()

    @torch.inference_mode()
    def decode_batch(self, codes: Tensor) -> Tensor:
        """See the contract."""
        out = self._decode(codes.to(self.device))
        return out.reshape(codes.shape[0], -1).cpu()

    @abstractmethod
    def _encode(self, samples: Tensor) -> Tensor:
        """Samples `[B, 1, T]` -> codes `[B, K, F]`."""

    @abstractmethod
    def _decode(self, codes: Tensor) -> Tensor:
        """Codes `[B, K, F]` -> samples `[B, T]` or `[B, 1, T]`."""


class EnCodec(TransformersCodec):
    """EnCodec 24 kHz (arXiv 2210.13438). The 48 kHz model codes loudness apart for each second, and is refused."""

    kind, classes, default = "encodec", ("EncodecModel",), "facebook/encodec_24khz"

    def __init__(
        self, model: Any, name: str, device: str | torch.device = "cpu", bandwidth: float | None = None
    ) -> None:
        config = model.config
        if config.audio_channels != 1 or config.chunk_length_s is not None or config.normalize:
            raise UsageError(
                f"{name} is a stereo EnCodec with loudness beside its codes; codes alone do not bring its sound back. "
                f"Use the 24 kHz model."
            )
        if bandwidth is not None and bandwidth >= 1000:
            bandwidth /= 1000  # given in bits a second
        self.bandwidth = config.target_bandwidths[0] if bandwidth is None else bandwidth
        if self.bandwidth not in config.target_bandwidths:
            raise UsageError(f"bandwidth got {bandwidth}, expected one of {list(config.target_bandwidths)} (kbit/s).")
        super().__init__(model, name, device)

    def _codebooks(self) -> int:
        return int(self.model.quantizer.get_num_quantizers_for_bandwidth(self.bandwidth))

    def _encode(self, samples: Tensor) -> Tensor:
        mask = torch.ones(samples.shape[0], 1, samples.shape[-1], dtype=torch.bool, device=samples.device)
        codes: Tensor = self.model.encode(samples, mask, bandwidth=self.bandwidth).audio_codes[0]
        return codes

    def _decode(self, codes: Tensor) -> Tensor:
        out: Tensor = self.model.decode(codes[None], [None]).audio_values
        return out


class _SomeCodebooks(TransformersCodec):
    """Codecs of which any number of the codebooks may be used."""

    def __init__(
        self, model: Any, name: str, device: str | torch.device = "cpu", n_quantizers: int | None = None
    ) -> None:
        most = self._all_codebooks(model.config)
        self.n_quantizers = n_quantizers or most
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

    kind, classes, default = "dac", ("DacModel",), "descript/dac_44khz"

    def _all_codebooks(self, config: Any) -> int:
        return int(config.n_codebooks)

    def _encode(self, samples: Tensor) -> Tensor:
        codes: Tensor = self.model.encode(samples, n_quantizers=self.n_quantizers).audio_codes
        return codes

    def _decode(self, codes: Tensor) -> Tensor:
        out: Tensor = self.model.decode(audio_codes=codes).audio_values
        return out


class Mimi(_SomeCodebooks):
    """Mimi, of Moshi (arXiv 2410.00037)."""

    kind, classes, default = "mimi", ("MimiModel",), "kyutai/mimi"

    def _hop(self, config: Any) -> int:
        return int(config.sampling_rate / config.frame_rate)

    def _all_codebooks(self, config: Any) -> int:
        return int(config.num_quantizers)

    def _encode(self, samples: Tensor) -> Tensor:
        codes: Tensor = self.model.encode(samples, num_quantizers=self.n_quantizers).audio_codes
        return codes

    def _decode(self, codes: Tensor) -> Tensor:
        out: Tensor = self.model.decode(codes).audio_values
        return out


CODECS: dict[str, type[TransformersCodec]] = {c.kind: c for c in (EnCodec, DAC, Mimi)}


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UsageError("Codecs of others need Hugging Face transformers: pip install 'duotone[codecs]'.") from None
    return transformers
