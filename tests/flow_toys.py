"""Flow models small enough to run in milliseconds, with weights that do something."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from duotone.config import FlowConfig, SamplingConfig
from duotone.flow import FlowModel

#: Reach of 3 layers x 2 chunks.
TOY = FlowConfig(dim=32, layers=3, heads=2, head=16, condition=16, tokens=4, channels=6, context_chunks=2)
UNLIMITED = TOY.model_copy(update={"context_chunks": None, "trained_chunks": 6})
SPANS = TOY.model_copy(update={"spans": True})
LOW_RANK = TOY.model_copy(update={"rank": 3})
#: Plays the latents of `small_bands`.
PAIRED = FlowConfig(
    dim=32, layers=2, heads=2, head=16, condition=16, tokens=8, channels=8, context_chunks=3, sampling=SamplingConfig(steps=2)
)  # fmt: skip


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


#: Of published checkpoints in tests: width and layers; the list of their tensors.
DIM, LAYERS = 128, 2
LAYOUT = Path(__file__).resolve().parent / "golden" / "codicodec_flow_state_dict.tsv"


def published_state(seed: int = 0) -> dict[str, Tensor]:
    """Random tensors of the published layout, at a small width: each 768 of the list becomes `DIM`."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for line in LAYOUT.read_text(encoding="utf-8").splitlines()[1:]:
        name, shape, _ = line.split("\t")
        sizes = [int(n) if int(n) == 64 else int(n) * DIM // 768 for n in shape.split("x")]
        for i in range(LAYERS) if "{i}" in name else (0,):
            fan = sizes[-1] if len(sizes) > 1 else 16
            state[name.replace("{i}", str(i))] = torch.randn(sizes, generator=generator) / fan**0.5
    state["lat_std"] = state["lat_std"].abs() + 0.5
    return state


def write_checkpoint(path: Path, state: dict[str, Tensor], **more: object) -> Path:
    ema: dict[str, object] = {
        ("buffers." if name.startswith("lat_") else "params.") + name: tensor for name, tensor in state.items()
    }
    document = {"ema": {**ema, "__decay__": torch.tensor(0.999)}, "config": {"model": {}, "cfm": {}}, "step": 5, **more}
    torch.save(document, path)
    return path
