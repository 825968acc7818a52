"""Frozen, validated configurations, to and from YAML and JSON; unknown keys are refused."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from duotone.errors import ConfigError

Self = TypeVar("Self", bound="Config")
Framing = Literal["exact", "published"]
Solver = Literal["euler", "heun", "midpoint", "rk4", "dpm++", "ping-pong", "average"]
NegativeBranch = Literal["empty", "noisy", "short"]
LycodecPhases = Literal["network", "magnitudes"]


def cache_folder() -> Path | None:
    """The folder for caches: $DUOTONE_CACHE, $XDG_CACHE_HOME/duotone or ~/.cache/duotone.

    None if there is no such folder: no variable is set, and the user has no home (for example in a container).
    The folder may be missing or read-only; callers must then work without a cache.
    """
    own, shared = os.environ.get("DUOTONE_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    base = (
        Path(shared) if os.path.isabs(shared) else Path("~/.cache")
    )  # the XDG specification says to ignore relative paths
    try:
        return (Path(own) if own else base / "duotone").expanduser()
    except RuntimeError:  # "~" of a user without a home
        return None


class Config(BaseModel):
    """Base of every configuration: immutable, strict about keys, and readable from YAML or JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls: type[Self], values: dict[str, Any], where: str = "configuration") -> Self:
        """Validate a plain dictionary. Raises `ConfigError` naming each offending key."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"  {'.'.join(map(str, e['loc'])) or '(whole)'}: {e['msg']}" for e in error.errors()]
            known = ", ".join(cls.model_fields)
            raise ConfigError(f"{where} is not valid:\n" + "\n".join(lines) + f"\nKnown keys: {known}.") from None

    @classmethod
    def read(cls: type[Self], path: str | Path) -> Self:
        """Read a YAML or JSON file. Raises `ConfigError` when it is missing, not a mapping, or not valid."""
        file = Path(path)
        if not file.is_file():
            raise ConfigError(f"No configuration file at {file}. Give the path of a YAML or JSON file.")
        try:
            text = file.read_text(encoding="utf-8")
            # To YAML, the 2e-05 of JSON is a text: a number in YAML has a point.
            values = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
        except (yaml.YAMLError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ConfigError(f"{file} is neither YAML nor JSON: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{file} holds {type(values).__name__}, expected a mapping of keys to values.")
        return cls.parse(values, str(file))

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return self.model_dump(mode="json")

    def to_json(self) -> str:
        """The configuration as indented JSON with sorted keys."""
        return json.dumps(self.to_dict(), indent=2, sort_keys=True)


class NoiseConfig(Config):
    """Noise levels of the consistency model (EDM, arXiv 2206.00364; page *Numbers*)."""

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    sigma_data: float = 0.5
    rho: float = 7.0


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


class SamplingConfig(Config):
    """How a flow model is sampled; stored with its weights. Noise is at t = 1, data at t = 0."""

    solver: Solver = "euler"
    steps: int = Field(default=8, ge=1)
    shift: float = Field(default=1.0, gt=0)  # of the schedule: t -> shift t / (1 + (shift - 1) t)
    t_min: float = Field(default=0.02, gt=0, lt=1)  # the smallest t that is trained; no solver evaluates below it
    temperature: float = Field(default=1.0, ge=0)  # scales the initial noise and the noise that stochastic solvers add
    context_noise: float = Field(default=0.0, ge=0, lt=1)  # level s at which finished chunks enter the context
    guidance: float = Field(default=1.0, ge=0)  # weight w of v = v_negative + w (v - v_negative); 1 is no guidance
    guidance_interval: tuple[float, float] = (0.2, 0.8)  # of t, arXiv 2404.07724
    guidance_branch: NegativeBranch = "empty"  # history of the negative branch: none, noisier, or shortened
    guidance_noise: float = Field(default=0.5, ge=0, lt=1)  # level of the noisy history
    guidance_chunks: int = Field(default=1, ge=1)  # length of the shortened history

    @model_validator(mode="after")
    def _consistent(self) -> SamplingConfig:
        low, high = self.guidance_interval
        if not 0 <= low <= high <= 1:
            raise ValueError(f"guidance_interval needs 0 <= low <= high <= 1, got {low} and {high}")
        return self


class FlowConfig(Config):
    """All sizes of a block-causal diffusion transformer over a codec's continuous latents, and how to sample it.

    Each layer attends to the chunk itself and `context_chunks` chunks before it; None is all chunks, as in published
    checkpoints, whose training crops had `trained_chunks`.
    """

    family: Literal["flow"] = "flow"
    dim: int = Field(default=768, ge=1)
    layers: int = Field(default=10, ge=1)
    heads: int = Field(default=12, ge=1)
    head: int = 64
    condition: int = 768  # width of the time embedding
    rank: int | None = Field(default=None, ge=1)  # of modulations that share their first factor; None: full matrices
    spans: bool = False  # whether velocities are also told the length of the step over which they are the average
    tokens: int = Field(default=8, ge=1)  # in a chunk
    channels: int = Field(default=64, ge=1)  # of a token
    context_chunks: int | None = Field(default=12, ge=1)
    trained_chunks: int = Field(default=128, ge=2)
    sampling: SamplingConfig = SamplingConfig()
    codec: str | None = None  # `CodecSpec.space` of the codec whose latents the model was trained on

    @model_validator(mode="after")
    def _consistent(self) -> FlowConfig:
        if self.dim != self.heads * self.head:
            raise ValueError(f"dim {self.dim} must be heads {self.heads} times head {self.head}")
        if self.head % 4:
            raise ValueError(f"head must be a multiple of 4 (two rotations of pairs), got {self.head}")
        if self.condition % 2 or self.condition < 4:
            raise ValueError(f"condition must be even and at least 4 (cosines and sines), got {self.condition}")
        if self.sampling.solver == "average" and not self.spans:
            raise ValueError("the solver average needs a model with spans")
        return self

    @property
    def context(self) -> int:
        """Chunks before the current one that a layer attends to when streaming."""
        return self.trained_chunks - 1 if self.context_chunks is None else self.context_chunks

    @property
    def reach(self) -> int | None:
        """Chunks of the past that can influence the current one; None: all."""
        return None if self.context_chunks is None else self.layers * self.context_chunks


class LMSampling(Config):
    """How tokens are drawn from a language model: the fields of transformers' `generation_config.json`."""

    temperature: float = Field(default=1.0, gt=0)  # divides the logits; below 1 likely tokens become more likely
    top_k: int = Field(default=0, ge=0)  # draw from this number of tokens only; 0: from all
    top_p: float = Field(default=1.0, gt=0, le=1)  # draw from the fewest tokens that have this probability together


class LMConfig(Config):
    """All sizes of a language model over a codec's tokens: a Llama of transformers, and its tokenizer.

    A code is written as `parts` numbers, each of a codebook of its own; `vocabulary` is the number of tokens that acoustic BPE makes
    of them, None: each number is a token, and nothing is merged. The model sees `context_chunks` chunks, the one it writes included.
    """

    family: Literal["lm"] = "lm"
    dim: int = Field(default=256, ge=2)
    layers: int = Field(default=4, ge=1)
    heads: int = Field(default=4, ge=1)
    mlp: float = Field(default=2.0, gt=0)  # width of the gated MLP, as a multiple of `dim`
    parts: int = Field(default=1, ge=1)
    vocabulary: int | None = Field(default=None, ge=1)
    context_chunks: int = Field(default=8, ge=2)

    @model_validator(mode="after")
    def _consistent(self) -> LMConfig:
        if self.dim % (2 * self.heads):
            raise ValueError(f"dim {self.dim} must be a multiple of twice its {self.heads} heads (rotations of pairs)")
        return self


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
    packed: int = Field(default=1, ge=1)  # consecutive values that make one code; 1 suits acoustic BPE best (LOG.md)
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


PRESETS: dict[str, CoDiCodecConfig | BandsConfig] = {
    "base": CoDiCodecConfig(),
    "small": BandsConfig(
        encoder_dim=512, encoder_heads=8, encoder_layers=6, dim=768, heads=12, layers=6, band_units=96, head_units=(160, 96),
    ),
    "tiny": BandsConfig(),
}  # fmt: skip


FLOW_PRESETS: dict[str, FlowConfig] = {
    "flow-base": FlowConfig(),
    "flow-small": FlowConfig(dim=384, layers=8, heads=6, condition=384, context_chunks=8),
    "flow-tiny": FlowConfig(dim=320, layers=7, heads=5, condition=256, rank=32, context_chunks=8),
}


LM_PRESETS: dict[str, LMConfig] = {"lm-tiny": LMConfig()}


def lm_preset(name: str) -> LMConfig:
    """The preset of a language model of that name. Raises `ConfigError` that lists the known names."""
    if name not in LM_PRESETS:
        raise ConfigError(f"No language model preset is named {name!r}. There are: {', '.join(LM_PRESETS)}.")
    return LM_PRESETS[name]


def flow_preset(name: str) -> FlowConfig:
    """The flow preset of that name. Raises `ConfigError` that lists the known names."""
    if name not in FLOW_PRESETS:
        raise ConfigError(f"No flow preset is named {name!r}. There are: {', '.join(FLOW_PRESETS)}.")
    return FLOW_PRESETS[name]


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


def codicodec_config(values: dict[str, Any], where: str = "configuration") -> CoDiCodecConfig | BandsConfig:
    """The configuration of a CoDiCodec with either frontend. Raises `ConfigError` naming each offending key."""
    return (BandsConfig if values.get("frontend") == "bands" else CoDiCodecConfig).parse(values, where)


def preset(name: str) -> CoDiCodecConfig | BandsConfig:
    """The preset of that name. Raises `ConfigError` that lists the known names."""
    if name not in PRESETS:
        raise ConfigError(f"No preset is named {name!r}. There are: {', '.join(PRESETS)}.")
    return PRESETS[name]
