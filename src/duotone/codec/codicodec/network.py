"""CoDiCodec's three networks; all sizes come from one config (arXiv 2509.09836).

Legend: B batch, C spectrum channels (4), F bins, T frames of a chunk, P audio tokens of a chunk (frequency-major),
L summary latents of a chunk, d dimensions of a latent, R registers, D width.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from duotone.codec import consistency
from duotone.config import CoDiCodecConfig
from duotone.nn.conv import DownFrontend, UpFrontend
from duotone.nn.levels import level_features
from duotone.nn.transformer import KeyValue, Transformer
from duotone.represent.stft import Stft

_WAVES = 2  # left and right, each a real and an imaginary channel of the spectrum


def stft_of(config: CoDiCodecConfig) -> Stft:
    """The STFT whose spectra are the network's input."""
    return Stft(config.n_fft, config.hop, config.bins, config.compand_scale, config.compand_power)


def _flatten(feature_map: Tensor) -> Tensor:
    """`[B, D, F', T']` -> tokens `[B, P, D]`, frequency-major."""
    return feature_map.flatten(2).transpose(1, 2)


def _unflatten(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Tokens `[B, P, D]` -> `[B, D, F', T']`."""
    b, _, d = tokens.shape
    return tokens.transpose(1, 2).reshape(b, d, *grid)


def _join(audio: Tensor, latents: Tensor, registers: Tensor) -> Tensor:
    """The sequence of one chunk `[B, P+L+R, D]`."""
    return torch.cat([audio, latents, registers.expand(audio.shape[0], -1, -1)], dim=1)


def _mlp(sizes: Sequence[int], last_activation: bool) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i, (a, b) in enumerate(itertools.pairwise(sizes)):
        layers.append(nn.Linear(a, b))
        if last_activation or i < len(sizes) - 2:
            layers.append(nn.SiLU())
    return nn.Sequential(*layers)


class Frontends(Protocol):
    """Builds the frontends of a network, which map spectra to audio tokens and back; subclasses choose the layers."""

    def down(self, condition: int | None = None) -> nn.Module:
        """Maps a spectrum to the audio tokens' feature map; also returns the pyramid of finer feature maps."""
        ...

    def up(self, outputs: int | None, condition: int | None = None) -> nn.Module:
        """Maps the audio tokens' feature map to a spectrum of `outputs` channels, or (None) only to a pyramid."""
        ...


class ConvolutionFrontends:
    """The published frontends: stages of 3x3 convolutions."""

    def __init__(self, config: CoDiCodecConfig) -> None:
        self._shape = (config.channels, config.blocks, config.factors, config.stem)

    def down(self, condition: int | None = None) -> DownFrontend:
        """See `Frontends`."""
        return DownFrontend(2 * _WAVES, *self._shape, condition=condition)

    def up(self, outputs: int | None, condition: int | None = None) -> UpFrontend:
        """See `Frontends`."""
        return UpFrontend(outputs, *self._shape, condition=condition)


class Encoder(nn.Module):
    """One chunk's spectrum -> its summary latents before the tanh."""

    scale: Tensor
    shift: Tensor

    def __init__(self, config: CoDiCodecConfig, frontends: Frontends) -> None:
        super().__init__()
        self.config, d = config, config.dim
        grid = config.token_grid
        self.gain = nn.Parameter(torch.ones(1, 1, config.stem_grid[0], 1))
        self.latents = nn.Parameter(0.02 * torch.randn(1, config.latents, d))
        self.registers = nn.Parameter(0.02 * torch.randn(1, config.registers, d))
        self.frontend = frontends.down()
        tokens = grid[0] * grid[1] + config.latents + config.registers
        self.transformer = Transformer(tokens, d, config.heads, config.mlp, config.encoder_layers)
        self.head = nn.Linear(d, len(config.levels))
        if config.anchored:  # constants, set once before training (see rescale)
            self.register_buffer("scale", torch.ones(1, config.latents, len(config.levels)))
            self.register_buffer("shift", torch.zeros(1, config.latents, len(config.levels)))

    def forward(self, x: Tensor) -> Tensor:
        """Spectrum `[B, C, F, T]` -> pre-tanh latents `[B, L, d]`, float32."""
        feature_map, _ = self.frontend(x.to(self.gain.dtype), self.gain)
        audio = _flatten(feature_map)
        b, p, _ = audio.shape
        latents = self.latents + audio if self.config.anchored else self.latents.expand(b, -1, -1)
        summary = slice(p, p + self.config.latents)
        tokens, _ = self.transformer(_join(audio, latents, self.registers), wanted=summary)
        out: Tensor = self.head(tokens)
        if self.config.anchored:
            out = out * self.scale + self.shift
        return out.float()


class Upsampler(nn.Module):
    """One chunk's latents -> the pyramid of feature maps that condition the denoiser."""

    def __init__(self, config: CoDiCodecConfig, frontends: Frontends) -> None:
        super().__init__()
        self.config, self.grid, d = config, config.token_grid, config.dim
        self.mask = nn.Parameter(0.02 * torch.randn(1, self.grid[0], 1, d))
        self.project = nn.Linear(len(config.levels), d)
        self.registers = nn.Parameter(0.02 * torch.randn(1, config.registers, d))
        tokens = self.grid[0] * self.grid[1] + config.latents + config.registers
        self.transformer = Transformer(tokens, d, config.heads, config.mlp, config.upsampler_layers, output_norm=False)
        self.frontend = frontends.up(None)

    def forward(self, values: Tensor) -> list[Tensor]:
        """Bounded latents `[B, L, d]` -> feature maps `[B, C_i, F_i, T_i]`, from fine to coarse."""
        b, p = values.shape[0], self.grid[0] * self.grid[1]
        audio = self.mask.expand(b, -1, self.grid[1], -1).flatten(1, 2)
        latents = self.project(values.to(self.mask.dtype))
        if self.config.anchored:
            audio = audio + latents
        tokens, _ = self.transformer(_join(audio, latents, self.registers), wanted=slice(p))
        pyramid: list[Tensor] = self.frontend.pyramid(_unflatten(tokens, self.grid))  # type: ignore[operator]
        return pyramid


class Condition(NamedTuple):
    """The conditioning of the denoiser's layers on a noise level; computed once per step for all chunks."""

    level: Tensor  # [B] or [1], float32
    cond: Tensor  # [B or 1, D]
    gain_in: Tensor  # [B or 1, 1, F/stem, 1]
    gain_out: Tensor  # [B or 1, 1, F/stem, 1]


class Denoiser(nn.Module):
    """The consistency model over two consecutive chunks; the left one does not depend on the right one.

    So the left half is computed alone (`denoise(..., past=None)`); the right half needs only the left one's keys and values.
    """

    def __init__(self, config: CoDiCodecConfig, frontends: Frontends) -> None:
        super().__init__()
        self.config, d = config, config.dim
        self.grid = config.token_grid
        self.embed = _mlp([d] * 4, last_activation=True)
        self.gains = _mlp([d, d, d, 2 * config.stem_grid[0]], last_activation=False)
        nn.init.zeros_(self.gains[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.gains[-1].bias)  # type: ignore[arg-type]
        self.project = nn.Linear(len(config.levels), d)
        self.registers = nn.Parameter(0.02 * torch.randn(1, config.registers, d))
        self.down = frontends.down(d)
        self.up = frontends.up(2 * _WAVES, d)
        self.tokens = self.grid[0] * self.grid[1] + config.latents + config.registers
        self.transformer = Transformer(
            2 * self.tokens, d, config.heads, config.mlp, config.denoiser_layers, condition=d
        )

    def condition(self, level: Tensor) -> Condition:
        """Noise levels `[B]` (or `[1]` for a whole batch) -> the layers' conditioning on them."""
        e = level_features(level, self.config.dim).to(self.registers.dtype)
        gain_in, gain_out = (1 + self.gains(e)).chunk(2, dim=-1)
        return Condition(level.float(), self.embed(e), gain_in[:, None, :, None], gain_out[:, None, :, None])

    def _tokens(
        self, x: Tensor, values: Tensor, c: Condition, pyramid: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        scaled = x * consistency.c_in(c.level, self.config.noise)[:, None, None, None]
        feature_map, own = self.down(scaled.to(self.registers.dtype), c.gain_in, c.cond, pyramid)
        latents = self.project(values.to(self.registers.dtype))
        return _join(_flatten(feature_map), latents, self.registers), own

    def left_context(self, x: Tensor, values: Tensor, c: Condition, pyramid: Sequence[Tensor]) -> list[KeyValue]:
        """The keys and values of a left chunk, which are all that the right chunk needs of it."""
        tokens, _ = self._tokens(x, values, c, pyramid)
        return self.transformer(tokens, c.cond, wanted=slice(0))[1]  # type: ignore[no-any-return]

    def denoise(
        self, x: Tensor, values: Tensor, c: Condition, pyramid: Sequence[Tensor], past: list[KeyValue] | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        """Denoise one chunk: noisy `[B, C, F, T]` -> clean estimate, float32, and its keys and values.

        Without `past` the chunk is the left one of a pair; with the left chunk's keys and values, the right one.
        """
        tokens, own = self._tokens(x, values, c, pyramid)
        offset = 0 if past is None else self.tokens
        y, kept = self.transformer(tokens, c.cond, past, offset, wanted=slice(self.grid[0] * self.grid[1]))
        raw = self.up(_unflatten(y, self.grid), c.gain_out, c.cond, own).float()
        noise = self.config.noise
        skip = consistency.c_skip(c.level, noise)[:, None, None, None]
        out = consistency.c_out(c.level, noise)[:, None, None, None]
        return skip * x + out * raw, kept


class CoDiCodecNetwork(nn.Module):
    """Encoder, upsampler and denoiser; 148 519 052 parameters with the `base` preset."""

    def __init__(self, config: CoDiCodecConfig, frontends: Frontends | None = None) -> None:
        super().__init__()
        self.config = config
        frontends = frontends or ConvolutionFrontends(config)
        self.encoder = Encoder(config, frontends)
        self.upsampler = Upsampler(config, frontends)
        self.denoiser = Denoiser(config, frontends)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def encode_pre(self, x: Tensor) -> Tensor:
        """Spectrum `[B, C, F, T]` -> pre-tanh latents `[B, L, d]`, float32."""
        out: Tensor = self.encoder(x)
        return out

    def upsample(self, values: Tensor) -> list[Tensor]:
        """Bounded latents `[B, L, d]` -> pyramid."""
        out: list[Tensor] = self.upsampler(values)
        return out

    def denoise_pair(
        self,
        x_left: Tensor,
        x_right: Tensor,
        sigma_left: Tensor,
        sigma_right: Tensor,
        values_left: Tensor,
        values_right: Tensor,
        pyramid_left: Sequence[Tensor],
        pyramid_right: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Denoise two consecutive chunks, each at its own level: `[B, C, F, T]` twice, sigma `[B]` twice."""
        left, past = self.denoiser.denoise(x_left, values_left, self.denoiser.condition(sigma_left), pyramid_left)
        right, _ = self.denoiser.denoise(
            x_right, values_right, self.denoiser.condition(sigma_right), pyramid_right, past
        )
        return left, right

    @torch.no_grad()
    def rescale(self, mean: Tensor, var: Tensor, deviation: float) -> None:
        """Change the encoder's weights so that it computes ``deviation * (z - mean) / sqrt(var)`` in place of z.

        Statistics `[d]` change the head; `[L, d]`, of an anchored network, the constants after it.
        """
        factor = deviation / torch.sqrt(var + 1e-12)
        if self.config.anchored:
            self.encoder.scale.mul_(factor)
            self.encoder.shift.copy_((self.encoder.shift - mean) * factor)
            return
        head = self.encoder.head
        head.bias.copy_((head.bias - mean) * factor)
        head.weight.mul_(factor[:, None])


def parameter_count(network: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(math.prod(p.shape) for p in network.parameters())


def initialise_dead_ends(network: nn.Module, deviation: float = 0.02, seed: int = 0) -> None:
    """Give every zero-initialised tensor small random values, so that a random network computes something."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            if not torch.any(p):
                p.copy_(deviation * torch.randn(p.shape, generator=generator))
