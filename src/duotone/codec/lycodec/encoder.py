"""A chunk's spectrum -> its tokens before the bound.

Legend: B chunks, n tokens, D width, V values of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from duotone.codec.lycodec.stem import BandStem, stem_of, token_times
from duotone.config import LycodecConfig
from duotone.nn.rotary_attention import GeluMlp, RotaryAttention
from duotone.nn.transformer import ScaledLayerNorm


class EncoderLayer(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; queries and keys are rotated in each head."""

    def __init__(self, dim: int, heads: int, multiple: int, positions: Tensor) -> None:
        super().__init__()
        self.attention_norm = ScaledLayerNorm(dim)
        self.attention = RotaryAttention(dim, heads, positions)
        self.mlp_norm = ScaledLayerNorm(dim)
        self.mlp = GeluMlp(dim, multiple)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, n, D]` -> `[B, n, D]`."""
        x = x + self.attention(self.attention_norm(x))
        out: Tensor = x + self.mlp(self.mlp_norm(x))
        return out


class Encoder(nn.Module):
    """Stem, transformer over the tokens of one chunk, projection. Each chunk is encoded alone."""

    scale: Tensor
    shift: Tensor

    def __init__(self, config: LycodecConfig) -> None:
        super().__init__()
        self.config, dim = config, config.encoder_dim
        self.stem = stem_of(config)
        positions = token_times(config, config.tokens)[:, None]
        self.layers = nn.ModuleList(
            EncoderLayer(dim, config.encoder_heads, config.mlp, positions) for _ in range(config.encoder_layers)
        )
        self.norm = ScaledLayerNorm(dim)
        self.head = nn.Linear(dim, config.values)
        self.register_buffer("scale", torch.ones(config.tokens, config.values))  # constants, see calibrate
        self.register_buffer("shift", torch.zeros(config.tokens, config.values))
        self.checkpointing = False  # in training, store only the layers' inputs and recompute the rest

    def forward(self, spectra: Tensor) -> Tensor:
        """Companded spectra `[B, 4, F, T]` -> values before the bound `[B, n, V]`, float32."""
        x = self.stem(spectra)
        for layer in self.layers:
            again = self.checkpointing and torch.is_grad_enabled()
            x = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
        out: Tensor = self.head(self.norm(x)).float() * self.scale + self.shift
        return out

    @torch.no_grad()
    def calibrate(self, spectra: Tensor, deviation: float) -> None:
        """Set means of the features, and scale and shift of the values: mean 0 and this deviation over the chunks given.

        Data-dependent initialisation (arXiv 1602.07868, section 3).
        """
        if isinstance(self.stem, BandStem):
            self.stem.mean.copy_(self.stem.logarithms(spectra).mean((0, 3)))
        pre = self(spectra)
        factor = deviation / pre.std(0).clamp_min(1e-3)
        self.shift.copy_((self.shift - pre.mean(0)) * factor)
        self.scale.mul_(factor)
