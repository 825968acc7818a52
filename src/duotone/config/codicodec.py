"""CoDiCodec's configurations: with the convolutional frontend and with bands, and their presets."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from duotone.config.base import Config, NoiseConfig
from duotone.errors import ConfigError

Framing = Literal["exact", "published"]


class DecodeConfig(Config):
    """Defaults of decoding: steps of each strategy, and the noise position of the autoregressive time prompt."""

    parallel_steps: int = 4
    autoregressive_steps: int = 2
    time_prompt: float = 0.4


class CoDiCodecConfig(Config):
    """All sizes of a CoDiCodec network; the defaults are those of the published model with 148.5M parameters.

    The frontends start from `bins` x `frames` positions divided by `stem`, then go through stages of
    `channels[i]` channels and `blocks[i]` blocks; after stage i the grid is downsampled by `factors[i]` (frequency, time).
    """

    family: Literal["codicodec"] = "codicodec"
    rate: int = 48_000
    audio_channels: Literal[2] = 2
    hop: int = 1024
    frames: int = 32
    compand_scale: float = 0.34
    compand_power: float = 0.65
    stem: tuple[int, int] = (1, 1)
    channels: tuple[int, ...] = (64, 128, 256, 512)
    blocks: tuple[int, ...] = (3, 3, 3, 1)
    factors: tuple[tuple[int, int], ...] = ((2, 2), (4, 1), (2, 2))
    heads: int = 4
    mlp: int = 2
    encoder_layers: int = 12
    upsampler_layers: int = 12
    denoiser_layers: int = 12
    latents: int = 128
    registers: int = 8
    anchored: bool = False  # each summary latent is initialised from one audio token (needs equal numbers of both); trains much faster
    levels: tuple[int, ...] = (11, 11, 11, 11)
    noise: NoiseConfig = NoiseConfig()
    decode: DecodeConfig = DecodeConfig()

    @model_validator(mode="after")
    def _consistent(self) -> CoDiCodecConfig:
        if len(self.blocks) != len(self.channels) or len(self.factors) != len(self.channels) - 1:
            raise ValueError(
                f"channels, blocks and factors need lengths n, n and n-1; got {len(self.channels)}, "
                f"{len(self.blocks)}, {len(self.factors)}"
            )
        if self.dim % (self.heads * 2):
            raise ValueError(f"the last width {self.dim} must be a multiple of twice the heads {self.heads}")
        if self.bins % math.prod((self.stem[0], *(f for f, _ in self.factors))):
            raise ValueError(f"{self.bins} bins are not divisible by the frequency factors")
        if self.frames % math.prod((self.stem[1], *(t for _, t in self.factors))):
            raise ValueError(f"{self.frames} frames are not divisible by the time factors")
        if any(b % a for a, b in zip(self.channels, self.channels[1:], strict=False)):
            raise ValueError(f"each of the channels {self.channels} must be a multiple of the one before")
        if self.anchored and self.token_grid[0] * self.token_grid[1] != self.latents:
            raise ValueError(f"anchored needs as many audio tokens {self.token_grid} as latents {self.latents}")
        if any(n < 3 or n % 2 == 0 for n in self.levels):
            raise ValueError(f"FSQ levels must be odd and at least 3, got {self.levels}")
        return self

    @property
    def dim(self) -> int:
        """Transformer width D."""
        return self.channels[-1]

    @property
    def n_fft(self) -> int:
        """Window length in samples: two hops."""
        return 2 * self.hop

    @property
    def bins(self) -> int:
        """Frequency bins kept (the Nyquist bin is dropped)."""
        return self.hop

    @property
    def chunk_samples(self) -> int:
        """Samples a chunk advances."""
        return self.hop * self.frames

    @property
    def stem_grid(self) -> tuple[int, int]:
        """Positions (frequency, time) after the stem."""
        return self.bins // self.stem[0], self.frames // self.stem[1]

    @property
    def token_grid(self) -> tuple[int, int]:
        """Positions (frequency, time) of the audio tokens."""
        f, t = self.stem_grid
        for df, dt in self.factors:
            f, t = f // df, t // dt
        return f, t

    @property
    def codebook_size(self) -> int:
        """Number of distinct tokens."""
        return math.prod(self.levels)

    @property
    def bits_per_chunk(self) -> float:
        """Information of one chunk of tokens, in bits."""
        return self.latents * math.log2(self.codebook_size)

    @property
    def bit_rate(self) -> float:
        """Information rate of the tokens, in bits a second."""
        return self.bits_per_chunk * self.rate / self.chunk_samples


class SynthesisConfig(Config):
    """How samples are made from the estimate of magnitudes."""

    iterations: int = Field(default=1, ge=0, le=32)  # of fast Griffin-Lim, after phases from one pass
    noise_from: float | None = (
        5000.0  # Hz; above, the noise of the source-filter head is noise, not magnitudes with phases
    )


class RefinementConfig(Config):
    """The refinement of the estimate of the bands frontend by a consistency model: its sizes, noise levels and decoding.

    Spectra are relative to the estimate's magnitudes, and companded: ``(|X| / A)**compand_power`` with the phases of X. It
    starts from the estimate plus noise of level `begin`. Or, as in the published codec, there is no estimate:
    magnitudes are relative to the usual ones of each bin, and it starts from noise alone.
    """

    start: Literal["estimate", "noise"] = "estimate"
    noise: NoiseConfig = NoiseConfig(sigma_max=0.5)
    begin: float | None = None  # noise level at which decoding starts from the estimate; None: sigma_max
    compand_power: float = Field(default=0.65, gt=0, le=1)
    dim: int = 160
    heads: int = 5
    layers: int = 2
    units: tuple[int, int] = (64, 24)  # of a band below and above 9 kHz
    levels: int = Field(default=64, ge=4, multiple_of=2)  # width of the embedding of noise levels
    decode: DecodeConfig = DecodeConfig(parallel_steps=0, autoregressive_steps=0)  # 0 steps: the estimate itself

    @property
    def decoded_noise(self) -> NoiseConfig:
        """The noise levels of decoding."""
        return self.noise if self.begin is None else self.noise.model_copy(update={"sigma_max": self.begin})

    @model_validator(mode="after")
    def _consistent(self) -> RefinementConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim got {self.dim}, expected a multiple of its {self.heads} heads")
        limits = self.noise
        if self.begin is not None and (self.start == "noise" or not limits.sigma_min < self.begin <= limits.sigma_max):
            raise ValueError(
                f"begin got {self.begin}, expected a noise level above {limits.sigma_min} up to {limits.sigma_max}, or none "
                f"where decoding starts from noise alone"
            )
        least, steps = int(self.start == "noise"), (self.decode.parallel_steps, self.decode.autoregressive_steps)
        if min(steps) < least:
            raise ValueError(
                f"decode got {steps[0]} parallel and {steps[1]} autoregressive steps, expected {least} or more"
            )
        return self


class BandsConfig(Config):
    """All sizes of a CoDiCodec with the *bands* frontend; the defaults are those of the bundled codec.

    The spectrum of mid (left plus right) is divided into unequal bands; a chunk has `tokens` time steps of
    `frames` / `tokens` frames. An explicit estimate gives magnitudes and stereo; phases are made from the magnitudes.
    """

    family: Literal["codicodec"] = "codicodec"
    frontend: Literal["bands"] = "bands"
    rate: int = 48_000
    audio_channels: Literal[2] = 2
    n_fft: int = 2048
    hop: int = 512
    frames: int = 64
    tokens: int = 32
    summary: int = Field(
        default=0, ge=0
    )  # summary queries that hold a chunk's latents; 0: each time step holds its own
    levels: tuple[int, ...] = (11, 11, 11, 11)
    latents: int = 128
    floor: float = Field(
        default=2e-5, gt=0
    )  # added to magnitudes before the logarithm; a sine at full scale has magnitude 1
    low_bins: int = 192  # bins of the long window (twice n_fft) that the encoder sees
    pitches: int = Field(default=229, ge=0)  # of the source-filter head; 0: no such head, and no salience of pitches
    lowest_pitch: float = 41.2
    pitches_per_octave: int = 36
    salience: bool = True  # the encoder is told each frame's salience of the pitches
    noise_bands: int = 24
    stereo_bands: int = 32
    encoder_dim: int = 256
    encoder_heads: int = 4
    encoder_layers: int = 3
    dim: int = 384
    heads: int = 6
    layers: int = 4
    band_units: int = 64  # of the encoder, a band
    head_units: tuple[int, int] = (96, 64)  # of the envelope head, a band below and above 9 kHz
    mlp: int = 2
    synthesis: SynthesisConfig = SynthesisConfig()
    refinement: RefinementConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> BandsConfig:
        for name, dim, heads in (("encoder_dim", self.encoder_dim, self.encoder_heads), ("dim", self.dim, self.heads)):
            if dim % heads:
                raise ValueError(f"{name} got {dim}, expected a multiple of its {heads} heads")
        if self.frames % self.tokens or self.n_fft % self.hop:
            raise ValueError(
                f"frames {self.frames} and n_fft {self.n_fft} have to be multiples of tokens {self.tokens} and hop {self.hop}"
            )
        if self.per_token * self.hop * 2 != self.n_fft:
            raise ValueError(
                f"a time step has to advance half a window, {self.n_fft // 2} samples; got {self.per_token * self.hop}"
            )
        holders = self.summary or self.tokens
        if self.summary and self.tokens % self.summary:
            raise ValueError(f"{self.tokens} time steps cannot be shared by {self.summary} summary queries")
        if self.latents % holders:
            raise ValueError(f"{self.latents} latents cannot be shared by {holders} tokens")
        if any(n < 3 or n % 2 == 0 for n in self.levels):
            raise ValueError(f"FSQ levels must be odd and at least 3, got {self.levels}")
        return self

    @property
    def bins(self) -> int:
        """Frequency bins, the Nyquist bin included."""
        return self.n_fft // 2 + 1

    @property
    def estimated(self) -> bool:
        """Whether there is an estimate of magnitudes and stereo."""
        return self.refinement is None or self.refinement.start == "estimate"

    @property
    def per_token(self) -> int:
        """Frames of a time step."""
        return self.frames // self.tokens

    @property
    def chunk_samples(self) -> int:
        """Samples a chunk advances."""
        return self.hop * self.frames

    @property
    def lead(self) -> int:
        """Samples from the start of the long window to that of the first frame: two frames lie in the middle of a long window."""
        return self.n_fft - self.n_fft // 2 - (self.per_token - 1) * self.hop // 2

    @property
    def spare(self) -> int:
        """Samples that the windows of a chunk reach beyond its advance."""
        return 2 * self.n_fft - self.per_token * self.hop

    @property
    def values(self) -> int:
        """Values of a chunk's latents that each of its holders (summary tokens or time steps) has."""
        return self.latents * len(self.levels) // (self.summary or self.tokens)


#: Of the presets.
_SYNTHESIS = SynthesisConfig(iterations=2)
PRESETS: dict[str, CoDiCodecConfig | BandsConfig] = {
    "base": CoDiCodecConfig(),
    "small": BandsConfig(
        encoder_dim=512, encoder_heads=8, encoder_layers=6, dim=768, heads=12, layers=6, band_units=96, head_units=(160, 96),
        synthesis=_SYNTHESIS,
    ),
    "tiny": BandsConfig(synthesis=_SYNTHESIS),
}  # fmt: skip


def codicodec_config(values: dict[str, Any], where: str = "configuration") -> CoDiCodecConfig | BandsConfig:
    """The configuration of a CoDiCodec with either frontend. Raises `ConfigError` naming each offending key."""
    return (BandsConfig if values.get("frontend") == "bands" else CoDiCodecConfig).parse(values, where)


def preset(name: str) -> CoDiCodecConfig | BandsConfig:
    """The preset of that name. Raises `ConfigError` that lists the known names."""
    if name not in PRESETS:
        raise ConfigError(f"No preset is named {name!r}. There are: {', '.join(PRESETS)}.")
    return PRESETS[name]
