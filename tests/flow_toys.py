"""Flow models small enough to run in milliseconds, with weights that do something."""

from __future__ import annotations

import torch

from duotone.config import FlowConfig
from duotone.flow import FlowModel

#: Reach of 3 layers x 2 chunks.
TOY = FlowConfig(dim=32, layers=3, heads=2, head=16, condition=16, tokens=4, channels=6, context_chunks=2)
UNLIMITED = TOY.model_copy(update={"context_chunks": None, "trained_chunks": 6})
SPANS = TOY.model_copy(update={"spans": True})
LOW_RANK = TOY.model_copy(update={"rank": 3})


def stirred(config: FlowConfig = TOY, seed: int = 0) -> FlowModel:
    """A model whose every weight is random, also those that training starts at zero; its velocities are of order 1."""
    generator = torch.Generator().manual_seed(seed)
    model = FlowModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            fan = parameter.shape[-1] if parameter.dim() > 1 else 16
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan**0.5)
        model.lat_mean.copy_(torch.randn(config.channels, generator=generator))
        model.lat_std.copy_(torch.rand(config.channels, generator=generator) + 0.5)
    return model.eval()


def chunks(*shape: int, config: FlowConfig = TOY, seed: int = 1) -> torch.Tensor:
    """Unit Gaussian chunks `[*shape, M, C]`."""
    return torch.randn(*shape, config.tokens, config.channels, generator=torch.Generator().manual_seed(seed))
