"""The decoder's network F: a transformer over patches of the noisy spectrum, which attends to the chunk's tokens.

Legend: B chunks, F bins, T frames, P patches (frequency-major), n tokens, V values of a token, D width, W width of the
noise features.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from duotone.codec.lycodec.bandsplit import BandSplitHead
from duotone.codec.lycodec.conditioner import TokenConditioner
from duotone.codec.lycodec.stem import token_times
from duotone.config import LycodecConfig
from duotone.nn.levels import level_features
from duotone.nn.patches import from_patches, grid_positions, to_patches
from duotone.nn.rotary_attention import GeluMlp, RotaryAttention
from duotone.nn.transformer import EPS

_PARTS = 9  # scale, shift and gate of self-attention, cross-attention and MLP


def _norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], None, None, EPS)


class PatchBlock(nn.Module):
    """Self-attention, cross-attention to the tokens, MLP; each ``x += (1 + gate) branch(norm(x) (1 + scale) + shift)``.

    adaLN (arXiv 2212.09748, section 3.2). `own` is a matrix of its own from the noise level to the nine vectors; without it, one for
    all blocks gives them, and each block adds a table (arXiv 2310.00426, section 2.3).
    """

    def __init__(self, config: LycodecConfig, patches: Tensor, tokens: Tensor, own: bool) -> None:
        super().__init__()
        dim, heads = config.decoder_dim, config.decoder_heads
        self.attention = RotaryAttention(dim, heads, patches)
        self.cross = RotaryAttention(dim, heads, patches[:, 1:], tokens)
        self.mlp = GeluMlp(dim, config.mlp)
        self.modulation = nn.Linear(config.noise_dim, _PARTS * dim) if own else None
        self.table = None if own else nn.Parameter(torch.zeros(_PARTS * dim))
        if self.modulation is not None:
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, tokens: Tensor, noise: Tensor, shared: Tensor | None) -> Tensor:
        """x `[B, P, D]`, tokens `[B, n, D]`, noise `[B, W]`, shared `[B, 9 D]` -> `[B, P, D]`."""
        found = self.modulation(noise) if self.modulation is not None else shared + self.table  # type: ignore[operator]
        s1, b1, g1, s2, b2, g2, s3, b3, g3 = found[:, None].to(x.dtype).chunk(_PARTS, -1)
        x = x + (1 + g1) * self.attention(torch.addcmul(b1, _norm(x), 1 + s1))
        x = x + (1 + g2) * self.cross(torch.addcmul(b2, _norm(x), 1 + s2), tokens)
        out: Tensor = x + (1 + g3) * self.mlp(torch.addcmul(b3, _norm(x), 1 + s3))
        return out


class PatchDecoder(nn.Module):
    """F(x, sigma, tokens). Each chunk is decoded alone."""

    def __init__(self, config: LycodecConfig) -> None:
        super().__init__()
        self.config, dim, width = config, config.decoder_dim, config.noise_dim
        self.size, self.grid = (config.patch_bins, config.patch_frames), config.patch_grid
        self.noise = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        fine = config.conditioner == "bins"
        channels = config.conditioner_channels if fine else dim
        grid = (config.bins, config.frames) if fine else self.grid
        self.conditioner = TokenConditioner(config, channels, grid, width)
        area = self.size[0] * self.size[1]
        self.embed = nn.Linear((4 + channels * fine) * area, dim)
        self.rows = nn.Parameter(0.02 * torch.randn(self.grid[0], 1, dim))
        self.columns = nn.Parameter(0.02 * torch.randn(1, self.grid[1], dim))
        self.tokens = nn.Linear(config.values, dim)
        patches = grid_positions(self.grid, (1.0, config.tokens / self.grid[1]))  # times in tokens
        times = token_times(config, config.tokens)[:, None]
        own = config.modulation == "own"
        self.modulation = None if own else nn.Linear(width, _PARTS * dim)
        self.blocks = nn.ModuleList(PatchBlock(config, patches, times, own) for _ in range(config.decoder_layers))
        self.final = nn.Linear(width, 2 * dim)
        self.out = nn.Linear(dim, 4 * area)
        self.split = BandSplitHead(config) if config.split_channels else None
        for layer in (self.modulation, self.final):
            if layer is not None:
                nn.init.zeros_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.checkpointing = False  # in training, store only the blocks' inputs and recompute the rest

    def forward(self, x: Tensor, level: Tensor, tokens: Tensor) -> Tensor:
        """Scaled noisy spectra `[B, 4, F, T]`, noise levels `[B]` or `[1]`, tokens `[B, n, V]` -> `[B, 4, F, T]`, float32."""
        kind = self.out.weight.dtype
        noise = self.noise(level_features(level, self.config.noise_dim).to(kind))
        x, tokens = x.to(kind), tokens.to(kind)
        given = self.conditioner(tokens, noise)
        if self.config.conditioner == "bins":
            h = self.embed(to_patches(torch.cat([x, given.to(x.dtype)], 1), self.size))
        else:
            h = self.embed(to_patches(x, self.size)) + given.flatten(2).transpose(1, 2)
        h = h + (self.rows + self.columns).flatten(0, 1)
        others = self.tokens(tokens)
        shared = None if self.modulation is None else self.modulation(noise)
        for block in self.blocks:
            if self.checkpointing and torch.is_grad_enabled():
                h = checkpoint(block, h, others, noise, shared, use_reentrant=False)
            else:
                h = block(h, others, noise, shared)
        scale, shift = self.final(noise)[:, None].to(h.dtype).chunk(2, -1)
        raw = from_patches(self.out(torch.addcmul(shift, _norm(h), 1 + scale)), self.grid, self.size)
        return (raw if self.split is None else self.split(raw)).float()
