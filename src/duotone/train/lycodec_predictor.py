"""The residual's predictor of a trained Lycodec: it alone learns, so that codes and all other weights stay as they are.

With it a codec decodes its codes with an estimate of what rounding took away: the third way of decoding, *index-predicted*,
beside latents and codes alone.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from duotone.codec.contract import Codec
from duotone.codec.lycodec.codec import Lycodec
from duotone.config import LycodecConfig
from duotone.errors import ConfigError
from duotone.train.codec_task import codec_task
from duotone.train.draws import Draws
from duotone.train.lycodec import LycodecObjective, LycodecObjectiveSection, LycodecSection, draw_kept, start_of
from duotone.train.sections import OBJECTIVES, ModelSection, ObjectiveSection, Parts, SoundSection
from duotone.train.task import Batch, Task


@OBJECTIVES.register
class LycodecPredictorSection(ObjectiveSection):
    """The objective *lycodec-predictor*: `model.start_from` is the codec, `model.replace.predictor_units` the predictor's size."""

    kind: Literal["lycodec-predictor"] = "lycodec-predictor"
    chunks: int = Field(default=1, ge=1)  # consecutive chunks of an example
    group_share: float = Field(default=0.25, ge=0, le=1)  # share of examples with fewer groups, as lower rates have

    def seconds(self, model: ModelSection) -> float | None:
        """The chunks of an example."""
        return LycodecObjectiveSection(chunks=self.chunks).seconds(model)

    def task(self, parts: Parts) -> Task:
        """Train the predictor on audio. Raises `ConfigError` for another model or data, and without a codec or a predictor."""
        model, data = parts.of_kinds(self.kind, LycodecSection, SoundSection)
        config = model.build()
        if model.start_from is None or not config.predictor_units:
            raise ConfigError(
                f"objective.kind {self.kind} trains only the predictor of a codec that is trained already. Give "
                f"model.start_from=lycodec-tiny (or a folder) and model.replace.predictor_units=256."
            )
        torch.manual_seed(parts.train.seed)
        return codec_task(PredictorObjective(config, self), data, parts, start_of(parts, model.start_from))


class PredictorObjective(LycodecObjective):
    """``{"samples": [B, 2, crop]}`` in, the share of the residual's power that is not predicted out."""

    free: ClassVar[tuple[str, ...]] = ("predictor_units",)

    def __init__(self, config: LycodecConfig, own: LycodecPredictorSection) -> None:
        plain = LycodecObjectiveSection(chunks=own.chunks, teacher_decay=0.0, spectral_sizes=())
        super().__init__(config, plain)
        self.own = own
        self.network.requires_grad_(False)
        assert self.network.predictor is not None
        self.network.predictor.requires_grad_(True)

    def fresh(self) -> PredictorObjective:
        """Another one of the same configuration."""
        return PredictorObjective(self.config, self.own)

    def begin_from(self, codec: Codec) -> None:
        """Start from a codec's weights. Raises `ConfigError` if it has another network, or another predictor."""
        if isinstance(codec, Lycodec) and codec.config.predictor_units not in (0, self.config.predictor_units):
            raise ConfigError(
                f"model.start_from has a predictor of {codec.config.predictor_units} units, the recipe one of "
                f"{self.config.predictor_units}. Make model.replace.predictor_units equal."
            )
        super().begin_from(codec)

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples `[B, 2, crop]` -> loss, and `predicted` `[1]`: the share of the residual's power that is predicted."""
        network = self.network
        kept = draws.drawn("groups", lambda total, g: draw_kept(total, self.own.group_share, self.config.groups, g))
        with torch.no_grad():
            clean = self.clean(batch["samples"])
            values = network.keep(network.encode(clean), kept.to(clean.device).repeat_interleave(self.own.chunks))
            levels = network.fsq.round(values)
            residual = values - levels
        assert network.predictor is not None
        missed = network.predictor(levels).float() - residual
        loss = missed.square().mean() / residual.square().mean().clamp_min(1e-9)
        return loss, {"predicted": 1 - loss.detach()[None]}
