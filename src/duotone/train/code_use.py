"""How much of a codebook is used: entropy of levels, perplexity of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from duotone.quant.fsq import FSQ


def code_use(fsq: FSQ, bounded: Tensor) -> dict[str, float]:
    """Entropy of the levels as a share of its maximum (mean over dimensions), and the perplexity of the codebook."""
    p = torch.bincount(fsq.bounded_to_index(bounded).flatten(), minlength=fsq.size).float()
    p = p / p.sum()
    perplexity = float((-torch.special.xlogy(p, p).sum()).exp())
    return {"level_entropy": level_entropy(bounded, fsq.levels), "codebook_perplexity": perplexity}


def level_entropy(bounded: Tensor, levels: tuple[int, ...]) -> float:
    """Entropy of the levels of each value as a share of its maximum; the mean over values of `[..., V]`."""
    shares = []
    for i, count in enumerate(levels):
        code = (bounded[..., i] * (count // 2)).round().long().flatten() + count // 2
        p = torch.bincount(code, minlength=count).float() / code.numel()
        shares.append(-torch.special.xlogy(p, p).sum() / torch.log(torch.tensor(float(count))))
    return float(torch.stack(shares).mean())
