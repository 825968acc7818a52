"""The cached evaluation is the full pass: at every context, noise level and solver, after any number of chunks."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duotone.config import FlowConfig
from duotone.errors import UsageError
from duotone.flow import FlowCache, FlowModel, solve
from duotone.flow.noise import chunk_noise
from duotone.flow.path import interpolate
from duotone.flow.schedule import times
from duotone.flow.solvers import SOLVERS
from flow_toys import LOW_RANK, SPANS, TOY, UNLIMITED, chunks, stirred

CLOSE = {"rtol": 0.0, "atol": 1e-5}


@torch.no_grad()
def by_full_pass(
    model: FlowModel, past: Tensor, s: Tensor, x: Tensor, t: float, span: float = 0.0, first: int = 0
) -> Tensor:
    """The velocity of chunk x `[B, M, C]` after finished chunks `[B, N, M, C]` at levels s `[B, N]`, without a cache."""
    levels = torch.cat([s, torch.full((len(x), 1), t)], 1)
    spans = torch.cat([torch.zeros_like(s), torch.full((len(x), 1), span)], 1)
    return model(torch.cat([past, x[:, None]], 1), levels, first, spans)[:, -1]


@pytest.mark.parametrize(
    "config", [TOY, LOW_RANK, TOY.model_copy(update={"context_chunks": 5})], ids=["2", "rank", "5"]
)
@pytest.mark.parametrize("s", [0.0, 0.05, 0.4])
def test_cached_is_the_full_pass_after_the_window_has_slid(config: FlowConfig, s: float) -> None:
    model, n = stirred(config), 23
    clean, eps, x = chunks(2, n), chunks(2, n, seed=2), chunks(2, seed=3)
    past = interpolate(clean, eps, s)
    cache = FlowCache(model, batch=2)
    for i in range(n):
        wanted = by_full_pass(model, past[:, :i], torch.full((2, i), s), x, 0.3)
        torch.testing.assert_close(cache.velocity(x, 0.3), wanted, **CLOSE)
        cache.append(clean[:, i : i + 1], s, eps[:, i : i + 1])
    assert wanted.std() > 0.1


@settings(max_examples=25)
@given(data=st.data())
def test_blocks_of_any_size_and_level_leave_the_same_past(data: st.DataObject) -> None:
    config = TOY.model_copy(update={"context_chunks": data.draw(st.integers(1, 6))})
    model = stirred(config)
    sizes = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=4))
    levels = [data.draw(st.sampled_from([0.0, 0.1, 0.5])) for _ in sizes]
    first = data.draw(st.sampled_from([0, 7]))
    cache, past, told = FlowCache(model), [], []
    cache.clear(first)
    for i, (size, s) in enumerate(zip(sizes, levels, strict=True)):
        clean, eps = chunks(1, size, seed=10 + i), chunks(1, size, seed=20 + i)
        cache.append(clean, s, eps)
        past.append(interpolate(clean, eps, s))
        told.append(torch.full((1, size), s))
    wanted = by_full_pass(model, torch.cat(past, 1), torch.cat(told, 1), chunks(1), 0.7, first=first)
    torch.testing.assert_close(cache.velocity(chunks(1), 0.7), wanted, **CLOSE)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_gives_the_same_chunk_with_and_without_the_cache(solver: str) -> None:
    model, n = stirred(SPANS if solver == "average" else TOY), 11
    past, noise = chunks(1, n), chunks(1, seed=5)
    cache = FlowCache(model)
    cache.append(past)

    def renoise(k: int) -> Tensor:
        return chunk_noise([0], n, k, (TOY.tokens, TOY.channels))

    cached = solve(solver, cache.velocity, noise, times(4), renoise)
    plain = solve(solver, partial(by_full_pass, model, past, torch.zeros(1, n)), noise, times(4), renoise)
    torch.testing.assert_close(cached.x, plain.x, **CLOSE)


@pytest.mark.parametrize("n", [1, 3, 6, 12])
def test_without_a_window_the_cache_is_the_full_pass_until_it_slides(n: int) -> None:
    model = stirred(UNLIMITED)
    past, x = chunks(1, n), chunks(1, seed=3)
    cache = FlowCache(model, context=12)
    for i in range(n):
        cache.append(past[:, i : i + 1])
    torch.testing.assert_close(cache.velocity(x, 0.5), by_full_pass(model, past, torch.zeros(1, n), x, 0.5), **CLOSE)


def test_exact_is_the_full_pass_over_the_window_and_rolling_is_not() -> None:
    model, n = stirred(UNLIMITED), 14
    assert FlowCache(model).context == 5
    clean, eps, x = chunks(1, n), chunks(1, n, seed=2), chunks(1, seed=3)
    exact, rolling = FlowCache(model, exact=True), FlowCache(model)
    levels = [0.0, 0.1, 0.1, 0.3] * 4
    for i in range(n):
        for cache in (exact, rolling):
            cache.append(clean[:, i : i + 1], levels[i], eps[:, i : i + 1])
    s = torch.tensor(levels[n - 5 : n])[None]
    window = interpolate(clean[:, -5:], eps[:, -5:], s[..., None, None])
    wanted = by_full_pass(model, window, s, x, 0.5, first=n - 5)
    torch.testing.assert_close(exact.velocity(x, 0.5), wanted, **CLOSE)
    assert (rolling.velocity(x, 0.5) - wanted).abs().max() > 1e-3
    again = FlowCache(model, exact=True)
    again.restore(exact.state())
    for cache in (exact, again):
        cache.append(clean[:, :1])
    assert torch.equal(exact.velocity(x, 0.5), again.velocity(x, 0.5))


def test_only_layers_times_window_chunks_matter() -> None:
    model, n = stirred(), 20
    reach = TOY.reach
    assert reach == 6
    past, x = chunks(1, n), chunks(1, seed=3)
    whole = by_full_pass(model, past, torch.zeros(1, n), x, 0.5)
    part = by_full_pass(model, past[:, -reach:], torch.zeros(1, reach), x, 0.5, first=n - reach)
    torch.testing.assert_close(whole, part, **CLOSE)
    less = by_full_pass(model, past[:, 1 - reach :], torch.zeros(1, reach - 1), x, 0.5, first=n - reach + 1)
    assert (whole - less).abs().max() > 1e-4


def test_batches_equal_singles_and_a_single_is_reproduced_bit_by_bit() -> None:
    model = stirred()
    past, x = chunks(7, 9), chunks(7, seed=3)
    batch = FlowCache(model, batch=7)
    batch.append(past)
    together = batch.velocity(x, 0.4)
    for row in range(7):
        single, beside = FlowCache(model), FlowCache(model)
        for cache in (single, beside):
            cache.append(past[row : row + 1])
        alone = single.velocity(x[row : row + 1], 0.4)
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-4)
        batch.velocity(x, 0.9)
        assert torch.equal(beside.velocity(x[row : row + 1], 0.4), alone)


def test_an_evaluation_leaves_the_past_as_it_is() -> None:
    cache = FlowCache(stirred())
    cache.append(chunks(1, 5))
    first = cache.velocity(chunks(1), 0.5)
    cache.velocity(chunks(1, seed=9), 0.9)
    assert torch.equal(cache.velocity(chunks(1), 0.5), first)


def test_states_restore_and_clones_go_their_own_way() -> None:
    model = stirred()
    cache = FlowCache(model, batch=2, branches=2)
    cache.append(chunks(2, 5), 0.1, chunks(2, 5, seed=2), (0.5, chunks(2, 5, seed=4)))
    state, clone = cache.state(), cache.clone()
    before = cache.velocity(chunks(2), 0.5)
    cache.append(chunks(2, 3, seed=6))
    assert torch.equal(clone.velocity(chunks(2), 0.5), before)
    after = cache.velocity(chunks(2), 0.5)
    assert not torch.equal(after, before)
    other = FlowCache(model, batch=2)
    other.restore(state)
    other.append(chunks(2, 3, seed=6))
    assert torch.equal(other.velocity(chunks(2), 0.5), after)
    with pytest.raises(UsageError, match="of the same model, rows and context"):
        FlowCache(model, batch=1).restore(state)
    with pytest.raises(UsageError, match="without values"):
        cache.restore({"keys": state["keys"], "counters": state["counters"]})


def test_memory_is_constant() -> None:
    cache = FlowCache(stirred())
    places = cache._keys.data_ptr(), cache._values.data_ptr()
    sizes = set()
    for i in range(300):
        cache.velocity(chunks(1), 1 - (i % 200) / 400)
        cache.append(chunks(1, 1), (i % 100) / 200, chunks(1, 1))
        sizes.add(sum(t.numel() for t in cache.state().values()))
    assert (cache._keys.data_ptr(), cache._values.data_ptr()) == places
    assert len(sizes) == 1
    assert len(cache._modulations) <= 64


def test_modulation_is_computed_once_for_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = stirred(), []
    modulation = model.modulation
    monkeypatch.setattr(model, "modulation", lambda t, span: asked.append(float(t)) or modulation(t, span))
    cache = FlowCache(model)
    for _ in range(3):
        x = solve("heun", cache.velocity, chunks(1), times(3)).x
        cache.append(x[:, None])
    nodes = times(3)
    assert sorted(asked) == sorted({float(torch.tensor(t)) for t in (*nodes, 0.0)})


def test_the_negative_branch_sees_what_it_is_told() -> None:
    model, n = stirred(), 9
    past, eps, x = chunks(2, n), chunks(2, n, seed=2), chunks(2, seed=3)
    cache = FlowCache(model, batch=2, branches=2)
    cache.append(past)
    cache.see(0, branch=1)
    positive, negative = cache.velocity(x, 0.5).chunk(2)
    torch.testing.assert_close(positive, by_full_pass(model, past, torch.zeros(2, n), x, 0.5), **CLOSE)
    nothing = by_full_pass(model, past[:, :0], torch.zeros(2, 0), x, 0.5)
    torch.testing.assert_close(negative, nothing, **CLOSE)
    cache.see(1, branch=1)
    short = cache.velocity(x, 0.5)[2:]
    assert (short - negative).abs().max() > 1e-3 and (short - positive).abs().max() > 1e-3
    torch.testing.assert_close(cache.velocity(x, 0.5, branches=1), positive, **CLOSE)
    noisy = FlowCache(model, batch=2, branches=2)
    noisy.append(past, negative=(0.5, eps))
    positive, negative = noisy.velocity(x, 0.5).chunk(2)
    torch.testing.assert_close(positive, by_full_pass(model, past, torch.zeros(2, n), x, 0.5), **CLOSE)
    worse = by_full_pass(model, interpolate(past, eps, 0.5), torch.full((2, n), 0.5), x, 0.5)
    torch.testing.assert_close(negative, worse, **CLOSE)


def test_one_chunk_of_context_is_seen_alone_in_a_single_layer() -> None:
    model = stirred(TOY.model_copy(update={"layers": 1}))
    past, x = chunks(1, 5), chunks(1, seed=3)
    cache = FlowCache(model)
    cache.append(past)
    cache.see(1)
    wanted = by_full_pass(model, past[:, -1:], torch.zeros(1, 1), x, 0.5, first=4)
    torch.testing.assert_close(cache.velocity(x, 0.5), wanted, **CLOSE)
    cache.see(None)
    wanted = by_full_pass(model, past[:, -2:], torch.zeros(1, 2), x, 0.5, first=3)
    torch.testing.assert_close(cache.velocity(x, 0.5), wanted, **CLOSE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"context": 3}, "context of 3 chunks, expected 1 to 2"),
        ({"context": 0}, "context of 0 chunks"),
        ({"batch": 0}, "at least one row"),
        ({"branches": 3}, "3 branches"),
        ({"exact": True}, "models without a window"),
    ],
)
def test_caches_that_cannot_be_are_refused(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        FlowCache(stirred(), **arguments)


def test_wrong_chunks_are_refused() -> None:
    cache = FlowCache(stirred())
    for wrong in (chunks(1), chunks(2, 1), chunks(1, 0), torch.zeros(1, 1, 4, 7)):
        with pytest.raises(UsageError, match=r"expected \[1, \d+, 4, 6\]"):
            cache.append(wrong)
    with pytest.raises(UsageError, match="with no noise"):
        cache.append(chunks(1, 1), 0.1)
    with pytest.raises(UsageError, match=r"expected \[1, 4, 6\] and at most 1"):
        cache.velocity(chunks(1), 0.5, branches=2)
    with pytest.raises(UsageError, match="visible chunks"):
        cache.see(-1)
    assert cache.index == 0


@pytest.mark.long
def test_ten_thousand_chunks() -> None:
    """Teacher-forced; the velocity at 20 positions is computed again from the reach before them alone."""
    config = FlowConfig(dim=128, layers=4, heads=2, condition=64, context_chunks=8)
    model, reach, n = stirred(config), 32, 10_000
    generator = torch.Generator().manual_seed(3)
    sampled = set(torch.randint(reach, n, (19,), generator=generator).tolist()) | {n - 1}
    cache = FlowCache(model)
    past, s = torch.zeros(1, 0, 8, 64), 0.05
    for i in range(n):
        clean, eps = (torch.randn(1, 1, 8, 64, generator=generator) for _ in range(2))
        if i in sampled:
            x = torch.randn(1, 8, 64, generator=generator)
            wanted = by_full_pass(model, past, torch.full((1, reach), s), x, 0.4, first=i - reach)
            torch.testing.assert_close(cache.velocity(x, 0.4), wanted, **CLOSE)
        cache.append(clean, s, eps)
        past = torch.cat([past, interpolate(clean, eps, s)], 1)[:, -reach:]


@pytest.mark.parametrize("before", [0, 1, 2, 7])
@pytest.mark.parametrize("branches", [1, 2])
@pytest.mark.parametrize("config", [TOY, UNLIMITED], ids=["window", "exact"])
def test_a_rewound_append_leaves_no_trace(config: FlowConfig, branches: int, before: int) -> None:
    """Also where the chunk had taken over another's slot, or the number of branches changed meanwhile."""
    cache = FlowCache(stirred(config), exact=config.context_chunks is None)
    x = chunks(1, before + 3, seed=4)
    if before:
        cache.append(x[:, :before])
    wanted = cache.velocity(x[:, -1], 0.5)
    undone = []
    for i in range(2):
        undone.append(cache.undo())
        cache.branch(branches if i else 1)
        cache.append(x[:, before + i : before + i + 1])
    assert (cache.velocity(x[:, -1], 0.5)[:1] - wanted).abs().max() > 1e-4
    with pytest.raises(UsageError, match="Rewind in order"):
        cache.rewind(undone[0])
    for each in reversed(undone):
        cache.rewind(each)
    assert cache.index == before
    torch.testing.assert_close(cache.velocity(x[:, -1], 0.5)[:1], wanted, rtol=0, atol=1e-6)
