"""How much of a codebook is used: entropy of levels, perplexity of codes."""

from __future__ import annotations

import torch
from torch import Tensor

from duotone.quant.fsq import FSQ


def code_use(fsq: FSQ, bounded: Tensor) -> dict[str, float]:
    """Entropy of the levels as a share of its maximum (mean over dimensions), and the perplexity of the codebook."""
    shares = []
    for i, levels in enumerate(fsq.levels):
        code = torch.round(bounded[..., i] * (levels // 2)).long().flatten() + levels // 2
        p = torch.bincount(code, minlength=levels).float() / code.numel()
        shares.append(float(-(p[p > 0] * p[p > 0].log()).sum() / torch.log(torch.tensor(float(levels)))))
    p = torch.bincount(fsq.bounded_to_index(bounded).flatten(), minlength=fsq.size).float()
    p = p[p > 0] / p.sum()
    return {"level_entropy": sum(shares) / len(shares), "codebook_perplexity": float((-(p * p.log()).sum()).exp())}
