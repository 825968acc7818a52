"""What a recipe says of a flow model: the network, and the settings of its objective."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from duotone.config import FlowConfig, flow_preset
from duotone.flow.path import TimeDistribution
from duotone.train.sections import MODELS, ModelSection, ObjectiveSection, Warn


@MODELS.register
class FlowModelSection(ModelSection):
    """A flow model: a preset, with any of its fields replaced; from random weights or from those of a flow.

    Tokens and channels are those of the store, unless `replace` gives them.
    """

    kind: Literal["flow"] = "flow"
    preset: str = "flow-tiny"
    replace: dict[str, Any] = Field(default_factory=dict)
    start_from: str | None = None  # a flow to fine-tune: folder, or published .pt
    new_statistics: bool = False  # with start_from: mean and deviation of the data, instead of those of its weights

    def build(self) -> FlowConfig:
        """The network's configuration. Raises `ConfigError` for an unknown preset or field."""
        return FlowConfig.parse({**flow_preset(self.preset).to_dict(), **self.replace}, "model.replace")


class FlowSettings(ObjectiveSection):
    """The settings of conditional flow matching on chunks of latents; `flow_objective` describes the regimes."""

    warnings: ClassVar[tuple[Warn, ...]] = (
        Warn("rollout_deviation", lambda v: v < 0.7, "generated latents fade: train longer, or raise objective.context_noise"),
        Warn("rollout_deviation", lambda v: v > 1.4, "generated latents grow: train longer, or raise objective.context_noise"),
    )  # fmt: skip

    kind: Literal["flow"] = "flow"
    regime: Literal["streams", "prefix"] = "streams"
    times: TimeDistribution = "logit-normal"  # of t in training
    context_noise: float = Field(default=0.5, ge=0, lt=1)  # largest noise level of chunks in the past; 0: all are clean
    context_clean: float = Field(default=0.5, ge=0, le=1)  # share of the past's chunks that are clean nevertheless

    # Regime streams.
    draws: int = Field(default=2, ge=1)  # noisy copies for each clean one
    context_drop: float = Field(default=0.1, ge=0, le=1)  # share of examples without a past, for guidance
    resample_from: float = Field(
        default=1.0, ge=0, le=1
    )  # progress from which on the past is the model's own; 1: never
    resample_share: float = Field(default=0.5, ge=0, le=1)  # share of examples whose past is
    resample_level: tuple[float, float] = (0.2, 0.8)  # range of the level to which the past is noised first
    resample_steps: int = Field(default=1, ge=1, le=2)  # steps of the model that finish it
    averaged_draws: int = Field(
        default=0, ge=0
    )  # noisy copies that learn average velocities, of models with spans (few-step sampling)

    # Regime prefix.
    prefix_none: float = Field(default=0.1, ge=0, le=1)  # share of steps without a prefix
    prefix_share: tuple[float, float] = (0.05, 0.75)  # range of its length, as a share of the crop

    # Validation.
    rollout_chunks: int = Field(default=32, ge=0)  # chunks generated at each validation, and for listening (0: none)

    @model_validator(mode="after")
    def _consistent(self) -> FlowSettings:
        for name in ("resample_level", "prefix_share"):
            low, high = getattr(self, name)
            if not 0 < low <= high < 1:
                raise ValueError(f"{name} needs 0 < low <= high < 1, got {low} and {high}")
        if self.averaged_draws > self.draws:
            raise ValueError(f"averaged_draws must be at most draws, got {self.averaged_draws} and {self.draws}")
        if self.regime == "prefix" and (self.averaged_draws or self.resample_from < 1):
            raise ValueError("averaged_draws and resample_from belong to the regime streams")
        return self
