"""Stems: a chunk's spectrum -> features `[B, n, D]` over time, from which the encoder's tokens are made.

`PatchStem` is two-dimensional convolutions; then learned queries make the tokens (see `QueryResampler`). `BandStem` is a linear
map a frequency band, at strides that give the tokens directly; it costs a fraction.

Legend: B chunks, F bins, T frames, n time steps, D width.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.config import LycodecConfig
from duotone.nn.rotary_attention import GeluMlp, RotaryAttention
from duotone.nn.transformer import ScaledLayerNorm
from duotone.represent.bands import band_edges
from duotone.represent.stft import Stft, expand

_NORM_GROUPS = 8


class PatchStem(nn.Module):
    """Stages of two 3x3 convolutions, the first with strides; then 1x1, mean over frequency, and resampling by queries."""

    def __init__(self, config: LycodecConfig) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        before = 4
        for channels, stride in zip(config.stem_channels, config.stem_factors, strict=True):
            stages += [
                nn.Conv2d(before, channels, 3, stride, 1), nn.GroupNorm(_NORM_GROUPS, channels), nn.SiLU(),
                nn.Conv2d(channels, channels, 3, 1, 1), nn.GroupNorm(_NORM_GROUPS, channels), nn.SiLU(),
            ]  # fmt: skip
            before = channels
        self.stages = nn.Sequential(*stages)
        self.out = nn.Conv2d(before, config.encoder_dim, 1)
        steps = config.frames
        for _, along in config.stem_factors:
            steps = -(-steps // along)
        self.resample = QueryResampler(steps, config.tokens, config.encoder_dim, config.encoder_heads)

    def forward(self, x: Tensor) -> Tensor:
        """Companded spectra `[B, 4, F, T]` -> `[B, tokens, D]`."""
        pooled = self.out(self.stages(x.to(self.out.weight.dtype))).mean(2)
        out: Tensor = self.resample(pooled.transpose(1, 2))
        return out


class QueryResampler(nn.Module):
    """Learned queries, one a token, attend to the time steps; both have their positions in time."""

    def __init__(self, steps: int, tokens: int, dim: int, heads: int) -> None:
        super().__init__()
        queries, keys = ((torch.arange(n) + 0.5)[:, None] * (tokens / n) for n in (tokens, steps))
        self.queries = nn.Parameter(0.02 * torch.randn(tokens, dim))
        self.steps_norm = ScaledLayerNorm(dim)
        self.attention = RotaryAttention(dim, heads, queries, keys)
        nn.init.normal_(self.attention.out.weight, std=dim**-0.5)  # the queries alone say nothing of the sound
        self.mlp_norm = ScaledLayerNorm(dim)
        self.mlp = GeluMlp(dim, 2)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, steps, D]` -> `[B, tokens, D]`."""
        queries = self.queries.to(x.dtype).expand(len(x), -1, -1)
        y = queries + self.attention(queries, self.steps_norm(x))
        out: Tensor = y + self.mlp(self.mlp_norm(y))
        return out


class BandStem(nn.Module):
    """Frames around each token -> units of each band -> D. It sees companded spectra and logarithmic magnitudes."""

    mean: Tensor
    frames: Tensor

    def __init__(self, config: LycodecConfig) -> None:
        super().__init__()
        self.config, seen, channels = config, config.token_frames, 6
        self.edges = band_edges(config.n_fft, config.bins)
        self.register_buffer("mean", torch.zeros(2, config.bins))  # of the logarithms, over a collection
        first = (torch.arange(config.tokens) + 0.5) * (config.frames / config.tokens) - seen / 2
        start = first.round().long().clamp(0, config.frames - seen)
        self.register_buffer("frames", start[:, None] + torch.arange(seen), persistent=False)
        self.bands = nn.ModuleList(
            nn.Linear(seen * channels * (b - a), config.band_units) for a, b in itertools.pairwise(self.edges)
        )
        self.out = nn.Linear(config.band_units * len(self.bands), config.encoder_dim)

    def forward(self, x: Tensor) -> Tensor:
        """Companded spectra `[B, 4, F, T]` -> `[B, tokens, D]`."""
        logarithms = (self.logarithms(x) - self.mean[:, :, None]) / 2
        features = torch.cat([x / self.config.noise.sigma_data, logarithms], 1)  # each of about unit deviation
        rows = features.permute(0, 3, 2, 1).to(self.out.weight.dtype)  # [B, T, F, 6]
        near = rows[:, self.frames.flatten()].unflatten(1, self.frames.shape)  # [B, tokens, seen, F, 6]
        parts = [
            layer(near[:, :, :, a:b].flatten(2))
            for layer, (a, b) in zip(self.bands, itertools.pairwise(self.edges), strict=True)
        ]
        out: Tensor = self.out(F.silu(torch.cat(parts, -1)))
        return out

    def logarithms(self, x: Tensor) -> Tensor:
        """Companded spectra -> logarithmic magnitudes of mid and side `[B, 2, F, T]`; that of a sine at full scale is 0."""
        return log_magnitudes(x, self.config)


def log_magnitudes(spectra: Tensor, config: LycodecConfig) -> Tensor:
    """Companded spectra `[B, 4, F, T]` -> natural logarithms of the magnitudes of mid and side `[B, 2, F, T]`.

    The logarithm of a sine at full scale is 0, and the least is that of `config.floor`.
    """
    stft = Stft(config.n_fft, config.hop, config.bins, config.compand_scale, config.compand_power)
    parts = expand(spectra.float(), stft).unflatten(1, (2, 2))
    power = parts.square().sum(2) * (4 / config.n_fft) ** 2  # a Hann window sums to half its length
    return 0.5 * torch.log(power + config.floor**2)


def stem_of(config: LycodecConfig) -> PatchStem | BandStem:
    """The stem that the configuration names."""
    return PatchStem(config) if config.stem == "patches" else BandStem(config)


def token_times(config: LycodecConfig, per: int) -> Tensor:
    """Middles of `per` equal parts of a chunk, in units of tokens `[per]`."""
    return (torch.arange(per, dtype=torch.float32) + 0.5) * (config.tokens / per)
