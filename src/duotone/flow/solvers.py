"""Solvers of ``dx / dt = v(x, t)`` from noise (t = 1) to data (t = 0).

The velocity at t = 0 is never trained, so none is asked for: the nodes end at t_min > 0, and the rest of the way is straight along the last
velocity, which costs no evaluation. *Steps* are the intervals between nodes, *evaluations* the calls of the network.

Methods are generators: they yield the points at which they need a velocity, and are sent it. So whoever drives several of them can compute
the velocities of all in one batch (`duotone.flow.together`); `solve` drives one.

Legend: x_i the state at node t_i, D_i = x_i - t_i v_i the data that a velocity points to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from torch import Tensor

from duotone.config import Solver
from duotone.errors import UsageError
from duotone.flow.path import denoised, interpolate

#: ``velocity(x, t)``, of the shape of x; the solver average calls ``velocity(x, t, span)``.
Velocity = Callable[..., Tensor]
#: What a method yields: (x, t), or (x, t, span) for the average velocity from t down to t - span.
Point: TypeAlias = tuple[Tensor, float] | tuple[Tensor, float, float]
Method: TypeAlias = Generator[Point, Tensor, Tensor]
T = TypeVar("T")
Y = TypeVar("Y")
A = TypeVar("A")
#: ``renoise(k)``: noise added after step k (from 1 on), of the shape of x, already scaled by the temperature.
Renoise = Callable[[int], Tensor]


@dataclass(frozen=True)
class Solution:
    """What a solver gives: data of the shape of the noise, and what it cost."""

    x: Tensor
    steps: int
    evaluations: int


def solve(
    solver: Solver, velocity: Velocity, noise: Tensor, times: Sequence[float], renoise: Renoise | None = None
) -> Solution:
    """Integrate from `noise` at ``times[0]`` = 1 to data at t = 0; `times` come from `schedule.times`.

    Raises `UsageError` for unknown solvers, times that do not fall from 1 to above 0, and ping-pong without `renoise`.
    """
    return driven(solving(solver, noise, times, renoise), lambda point: velocity(*point))


def driven(method: Generator[Y, A, T], answer: Callable[[Y], A]) -> T:
    """What a generator returns, where each thing it yields is answered by a function, whose errors are raised where it asked."""
    try:
        asked = next(method)
        while True:
            try:
                given = answer(asked)
            except Exception as error:
                asked = method.throw(error)
            else:
                asked = method.send(given)
    except StopIteration as end:
        found: T = end.value
        return found


def solving(
    solver: Solver, noise: Tensor, times: Sequence[float], renoise: Renoise | None = None
) -> Generator[Point, Tensor, Solution]:
    """The same as `solve`, asking for each velocity."""
    if solver not in _METHODS:
        raise UsageError(f"No solver is called {solver!r}. There are: {', '.join(_METHODS)}.")
    if len(times) < 2 or times[0] != 1 or times[-1] <= 0 or any(b >= a for a, b in itertools.pairwise(times)):
        raise UsageError(
            f"Got the times {list(times)}, expected falling ones from 1 to above 0, as schedule.times gives them."
        )
    if solver == "ping-pong":
        if renoise is None:
            raise UsageError("ping-pong adds noise after each step: pass renoise, a function from the step to noise.")
        x = yield from ping_pong(noise, times, renoise)
    else:
        x = yield from _DETERMINISTIC[solver](noise, times)
    steps = len(times) - 1
    return Solution(x, steps, evaluations(solver, steps))


def evaluations(solver: Solver, steps: int) -> int:
    """Calls of the network that a solver makes in so many steps."""
    if solver not in _METHODS:
        raise UsageError(f"No solver is called {solver!r}. There are: {', '.join(_METHODS)}.")
    return steps * _METHODS[solver]


def euler(x: Tensor, times: Sequence[float]) -> Method:
    """``x_{i+1} = x_i + (t_{i+1} - t_i) v(x_i, t_i)``."""
    v = x
    for t, following in itertools.pairwise(times):
        v = yield x, t
        x = x + (following - t) * v
    return denoised(x, v, times[-1])


def heun(x: Tensor, times: Sequence[float]) -> Method:
    """The mean of the velocities at both ends of an Euler step (arXiv 2206.00364, algorithm 1)."""
    last = x
    for t, following in itertools.pairwise(times):
        first = yield x, t
        last = yield x + (following - t) * first, following
        x = x + (following - t) / 2 * (first + last)
    return denoised(x, last, times[-1])


def midpoint(x: Tensor, times: Sequence[float]) -> Method:
    """The velocity in the middle of an Euler step (explicit midpoint rule)."""
    v = x
    for t, following in itertools.pairwise(times):
        half = (following - t) / 2
        v = yield x + half * (yield x, t), t + half
        x = x + 2 * half * v
    return denoised(x, v, times[-1])


def rk4(x: Tensor, times: Sequence[float]) -> Method:
    """The classical Runge-Kutta method of fourth order: weights 1, 2, 2, 1 over 6."""
    last = x
    for t, following in itertools.pairwise(times):
        step = following - t
        first = yield x, t
        second = yield x + step / 2 * first, t + step / 2
        third = yield x + step / 2 * second, t + step / 2
        last = yield x + step * third, following
        x = x + step / 6 * (first + 2 * second + 2 * third + last)
    return denoised(x, last, times[-1])


def dpm(x: Tensor, times: Sequence[float]) -> Method:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2) with alpha = 1 - t and sigma = t, so ``lambda = log((1 - t) / t)``.

    ``x_{i+1} = (t_{i+1} / t_i) x_i + (1 - t_{i+1}) (1 - exp(-h_i)) D``, where D extrapolates the last two data predictions,
    ``D_i + h_i / (2 h_{i-1}) (D_i - D_{i-1})``. At t = 1 lambda is -inf, so the first two steps are of first order (D = D_i); so is the last
    one, whose h is the largest.
    """
    before: Tensor | None = None
    step_before = math.inf
    v = x
    for i, (t, following) in enumerate(itertools.pairwise(times), start=2):
        v = yield x, t
        data = denoised(x, v, t)
        step = _log_ratio(following) - _log_ratio(t)
        mixed = data if before is None or i == len(times) else data + step / (2 * step_before) * (data - before)
        x = following / t * x - (1 - following) * math.expm1(-step) * mixed
        before, step_before = data, step
    return denoised(x, v, times[-1])


def average(x: Tensor, times: Sequence[float]) -> Method:
    """``x_r = x_t - (t - r) u(x_t, r, t)`` with u the average velocity between t and r (arXiv 2505.13447).

    A model with spans gives u in one evaluation at t, so the last step goes to r = 0 itself.
    """
    for t, following in itertools.pairwise((*times[:-1], 0.0)):
        x = x - (t - following) * (yield x, t, t - following)
    return x


def ping_pong(x: Tensor, times: Sequence[float], renoise: Renoise) -> Method:
    """Go to the data at once, add new noise to the next time, and so on: ``x_{i+1} = (1 - t_{i+1}) D_i + t_{i+1} eps``.

    Multistep sampling of consistency models (arXiv 2303.01469, algorithm 1). The last data are not noised again.
    """
    data = denoised(x, (yield x, times[0]), times[0])
    for i, t in enumerate(times[1:-1], start=1):
        x = interpolate(data, renoise(i), t)
        data = denoised(x, (yield x, t), t)
    return data


def _log_ratio(t: float) -> float:
    """``log((1 - t) / t)``, half the logarithm of the signal-to-noise ratio."""
    return -math.inf if t == 1 else math.log((1 - t) / t)


_DETERMINISTIC: dict[str, Callable[[Tensor, Sequence[float]], Method]] = {
    "euler": euler,
    "heun": heun,
    "midpoint": midpoint,
    "rk4": rk4,
    "dpm++": dpm,
    "average": average,
}
#: Evaluations a step.
_METHODS: dict[str, int] = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4, "dpm++": 1, "ping-pong": 1, "average": 1}
SOLVERS = tuple(_METHODS)
