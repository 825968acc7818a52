"""Classifier-free guidance by the history: away from what the model would play with a worse memory of the past."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from duotone.config import SamplingConfig
from duotone.flow.cache import FlowCache
from duotone.flow.solvers import Point, Velocity, driven
from duotone.flow.together import Evaluation


def combine(positive: Tensor, negative: Tensor, weight: float) -> Tensor:
    """``v = v_negative + w (v - v_negative)`` (arXiv 2207.12598, equation 6, whose w is ours less 1)."""
    return negative + weight * (positive - negative)


def prepare(cache: FlowCache, settings: SamplingConfig) -> None:
    """Give the cache the branches that the settings' guidance needs.

    The negative branch has no history, a shortened one, or a noisier one (arXiv 2502.06764), which then must have been appended so.
    """
    if settings.guidance == 1:
        cache.branch(1)
        return
    cache.branch(2)
    cache.see({"empty": 0, "short": settings.guidance_chunks, "noisy": None}[settings.guidance_branch], branch=1)


def asked(cache: FlowCache, settings: SamplingConfig, point: Point) -> Generator[Evaluation, Tensor, Tensor]:
    """The velocity at a point under the settings' guidance, of a cache that was prepared: yields the evaluation that it takes.

    Inside `guidance_interval` (arXiv 2404.07724) both branches run in one batch, outside only the positive one.
    """
    x, t, span = (*point, 0.0)[:3]
    low, high = settings.guidance_interval
    if settings.guidance == 1 or not low <= t <= high:
        found = yield Evaluation(cache, x, t, span, 1)
        return found
    positive, negative = (yield Evaluation(cache, x, t, span, 2)).chunk(2)
    return combine(positive, negative, settings.guidance)


def guided(cache: FlowCache, settings: SamplingConfig) -> Velocity:
    """The velocity of the cache's next chunk under the settings' guidance, as a function."""
    prepare(cache, settings)
    return lambda *point: driven(asked(cache, settings, point), Evaluation.run)
