"""A training recipe: every number of a run, in one frozen configuration. YAML in `recipes/`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from duotone.config import CoDiCodecConfig, Config, preset
from duotone.errors import ConfigError


class CodecSection(Config):
    """Which network to train: a preset, with any of its fields replaced; from random weights or from those of a codec."""

    preset: str = "tiny"
    replace: dict[str, Any] = Field(default_factory=dict)
    start_from: str | None = None  # a codec to fine-tune: bundled name, folder, published .pt, or org/name on the Hub

    def build(self) -> CoDiCodecConfig:
        """The network's configuration. Raises `ConfigError` for an unknown preset or field."""
        return CoDiCodecConfig.parse({**preset(self.preset).to_dict(), **self.replace}, "codec.replace")


class ObjectiveSection(Config):
    """The consistency objective; defaults are the published ones where there are any (see `objective`)."""

    continuous_share: float = Field(default=0.75, ge=0, le=1)  # FSQ-dropout: how often rounding is skipped
    log_sigma_mean: float = -1.1
    log_sigma_deviation: float = Field(default=2.0, gt=0)
    dt_exponent_start: float = 1.0
    dt_exponent_end: float = 2.0
    denoising_share: float = Field(default=0.0, ge=0, le=1)  # ECT start: so long the target is the clean spectrum
    weight_power: float = 1.0  # weight = (sigma_hi - sigma_lo) ** -power
    deviation: float = Field(default=0.9, gt=0)  # wanted of each pre-tanh latent over the batch
    spread_weight: float = Field(default=10.0, ge=0)  # of the term that holds latents there (see `bottleneck`)
    envelope_weight: float = Field(default=0.0, ge=0)  # of the term that gives short runs a start (see `envelope`)


class DataSection(Config):
    """Which sound is used, and how crops are taken."""

    mixing_share: float = Field(default=0.5, ge=0, le=1)  # how often two crops are added
    gain_db: tuple[float, float] = (-6.0, 3.0)
    level_db: float | None = None  # bring every file to this loudness (RMS, dBFS) before the random gain
    silence_db: float = -60.0  # crops below are drawn again; files that are nothing else are left out
    clipped_share_max: float = Field(default=0.02, ge=0, le=1)  # files with more samples at full scale are left out
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    workers: int = Field(default=4, ge=1)  # threads that read and decode


class OptimSection(Config):
    """Optimizer, learning rate, averaging."""

    name: Literal["radam", "adamw", "muon"] = "radam"
    rate: float = Field(default=1e-4, gt=0)
    muon_rate: float = Field(default=0.01, gt=0)  # of matrices, with muon; everything else then has AdamW at `rate`
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    warmup_steps: int = Field(default=10_000, ge=0)
    schedule: Literal["cosine", "constant", "cooldown"] = "cosine"
    cooldown_share: float = Field(default=0.2, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)


class TrainSection(Config):
    """The loop."""

    steps: int = Field(default=2_000_000, ge=1)
    batch_size: int = Field(default=16, ge=1)  # of a step, over all processes and passes
    accumulation: int = Field(default=1, ge=1)  # passes a step is computed in
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    log_every: int = Field(default=1, ge=1)
    health_every: int = Field(default=100, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)  # the newest; the best by validation is kept besides
    validate_every: int = Field(default=1000, ge=1)
    validation_batches: int = Field(default=4, ge=1)  # of 4 clips
    decoded_clips: int = Field(
        default=8, ge=0
    )  # decoded at each validation; they choose the best (0: one-step error does)
    listen_every: int = Field(default=0, ge=0)  # reconstruct fixed clips so often (0: never)
    clips: int = Field(default=2, ge=1)
    max_bad_steps: int = Field(default=50, ge=1)
    max_minutes: float | None = None  # stop (with a checkpoint) after so long; the schedule still counts steps
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()


class TrainRecipe(Config):
    """A whole run."""

    codec: CodecSection = CodecSection()
    objective: ObjectiveSection = ObjectiveSection()
    data: DataSection = DataSection()
    optim: OptimSection = OptimSection()
    train: TrainSection = TrainSection()

    @classmethod
    def load(cls, path: str | Path, overrides: list[str] | None = None) -> TrainRecipe:
        """Read YAML or JSON and apply dotted overrides such as ``train.steps=20``. Raises `ConfigError`."""
        values = cls.read(path).to_dict()
        for override in overrides or []:
            key, separator, text = override.partition("=")
            if not separator:
                raise ConfigError(f"Override got {override!r}, expected key=value such as train.steps=20.")
            _assign(values, key.strip().split("."), yaml.safe_load(text), key)
        return cls.parse(values, "the recipe with its overrides")


def _assign(values: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    for i, part in enumerate(path):
        free = path[0] == "codec" and i > 1  # codec.replace takes any field of the codec's configuration
        if not isinstance(values, dict) or (part not in values and not free):
            known = ", ".join(values) if isinstance(values, dict) else "nothing below it"
            raise ConfigError(f"Override got the unknown key {key!r}; there: {known}.")
        if i == len(path) - 1:
            values[part] = value
        else:
            values = values[part]
