"""Lycodec's network: encoder, quantiser, fusion, stereo head, and the consistency decoder f(x, sigma, tokens).

Legend: B chunks, F bins, T frames, n tokens of a chunk, V values of a token, G groups of values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from duotone.codec import consistency
from duotone.codec.lycodec.decoder import PatchDecoder
from duotone.codec.lycodec.encoder import Encoder
from duotone.codec.lycodec.fusion import Fusion, ResidualPredictor
from duotone.codec.lycodec.stereo import Stereo, StereoHead
from duotone.config import LycodecConfig
from duotone.quant.grouped import GroupedFSQ, first_groups


class LycodecNetwork(nn.Module):
    """All networks of a Lycodec. Nothing in it connects one chunk with another."""

    def __init__(self, config: LycodecConfig) -> None:
        super().__init__()
        self.config = config
        self.fsq = GroupedFSQ(config.codebook_levels)
        self.encoder = Encoder(config)
        self.fusion = Fusion(config)
        self.predictor = ResidualPredictor(config, self.fsq) if config.predictor_units else None
        self.stereo = StereoHead(config) if config.stereo else None
        self.decoder = PatchDecoder(config)

    def encode(self, spectra: Tensor) -> Tensor:
        """Companded spectra `[B, 4, F, T]` -> bounded values z_cont `[B, n, V]`, float32."""
        return self.fsq.bound(self.encoder(spectra))

    def keep(self, values: Tensor, kept: Tensor) -> Tensor:
        """Bounded values -> the same with 0 beyond the first `kept` `[B]` groups of each example (1 to G)."""
        return first_groups(values, self.config.groups, kept)

    def fuse(self, values: Tensor, hybrid: Tensor | None = None) -> Tensor:
        """Bounded values `[B, n, V]` -> the decoder's tokens `[B, n, V]`.

        The residual ``z_cont - z_disc`` is left out of examples where `hybrid` `[B]` is False, as codes lack it; so does
        a token whose values are levels already. If there is a predictor, these get its estimate. Gradients pass the rounding
        straight through.
        """
        levels = self.fsq.round(values).detach()
        residual = values - levels
        there = residual.detach().abs().amax(-1, keepdim=True) > 0
        if hybrid is not None:
            there = there & hybrid[:, None, None]
        missing = torch.zeros_like(residual) if self.predictor is None else self.predictor(levels).to(residual.dtype)
        passed = values + (levels - values).detach()
        fused: Tensor = self.fusion(passed, torch.where(there, residual, missing))
        return fused

    def listen(self, tokens: Tensor) -> tuple[Stereo | None, Tensor]:
        """Fused tokens `[B, n, V]` -> the stereo head's estimate (None without one), and the tokens for `denoise`."""
        if self.stereo is None:
            return None, tokens
        estimate, embedded = self.stereo(tokens)
        return estimate, tokens + embedded

    def denoise(self, x: Tensor, level: Tensor, tokens: Tensor) -> Tensor:
        """f: noisy spectra `[B, 4, F, T]` at noise levels `[B]` or `[1]`, tokens of `listen` -> clean estimate, float32.

        ``c_skip x + c_out F(c_in x, sigma, tokens)`` (EDM, arXiv 2206.00364, equation 7), so that f(x, sigma_min) = x.
        """
        noise, level = self.config.noise, level.float()
        skip, out, scale = (
            c(level, noise)[:, None, None, None] for c in (consistency.c_skip, consistency.c_out, consistency.c_in)
        )
        estimate: Tensor = skip * x + out * self.decoder(x * scale, level, tokens)
        return estimate

    def parameters_by_part(self) -> dict[str, int]:
        """Number of parameters of each part, in the order of the signal."""
        parts: dict[str, nn.Module | None] = {
            "stem": self.encoder.stem, "encoder": self.encoder.layers, "fusion": self.fusion, "predictor": self.predictor,
            "stereo": self.stereo, "conditioner": self.decoder.conditioner, "band split": self.decoder.split,
        }  # fmt: skip
        counts = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items() if part is not None}
        counts["projection"] = sum(p.numel() for m in (self.encoder.norm, self.encoder.head) for p in m.parameters())
        counts["decoder"] = sum(p.numel() for p in self.parameters()) - sum(counts.values())
        return counts
