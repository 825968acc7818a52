"""The consistency objective apart from networks: its fields, noise levels of student and teacher, and the loss between their outputs.

Sources: iCT (arXiv 2310.14189), ECT (2406.14548), CoDiCodec (2509.09836).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor, nn

from duotone.codec import consistency
from duotone.config import NoiseConfig
from duotone.train.codicodec_objective import CoDiCodecObjectiveSection
from duotone.train.draws import Draws
from duotone.train.sections import ObjectiveSection


class NoiseFields(ObjectiveSection):
    """The fields that `draw_pair`, `step_size` and `consistency_loss` read, for every codec; defaults are the published values."""

    log_sigma_mean: float = -1.1
    log_sigma_deviation: float = Field(default=2.0, gt=0)
    dt_exponent_start: float = 1.0
    dt_exponent_end: float = 2.0
    denoising_share: float = Field(
        default=0.0, ge=0, le=1
    )  # ECT start: share of the steps with the clean spectrum as target
    weight_power: float = 1.0  # weight = (sigma_hi - sigma_lo) ** -power


class ConsistencyFields(NoiseFields, CoDiCodecObjectiveSection):
    """The fields of the consistency objective, on both frontends; defaults are the published values if there are any."""

    continuous_share: float = Field(default=0.75, ge=0, le=1)  # FSQ-dropout: share of examples that are not rounded
    deviation: float = Field(default=0.9, gt=0)  # target standard deviation of each pre-tanh latent over the batch
    spread_weight: float = Field(default=10.0, ge=0)  # weight of the spread term (see `bottleneck`)
    envelope_weight: float = Field(default=0.0, ge=0)  # weight of the auxiliary loss for short runs (see `envelope`)
    chunks: int = Field(default=2, ge=2)  # consecutive chunks of an example; more than 2 on the bands frontend only
    teacher_decay: float = Field(
        default=0.0, ge=0, lt=1
    )  # of the teacher's moving average, on the bands frontend only; 0: the teacher has the student's weights (iCT, section 3.2)
    heard_weight: float = Field(
        default=0.0, ge=0
    )  # weight of the mel distance of the sound of one step from the estimate; for a refinement of an estimate only
    heard_convergence_weight: float = Field(default=0.0, ge=0)  # weight of the spectral convergence of that sound

    @property
    def consecutive(self) -> int:
        """Chunks of an example."""
        return self.chunks


@dataclass(frozen=True)
class Pair:
    """Noise levels of student (high) and teacher (low) for one chunk of each example `[B]`, or for several."""

    high: Tensor
    low: Tensor


def draw_pair(name: str, dt: float | None, noise: NoiseConfig, section: NoiseFields, draws: Draws) -> Pair:
    """Log-normal sigma mapped to the rho grid, and the level `dt` below it; `dt` None means the clean end (r = 0)."""
    log_sigma = section.log_sigma_mean + section.log_sigma_deviation * draws.stratified_normal(name)
    u = consistency.position(log_sigma.exp().clamp(noise.sigma_min, noise.sigma_max), noise).clamp(1e-3, 1)
    lower = torch.zeros_like(u) if dt is None else (u - dt).clamp_min(0)
    return Pair(consistency.sigma(u, noise), consistency.sigma(lower, noise))


def step_size(progress: float, section: NoiseFields) -> float | None:
    """``dt = 0.1 ** e``, e linear in training progress; None during the denoising stage (ECT, arXiv 2406.14548)."""
    if progress < section.denoising_share:
        return None
    rest = (progress - section.denoising_share) / max(1e-9, 1 - section.denoising_share)
    exponent = section.dt_exponent_start + rest * (section.dt_exponent_end - section.dt_exponent_start)
    return float(0.1**exponent)


def consistency_loss(student: Tensor, teacher: Tensor, pair: Pair, power: float) -> tuple[Tensor, Tensor]:
    """Pseudo-Huber per example, weighted by ``1 / (sigma_hi - sigma_lo)``: mean over the batch, and unweighted `[B]`."""
    error = consistency.pseudo_huber(student, teacher)
    weight = (pair.high - pair.low).clamp_min(1e-6) ** -power
    return (weight * error).mean(), error.detach()


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, decay: float) -> None:
    """Move a teacher's weights towards the student's, by the share ``1 - decay``; buffers are copied."""
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1 - decay)
    for own, buffer in zip(teacher.buffers(), student.buffers(), strict=True):
        own.copy_(buffer)
