"""The objective of a codec's estimate: losses on magnitudes, through the quantiser (the bands frontend of CoDiCodec).

Legend: B examples of N consecutive chunks, L latents of d dimensions.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.features import Features
from duotone.codec.codicodec.bands.network import Maps
from duotone.codec.contract import Codec
from duotone.config import BandsConfig, Config
from duotone.errors import ConfigError
from duotone.represent.mel import DECIBEL
from duotone.train.band_objective import BandObjective
from duotone.train.bottleneck import spread_loss
from duotone.train.codicodec_objective import CoDiCodecObjectiveSection
from duotone.train.draws import Draws
from duotone.train.estimate_losses import CHANNELS, EstimateLosses
from duotone.train.sections import (
    OBJECTIVES,
    Warn,
)
from duotone.train.task import Batch


class EstimateTerms(CoDiCodecObjectiveSection):
    """What all objectives of the estimate have: examples, and the weights of the terms that compare magnitudes."""

    network: ClassVar[type[Config]] = BandsConfig
    otherwise: ClassVar[str] = (
        "needs a model with frontend bands; preset {preset} has convolutions, which objective.kind consistency trains. "
        "Choose preset tiny or small."
    )

    chunks: int = Field(default=3, ge=2)  # consecutive chunks of an example
    continuous_share: float = Field(default=0.4, ge=0, le=1)  # FSQ-dropout: share of examples that are not rounded
    likelihood_weight: float = Field(default=1.0, ge=0)
    absolute_weight: float = Field(default=0.2, ge=0)
    mel_weight: float = Field(default=1.0, ge=0)
    convergence_weight: float = Field(default=0.5, ge=0)
    local_weight: float = Field(default=1.0, ge=0)
    stereo_weight: float = Field(default=0.5, ge=0)

    @property
    def consecutive(self) -> int:
        """Chunks of an example."""
        return self.chunks


@OBJECTIVES.register
class EstimateSection(EstimateTerms):
    """The objective *estimate*: weights of its terms, and of the bottleneck."""

    warnings: ClassVar[tuple[Warn, ...]] = (
        Warn("saturated_share", lambda v: v > 0.2, "latents saturate: lower objective.deviation or optim.rate"),
        Warn("level_entropy", lambda v: v < 0.6, "few of the FSQ levels are used: raise objective.spread_weight"),
    )

    kind: Literal["estimate"] = "estimate"
    deviation: float = Field(default=0.8, gt=0)  # target standard deviation of each latent before the bound
    spread_weight: float = Field(default=0.05, ge=0)  # weight of the spread term (see `bottleneck`)
    freeze_encoder: bool = False  # train the estimator alone; latents and codes stay as they are

    def objective(self, config: BandsConfig) -> EstimateObjective:
        """The objective of a network with random weights. Raises `ConfigError` for one with a refinement."""
        if config.refinement is not None:
            raise ConfigError(
                "objective.kind estimate trains no refinement, and the model has one. Leave model.replace.refinement out here, "
                "and add it to a second training, with objective.kind consistency and model.start_from."
            )
        return EstimateObjective(config, self)


class EstimateTraining(BandObjective):
    """What all objectives of the estimate do: features -> latents -> maps -> the terms of the loss."""

    free = ("floor", "synthesis")  # no tensor has other sizes

    def __init__(self, config: BandsConfig, section: EstimateTerms) -> None:
        super().__init__(config, section.chunks)
        self.terms = section
        self.losses = EstimateLosses(config)
        if self.network.refiner is not None:  # these terms do not reach it
            self.network.refiner.requires_grad_(False)

    def begin_from(self, codec: Codec) -> None:
        """See `BandObjective`. Warns where a refinement is left out."""
        super().begin_from(codec)
        if isinstance(codec, BandCodec) and codec.network.refiner is not None and self.network.refiner is None:
            warnings.warn(
                "The codec that training starts from has a refinement, which is left out: it was trained for the estimate that this training "
                "changes. Train another one afterwards (duotone train tiny-2-refinement).",
                stacklevel=2,
            )

    def comparable(self, values: dict[str, Any]) -> dict[str, Any]:
        """See `CoDiCodecObjective`. A network without a refinement may start from one that has it: this training changes its estimate."""
        found = super().comparable(values)
        if self.config.refinement is None:
            del found["refinement"]
        return found

    def estimate(self, features: Features, draws: Draws) -> tuple[Maps, Tensor]:
        """Features of all chunks -> maps `[B * N, ...]` through the quantiser, and the latents before the bound."""
        skip = draws.chosen("skip rounding", self.terms.continuous_share).to(features.mid.device)
        pre = self.network.encoder(features)
        latents = self.bottleneck(pre, skip.repeat_interleave(self.terms.chunks))
        maps, _ = self.network.estimator(latents.unflatten(0, (-1, self.terms.chunks)))
        return maps, pre

    def distance(self, maps: Maps, features: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum of the terms, and values: the terms, and mel distances in dB, `[1]` each."""
        terms, distances = self.losses(maps, features)
        weighted = (getattr(self.terms, f"{name}_weight") * term for name, term in terms.items())
        values = {name: term.detach()[None] for name, term in terms.items()}
        return sum(weighted, maps.mid.new_zeros(())), values | _decibels(distances)

    @torch.no_grad()
    def errors(self, batch: Batch, seed: int = 0) -> dict[str, float]:
        """Mel distances of the estimate in dB, from continuous and from rounded latents; samples `[B, 2, crop]`."""
        features = self.features(batch["samples"].to(self.losses.weights.device))
        pre = self.network.encoder(features)
        out: dict[str, float] = {}
        for face, keep in (("continuous", True), ("rounded", False)):
            skip = torch.full((len(pre),), keep, device=pre.device)
            maps, _ = self.network.estimator(self.bottleneck(pre, skip).unflatten(0, (-1, self.terms.chunks)))
            _, distances = self.losses(maps, features)
            out |= {f"{face}_{name}": float(value) for name, value in _decibels(distances).items()}
        return out


class EstimateObjective(EstimateTraining):
    """``{"samples": [B, 2, crop]}`` in, loss out."""

    def __init__(self, config: BandsConfig, section: EstimateSection) -> None:
        super().__init__(config, section)
        self.section = section
        self.network.encoder.requires_grad_(not section.freeze_encoder)

    def fresh(self) -> EstimateObjective:
        """Another one of the same configuration."""
        return EstimateObjective(self.config, self.section)

    @torch.no_grad()
    def calibrate(self, samples: Tensor, latents: bool = True) -> None:
        """Set means of features, scale and shift of latents from these samples (see `BandEncoder.calibrate`)."""
        if not latents:
            return
        features = self.features(samples)
        self.network.encoder.calibrate(features, self.section.deviation)
        self.network.estimator.mean.copy_(self.network.encoder.mean_mid)

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples `[B, 2, crop]` -> loss, and values: mel distances in dB and the terms of the loss, `[1]` each."""
        features = self.features(batch["samples"])
        maps, pre = self.estimate(features, draws)
        loss, values = self.distance(maps, features)
        if self.section.spread_weight and not self.section.freeze_encoder:
            loss = loss + self.section.spread_weight * spread_loss(pre, self.section.deviation)
        return loss, values


def _decibels(distances: Tensor) -> dict[str, Tensor]:
    """Mel distances `[4]` in nepers -> `[1]` each by name, in dB."""
    return {f"mel_{name}": d.detach()[None] * DECIBEL for name, d in zip(CHANNELS, distances, strict=True)}
