"""Optimizers by name. A recipe may need two: Muon for the matrices of the transformers, AdamW for everything else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from duotone.errors import ConfigError
from duotone.train.recipe import OptimSection


def make_optimizers(optim: OptimSection, module: nn.Module) -> list[torch.optim.Optimizer]:
    """The recipe's optimizers over a module's parameters; each group remembers its full rate as `full_rate`."""
    if optim.name == "radam":
        made: list[torch.optim.Optimizer] = [
            torch.optim.RAdam(module.parameters(), lr=optim.rate, betas=optim.betas, weight_decay=optim.weight_decay)
        ]
    elif optim.name == "adamw":
        made = [_adamw(list(module.parameters()), optim)]
    else:
        matrices, others = _split(module)
        made = [_muon(matrices, optim), _adamw(others, optim)]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return made


def _adamw(parameters: list[Tensor], optim: OptimSection) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=optim.rate, betas=optim.betas, weight_decay=optim.weight_decay)


def _muon(matrices: list[Tensor], optim: OptimSection) -> torch.optim.Optimizer:
    if not hasattr(torch.optim, "Muon"):
        raise ConfigError(
            f"optim.name got muon, which needs PyTorch 2.9 or newer; this is {torch.__version__}. "
            f"Upgrade PyTorch, or take adamw."
        )
    made: torch.optim.Optimizer = torch.optim.Muon(  # the step of a matrix scaled by sqrt(max(1, rows / columns))
        matrices, lr=optim.muon_rate, weight_decay=optim.weight_decay
    )
    return made


def _split(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of linear layers inside transformers, and all others (embeddings, norms, convolutions, in and out)."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, p in module.named_parameters():
        inside = ".transformer.layers." in f".{name}" and p.ndim == 2 and "norm" not in name
        (matrices if inside else others).append(p)
    if not matrices:
        raise ConfigError("optim.name got muon, but the model has no transformer matrices. Take adamw.")
    return matrices, others
