"""Transformers over a fixed number of tokens, optionally conditioned, that return their keys and values.

Legend: B batch, n tokens, D width, H heads, E head width (D/H).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from duotone.nn import fused, native

EPS = 1e-4

#: Keys and values of one layer, `[B, H, n, E]` each.
KeyValue = tuple[Tensor, Tensor]


class ScaledLayerNorm(nn.Module):
    """LayerNorm times a gain per channel or, if conditioned, times ``1 + Linear(cond)``; no bias."""

    def __init__(self, dim: int, condition: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        if condition is None:
            self.gain = nn.Parameter(torch.ones(dim))
        else:
            self.project = nn.Linear(condition, dim)
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        self.conditioned = condition is not None

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """`[B, n, D]`, cond `[B, D]` or `[1, D]` -> `[B, n, D]`."""
        if not self.conditioned:
            return F.layer_norm(x, (self.dim,), self.gain, None, EPS)
        if cond is None:
            raise AssertionError("a conditioned norm was called without its condition")
        scale = (1 + self.project(cond)).to(x.dtype)  # under autocast the two may differ
        if scale.shape[0] == 1:
            return F.layer_norm(x, (self.dim,), scale[0], None, EPS)
        out: Tensor = F.layer_norm(x, (self.dim,), None, None, EPS) * scale[:, None]
        return out


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys (gain per head channel); no biases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.q_gain = nn.Parameter(torch.ones(dim // heads))
        self.k_gain = nn.Parameter(torch.ones(dim // heads))
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, past: KeyValue | None = None, wanted: slice | None = None) -> tuple[Tensor, KeyValue]:
        """x `[B, n, D]` attends to itself and to `past`; returns `[B, n, D]` and its own keys and values.

        With `wanted`, only those tokens are computed, `[B, len(wanted), D]`; all tokens serve as keys and values.
        """
        b, _, d = x.shape
        if not native.only_weight(self.qkv, nn.Linear):  # a wrapped or hooked layer is called on all tokens
            q, k, v = self._parts(self.qkv(x).clone(), self.q_gain, self.k_gain, None)
            q = q if wanted is None else q[:, :, wanted]
        elif wanted is None:
            q, k, v = self._parts(self.qkv(x), self.q_gain, self.k_gain, None)
        else:
            (q,) = self._parts(F.linear(x[:, wanted], self.qkv.weight[:d]), self.q_gain)
            k, v = self._parts(F.linear(x, self.qkv.weight[d:]), self.k_gain, None)
        own = (k, v)
        if q.shape[2] == 0:
            return x[:, :0], own
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, -1, d)), own

    def _parts(self, x: Tensor, *gains: Tensor | None) -> tuple[Tensor, ...]:
        """Rows `[B, n, parts * D]` -> each part as `[B, H, n, E]`, normalised if it has a gain. May overwrite the rows."""
        b, n, width = x.shape
        e = width // (len(gains) * self.heads)
        parts = x.view(b, n, len(gains), self.heads, e).permute(2, 0, 3, 1, 4).unbind()
        if not x.is_contiguous() or not fused.applies(x, e, *(g for g in gains if g is not None)):
            return tuple(
                p if g is None else F.rms_norm(p, (e,), g.to(p.dtype), EPS) for p, g in zip(parts, gains, strict=True)
            )
        for i, gain in enumerate(gains):
            if gain is not None:
                fused.rms_norm_(x, gain, i * self.heads * e, self.heads, EPS)
        return parts


class SwiGLU(nn.Module):
    """``down(value * silu(gate))`` with D -> 2 m D -> D channels; the gate is the first half; no biases."""

    def __init__(self, dim: int, multiple: int) -> None:
        super().__init__()
        self.up = nn.Linear(dim, 2 * multiple * dim, bias=False)
        self.down = nn.Linear(multiple * dim, dim, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, n, D]` -> `[B, n, D]`."""
        both = self.up(x)
        if fused.applies(both, both.shape[-1] // 2):
            inner = fused.swiglu(both)
        else:
            gate, value = both.chunk(2, dim=-1)
            inner = value * F.silu(gate)
        out: Tensor = self.down(inner)
        return out


class Layer(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, dim: int, heads: int, multiple: int, condition: int | None) -> None:
        super().__init__()
        self.attention_norm = ScaledLayerNorm(dim, condition)
        self.attention = Attention(dim, heads)
        self.mlp_norm = ScaledLayerNorm(dim, condition)
        self.mlp = SwiGLU(dim, multiple)

    def forward(
        self, x: Tensor, cond: Tensor | None, past: KeyValue | None, wanted: slice | None = None
    ) -> tuple[Tensor, KeyValue]:
        """`[B, n, D]` -> `[B, n or len(wanted), D]` and this layer's keys and values of all tokens."""
        y, own = self.attention(self.attention_norm(x, cond), past, wanted)
        x = (x if wanted is None else x[:, wanted]) + y
        if x.shape[1] == 0:
            return x, own
        return x + self.mlp(self.mlp_norm(x, cond)), own


class Transformer(nn.Module):
    """Learned positions, input norm, layers, optional output norm. `tokens` is the number of learned positions."""

    def __init__(
        self,
        tokens: int,
        dim: int,
        heads: int,
        multiple: int,
        layers: int,
        *,
        condition: int | None = None,
        output_norm: bool = True,
    ) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.02 * torch.randn(1, tokens, dim))
        self.input_norm = ScaledLayerNorm(dim, condition)
        self.layers = nn.ModuleList(Layer(dim, heads, multiple, condition) for _ in range(layers))
        self.output_norm = ScaledLayerNorm(dim, condition) if output_norm else None
        self.checkpointing = False  # in training, store only the layers' inputs and recompute the rest

    def forward(
        self,
        x: Tensor,
        cond: Tensor | None = None,
        past: list[KeyValue] | None = None,
        offset: int = 0,
        wanted: slice | None = None,
    ) -> tuple[Tensor, list[KeyValue]]:
        """x `[B, n, D]` at positions offset.. -> (`[B, n, D]`, keys and values of every layer).

        With `wanted`, only those tokens are returned, and the last layer computes no others.
        """
        x = self.input_norm(x + self.positions[:, offset : offset + x.shape[1]], cond)
        kept: list[KeyValue] = []
        for i, layer in enumerate(self.layers):
            before = None if past is None else past[i]
            out = wanted if i == len(self.layers) - 1 else None
            if self.checkpointing and torch.is_grad_enabled():
                x, own = checkpoint(layer, x, cond, before, out, use_reentrant=False)
            else:
                x, own = layer(x, cond, before, out)
            kept.append(own)
        return (x if self.output_norm is None else self.output_norm(x, cond)), kept
