"""Optimizers by name. A recipe may need two: Muon for the matrices of the transformers, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from duotone.errors import ConfigError
from duotone.train.muon import Muon
from duotone.train.settings import OptimSection

#: What the names of parameters inside transformers have in them: ours, and those of Hugging Face.
STACKS = (".transformer.layers.", ".model.layers.", ".encoder.layers.", ".decoder.blocks.", ".model.blocks.")
#: What the names of parameters have in them that are no matrices of attention or of an MLP: norms, and modulations, which begin at zero.
NOT_MATRICES = ("norm", ".mod.")
#: Optimizers by the name of the group of parameters that they train together.
Optimizers = dict[str, list[torch.optim.Optimizer]]


def make_optimizers(optim: OptimSection, module: nn.Module) -> list[torch.optim.Optimizer]:
    """The recipe's optimizers over a module's trainable parameters; each group stores its unscheduled rate as `full_rate`.

    Weight decay applies to tensors of two and more dimensions, not to biases, gains and other vectors.
    """
    learning: list[Tensor] = [p for p in module.parameters() if p.requires_grad]
    if optim.name == "radam":
        made: list[torch.optim.Optimizer] = [
            torch.optim.RAdam(_groups(learning, optim), lr=optim.rate, betas=optim.betas)
        ]
    elif optim.name == "adamw":
        made = [_adamw(learning, optim)]
    else:
        matrices, others = _split(module)
        muon = Muon(matrices, lr=optim.muon_rate, weight_decay=optim.weight_decay)
        made = [muon, _adamw(others, optim)]
    for optimizer in made:
        for group in optimizer.param_groups:
            group["full_rate"] = group["lr"]
    return made


def _adamw(parameters: list[Tensor], optim: OptimSection) -> torch.optim.Optimizer:
    return torch.optim.AdamW(_groups(parameters, optim), lr=optim.rate, betas=optim.betas)


def _groups(parameters: Sequence[Tensor], optim: OptimSection) -> list[dict[str, Any]]:
    """Parameter groups with and without weight decay; a single group if the recipe has no weight decay."""
    if not optim.weight_decay:
        return [{"params": list(parameters), "weight_decay": 0.0}]
    vectors = [p for p in parameters if _is_vector(p)]
    others = [p for p in parameters if not _is_vector(p)]
    groups = [{"params": others, "weight_decay": optim.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _is_vector(p: Tensor) -> bool:
    """Whether at most one dimension is longer than one, as for biases and gains with extra axes."""
    return sum(size > 1 for size in p.shape) < 2


def _split(module: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """Weights of linear layers inside transformers, and all others (embeddings, norms, convolutions, in and out)."""
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for name, p in module.named_parameters():
        if not p.requires_grad:
            continue
        inside = any(part in f".{name}" for part in STACKS)
        excluded = any(part in name for part in NOT_MATRICES)
        (matrices if inside and p.ndim == 2 and not excluded else others).append(p)
    if not matrices:
        raise ConfigError("optim.name got muon, but the model has no transformer matrices. Use adamw.")
    return matrices, others
