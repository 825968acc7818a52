"""Classifier-free guidance by the history: away from what the model would play with a worse memory of the past."""

from __future__ import annotations

from torch import Tensor

from duotone.config import SamplingConfig
from duotone.flow.cache import FlowCache
from duotone.flow.solvers import Velocity


def combine(positive: Tensor, negative: Tensor, weight: float) -> Tensor:
    """``v = v_negative + w (v - v_negative)`` (arXiv 2207.12598, equation 6, whose w is ours less 1)."""
    return negative + weight * (positive - negative)


def guided(cache: FlowCache, settings: SamplingConfig) -> Velocity:
    """The velocity of the cache's next chunk under the settings' guidance.

    Inside `guidance_interval` (arXiv 2404.07724) both branches run in one batch, outside only the positive one. The negative branch has
    no history, a shortened one, or a noisier one (arXiv 2502.06764), which then must have been appended so.
    """
    low, high = settings.guidance_interval
    if settings.guidance == 1:
        cache.branch(1)
        return cache.velocity
    cache.branch(2)
    cache.see({"empty": 0, "short": settings.guidance_chunks, "noisy": None}[settings.guidance_branch], branch=1)

    def velocity(x: Tensor, t: float, span: float = 0.0) -> Tensor:
        if not low <= t <= high:
            return cache.velocity(x, t, span, branches=1)
        positive, negative = cache.velocity(x, t, span, branches=2).chunk(2)
        return combine(positive, negative, settings.guidance)

    return velocity
