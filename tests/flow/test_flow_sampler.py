"""Chunk after chunk: noise by counters, guidance, temperature, prompts, and states."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from duotone.config import SamplingConfig
from duotone.errors import UsageError
from duotone.flow import FlowCache, Sampler, random
from duotone.flow.guidance import combine, guided
from duotone.flow.noise import CONTEXT, NEGATIVE, chunk_noise
from duotone.flow.path import interpolate
from duotone.flow.schedule import times
from duotone.flow.solvers import SOLVERS, solve
from duotone.nn.noise import normal
from flow_toys import SPANS, TOY, chunks, stirred

SHAPE = (TOY.tokens, TOY.channels)
CLOSE = {"rtol": 0.0, "atol": 1e-5}


def sampling(**changes: object) -> SamplingConfig:
    return SamplingConfig.parse({"steps": 3, **changes})


def run(sampler: Sampler, count: int) -> Tensor:
    return torch.stack([sampler.next().latents for _ in range(count)], 1)


def test_noise_depends_on_seed_chunk_and_draw_alone() -> None:
    one = chunk_noise([3], 5, 1)
    assert one.shape == (1, 8, 64) and torch.equal(chunk_noise([9, 3], 5, 1)[1:], one)
    others = [chunk_noise([4], 5, 1), chunk_noise([3], 6, 1), chunk_noise([3], 5, 0), chunk_noise([3], 5, -1)]
    many = torch.cat([one, *others, normal("3/5/1", (1, 8, 64))]).flatten(1)
    assert (torch.corrcoef(many) - torch.eye(6)).abs().max() < 0.2
    whole = chunk_noise(range(200), 0, 0)
    assert abs(float(whole.mean())) < 0.01 and abs(float(whole.std()) - 1) < 0.01


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_sampled_chunk_is_the_solution_from_its_noise(solver: str) -> None:
    model, prompt = stirred(SPANS), 2 * chunks(1, 4)
    sampler = Sampler(model, [7], sampling(solver=solver))
    sampler.push(prompt)
    chunk = sampler.next()
    cache = FlowCache(model)
    cache.append(model.normalize(prompt))
    wanted = solve(
        solver, cache.velocity, chunk_noise([7], 4, 0, SHAPE), times(3), lambda k: chunk_noise([7], 4, k, SHAPE)
    )
    assert torch.equal(chunk.latents, model.denormalize(wanted.x))
    assert (chunk.index, chunk.steps, chunk.evaluations) == (4, 3, wanted.evaluations)
    cache.append(wanted.x[:, None])
    assert sampler.cache.index == 5
    x = chunks(1, seed=8)
    torch.testing.assert_close(sampler.cache.velocity(x, 0.5), cache.velocity(x, 0.5), **CLOSE)


def test_a_seed_gives_the_same_chunks_whatever_runs_beside_it() -> None:
    model, prompt = stirred(), chunks(1, 3)
    alone = run_with(model, [5], prompt)
    again = run_with(model, [5], prompt)
    beside = run_with(model, [1, 5, 9, 2, 3, 4, 6], prompt.expand(7, -1, -1, -1))
    assert torch.equal(alone, again)
    torch.testing.assert_close(beside[1:2, :1], alone[:, :1], rtol=0, atol=1e-4)
    assert (beside[0] - beside[1]).abs().max() > 0.1


def run_with(model: torch.nn.Module, seeds: list[int], prompt: Tensor) -> Tensor:
    sampler = Sampler(model, seeds, sampling(solver="ping-pong", context_noise=0.1))  # type: ignore[arg-type]
    sampler.push(prompt)
    return run(sampler, 4)


def test_states_go_on_with_the_same_chunks() -> None:
    model, settings = stirred(), sampling(guidance=1.5, guidance_branch="noisy", context_noise=0.05)
    sampler = Sampler(model, [1, 2], settings)
    run(sampler, 5)
    state = sampler.state()
    rest = run(sampler, 3)
    other = Sampler(model, [1, 2], settings)
    other.restore(state)
    assert torch.equal(run(other, 3), rest)


def test_what_is_pushed_stands_in_the_place_of_the_sampled_chunk() -> None:
    model, user = stirred(), chunks(1, 1, seed=9)
    one, two = (Sampler(model, [1], sampling()) for _ in range(2))
    first = one.next(push=False)
    assert one.cache.index == 0 and torch.equal(one.next(push=False).latents, first.latents)
    one.push(user)
    two.push(user[0])
    assert torch.equal(one.next().latents, two.next().latents)


def test_temperature_scales_initial_and_added_noise_only() -> None:
    model = random(TOY)  # velocities are zero
    for solver in ("euler", "rk4"):
        chunk = Sampler(model, [4], sampling(solver=solver, temperature=0.7)).next()
        torch.testing.assert_close(chunk.latents, 0.7 * chunk_noise([4], 0, 0, SHAPE))
    chunk = Sampler(model, [4], sampling(solver="ping-pong", temperature=0.7)).next()
    wanted = chunk_noise([4], 0, 0, SHAPE)
    for k, t in enumerate(times(3)[1:-1], start=1):
        wanted = interpolate(wanted, chunk_noise([4], 0, k, SHAPE), t)
    torch.testing.assert_close(chunk.latents, 0.7 * wanted)
    assert not Sampler(model, [4], sampling(temperature=0)).next().latents.any()


@pytest.mark.parametrize("branch", ["empty", "short", "noisy"])
def test_guidance_combines_both_histories_inside_its_interval(branch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, n = stirred(), 5
    settings = sampling(guidance=2.0, guidance_branch=branch, guidance_noise=0.4)
    prompt, x = chunks(1, n), chunks(1, seed=3)
    sampler = Sampler(model, [7], settings)
    sampler.push(prompt)
    past = model.normalize(prompt)
    plain, worse = FlowCache(model), FlowCache(model)
    plain.append(past)
    eps = torch.stack([chunk_noise([7], i, NEGATIVE, SHAPE) for i in range(n)], 1)
    worse.append(past, 0.4 if branch == "noisy" else 0.0, eps)
    worse.see({"empty": 0, "short": 1, "noisy": None}[branch])
    velocity = guided(sampler.cache, settings)
    asked: list[int] = []
    original = sampler.cache.velocity
    monkeypatch.setattr(
        sampler.cache, "velocity", lambda x, t, s, branches: asked.append(branches) or original(x, t, s, branches)
    )
    for t in (0.9, 0.5, 0.1):
        positive, negative = plain.velocity(x, t), worse.velocity(x, t)
        wanted = combine(positive, negative, 2.0) if t == 0.5 else positive
        torch.testing.assert_close(velocity(x, t), wanted, **CLOSE)
        assert (positive - negative).abs().max() > 1e-3
    assert asked == [1, 2, 1]  # one batch for both


def test_a_weight_of_one_is_no_guidance_and_of_zero_the_negative_branch() -> None:
    a, b = chunks(1), chunks(1, seed=2)
    torch.testing.assert_close(combine(a, b, 1.0), a)
    assert torch.equal(combine(a, b, 0.0), b)
    model, prompt = stirred(), chunks(1, 3)
    plain, nearly = (Sampler(model, [1], sampling(guidance=w)) for w in (1.0, 1.0 + 1e-7))
    for sampler in (plain, nearly):
        sampler.push(prompt)
    assert plain.cache.branches == 1
    torch.testing.assert_close(plain.next().latents, nearly.next().latents, rtol=0, atol=1e-4)
    assert nearly.cache.branches == 2


def test_settings_change_between_chunks() -> None:
    model, prompt = stirred(), chunks(1, 6)
    sampler = Sampler(model, [1], sampling())
    sampler.push(prompt)
    for branch in ("empty", "noisy", "short"):
        sampler.settings = sampling(guidance=1.5, guidance_branch=branch, solver="heun")
        assert sampler.next().evaluations == 6
    sampler.settings = sampling()
    last = sampler.next()
    assert last.evaluations == 3 and sampler.cache.branches == 1 and sampler.cache.index == 10


def test_context_noise_is_that_of_its_counter() -> None:
    model, prompt, x = stirred(), chunks(1, 3), chunks(1, seed=3)
    sampler = Sampler(model, [7], sampling(context_noise=0.3))
    sampler.push(prompt)
    eps = torch.stack([chunk_noise([7], i, CONTEXT, SHAPE) for i in range(3)], 1)
    cache = FlowCache(model)
    cache.append(model.normalize(prompt), 0.3, eps)
    assert torch.equal(sampler.cache.velocity(x, 0.5), cache.velocity(x, 0.5))
    clean = Sampler(model, [7], sampling())
    clean.push(prompt)
    assert (clean.cache.velocity(x, 0.5) - cache.velocity(x, 0.5)).abs().max() > 1e-3


def test_the_settings_of_the_model_are_the_default() -> None:
    config = TOY.model_copy(update={"sampling": sampling(steps=5, solver="rk4")})
    assert Sampler(stirred(config)).next().evaluations == 20


def test_average_velocities_need_a_model_that_has_them() -> None:
    with pytest.raises(UsageError, match="one with spans"):
        Sampler(stirred(), settings=sampling(solver="average")).next()
    assert Sampler(stirred(SPANS), settings=sampling(solver="average", guidance=1.5)).next().evaluations == 3


def test_wrong_seeds_are_refused() -> None:
    for seeds in ([], [1.5], [True], ["1"]):
        with pytest.raises(UsageError, match="whole number"):
            Sampler(stirred(), seeds)  # type: ignore[arg-type]
