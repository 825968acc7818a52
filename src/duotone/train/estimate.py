"""The objective of a codec's estimate: losses on magnitudes, through the quantiser (the bands frontend of CoDiCodec).

Legend: B examples of N consecutive chunks, L latents of d dimensions.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from duotone.codec.codicodec import best_dtype
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.features import Analysis, Features
from duotone.codec.codicodec.bands.network import BandNetwork
from duotone.codec.codicodec.weights import save_codec
from duotone.codec.contract import Codec
from duotone.config import BandsConfig
from duotone.errors import ConfigError
from duotone.quant.fsq import FSQ
from duotone.train.bottleneck import spread_loss
from duotone.train.code_use import code_use
from duotone.train.codec_objective import CodecObjective
from duotone.train.codec_task import codec_task
from duotone.train.draws import Draws
from duotone.train.estimate_losses import CHANNELS, DECIBEL, EstimateLosses
from duotone.train.sections import (
    OBJECTIVES,
    CoDiCodecSection,
    ModelSection,
    ObjectiveSection,
    Parts,
    SoundSection,
    Warn,
)
from duotone.train.start import start_codec
from duotone.train.task import Batch, Task


@OBJECTIVES.register
class EstimateSection(ObjectiveSection):
    """The objective *estimate*: weights of its terms, and of the bottleneck."""

    warnings: ClassVar[tuple[Warn, ...]] = (
        Warn("saturated_share", lambda v: v > 0.2, "latents saturate: lower objective.deviation or optim.rate"),
        Warn("level_entropy", lambda v: v < 0.6, "few of the FSQ levels are used: raise objective.spread_weight"),
    )

    kind: Literal["estimate"] = "estimate"
    chunks: int = Field(default=3, ge=2)  # consecutive chunks of an example
    continuous_share: float = Field(default=0.4, ge=0, le=1)  # FSQ-dropout: share of examples that are not rounded
    likelihood_weight: float = Field(default=1.0, ge=0)
    absolute_weight: float = Field(default=0.2, ge=0)
    mel_weight: float = Field(default=1.0, ge=0)
    convergence_weight: float = Field(default=0.5, ge=0)
    local_weight: float = Field(default=1.0, ge=0)
    deviation: float = Field(default=0.8, gt=0)  # target standard deviation of each latent before the bound
    spread_weight: float = Field(default=0.05, ge=0)  # weight of the spread term (see `bottleneck`)
    freeze_encoder: bool = False  # train the estimator alone; latents and codes stay as they are

    def seconds(self, model: ModelSection) -> float | None:
        """The chunks of an example."""
        if not isinstance(model, CoDiCodecSection):
            return None
        config = model.build()
        return self.chunks * config.chunk_samples / config.rate

    def task(self, parts: Parts) -> Task:
        """Train encoder and estimator on consecutive chunks of audio. Raises `ConfigError` for another model or data."""
        model, data = parts.model, parts.data
        if not isinstance(model, CoDiCodecSection) or not isinstance(data, SoundSection):
            raise ConfigError(
                f"objective.kind estimate trains model.kind codicodec on data.kind sound; the recipe has "
                f"{model.kind} and {data.kind}. Choose another objective, or these kinds."
            )
        config = model.build()
        if not isinstance(config, BandsConfig):
            raise ConfigError(
                f"objective.kind estimate needs a model with frontend bands; preset {model.preset} has convolutions, which "
                f"objective.kind consistency trains. Choose preset tiny or small."
            )
        torch.manual_seed(parts.train.seed)
        objective = EstimateObjective(config, self)
        began = None if model.start_from is None else start_codec(model.start_from, parts.load)
        return codec_task(objective, data, parts, began)


class EstimateObjective(CodecObjective):
    """``{"samples": [B, 2, crop]}`` in, loss out."""

    def __init__(self, config: BandsConfig, section: EstimateSection) -> None:
        super().__init__()
        self.config, self.section = config, section
        self.network = BandNetwork(config)
        self.losses = EstimateLosses(config)
        self.fsq = FSQ(config.levels)
        self._analysis: Analysis | None = None
        if section.freeze_encoder:
            self.network.encoder.requires_grad_(False)

    def fresh(self) -> EstimateObjective:
        """Another one of the same configuration."""
        return EstimateObjective(self.config, self.section)

    def wanted_dtype(self, device: torch.device) -> torch.dtype:
        """bfloat16 if the device has matrix units for it, else float32."""
        return best_dtype(device)

    def begin_from(self, codec: Codec) -> None:
        """Start from a codec's weights. Raises `ConfigError` if it has another network."""
        free = {
            "floor": self.config.floor,
            "synthesis": self.config.synthesis,
        }  # they may change: no tensor has other sizes
        if not isinstance(codec, BandCodec) or codec.config.model_copy(update=free) != self.config:
            raise ConfigError(
                "model.start_from has another network than the recipe. Make model.preset and model.replace equal to it."
            )
        self.network.load_state_dict({k: v.float() for k, v in codec.network.state_dict().items()})

    @property
    def rate(self) -> int:
        """Samples a second of the examples."""
        return self.config.rate

    @property
    def crop(self) -> int:
        """Samples of one example: its chunks, and what their windows reach beyond."""
        return self.section.chunks * self.config.chunk_samples + self.config.spare

    def features(self, samples: Tensor) -> Features:
        """Samples `[B, 2, crop]` -> features of their chunks, `[B * N, ...]`."""
        if self._analysis is None or self._analysis.device != samples.device:
            self._analysis = Analysis(self.config, samples.device)
        with torch.no_grad(), torch.autocast(samples.device.type, enabled=False):
            return self._analysis(samples).chunks(self.config)

    @torch.no_grad()
    def calibrate(self, samples: Tensor, latents: bool = True) -> None:
        """Set means of features, scale and shift of latents from these samples (see `BandEncoder.calibrate`)."""
        if not latents:
            return
        features = self.features(samples)
        self.network.encoder.calibrate(features, self.section.deviation)
        self.network.estimator.mean.copy_(self.network.encoder.mean_mid)

    def bottleneck(self, pre: Tensor, skip: Tensor) -> Tensor:
        """Before the bound `[B, L, d]` -> bounded `[B, L, d]`; chunks with `skip` `[B]` keep their unrounded values."""
        bounded = self.fsq.bound(pre)
        return torch.where(skip[:, None, None], bounded, self.fsq.round_straight_through(bounded))

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples `[B, 2, crop]` -> loss, and values: mel distances in dB and the terms of the loss, `[1]` each."""
        samples, section = batch["samples"], self.section
        features = self.features(samples)
        skip = draws.chosen("skip rounding", section.continuous_share).to(samples.device)
        pre = self.network.encoder(features)
        latents = self.bottleneck(pre, skip.repeat_interleave(section.chunks))
        maps, _ = self.network.estimator(latents.unflatten(0, (-1, section.chunks)))
        terms, distances = self.losses(maps, features)
        loss = sum((getattr(section, f"{name}_weight") * term for name, term in terms.items()), samples.new_zeros(()))
        if section.spread_weight and not section.freeze_encoder:
            loss = loss + section.spread_weight * spread_loss(pre, section.deviation)
        values = {name: term.detach()[None] for name, term in terms.items()}
        return loss, values | _decibels(distances)

    @torch.no_grad()
    def health(self, batch: Batch) -> dict[str, float]:
        """Statistics of the bottleneck on a batch; the standard deviation is that of each latent over the chunks."""
        pre = self.network.encoder(self.features(batch["samples"]))
        bounded = self.fsq.bound(pre)
        return {
            "pre_tanh_deviation": float(pre.std(0).mean()),
            "saturated_share": float((bounded.abs() > 0.97).float().mean()),
            **code_use(self.fsq, bounded),
        }

    @torch.no_grad()
    def errors(self, batch: Batch, seed: int = 0) -> dict[str, float]:
        """Mel distances of the estimate in dB, from continuous and from rounded latents; samples `[B, 2, crop]`."""
        features = self.features(batch["samples"].to(self.losses.weights.device))
        pre = self.network.encoder(features)
        out: dict[str, float] = {}
        for face, keep in (("continuous", True), ("rounded", False)):
            skip = torch.full((len(pre),), keep, device=pre.device)
            maps, _ = self.network.estimator(self.bottleneck(pre, skip).unflatten(0, (-1, self.section.chunks)))
            _, distances = self.losses(maps, features)
            out |= {f"{face}_{name}": float(value) for name, value in _decibels(distances).items()}
        return out

    @torch.no_grad()
    def export(self, provenance: dict[str, object]) -> BandCodec:
        """A codec of these weights."""
        network = BandNetwork(self.config)
        network.load_state_dict({k: v.detach().cpu() for k, v in self.network.state_dict().items()})
        return BandCodec(network, provenance=dict(provenance))

    def save(self, codec: Codec, folder: Path) -> None:
        """Write a codec with its weights in bfloat16."""
        assert isinstance(codec, BandCodec)
        save_codec(codec, folder, torch.bfloat16)


def _decibels(distances: Tensor) -> dict[str, Tensor]:
    """Mel distances `[4]` in nepers -> `[1]` each by name, in dB."""
    return {f"mel_{name}": d.detach()[None] * DECIBEL for name, d in zip(CHANNELS, distances, strict=True)}
