"""Language models: the configuration, how tokens are drawn, and the presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from duotone.config.base import Config
from duotone.errors import ConfigError


class LMSampling(Config):
    """How tokens are drawn from a language model: the fields of transformers' `generation_config.json`."""

    temperature: float = Field(default=1.0, gt=0)  # divides the logits; below 1 likely tokens become more likely
    top_k: int = Field(default=0, ge=0)  # draw from this number of tokens only; 0: from all
    top_p: float = Field(default=1.0, gt=0, le=1)  # draw from the fewest tokens that have this probability together


class LMConfig(Config):
    """All sizes of a language model over a codec's tokens: a Llama of transformers, and its tokenizer.

    A code is written as `parts` numbers, each of a codebook of its own; `vocabulary` is the number of tokens that acoustic BPE makes
    of them, None: each number is a token, and nothing is merged. The model sees `context_chunks` chunks, the one it writes included.
    """

    family: Literal["lm"] = "lm"
    dim: int = Field(default=256, ge=2)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    mlp: float = Field(default=2.0, gt=0)  # width of the gated MLP, as a multiple of `dim`
    parts: int = Field(default=1, ge=1)
    vocabulary: int | None = Field(default=None, ge=1)
    context_chunks: int = Field(default=8, ge=2)

    @model_validator(mode="after")
    def _consistent(self) -> LMConfig:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of twice its {self.heads} heads (rotations of pairs)")
        return self


LM_PRESETS: dict[str, LMConfig] = {"lm-tiny": LMConfig()}


def lm_preset(name: str) -> LMConfig:
    """The preset of a language model of that name. Raises `ConfigError` that lists the known names."""
    if name not in LM_PRESETS:
        raise ConfigError(f"No language model preset is named {name!r}. There are: {', '.join(LM_PRESETS)}.")
    return LM_PRESETS[name]
