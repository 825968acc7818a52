"""The times at which a solver stands: from 1 (noise) down to t_min, evenly or shifted."""

from __future__ import annotations

from duotone.errors import UsageError


def shifted(t: float, shift: float) -> float:
    """``shift t / (1 + (shift - 1) t)`` (arXiv 2403.03206, equation 23): above 1, more steps are spent near the noise."""
    return shift * t / (1 + (shift - 1) * t)


def times(steps: int, shift: float = 1.0, t_min: float = 0.02) -> tuple[float, ...]:
    """The `steps` + 1 times of a schedule, from 1 to `t_min`; shift 1 spaces them evenly.

    Raises `UsageError` for fewer than one step, a shift that is not positive, or t_min outside (0, 1).
    """
    if steps < 1 or shift <= 0 or not 0 < t_min < 1:
        raise UsageError(
            f"Got {steps} steps, shift {shift} and t_min {t_min}; expected at least one step, a positive shift, and t_min "
            f"between 0 and 1 (a velocity at t = 0 is never trained)."
        )
    inner = (shifted(1 - i / steps, shift) for i in range(1, steps))
    return (1.0, *(t_min + (1 - t_min) * t for t in inner), t_min)
