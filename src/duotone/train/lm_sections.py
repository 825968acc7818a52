"""What a recipe says of a language model: the network and its tokenizer, and the settings of its objective."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from duotone.config import LMConfig, lm_preset
from duotone.train.sections import MODELS, ModelSection, ObjectiveSection


@MODELS.register
class LMModelSection(ModelSection):
    """A language model of a codec's tokens: a preset, with any of its fields replaced; `context_chunks` is the length of crops."""

    kind: Literal["lm"] = "lm"
    preset: str = "lm-tiny"
    replace: dict[str, Any] = Field(default_factory=dict)
    start_from: str | None = None  # a language model to fine-tune: bundled name or folder; its tokenizer is kept

    def build(self) -> LMConfig:
        """The sizes. Raises `ConfigError` for an unknown preset or field."""
        return LMConfig.parse({**lm_preset(self.preset).to_dict(), **self.replace}, "model.replace")


class LMSettings(ObjectiveSection):
    """The settings of next-token prediction."""

    kind: Literal["lm"] = "lm"
    shared_digits: bool = True  # embeddings are trained as a row for each token plus a row for each digit of its codes
    bpe_chunks: int = Field(
        default=4000, ge=1
    )  # chunks that merges are learned from, where the model's vocabulary asks for them
    rollout_chunks: int = Field(default=8, ge=0)  # chunks generated at each validation (0: none)
