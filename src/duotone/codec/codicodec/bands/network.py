"""The networks of the bands frontend: an encoder of each chunk alone, an estimator of magnitudes and stereo, and its refiner.

Legend: B batch, N chunks, n frames of a chunk, T time steps (tokens) of a chunk, F bins, L latents a chunk, d dimensions of a
latent, V values of a holder (a time step or a summary token), K pitches, S stereo bands, D width.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.codec.codicodec.bands import layout
from duotone.codec.codicodec.bands.features import Features
from duotone.codec.codicodec.bands.refiner import Refiner
from duotone.config import BandsConfig
from duotone.nn.chunked import ChunkTransformer
from duotone.nn.transformer import KeyValue, Transformer

#: Bins around a bin whose mean is its local background (20 to each side), from which peaks stand out.
_BACKGROUND = 41


@dataclass(frozen=True)
class Maps:
    """The estimate of a chunk's spectrum, float32."""

    mid: Tensor  #: natural logarithm of the magnitudes of mid `[B, n, F]`, a sine at full scale has magnitude 1
    ratio: Tensor  #: natural logarithm of the level of side against mid `[B, n, S]`
    share: Tensor  #: correlation of side with mid, -1 to 1 `[B, n, S]`
    #: Share of noise in the magnitudes of mid, 0 to 1 `[B, n, F]`; None without a source-filter head.
    noise: Tensor | None = None

    def rows(self, part: slice) -> Maps:
        """Some of the rows."""
        return Maps(*(None if each is None else each[part] for each in vars(self).values()))  # type: ignore[arg-type]


class BandStem(nn.Module):
    """Bins of a time step's frames -> units of each band -> D."""

    def __init__(self, config: BandsConfig, width: int) -> None:
        super().__init__()
        self.edges = layout.band_edges(config)
        self.bands = nn.ModuleList(
            nn.Linear(config.per_token * (b - a), config.band_units) for a, b in itertools.pairwise(self.edges)
        )
        self.out = nn.Linear(config.band_units * len(self.bands), width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, frames of a step, F]` -> `[B, T, D]`."""
        parts = [
            layer(x[..., a:b].flatten(2))
            for layer, (a, b) in zip(self.bands, itertools.pairwise(self.edges), strict=True)
        ]
        out: Tensor = self.out(F.silu(torch.cat(parts, -1)))
        return out


class BandHead(nn.Module):
    """D -> units of each band -> its bins in each frame of the time step."""

    def __init__(self, config: BandsConfig, width: int) -> None:
        super().__init__()
        edges, fine = layout.band_edges(config), layout.fine_bins(config)
        self.frames = config.per_token
        self.units = [config.head_units[0 if b <= fine else 1] for b in edges[1:]]
        self.inner = nn.Linear(width, sum(self.units))
        self.bands = nn.ModuleList(
            nn.Linear(units, self.frames * (b - a))
            for units, (a, b) in zip(self.units, itertools.pairwise(edges), strict=True)
        )
        for layer in self.bands:
            nn.init.normal_(layer.weight, std=0.5 * layer.in_features**-0.5)  # type: ignore[arg-type, operator]
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, D]` -> `[B, n, F]`."""
        parts = F.silu(self.inner(x) * 1.5).split(self.units, -1)
        rows = [layer(part).unflatten(-1, (self.frames, -1)) for layer, part in zip(self.bands, parts, strict=True)]
        return torch.cat(rows, -1).flatten(1, 2)


class BandEncoder(nn.Module):
    """Features of one chunk -> its latents before the bound."""

    mean_mid: Tensor
    mean_mels: Tensor
    mean_low: Tensor
    scale: Tensor
    shift: Tensor
    listen: Tensor
    pool: Tensor

    def __init__(self, config: BandsConfig) -> None:
        super().__init__()
        self.config, width = config, config.encoder_dim
        holders = config.summary or config.tokens
        self.register_buffer("mean_mid", torch.zeros(config.bins, dtype=torch.float32))
        self.register_buffer("mean_mels", torch.zeros(3, layout.MEL_BANDS, dtype=torch.float32))
        self.register_buffer("mean_low", torch.zeros(config.low_bins, dtype=torch.float32))
        self.register_buffer("scale", torch.ones(holders, config.values, dtype=torch.float32))
        self.register_buffer("shift", torch.zeros(holders, config.values, dtype=torch.float32))
        self.register_buffer("pool", layout.mel_pooling(layout.POOLED_BANDS), persistent=False)
        self.stem = BandStem(config, width)
        self.side = nn.Linear(3 * layout.POOLED_BANDS * config.per_token + config.low_bins, width)
        self.pitch = None
        if config.salience and config.pitches:
            self.register_buffer("listen", layout.listening_combs(config), persistent=False)
            self.pitch = nn.Linear(config.per_token * config.pitches, width)
        self.summary = nn.Parameter(0.02 * torch.randn(config.summary, width)) if config.summary else None
        self.transformer = Transformer(
            config.tokens + config.summary, width, config.encoder_heads, config.mlp, config.encoder_layers
        )
        self.head = nn.Linear(width, config.values)

    def forward(self, features: Features) -> Tensor:
        """Features of B chunks -> latents before the bound `[B, L, d]`, float32."""
        config, b = self.config, len(features.mid)
        mid = ((features.mid - self.mean_mid) / 2).unflatten(1, (config.tokens, config.per_token))
        mels = ((features.mels - self.mean_mels) @ self.pool).flatten(2).reshape(b, config.tokens, -1) / 2
        low = (features.low - self.mean_low) / 2
        kind = self.head.weight.dtype
        x = self.stem(mid.to(kind)) + self.side(torch.cat([mels, low], -1).to(kind))
        if self.pitch is not None:
            x = x + self.pitch(self.salience(features.mid).to(kind).reshape(b, config.tokens, -1))
        wanted = None
        if self.summary is not None:
            own = x.unflatten(1, (config.summary, -1)).mean(2)  # so that it depends on the sound from the first step on
            x = torch.cat([x, own + self.summary.to(x.dtype)], 1)
            wanted = slice(config.tokens, None)
        x, _ = self.transformer(x, wanted=wanted)
        pre: Tensor = self.head(x).float() * self.scale + self.shift
        return pre.reshape(b, config.latents, -1)

    def salience(self, mid: Tensor) -> Tensor:
        """Logarithmic magnitudes `[B, n, F]` -> how far peaks at the harmonics of each pitch stand out `[B, n, K]`."""
        half = _BACKGROUND // 2
        background = F.avg_pool1d(mid, _BACKGROUND, 1, half, count_include_pad=False)
        peaks = (mid - background).clamp(0, 4) @ self.listen
        return 2 * (peaks - peaks.mean(-1, keepdim=True))

    @torch.no_grad()
    def calibrate(self, features: Features, deviation: float) -> None:
        """Set means of the features, and scale and shift of the latents: mean 0 and this deviation over the chunks given.

        Data-dependent initialisation (arXiv 1602.07868, section 3).
        """
        self.mean_mid.copy_(features.mid.mean((0, 1)))
        self.mean_mels.copy_(features.mels.mean((0, 1)))
        self.mean_low.copy_(features.low.mean((0, 1)))
        pre = self(features).reshape(len(features.mid), *self.scale.shape)
        factor = deviation / pre.std(0).clamp_min(1e-3)
        self.shift.copy_((self.shift - pre.mean(0)) * factor)
        self.scale.mul_(factor)


class Estimator(nn.Module):
    """Bounded latents -> `Maps`; each chunk sees the chunk before it (see `nn.chunked`).

    Magnitudes of mid are an envelope times a source: noise in bands plus harmonics of pitches with non-negative amplitudes.
    """

    mean: Tensor
    comb: Tensor
    noise_shape: Tensor

    def __init__(self, config: BandsConfig) -> None:
        super().__init__()
        self.config, width = config, config.dim
        self.register_buffer("mean", torch.zeros(config.bins, dtype=torch.float32))
        self.lift = nn.Linear(config.values, width)
        self.summary = nn.Parameter(0.1 * torch.randn(config.summary, width)) if config.summary else None
        tokens = config.tokens + config.summary
        self.transformer = ChunkTransformer(tokens, width, config.heads, config.mlp, config.layers)
        if config.estimated:
            self._make_heads(config, width)

    def _make_heads(self, config: BandsConfig, width: int) -> None:
        self.envelope = BandHead(config, width)
        self.stereo = nn.Linear(width, 2 * config.stereo_bands * config.per_token)
        nn.init.normal_(self.stereo.weight, std=0.3 * width**-0.5)
        nn.init.zeros_(self.stereo.bias)
        self.source = None
        if config.pitches:
            self.register_buffer("comb", layout.combs(config), persistent=False)
            self.register_buffer("noise_shape", layout.mel_tent(config.noise_bands, config), persistent=False)
            self.source = nn.Linear(width, config.per_token * (config.pitches + config.noise_bands))
            nn.init.normal_(self.source.weight, std=0.5 * width**-0.5)
            start = [torch.full((config.pitches,), -5.0), torch.full((config.noise_bands,), 0.54)]
            with torch.no_grad():
                self.source.bias.copy_(torch.cat(start).repeat(config.per_token))

    def trunk(self, values: Tensor, past: list[KeyValue] | None = None) -> tuple[Tensor, list[KeyValue]]:
        """Bounded latents `[B, N, L, d]` after the chunks of `past` -> time steps `[B, N, T, D]`, and the new state."""
        config = self.config
        b, chunks = values.shape[:2]
        x = self.lift(values.reshape(b, chunks, -1, config.values).to(self.lift.weight.dtype))
        if self.summary is not None:  # the latents stand first, then empty time steps
            x = x + self.summary
            x = torch.cat([x, x.new_zeros(b, chunks, config.tokens, x.shape[-1])], 2)
        x, state = self.transformer(x, past)
        return x[:, :, -config.tokens :], state

    def heads(self, x: Tensor) -> Maps:
        """Time steps of B chunks `[B, T, D]` -> `Maps`."""
        config = self.config
        frames = (len(x), config.frames, -1)
        log, share_of_noise = 2 * self.envelope(x).float() + self.mean, None
        if self.source is not None:
            power = F.softplus(self.source(x).float()).view(frames)
            harmonic = (power[..., : config.pitches] @ self.comb).float()
            noise = (power[..., config.pitches :] @ self.noise_shape).float()
            total = harmonic + noise + 1e-3
            log = log + torch.log(total)
            share_of_noise = noise / total
        ratio, share = self.stereo(x).float().view(frames).split(config.stereo_bands, -1)
        return Maps(log, (2 * ratio - 1.5).clamp(-6, 3), torch.tanh(share), share_of_noise)

    def forward(self, values: Tensor, past: list[KeyValue] | None = None) -> tuple[Maps, list[KeyValue]]:
        """Bounded latents `[B, N, L, d]` -> the maps of all chunks, `[B * N, ...]`, and the state after them."""
        x, state = self.trunk(values, past)
        return self.heads(x.flatten(0, 1)), state


class BandNetwork(nn.Module):
    """Encoder, estimator and, where the configuration has one, the refiner."""

    def __init__(self, config: BandsConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = BandEncoder(config)
        self.estimator = Estimator(config)
        self.refiner = Refiner(config, config.refinement) if config.refinement else None
