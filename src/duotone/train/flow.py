"""The objective of recipes that train a flow model on stores of latents."""

from __future__ import annotations

import torch

from duotone.errors import ConfigError
from duotone.train.flow_sections import FlowModelSection, FlowSettings
from duotone.train.flow_task import flow_task
from duotone.train.latents import LatentsSection
from duotone.train.sections import OBJECTIVES, Parts
from duotone.train.task import Task


@OBJECTIVES.register
class FlowObjectiveSection(FlowSettings):
    """Conditional flow matching on crops of latents."""

    def task(self, parts: Parts) -> Task:
        """Train a flow model on crops of latents. Raises `ConfigError` for another model or data."""
        model, data = parts.of_kinds(self.kind, FlowModelSection, LatentsSection)
        if self.averaged_draws and not model.build().spans:
            raise ConfigError(
                "objective.averaged_draws needs a model that takes the length of a step: set model.replace.spans=true."
            )
        torch.manual_seed(parts.train.seed)
        return flow_task(self, model, data, parts)
