"""Attention with rotary positions: of tokens to themselves, or to others. The positions are constants of the module.

Legend: B batch, n tokens, m tokens that are attended to, A axes of position, D width, H heads, E head width (D/H).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.nn.rotary import rotate, turns
from duotone.nn.transformer import EPS


class RotaryAttention(nn.Module):
    """Multi-head attention; queries and keys are RMS-normalised (gain per head channel), then rotated. No biases.

    `positions` `[n, A]` are those of the queries. With `others` `[m, A]` keys and values come from other tokens, of width
    `source`; else from the same.
    """

    query_cos: Tensor
    query_sin: Tensor
    key_cos: Tensor
    key_sin: Tensor

    def __init__(
        self, dim: int, heads: int, positions: Tensor, others: Tensor | None = None, source: int | None = None
    ) -> None:
        super().__init__()
        self.heads, head = heads, dim // heads
        self.query = nn.Linear(dim, dim, bias=False)
        self.keys = nn.Linear(dim if source is None else source, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.q_gain = nn.Parameter(torch.ones(head))
        self.k_gain = nn.Parameter(torch.ones(head))
        nn.init.zeros_(self.out.weight)
        for name, where in (("query", positions), ("key", positions if others is None else others)):
            cos, sin = turns(where, head)
            self.register_buffer(f"{name}_cos", cos, persistent=False)
            self.register_buffer(f"{name}_sin", sin, persistent=False)

    def forward(self, x: Tensor, others: Tensor | None = None) -> Tensor:
        """x `[B, n, D]` attends to itself, or to `others` `[B, m, source]`; returns `[B, n, D]`."""
        b, n, d = x.shape
        source = x if others is None else others
        q = self.query(x).view(b, n, self.heads, -1).transpose(1, 2)
        k, v = self.keys(source).view(b, source.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        q = _turned(q, self.q_gain, self.query_cos, self.query_sin)
        k = _turned(k, self.k_gain, self.key_cos, self.key_sin)
        y = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.out(y.transpose(1, 2).reshape(b, n, d))
        return out


def _turned(x: Tensor, gain: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x = F.rms_norm(x, x.shape[-1:], gain.to(x.dtype), EPS)
    return rotate(x, cos.to(x.dtype), sin.to(x.dtype))


class GeluMlp(nn.Module):
    """``down(gelu(up(x)))`` with D -> m D -> D channels."""

    def __init__(self, dim: int, multiple: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, multiple * dim)
        self.down = nn.Linear(multiple * dim, dim)
        nn.init.zeros_(self.down.weight)
        nn.init.zeros_(self.down.bias)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, n, D]` -> `[B, n, D]`."""
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out
