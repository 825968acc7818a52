"""A transformer over chunks of tokens: each chunk attends to itself and to the chunk before it, in every layer.

It is causal over chunks: chunk n depends on chunks n, n - 1, .. n - layers. All chunks of a sequence are computed together;
the keys and values of the last one are the whole state of a stream.

Legend: B batch, N chunks, n tokens of a chunk, D width, H heads, E head width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.nn.transformer import EPS, KeyValue, ScaledLayerNorm, SwiGLU


class ChunkAttention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys; keys of the previous chunk are marked by a learned vector."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.q_gain = nn.Parameter(torch.ones(dim // heads))
        self.k_gain = nn.Parameter(torch.ones(dim // heads))
        self.previous = nn.Parameter(0.02 * torch.randn(heads, 1, dim // heads))
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """x `[B, N, n, D]`, `past` of the chunk before `[B, H, n, E]` -> `[B, N, n, D]`, and `past` for the next one."""
        b, chunks, n, d = x.shape
        e = d // self.heads
        q, k, v = self.qkv(x).view(b, chunks, n, 3, self.heads, e).permute(3, 0, 1, 4, 2, 5)
        q = F.rms_norm(q, (e,), self.q_gain.to(q.dtype), EPS)
        k = F.rms_norm(k, (e,), self.k_gain.to(k.dtype), EPS)
        out = []
        first = 0
        if past is None:  # the first chunk of a sequence has no chunk before it
            out.append(F.scaled_dot_product_attention(q[:, 0], k[:, 0], v[:, 0])[:, None])
            first = 1
        if first < chunks:
            before_k, before_v = (
                k[:, first - 1 : -1] if first else k[:, :-1],
                v[:, first - 1 : -1] if first else v[:, :-1],
            )
            if past is not None:
                before_k = torch.cat([past[0][:, None], before_k], 1)
                before_v = torch.cat([past[1][:, None], before_v], 1)
            keys = torch.cat([before_k + self.previous.to(k.dtype), k[:, first:]], 3).flatten(0, 1)
            values = torch.cat([before_v, v[:, first:]], 3).flatten(0, 1)
            y = F.scaled_dot_product_attention(q[:, first:].flatten(0, 1), keys, values)
            out.append(y.unflatten(0, (b, chunks - first)))
        y = out[0] if len(out) == 1 else torch.cat(out, 1)
        return self.out(y.transpose(2, 3).reshape(b, chunks, n, d)), (k[:, -1], v[:, -1])


class ChunkLayer(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, dim: int, heads: int, multiple: int) -> None:
        super().__init__()
        self.attention_norm = ScaledLayerNorm(dim)
        self.attention = ChunkAttention(dim, heads)
        self.mlp_norm = ScaledLayerNorm(dim)
        self.mlp = SwiGLU(dim, multiple)

    def forward(self, x: Tensor, past: KeyValue | None) -> tuple[Tensor, KeyValue]:
        """`[B, N, n, D]` -> `[B, N, n, D]`, and the keys and values of the last chunk."""
        y, last = self.attention(self.attention_norm(x), past)
        x = x + y
        return x + self.mlp(self.mlp_norm(x)), last


class ChunkTransformer(nn.Module):
    """Learned positions in the chunk, input norm, layers, output norm."""

    def __init__(self, tokens: int, dim: int, heads: int, multiple: int, layers: int) -> None:
        super().__init__()
        self.positions = nn.Parameter(0.1 * torch.randn(tokens, dim))
        self.input_norm = ScaledLayerNorm(dim)
        self.layers = nn.ModuleList(ChunkLayer(dim, heads, multiple) for _ in range(layers))
        self.output_norm = ScaledLayerNorm(dim)

    def forward(self, x: Tensor, past: list[KeyValue] | None = None) -> tuple[Tensor, list[KeyValue]]:
        """x `[B, N, n, D]` after the chunks of `past` -> `[B, N, n, D]`, and the state after it.

        Without `past` the sequence begins here.
        """
        x = self.input_norm(x + self.positions)
        state = []
        for i, layer in enumerate(self.layers):
            x, last = layer(x, None if past is None else past[i])
            state.append(last)
        return self.output_norm(x), state
