"""The adversarial objective: the estimate is judged by discriminators that hear it; encoder and latents stay as they are.

The maps of the estimate are decoded as for a listener, and discriminators compare the sound with the recording (see
`discriminators` for what they see, `heard` for what flows back). The terms of the objective *estimate* stay and hold the
decoder near the recording; so do a distance of mel magnitudes of the decoded sound, and its spectral convergence.

Legend: B examples of N consecutive chunks.
"""

from __future__ import annotations

import itertools
from typing import ClassVar, Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from duotone.config import BandsConfig
from duotone.errors import ConfigError
from duotone.train.discriminators import Discriminators, deceit, feature_distance, hinge, told_apart
from duotone.train.draws import Draws
from duotone.train.estimate import EstimateTerms, EstimateTraining
from duotone.train.heard import HeardDistance, channel, decoded, heard_convergence, original, spectra
from duotone.train.optimizers import Optimizers, make_optimizers
from duotone.train.sections import OBJECTIVES, CoDiCodecSection, Parts, Warn
from duotone.train.settings import OptimSection
from duotone.train.task import Batch, Task, frozen

#: Sizes of windows that make sense for sound, in samples.
_SHORTEST, _LONGEST = 64, 8192
#: The longest window fits this often into what is heard of an example, at least.
_FITS = 4


@OBJECTIVES.register
class AdversarialSection(EstimateTerms):
    """The objective *adversarial*: weights of its terms, and the discriminators."""

    warnings: ClassVar[tuple[Warn, ...]] = (
        Warn(
            "told_apart",
            lambda v: v > 0.97,
            "the discriminators win completely, and teach nothing: lower objective.discriminator_rate, "
            "or raise objective.adversarial_weight",
        ),
        Warn(
            "told_apart",
            lambda v: v < 0.53,
            "the discriminators lose completely, and teach nothing: raise objective.discriminator_rate or "
            "objective.channels, or lower objective.adversarial_weight",
        ),
    )

    kind: Literal["adversarial"] = "adversarial"
    heard_weight: float = Field(default=0.5, ge=0)  # weight of the mel distance of the decoded sound
    heard_convergence_weight: float = Field(
        default=0.5, ge=0
    )  # weight of the spectral convergence of the decoded sound
    adversarial_weight: float = Field(default=0.3, ge=0)
    feature_weight: float = Field(default=0.5, ge=0)  # weight of the distance of the discriminators' inner features
    alone_share: float = Field(
        default=0.1, ge=0, lt=0.5
    )  # share of the steps in which discriminators learn alone; over as many more their weights in the loss rise to the full ones
    windows: tuple[int, ...] = (512, 1024, 2048)  # samples; one discriminator each
    channels: int = Field(default=16, ge=1)  # of the discriminators
    heard_seconds: float = Field(default=1.0, gt=0)  # of an example's decoded sound
    discriminator_rate: float = Field(default=1e-3, gt=0)  # learning rate of the discriminators, by AdamW
    discriminator_betas: tuple[float, float] = (0.8, 0.99)

    @field_validator("windows")
    @classmethod
    def _usable(cls, windows: tuple[int, ...]) -> tuple[int, ...]:
        good = all(_SHORTEST <= w <= _LONGEST and w % 4 == 0 for w in windows)
        if not windows or not good or any(a >= b for a, b in itertools.pairwise(windows)):
            raise ValueError(
                f"got {list(windows)}, expected sizes in samples that rise, each a multiple of 4 from {_SHORTEST} to {_LONGEST}, "
                "such as [512, 1024, 2048]"
            )
        return windows

    def strength(self, progress: float) -> float:
        """What the discriminators count in the decoder's loss at this progress, 0 to 1."""
        if self.alone_share == 0:
            return 1.0
        return min(1.0, max(0.0, progress / self.alone_share - 1))

    def objective(self, config: BandsConfig) -> AdversarialObjective:
        """The objective of a network with random weights. Raises `ConfigError` unless the examples are long enough."""
        there = (self.chunks * config.chunk_samples - config.n_fft + config.hop) / config.rate
        least = _FITS * self.windows[-1] / config.rate
        if not least <= self.heard_seconds <= there:
            raise ConfigError(
                f"objective.heard_seconds got {self.heard_seconds:g}, expected {least:.3g} ({_FITS} of the longest window) to "
                f"{there:.3g} (objective.chunks={self.chunks}). Change it, objective.windows or objective.chunks."
            )
        return AdversarialObjective(config, self)

    def task(self, parts: Parts) -> Task:
        """See `CoDiCodecObjectiveSection`. Raises `ConfigError` when there is no codec to start from."""
        if isinstance(parts.model, CoDiCodecSection) and parts.model.start_from is None:
            raise ConfigError(
                "objective.kind adversarial keeps the encoder of a trained codec, but model.start_from is null. "
                "Set it to a bundled name or to the RUN/codec of a run with objective.kind estimate."
            )
        return super().task(parts)


class AdversarialObjective(EstimateTraining):
    """``{"samples": [B, 2, crop]}`` in; out the loss of the estimator plus that of the discriminators.

    One backward pass gives each its own gradients: discriminators are frozen where they judge for the estimator, and the
    estimator gets none where they learn.
    """

    def __init__(self, config: BandsConfig, section: AdversarialSection) -> None:
        super().__init__(config, section)
        self.section = section
        self.network.encoder.requires_grad_(False)
        self.discriminators = Discriminators(config.rate, section.windows, section.channels)
        self._distance = HeardDistance(config.rate, section.windows)

    def fresh(self) -> AdversarialObjective:
        """Another one of the same configuration."""
        return AdversarialObjective(self.config, self.section)

    def optimizers(self, optim: OptimSection) -> Optimizers:
        """The recipe's for the estimator; AdamW for the discriminators."""
        section = self.section
        own = {"name": "adamw", "rate": section.discriminator_rate, "betas": section.discriminator_betas}
        return {
            "main": make_optimizers(optim, self.network),
            "discriminators": make_optimizers(
                optim.model_copy(update={**own, "weight_decay": 0.0}), self.discriminators
            ),
        }

    def averaged(self) -> list[str]:
        """What is exported and learns: the estimator."""
        return [name for name in super().averaged() if name.startswith("network.")]

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples `[B, 2, crop]` -> loss, and values `[1]` each: those of the estimate, and those of `duel`."""
        samples = batch["samples"]
        features = self.features(samples)
        maps, _ = self.estimate(features, draws)
        loss, values = self.distance(maps, features)
        with torch.autocast(samples.device.type, enabled=False):
            seeds = draws.drawn("phases", lambda n, g: torch.randint(2**62, (n,), generator=g))
            which = draws.drawn("channel", lambda n, g: torch.randint(3, (n,), generator=g)).to(samples.device)
            sounds = [original(samples, self.config), decoded(maps, self.config, seeds)]
            real, made = (spectra(self._part(channel(s.float(), which), draws), self.section.windows) for s in sounds)
            heard = self._distance(real, made)
            converged = heard_convergence(real, made)
        duel, more = self.duel(real, made, self.section.strength(progress))
        values |= {"heard": heard.detach()[None], "heard_convergence": converged.detach()[None], **more}
        section = self.section
        return loss + section.heard_weight * heard + section.heard_convergence_weight * converged + duel, values

    def _part(self, sound: Tensor, draws: Draws) -> Tensor:
        """Sounds `[B, S]` -> the part that is heard in this step, from a place that is drawn."""
        count = round(self.section.heard_seconds * self.config.rate)
        start = int(draws.shared("heard from") * (sound.shape[-1] - count + 1))
        return sound[:, start : start + count]

    def duel(self, real: list[Tensor], made: list[Tensor], strength: float) -> tuple[Tensor, dict[str, Tensor]]:
        """Magnitudes with each window, real and decoded -> the adversarial terms of both sides, and values.

        `told_apart` is there from the moment on at which discriminators count, so that no warning is about their first steps.
        """
        section = self.section
        scores, inner = self.discriminators(real)
        loss = hinge(scores, self.discriminators([m.detach() for m in made])[0])
        values = {"hinge": loss.detach()[None]} | dict.fromkeys(
            ("told_apart", "adversarial", "feature"), loss.new_zeros(0)
        )
        if strength == 0:
            return loss, values
        with frozen(self.discriminators):
            judged, own = self.discriminators(made)
        deceived = deceit(judged)
        features = feature_distance([x.detach() for x in inner], own)
        values["told_apart"] = told_apart(scores, judged).detach()[None]
        values |= {"adversarial": deceived.detach()[None], "feature": features.detach()[None]}
        return loss + strength * (section.adversarial_weight * deceived + section.feature_weight * features), values

    def summarise(self, values: dict[str, Tensor]) -> dict[str, float]:
        """The mean of each value over the steps that have it."""
        return super().summarise({name: value for name, value in values.items() if len(value)})
