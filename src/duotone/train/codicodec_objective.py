"""What the objectives that train a CoDiCodec on audio have in common: each is for one frontend."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from duotone.codec.codicodec import CoDiCodec, best_dtype
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.weights import import_codicodec, load_codec, save_codec
from duotone.codec.contract import Codec
from duotone.config import BandsConfig, CoDiCodecConfig, Config
from duotone.errors import ConfigError
from duotone.quant.fsq import FSQ
from duotone.train.code_use import code_use
from duotone.train.codec_objective import CodecObjective, require_equal
from duotone.train.codec_task import codec_task
from duotone.train.sections import CoDiCodecSection, ModelSection, ObjectiveSection, Parts, SoundSection
from duotone.train.task import Batch, Task


class CoDiCodecObjectiveSection(ObjectiveSection):
    """An objective over consecutive chunks of audio, for the networks of one frontend."""

    network: ClassVar[type[Config] | tuple[type[Config], ...]]  #: the configurations that it trains
    otherwise: ClassVar[str] = ""  #: what to say of a preset with another frontend

    @abstractmethod
    def objective(self, config: Any) -> CodecObjective:
        """The objective of a network with random weights."""

    @property
    @abstractmethod
    def consecutive(self) -> int:
        """Chunks of an example."""

    def seconds(self, model: ModelSection) -> float | None:
        """The chunks of an example."""
        if not isinstance(model, CoDiCodecSection):
            return None
        config = model.build()
        return self.consecutive * config.chunk_samples / config.rate

    def task(self, parts: Parts) -> Task:
        """Train a CoDiCodec on consecutive chunks of audio. Raises `ConfigError` for another model or data."""
        model, data = parts.of_kinds(self.kind, CoDiCodecSection, SoundSection)
        config = model.build()
        if not isinstance(config, self.network):
            raise ConfigError(f"objective.kind {self.kind} {self.otherwise.format(preset=model.preset)}")
        torch.manual_seed(parts.train.seed)
        objective = self.objective(config)
        began = None if model.start_from is None else _start(model.start_from, parts)
        return codec_task(objective, data, parts, began)


class CoDiCodecObjective(CodecObjective):
    """Owns the network of a CoDiCodec, and trains it through the quantiser. Legend: B chunks, L latents of d dimensions."""

    made: ClassVar[type[CoDiCodec] | type[BandCodec]]  #: the codec of the frontend
    frontend: ClassVar[str]
    free: ClassVar[
        tuple[str, ...]
    ] = ()  #: fields of the configuration that may change when a training starts from a codec

    config: CoDiCodecConfig | BandsConfig
    network: nn.Module
    fsq: FSQ

    @abstractmethod
    def before_bound(self, samples: Tensor) -> Tensor:
        """Samples `[B, 2, crop]` -> latents of their chunks before the bound `[B * N, L, d]`."""

    def wanted_dtype(self, device: torch.device) -> torch.dtype:
        """bfloat16 if the device has matrix units for it, else float32."""
        return best_dtype(device)

    def begin_from(self, codec: Codec) -> None:
        """Start from a codec's weights. Raises `ConfigError` if it has another network."""
        if not isinstance(codec, self.made):
            raise ConfigError(
                f"model.start_from got {codec.spec.model or codec.spec.family}, expected a CoDiCodec with the {self.frontend} frontend."
            )
        require_equal(self.comparable(codec.config.to_dict()), self.comparable(self.config.to_dict()))
        own, begun = self.network.state_dict(), codec.network.state_dict()
        self.network.load_state_dict({**own, **{k: v.float() for k, v in begun.items() if k in own}})

    def comparable(self, values: dict[str, Any]) -> dict[str, Any]:
        """The fields of a configuration that have to be equal when a training starts from a codec, if both have them."""
        return {name: value for name, value in values.items() if name not in self.free}

    @property
    def rate(self) -> int:
        """Samples a second of the examples."""
        return self.config.rate

    def bottleneck(self, pre: Tensor, skip: Tensor) -> Tensor:
        """Before the bound `[B, L, d]` -> bounded `[B, L, d]`; chunks with `skip` `[B]` keep their unrounded values."""
        bounded = self.fsq.bound(pre)
        return torch.where(skip[:, None, None], bounded, self.fsq.round_straight_through(bounded))

    @torch.no_grad()
    def health(self, batch: Batch) -> dict[str, float]:
        """Statistics of the bottleneck on a batch; the standard deviation is that of each latent over the chunks."""
        pre = self.before_bound(batch["samples"])
        bounded = self.fsq.bound(pre)
        return {
            "pre_tanh_deviation": float(pre.std(0).mean()),
            "saturated_share": float((bounded.abs() > 0.97).float().mean()),
            **code_use(self.fsq, bounded),
        }

    @torch.no_grad()
    def export(self, provenance: dict[str, object]) -> CoDiCodec | BandCodec:
        """A codec of these weights."""
        network: Any = type(self.network)(self.config)
        network.load_state_dict({k: v.detach().cpu() for k, v in self.network.state_dict().items()})
        return self.made(network, provenance=dict(provenance))

    def save(self, codec: Codec, folder: Path) -> None:
        """Write a codec with its weights in bfloat16."""
        assert isinstance(codec, self.made)
        save_codec(codec, folder, torch.bfloat16)


def _start(name: str, parts: Parts) -> Codec:
    """The codec that training starts from: through the caller's `load`, else a published checkpoint or a folder."""
    if parts.load is not None:
        found: Codec = parts.load(name)
        return found
    return import_codicodec(Path(name)) if Path(name).is_file() else load_codec(Path(name))
