"""A diffusion transformer over chunks of latents: attention is full inside a chunk and causal across chunks.

Parameters carry the names of published CoDiCodec-Flow checkpoints, so that these load without a table of names.

Legend: B batch, K noisy copies, N chunks, M tokens a chunk, C channels, D width, H heads, E head width, Q condition width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from duotone.config import FlowConfig
from duotone.errors import UsageError
from duotone.flow.attention import full, two_streams
from duotone.flow.rotary import rotation
from duotone.nn import fused, native
from duotone.nn.packed import linear
from duotone.nn.rotary import rotate

EPS = 1e-5
PERIOD, TIME_SCALE = 1e4, 1000.0  # of the time features

#: Queries, keys and values `[..., n, H, E]` -> what the queries attend to, `[..., n, H, E]`.
Attend: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
#: 1 + scale, shift and gate of attention, then of the MLP; each broadcasts to the tokens `[..., n, D]`.
Parts: TypeAlias = tuple[Tensor, ...]


@dataclass(frozen=True)
class Modulation:
    """What times do to the network: for each layer six vectors, and two for the output, each `[..., 1, D]`."""

    flat: Tensor  #: all of them side by side
    layers: tuple[Parts, ...]
    out: Parts

    @classmethod
    def of(cls, flat: Tensor, dim: int) -> Modulation:
        """The vectors of D values that lie side by side in `[..., 1, (6 layers + 2) D]`."""
        vectors = flat.split(dim, -1)
        return cls(flat, tuple(vectors[i : i + 6] for i in range(0, len(vectors) - 2, 6)), vectors[-2:])


def time_features(t: Tensor, width: int) -> Tensor:
    """Times of any shape -> `[..., width]`: cosines, then sines, of ``1000 t * 10000 ** (-i / (width/2 - 1))``, in float32."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, device=t.device, dtype=torch.float32) * (-math.log(PERIOD) / (half - 1)))
    angles = (t.float() * TIME_SCALE)[..., None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def norm(x: Tensor) -> Tensor:
    """RMS norm over the last dimension, without gain (arXiv 1910.07467, equation 4)."""
    return F.rms_norm(x, (x.shape[-1],), None, EPS)


def modulated(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """``norm(x) scale + shift``, x `[..., n, D]`."""
    if fused.applies(x, x.shape[-1], scale, shift) and fused.shares(x, scale) and fused.shares(x, shift):
        return fused.modulated_norm(x, scale, shift, EPS)
    return torch.addcmul(shift, norm(x), scale)


class Attention(nn.Module):
    """The projections of multi-head attention; queries and keys are normalised per head, then rotated. No biases."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """`[..., n, D]`, cosines and sines that broadcast to `[..., n, E]` -> `[..., n, D]`."""
        return linear(self.out, attend(*self._projected(x, turn)).flatten(-2))

    def _projected(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """Queries, keys and values `[..., n, H, E]`."""
        qkv = linear(self.qkv, x)
        parts = qkv.view(*qkv.shape[:-1], 3, self.heads, -1)
        own = native.only_weight(self.qkv, nn.Linear)  # nobody else holds what the layer gave
        if own and fused.applies(qkv, parts.shape[-1], *turn) and fused.turns(qkv, *turn):
            fused.turned_norm_(qkv, 2 * self.heads, *turn, EPS)
            return parts.unbind(-3)
        cos, sin = (part[..., None, None, :].to(x.dtype) for part in turn)
        return *rotate(norm(parts[..., :2, :, :]), cos, sin).unbind(-3), parts[..., 2, :, :]


class SwiGLU(nn.Module):
    """``w2(silu(a) b)`` with (a, b) = w1(x), D -> 2 x 2 D -> D (arXiv 2002.05202); no biases."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(dim, 4 * dim, bias=False)
        self.w2 = nn.Linear(2 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., D]` -> `[..., D]`."""
        both = linear(self.w1, x)
        if fused.applies(both, both.shape[-1] // 2):
            return linear(self.w2, fused.swiglu(both))
        a, b = both.chunk(2, dim=-1)
        return linear(self.w2, F.silu(a) * b)


class Block(nn.Module):
    """adaLN-Zero (arXiv 2212.09748, section 3.2): ``x += gate * branch(norm(x) (1 + scale) + shift)`` for attention, then for the MLP."""

    def __init__(self, dim: int, heads: int, condition: int) -> None:
        super().__init__()
        self.attn = Attention(dim, heads)
        self.mlp = SwiGLU(dim)
        self.mod = nn.Linear(condition, 6 * dim)
        _zero(self.mod)

    def forward(self, x: Tensor, parts: Parts, turn: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        """`[..., n, D]` -> `[..., n, D]`."""
        scale, shift, gate, mlp_scale, mlp_shift, mlp_gate = parts
        x = torch.addcmul(x, gate, self.attn(modulated(x, scale, shift), turn, attend))
        return torch.addcmul(x, mlp_gate, self.mlp(modulated(x, mlp_scale, mlp_shift)))


class FlowModel(nn.Module):
    """Velocities of chunks of normalised latents, given the chunks before them.

    `lat_mean` and `lat_std` `[C]` belong to the weights; all methods but `normalize` take normalised latents.
    """

    blocks: Sequence[Block]
    lat_mean: Tensor
    lat_std: Tensor

    def __init__(self, config: FlowConfig) -> None:
        super().__init__()
        self.config = config
        dim, condition = config.dim, config.condition
        self.register_buffer("lat_mean", torch.zeros(config.channels))
        self.register_buffer("lat_std", torch.ones(config.channels))
        self.proj_in = nn.Linear(config.channels, dim)
        self.cond_mlp = _time_mlp(condition)
        self.span_mlp = _time_mlp(condition) if config.spans else None
        self.mod_in = nn.Identity() if config.rank is None else nn.Linear(condition, config.rank, bias=False)
        width = config.rank or condition
        self.blocks = nn.ModuleList(Block(dim, config.heads, width) for _ in range(config.layers))  # type: ignore[assignment]
        self.mod_out = nn.Linear(width, 2 * dim)
        self.proj_out = nn.Linear(dim, config.channels)
        if self.span_mlp is not None:
            _zero(self.span_mlp[2])
        _zero(self.mod_out)
        _zero(self.proj_out)
        self.provenance: dict[str, Any] = {}  # where the weights come from, as far as they tell
        self.checkpointing = False  # in training, store only the layers' inputs and recompute the rest

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> FlowModel:
        """Move or convert the weights; the statistics stay in float32."""
        before = {name: getattr(self, name) for name in ("lat_mean", "lat_std")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, kept in before.items():
            now = getattr(self, name)
            if now.dtype != kept.dtype:
                setattr(self, name, kept.to(now.device))
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.proj_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights."""
        return self.proj_in.weight.dtype

    def set_statistics(self, mean: Tensor, deviation: Tensor) -> None:
        """Take mean and deviation `[C]` of the latents. Raises `UsageError` for other shapes or deviations that are not positive."""
        shape = (self.config.channels,)
        if mean.shape != shape or deviation.shape != shape or not bool((deviation > 0).all()):
            raise UsageError(
                f"Got statistics of shapes {list(mean.shape)} and {list(deviation.shape)}, expected {list(shape)} with positive "
                f"deviations. Take those of the store of latents."
            )
        self.lat_mean.copy_(mean)
        self.lat_std.copy_(deviation)

    def normalize(self, latents: Tensor) -> Tensor:
        """Latents `[..., C]` in the codec's unit scale -> unit deviation per channel, float32."""
        return (latents.to(self.device).float() - self.lat_mean.float()) / self.lat_std.float()

    def denormalize(self, x: Tensor) -> Tensor:
        """The inverse of `normalize`."""
        return x.float() * self.lat_std.float() + self.lat_mean.float()

    def forward(self, x: Tensor, t: Tensor, first: int = 0, span: Tensor | None = None) -> Tensor:
        """Noisy chunks `[B, N, M, C]` at times t `[B, N]` -> velocities `[B, N, M, C]`, float32.

        Chunk n attends to itself and the `context_chunks` chunks before it. `first` is the index of chunk 0. With `span` `[B, N]`,
        velocities are averages from t down to t - span, of models with spans (arXiv 2505.13447, equation 3).
        """
        self._check(x, t)
        window = self.config.context_chunks
        return self._run(x, t, span, first, lambda q, k, v: full(q, k, v, window))

    def streams(
        self,
        clean: Tensor,
        s: Tensor,
        noisy: Tensor,
        t: Tensor,
        first: int = 0,
        keep: Tensor | None = None,
        span: Tensor | None = None,
    ) -> Tensor:
        """Velocities of K noisy copies of a sequence, each chunk given the clean chunks before it, in one pass.

        clean `[B, N, M, C]` at noise levels s `[B, N]`, noisy `[B, K, N, M, C]` at times t `[B, K, N]` -> `[B, K, N, M, C]`.
        Noisy chunk n attends to itself and the clean chunks before it, as when streaming; keys and values of the clean
        chunks are computed once for all copies. Where keep `[B]` is False, noisy chunks attend to themselves only.
        `span` `[B, K, N]` is that of `forward`.
        """
        self._check(clean, s)
        self._check(noisy, t)
        if noisy.shape[0] != clean.shape[0] or noisy.shape[2:] != clean.shape[1:]:
            raise UsageError(
                f"Got noisy copies {list(noisy.shape)} of {list(clean.shape)}, expected one dimension more, after the first."
            )
        window = self.config.context_chunks
        x, times = torch.cat([clean[:, None], noisy], 1), torch.cat([s[:, None], t], 1)
        spans = None if span is None else torch.cat([torch.zeros_like(s)[:, None], span], 1)
        return self._run(x, times, spans, first, lambda q, k, v: two_streams(q, k, v, window, keep))[:, 1:]

    def condition(self, t: Tensor, span: Tensor | None = None) -> Tensor:
        """Times (and spans) of any shape -> the input of the modulations, `[..., Q]` or `[..., rank]`."""
        width = self.config.condition
        embedded = self.cond_mlp(time_features(t, width).to(self.dtype))
        if self.span_mlp is not None:
            embedded = embedded + self.span_mlp(
                time_features(torch.zeros_like(t) if span is None else span, width).to(self.dtype)
            )
        elif span is not None and bool((span != 0).any()):
            raise UsageError(
                "Got spans for a model that gives velocities at a time only. Take one with spans, or leave them out."
            )
        hidden: Tensor = self.mod_in(F.silu(embedded))
        return hidden

    def modulation(self, t: Tensor, span: Tensor | None = None) -> Modulation:
        """Times of any shape -> the vectors of all layers, `[..., 1, D]`; computed once for each distinct time where it can be kept."""
        hidden = self.condition(t, span)[..., None, :]
        layers = [part for block in self.blocks for part in _parts(block.mod(hidden), 6)]
        return Modulation.of(torch.cat([*layers, *_parts(self.mod_out(hidden), 2)], -1), self.config.dim)

    def _run(self, x: Tensor, t: Tensor, span: Tensor | None, first: int, attend: Attend) -> Tensor:
        """Tokens `[..., N, M, C]` at times `[..., N]` through all layers."""
        hidden = self.condition(t, span)[..., None, :]
        turn = self.turn(first, x.shape[-3])
        h = self.proj_in(x.to(self.dtype))
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(_layer, block, h, hidden, turn, attend, use_reentrant=False)
            else:
                h = _layer(block, h, hidden, turn, attend)
        return self.output(h, _parts(self.mod_out(hidden), 2))

    def turn(self, first: int, chunks: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines `[N, M, E]` of the chunks (`rotary.rotation`) from `first` on."""
        cos, sin = rotation(first, chunks, self.config.tokens, self.config.head)
        return cos.to(self.device), sin.to(self.device)

    def output(self, h: Tensor, parts: Parts) -> Tensor:
        """Hidden tokens `[..., D]` -> velocities `[..., C]`, float32."""
        out: Tensor = self.proj_out(modulated(h, parts[0], parts[1]))
        return out.float()

    def _check(self, x: Tensor, t: Tensor) -> None:
        if x.shape[:-2] != t.shape or x.shape[-2:] != (self.config.tokens, self.config.channels) or x.numel() == 0:
            raise UsageError(
                f"Got chunks {list(x.shape)} at times {list(t.shape)}, expected [..., N, {self.config.tokens}, {self.config.channels}] "
                f"at [..., N] with N at least 1."
            )


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def _time_mlp(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))


def _layer(block: Block, h: Tensor, hidden: Tensor, turn: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
    out: Tensor = block(h, _parts(block.mod(hidden), 6), turn, attend)
    return out


def _parts(x: Tensor, count: int) -> Parts:
    """Raw modulation `[..., count D]` -> vectors `[..., D]`; 1 is added to the scales, which come first of three or of two."""
    parts = x.chunk(count, dim=-1)
    period = 2 if count == 2 else 3
    return tuple(1 + part if i % period == 0 else part for i, part in enumerate(parts))
