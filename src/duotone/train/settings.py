"""The sections of a recipe that every task has: the optimizer's, and the loop's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from duotone.config import Config


class OptimSection(Config):
    """Optimizer, learning rate, averaging."""

    name: Literal["radam", "adamw", "muon"] = "radam"
    rate: float = Field(default=1e-4, gt=0)
    muon_rate: float = Field(default=0.01, gt=0)  # of matrices, with muon; everything else then has AdamW at `rate`
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = Field(default=0.0, ge=0)  # of matrices and kernels; never of biases, gains and other vectors
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
    )  # decoded at each validation, to choose the best (0: one-step errors do)
    listen_every: int = Field(default=0, ge=0)  # steps between reconstructions of fixed clips (0: none)
    clips: int = Field(default=2, ge=1)
    max_bad_steps: int = Field(default=50, ge=1)
    max_minutes: float | None = None  # stop with a checkpoint then; the schedule still counts steps
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ()
