"""The sections of a recipe that every task has: optimizer and loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duotone.config import Config


class OptimSection(Config):
    """Optimizer, learning rate, averaging."""

    name: Literal["radam", "adamw", "muon"] = "radam"
    rate: float = Field(default=1e-4, gt=0)
    muon_rate: float = Field(
        default=0.01, gt=0
    )  # learning rate of matrices with muon; other parameters then use AdamW with `rate`
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(
        default=0.0, ge=0
    )  # for matrices and convolution kernels, not for biases, gains and other vectors
    warmup_steps: int = Field(default=10_000, ge=0)
    schedule: Literal["cosine", "constant", "cooldown"] = "cosine"
    cooldown_share: float = Field(default=0.2, ge=0, le=1)
    clip: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.9999, ge=0, lt=1)


class TrainSection(Config):
    """The loop."""

    steps: int = Field(default=2_000_000, ge=1)
    batch_size: int = Field(default=16, ge=1)  # examples per step, over all processes and passes
    accumulation: int = Field(default=1, ge=1)  # number of passes per step
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    compile: bool = False
    gradient_checkpointing: bool = False
    log_every: int = Field(default=1, ge=1)
    health_every: int = Field(default=100, ge=1)
    checkpoint_every: int = Field(default=500, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)  # the newest ones; the best by validation is also kept
    validate_every: int = Field(default=1000, ge=1)
    validation_batches: int = Field(default=4, ge=1)  # of 4 clips
    decoded_clips: int = Field(
        default=8, ge=0
    )  # clips decoded at each validation, to select the best (0: use one-step errors)
    listen_every: int = Field(default=0, ge=0)  # steps between reconstructions of fixed clips (0: none)
    clips: int = Field(default=2, ge=1)
    max_bad_steps: int = Field(default=50, ge=1)
    max_minutes: float | None = None  # stop with a checkpoint after this time; the schedule counts steps nevertheless
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
