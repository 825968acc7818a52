"""Lycodec: the configuration and the presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from duotone.config.base import Config, NoiseConfig
from duotone.errors import ConfigError

LycodecPhases = Literal["network", "magnitudes"]


class LycodecDecodeConfig(Config):
    """Defaults of Lycodec's decoding: denoising steps from sigma_max, and where the phases come from."""

    steps: int = Field(default=1, ge=1)
    phases: LycodecPhases = "network"  # its estimate, or made from the magnitudes of its estimate
    iterations: int = Field(default=1, ge=0, le=32)  # of fast Griffin-Lim, for phases from magnitudes


class LycodecConfig(Config):
    """All sizes of a Lycodec network; the defaults are those of the preset `lycodec`, after the published description.

    A chunk of `frames` hops has `tokens` tokens of `values` numbers, in as many equal groups as `levels` has entries. `packed`
    consecutive values make one code. The decoder divides bins x frames into patches of `patch_bins` x `patch_frames`.
    """

    family: Literal["lycodec"] = "lycodec"
    rate: int = 48_000
    audio_channels: Literal[2] = 2
    n_fft: int = 2048
    hop: int = 640
    frames: int = 112
    compand_scale: float = 0.34
    compand_power: float = 0.65
    stem: Literal["patches", "bands"] = "patches"  # two-dimensional convolutions, or one linear map a frequency band
    stem_channels: tuple[int, ...] = (64, 128, 256, 512)  # of the stem `patches`
    stem_factors: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (2, 2), (2, 1))  # frequency, time
    band_units: int = Field(default=32, ge=1)  # of the stem `bands`, a band
    token_frames: int = Field(default=8, ge=1)  # frames that a token of the stem `bands` sees
    floor: float = Field(default=2e-5, gt=0)  # added to magnitudes before the logarithm (stem `bands`)
    tokens: int = Field(default=18, ge=1)
    values: int = Field(default=256, ge=1)  # of a token
    levels: tuple[int, ...] = (11, 11, 11, 11)  # of the values of each group
    packed: int = Field(default=1, ge=1)  # consecutive values in a code; only 1 suits small vocabularies (LOG.md)
    encoder_dim: int = 512
    encoder_heads: int = 8
    encoder_layers: int = Field(default=8, ge=1)
    mlp: int = Field(default=4, ge=1)
    fusion_units: int = Field(default=512, ge=1)
    predictor_units: int = Field(default=0, ge=0)  # of the residual's prediction from codes; 0: none
    stereo: bool = True  # the head that estimates level and time differences
    stereo_bands: int = Field(default=8, ge=1)
    conditioner: Literal["bins", "patches"] = "bins"  # resolution at which tokens are given to the decoder's input
    conditioner_channels: int = Field(default=64, ge=1)  # of `bins`; those of `patches` are `decoder_dim`
    patch_bins: Literal[8, 16, 32] = 16
    patch_frames: int = Field(default=16, ge=1)
    decoder_dim: int = 512
    decoder_heads: int = 8
    decoder_layers: int = Field(default=6, ge=1)
    noise_dim: int = Field(default=512, ge=4, multiple_of=2)  # of the features of the noise level
    modulation: Literal["own", "shared"] = "own"  # adaLN: a matrix for each block, or one for all (PixArt)
    split_hz: float = Field(default=12_000.0, gt=0)  # border of the band-split head
    split_channels: int = Field(default=64, ge=0)  # 0: no such head
    noise: NoiseConfig = NoiseConfig(sigma_data=0.27)  # measured on generated and recorded music and speech
    decode: LycodecDecodeConfig = LycodecDecodeConfig()

    @model_validator(mode="after")
    def _consistent(self) -> LycodecConfig:
        for name, dim, heads, of in (
            ("encoder_dim", self.encoder_dim, self.encoder_heads, 2),
            ("decoder_dim", self.decoder_dim, self.decoder_heads, 4),
        ):
            if dim % (heads * of):
                raise ValueError(
                    f"{name} got {dim}, expected a multiple of {of} times its {heads} heads (rotated pairs)"
                )
        if not 0 < self.hop < self.n_fft or self.n_fft % 2:
            raise ValueError(f"hop {self.hop} must be below n_fft {self.n_fft}, which must be even")
        if self.bins % self.patch_bins or self.frames % self.patch_frames:
            raise ValueError(
                f"{self.bins} bins x {self.frames} frames are not covered by patches of {self.patch_bins} x {self.patch_frames}"
            )
        if self.values % (len(self.levels) * self.packed) or not self.levels:
            raise ValueError(
                f"{self.values} values cannot be divided into {len(self.levels)} groups of codes of {self.packed} values"
            )
        if any(n < 3 or n % 2 == 0 for n in self.levels):
            raise ValueError(f"FSQ levels must be odd and at least 3, got {self.levels}")
        if len(self.stem_factors) != len(self.stem_channels) or any(c % 8 for c in self.stem_channels):
            raise ValueError(
                f"stem_channels {self.stem_channels} must be multiples of 8, with a pair in stem_factors for each"
            )
        if self.stem_channels[-1] != self.encoder_dim and self.stem == "patches":
            raise ValueError(f"the last of stem_channels {self.stem_channels} must be encoder_dim {self.encoder_dim}")
        if self.token_frames > self.frames:
            raise ValueError(f"token_frames got {self.token_frames}, more than the {self.frames} frames of a chunk")
        return self

    @property
    def bins(self) -> int:
        """Frequency bins kept (the Nyquist bin is dropped)."""
        return self.n_fft // 2

    @property
    def chunk_samples(self) -> int:
        """Samples a chunk advances."""
        return self.hop * self.frames

    @property
    def overlap(self) -> int:
        """Samples that a chunk's frames share with the next chunk's."""
        return self.n_fft - self.hop

    @property
    def patch_grid(self) -> tuple[int, int]:
        """Patches (frequency, time)."""
        return self.bins // self.patch_bins, self.frames // self.patch_frames

    @property
    def groups(self) -> int:
        """Groups of values of a token."""
        return len(self.levels)

    @property
    def codebook_levels(self) -> tuple[tuple[int, ...], ...]:
        """FSQ levels of the values of each codebook, group by group."""
        each = self.values // self.groups // self.packed
        return tuple((n,) * self.packed for n in self.levels for _ in range(each))


LYCODEC_PRESETS: dict[str, LycodecConfig] = {
    "lycodec": LycodecConfig(),
    "lycodec-tiny": LycodecConfig(
        stem="bands", band_units=24, encoder_dim=256, encoder_heads=4, encoder_layers=3, mlp=2, fusion_units=256, conditioner="patches",
        patch_bins=32, decoder_dim=256, decoder_heads=4, decoder_layers=4, noise_dim=64, modulation="shared",
        split_channels=8,
    ),
}  # fmt: skip


def lycodec_preset(name: str) -> LycodecConfig:
    """The Lycodec preset of that name. Raises `ConfigError` that lists the known names."""
    if name not in LYCODEC_PRESETS:
        raise ConfigError(f"No Lycodec preset is named {name!r}. There are: {', '.join(LYCODEC_PRESETS)}.")
    return LYCODEC_PRESETS[name]
