"""Flow models: the configuration, how they are sampled, and the presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from duotone.config.base import Config
from duotone.errors import ConfigError

Solver = Literal["euler", "heun", "midpoint", "rk4", "dpm++", "ping-pong", "average"]
NegativeBranch = Literal["empty", "noisy", "short"]


class SamplingConfig(Config):
    """How a flow model is sampled; stored with its weights. Noise is at t = 1, data at t = 0."""

    solver: Solver = "euler"
    steps: int = Field(default=8, ge=1)
    shift: float = Field(default=1.0, gt=0)  # of the schedule: t -> shift t / (1 + (shift - 1) t)
    t_min: float = Field(default=0.02, gt=0, lt=1)  # the smallest t that is trained; no solver evaluates below it
    temperature: float = Field(default=1.0, ge=0)  # scales the initial noise and the noise that stochastic solvers add
    context_noise: float = Field(default=0.0, ge=0, lt=1)  # level s at which finished chunks enter the context
    guidance: float = Field(default=1.0, ge=0)  # weight w of v = v_negative + w (v - v_negative); 1 is no guidance
    guidance_interval: tuple[float, float] = (0.2, 0.8)  # of t, arXiv 2404.07724
    guidance_branch: NegativeBranch = "empty"  # history of the negative branch: none, noisier, or shortened
    guidance_noise: float = Field(default=0.5, ge=0, lt=1)  # level of the noisy history
    guidance_chunks: int = Field(default=1, ge=1)  # length of the shortened history

    @model_validator(mode="after")
    def _consistent(self) -> SamplingConfig:
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval needs 0 <= low <= high <= 1, got {low} and {high}")
        return self


class FlowConfig(Config):
    """All sizes of a block-causal diffusion transformer over a codec's continuous latents, and how to sample it.

    Each layer attends to the chunk itself and `context_chunks` chunks before it; None is all chunks, as in published
    checkpoints, whose training crops had `trained_chunks`.
    """

    family: Literal["flow"] = "flow"
    dim: int = Field(default=768, ge=1)
    layers: int = Field(default=10, ge=1)
    heads: int = Field(default=12, ge=1)
    head: int = 64
    condition: int = 768  # width of the time embedding
    rank: int | None = Field(default=None, ge=1)  # of modulations that share their first factor; None: full matrices
    spans: bool = False  # whether velocities are also told the length of the step over which they are the average
    tokens: int = Field(default=8, ge=1)  # in a chunk
    channels: int = Field(default=64, ge=1)  # of a token
    context_chunks: int | None = Field(default=12, ge=1)
    trained_chunks: int = Field(default=128, ge=2)
    sampling: SamplingConfig = SamplingConfig()
    codec: str | None = None  # `CodecSpec.space` of the codec whose latents the model was trained on

    @model_validator(mode="after")
    def _consistent(self) -> FlowConfig:
        if self.dim != self.heads * self.head:
            raise ValueError(f"dim {self.dim} must be heads {self.heads} times head {self.head}")
        if self.head % 4:
            raise ValueError(f"head must be a multiple of 4 (two rotations of pairs), got {self.head}")
        if self.condition % 2 or self.condition < 4:
            raise ValueError(f"condition must be even and at least 4 (cosines and sines), got {self.condition}")
        if self.sampling.solver == "average" and not self.spans:
            raise ValueError("the solver average needs a model with spans")
        return self

    @property
    def context(self) -> int:
        """Chunks before the current one that a layer attends to when streaming."""
        return self.trained_chunks - 1 if self.context_chunks is None else self.context_chunks

    @property
    def reach(self) -> int | None:
        """Chunks of the past that can influence the current one; None: all."""
        return None if self.context_chunks is None else self.layers * self.context_chunks


_TINY = FlowConfig(dim=320, layers=7, heads=5, condition=256, rank=32, context_chunks=8)
FLOW_PRESETS: dict[str, FlowConfig] = {
    "flow-base": FlowConfig(),
    "flow-small": FlowConfig(dim=384, layers=8, heads=6, condition=384, context_chunks=8),
    "flow-tiny": _TINY,
    "flow-few": _TINY.model_copy(update={"spans": True, "sampling": SamplingConfig(solver="average", steps=2)}),
}


def flow_preset(name: str) -> FlowConfig:
    """The flow preset of that name. Raises `ConfigError` that lists the known names."""
    if name not in FLOW_PRESETS:
        raise ConfigError(f"No flow preset is named {name!r}. There are: {', '.join(FLOW_PRESETS)}.")
    return FLOW_PRESETS[name]
