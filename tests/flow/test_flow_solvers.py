"""Solvers and schedules against closed forms, and against the exact path of a mixture of Gaussians."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from duotone.errors import UsageError
from duotone.flow.path import denoised, interpolate, noise_of, sample_times, velocity
from duotone.flow.schedule import shifted, times
from duotone.flow.solvers import SOLVERS, evaluations, solve

DETERMINISTIC = tuple(solver for solver in SOLVERS if solver != "ping-pong")
COST = {"euler": 1, "heun": 2, "midpoint": 2, "rk4": 4, "dpm++": 1, "ping-pong": 1, "average": 1}
T_MIN = 0.02


class Mixture:
    """Equal Gaussians of deviation s around means `[K, C]`: their velocity is known."""

    def __init__(self, means: Tensor, deviation: float) -> None:
        self.means, self.deviation = means, deviation
        self.asked: list[float] = []

    def __call__(self, x: Tensor, t: float, span: float = 0.0) -> Tensor:
        self.asked.append(t)
        a, variance = 1 - t, (1 - t) ** 2 * self.deviation**2 + t**2
        offset = x[:, None] - a * self.means
        weights = torch.softmax(-offset.square().sum(-1) / (2 * variance), -1)
        data = (weights[..., None] * (self.means + a * self.deviation**2 / variance * offset)).sum(1)
        return (x - data) / t


def quiet(_: int) -> Tensor:
    return torch.zeros(())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("steps", [1, 3])
def test_straight_paths_are_exact(solver: str, steps: int) -> None:
    """All data in one point."""
    point = torch.randn(1, 64, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(5, 64, generator=torch.Generator().manual_seed(2))
    found = solve(solver, Mixture(point, 0.0), noise, times(steps), quiet)
    torch.testing.assert_close(found.x, point.expand(5, 64), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("dpm++", 2), ("rk4", 4)])
def test_the_path_of_one_gaussian_is_met_with_the_order_of_the_method(solver: str, order: int) -> None:
    """``x_0 = mu + s eps`` exactly."""
    mean = torch.full((1, 1), 0.7, dtype=torch.float64)
    noise = torch.linspace(-2, 2, 9, dtype=torch.float64)[:, None]
    exact = mean + 0.6 * noise
    errors = []
    for steps in (16, 32) if order == 4 else (64, 128):
        x = solve(solver, Mixture(mean, 0.6), noise, times(steps, t_min=1e-5)).x
        errors.append(float((x - exact).square().mean().sqrt()))
    assert errors[0] < 0.02
    assert math.log2(errors[0] / errors[1]) > order - 0.5


def test_average_velocities_of_a_gaussian_are_exact_in_any_number_of_steps() -> None:
    """``u = (x_t - x_r) / (t - r)`` on the exact path ``x_t = (1 - t) mu + eps sqrt((1 - t)^2 s^2 + t^2)``."""
    mean, deviation = 0.7, 0.6
    asked: list[tuple[float, float]] = []

    def spread(t: float) -> float:
        return math.sqrt((1 - t) ** 2 * deviation**2 + t**2)

    def between(x: Tensor, t: float, span: float) -> Tensor:
        asked.append((t, span))
        eps, r = (x - (1 - t) * mean) / spread(t), t - span
        return (x - (1 - r) * mean - eps * spread(r)) / span

    noise = torch.linspace(-2, 2, 9)[:, None]
    for steps in (1, 2, 5):
        asked.clear()
        found = solve("average", between, noise, times(steps))
        torch.testing.assert_close(found.x, mean + deviation * noise, rtol=0, atol=1e-5)
        assert found.evaluations == steps and min(t for t, _ in asked) >= T_MIN
        assert sum(span for _, span in asked) == pytest.approx(1)


def test_the_table_of_a_mixture_of_gaussians() -> None:
    """RMS errors at equal evaluations, 64 dimensions and 8 modes, the mean of three mixtures."""
    budgets, rows = (4, 8, 16, 32), dict.fromkeys(("euler", "midpoint", "heun", "dpm++"), torch.zeros(4))
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        mixture = Mixture(torch.randn(8, 64, generator=generator), 0.5)
        noise = torch.randn(128, 64, generator=generator)
        exact = solve("rk4", mixture, noise, times(200, t_min=1e-3)).x
        for solver in rows:
            found = [solve(solver, mixture, noise, times(n // COST[solver])) for n in budgets]
            assert [one.evaluations for one in found] == list(budgets)
            errors = torch.stack([(one.x - exact).square().mean().sqrt() for one in found])
            rows[solver] = rows[solver] + errors / 3
    told = {
        "euler": (0.461, 0.236, 0.126),
        "midpoint": (0.348, 0.077, 0.074),
        "heun": (0.838, 0.269, 0.078),
        "dpm++": (0.479, 0.233, 0.102),
    }
    for solver, errors in rows.items():
        assert bool((errors[:-1] > errors[1:]).all()), (solver, errors)
        ratio = errors[:3] / torch.tensor(told[solver])
        assert float(ratio.min()) > 0.6 and float(ratio.max()) < 1.5, (solver, errors)
        assert errors[3] < 0.12
    four, eight = ({solver: float(errors[i]) for solver, errors in rows.items()} for i in (0, 1))
    assert min(four, key=four.__getitem__) == min(eight, key=eight.__getitem__) == "midpoint"
    assert max(four, key=four.__getitem__) == max(eight, key=eight.__getitem__) == "heun"


@given(
    solver=st.sampled_from(SOLVERS),
    steps=st.integers(1, 12),
    shift=st.floats(0.2, 5),
    t_min=st.floats(0.001, 0.2),
)
def test_nothing_is_evaluated_below_t_min_and_evaluations_are_counted(
    solver: str, steps: int, shift: float, t_min: float
) -> None:
    spy = Mixture(torch.zeros(1, 3), 1.0)
    found = solve(solver, spy, torch.ones(2, 3), times(steps, shift, t_min), quiet)
    assert max(spy.asked) == 1 and min(spy.asked) >= t_min
    assert found.evaluations == len(spy.asked) == steps * COST[solver] == evaluations(solver, steps)
    assert found.steps == steps and bool(torch.isfinite(found.x).all())


def test_ping_pong_of_a_gaussian_has_the_deviation_of_its_recursion() -> None:
    noise = torch.Generator().manual_seed(3)
    s, mean, nodes = 0.6, 0.4, times(5)
    mixture = Mixture(torch.full((1, 1), mean), s)
    eps = [torch.randn(200_000, 1, generator=noise) for _ in range(6)]
    found = solve("ping-pong", mixture, eps[0], nodes, lambda k: eps[k]).x
    variance, expected = 1.0, 0.0  # of x_i around the mean of x_i; of the data
    for i, t in enumerate(nodes[:-1]):
        gain = (1 - t) * s**2 / ((1 - t) ** 2 * s**2 + t**2)
        variance = 1.0 if i == 0 else (1 - t) ** 2 * expected + t**2
        expected = gain**2 * variance
    assert abs(float(found.mean()) - mean) < 0.01
    assert abs(float(found.std()) - expected**0.5) < 0.01


def test_ping_pong_adds_the_noise_it_is_given_once_after_each_step_but_the_last() -> None:
    drawn: list[int] = []

    def renoise(k: int) -> Tensor:
        drawn.append(k)
        return torch.full((1, 2), float(k))

    nodes = times(4)
    found = solve("ping-pong", lambda x, t: torch.zeros_like(x), torch.zeros(1, 2), nodes, renoise).x
    wanted = 0.0
    for k in (1, 2, 3):
        wanted = (1 - nodes[k]) * wanted + nodes[k] * k
    assert drawn == [1, 2, 3]
    torch.testing.assert_close(found, torch.full((1, 2), wanted))


@pytest.mark.parametrize("shift", [1.0, 0.5, 3.0])
def test_schedules_fall_from_one_to_t_min(shift: float) -> None:
    nodes = times(7, shift, 0.05)
    assert nodes[0] == 1 and nodes[-1] == 0.05 and len(nodes) == 8
    assert all(a > b for a, b in itertools.pairwise(nodes))
    middle = nodes[4] - (1 - 0.05) * (1 - 4 / 7) - 0.05
    assert (middle > 1e-3) == (shift > 1) and (middle < -1e-3) == (shift < 1)
    if shift == 1:
        assert nodes == pytest.approx([1 - 0.95 * i / 7 for i in range(8)])


def test_shifts_are_inverted_by_their_reciprocal() -> None:
    for t in (0.0, 0.1, 0.7, 1.0):
        assert shifted(shifted(t, 3.0), 1 / 3) == pytest.approx(t)


def test_the_path_is_a_straight_line_and_gives_both_ends_back() -> None:
    x, eps, t = torch.randn(5, 2, 3), torch.randn(5, 2, 3), torch.rand(5, 1, 1)
    x_t, v = interpolate(x, eps, t), velocity(x, eps)
    assert torch.equal(interpolate(x, eps, 0.0), x) and torch.equal(interpolate(x, eps, 1.0), eps)
    torch.testing.assert_close(denoised(x_t, v, t), x)
    torch.testing.assert_close(noise_of(x_t, v, t), eps)
    torch.testing.assert_close((interpolate(x, eps, t + 1e-2) - x_t) / 1e-2, v, rtol=1e-3, atol=1e-3)


def test_training_times_have_their_distribution() -> None:
    generator = torch.Generator().manual_seed(4)
    normal = sample_times((100, 200), "logit-normal", generator)
    assert normal.shape == (100, 200) and float(normal.min()) > 0 and float(normal.max()) < 1
    assert abs(float(normal.logit().mean())) < 0.03 and abs(float(normal.logit().std()) - 1) < 0.03
    even = sample_times((20_000,), "uniform", generator)
    assert abs(float(even.mean()) - 0.5) < 0.01 and abs(float(even.std()) - 12**-0.5) < 0.01
    with pytest.raises(UsageError, match="logit-normal"):
        sample_times((3,), "normal")  # type: ignore[arg-type]


@pytest.mark.parametrize("arguments", [(0, 1.0, 0.1), (3, 0.0, 0.1), (3, 1.0, 0.0), (3, 1.0, 1.0)])
def test_schedules_that_cannot_be_are_refused(arguments: tuple[int, float, float]) -> None:
    with pytest.raises(UsageError, match="t_min"):
        times(*arguments)


def test_wrong_solvers_and_times_are_refused() -> None:
    noise = torch.zeros(1, 2)
    zero = Mixture(torch.zeros(1, 2), 1.0)
    with pytest.raises(UsageError, match=r"rk5.*euler"):
        solve("rk5", zero, noise, times(3))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="euler"):
        evaluations("rk5", 3)  # type: ignore[arg-type]
    for wrong in ((1.0,), (1.0, 0.5, 0.0), (0.9, 0.1), (1.0, 0.2, 0.5)):
        with pytest.raises(UsageError, match="falling ones from 1"):
            solve("euler", zero, noise, wrong)
    with pytest.raises(UsageError, match="renoise"):
        solve("ping-pong", zero, noise, times(3))
