"""Several sessions in one batch: each gets what it gets alone, wherever it stands."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from duotone import flow
from duotone.codec.sessions import push_together
from duotone.codec.values import Latents
from duotone.config import FlowConfig
from duotone.flow import FlowModel, Session
from duotone.flow.cache import FlowCache
from duotone.flow.together import Appending, Evaluation, together
from duotone.flow.voice import Decoding
from flow_toys import LOW_RANK, PAIRED, SPANS, TOY, UNLIMITED, chunks, stirred
from small_bands import random_bands

CLOSE = {"rtol": 0, "atol": 1e-5}


def caches(model: FlowModel) -> list[FlowCache]:
    """Pasts of 0, 1, 3 and 7 chunks, one of them with two branches."""
    found = []
    for n, branches in ((0, 1), (1, 2), (3, 1), (7, 2)):
        cache = FlowCache(model, branches=branches)
        if n:
            cache.append(chunks(1, n, config=model.config, seed=n))
        found.append(cache)
    found[3].see(0, 1)
    return found


@pytest.mark.parametrize("config", [TOY, UNLIMITED, LOW_RANK, SPANS], ids=["window", "all", "low rank", "spans"])
def test_evaluations_at_other_times_places_and_branches_are_those_alone(config: FlowConfig) -> None:
    model = stirred(config)
    span = 0.1 if config.spans else 0.0
    asked = [
        Evaluation(cache, chunks(1, config=config, seed=20 + i), 0.9 - 0.2 * i, span, cache.branches)
        for i, cache in enumerate(caches(model))
    ]
    alone = [each.run() for each in asked]
    found = together(asked)
    for own, other in zip(alone, found, strict=True):
        assert other is not None and other.shape == own.shape
        torch.testing.assert_close(other, own, **CLOSE)
    single = together(asked[:1])[0]
    assert single is not None and torch.equal(single, alone[0])


def test_chunks_enter_in_the_batch_of_evaluations_as_they_do_alone() -> None:
    model = stirred()
    once, twice = caches(model), caches(model)
    new = [chunks(1, 1, seed=40 + i) for i in range(4)]
    noise = chunks(1, 1, seed=50)
    asked: list[Any] = [
        Appending(twice[0], new[0], 0.0, None, None), Appending(twice[1], new[1], 0.3, noise, (0.6, noise)),
        Evaluation(twice[2], new[2][:, 0], 0.4, 0.0, 1), Appending(twice[3], new[3], 0.3, noise, None),
    ]  # fmt: skip
    together(asked)
    once[0].append(new[0])
    once[1].append(new[1], 0.3, noise, (0.6, noise))
    once[3].append(new[3], 0.3, noise)
    for a, b in zip(once, twice, strict=True):
        assert a.index == b.index
        x = chunks(1, seed=60)
        torch.testing.assert_close(b.velocity(x, 0.5), a.velocity(x, 0.5), **CLOSE)


def opened(model: FlowModel, codec: Any, seed: int, **changes: Any) -> Session:
    session = flow.session(model, codec, seed=seed)
    session.set(**changes)
    return session


def test_chunks_of_sessions_driven_together_are_those_of_each_alone() -> None:
    """Other solvers, steps and guidance in one batch; each chunk from the same state."""
    model, codec = stirred(PAIRED), random_bands()
    wishes: list[dict[str, Any]] = [
        {}, {"steps": 5}, {"solver": "heun", "guidance": 1.5}, {"solver": "ping-pong", "temperature": 0.5}
    ]  # fmt: skip
    sessions = [opened(model, codec, seed, **wish) for seed, wish in enumerate(wishes)]
    for _ in range(3):
        states = [session.state() for session in sessions]
        drive(sessions)
        for session, state in zip(sessions, states, strict=True):
            own = flow.resume(model, codec, state)
            own.make()
            heard, alone = session.take(), own.take()
            while own.queued:
                alone = own.take()
            while session.queued:
                heard = session.take()
            assert heard is not None and alone is not None
            torch.testing.assert_close(heard.samples, alone.samples, rtol=0, atol=1e-4)


def drive(sessions: list[Session]) -> None:
    """One chunk of each, all asks that come at once in one batch, and streams in one batch."""
    making = [session.making() for session in sessions]
    asked = {i: next(each) for i, each in enumerate(making)}
    while asked:
        flowing = [i for i, each in asked.items() if not isinstance(each, Decoding)]
        if flowing:
            found: list[Any] = list(together([asked[i] for i in flowing]))
        else:
            flowing = list(asked)
            waves = push_together([asked[i].voice.stream for i in flowing], [asked[i].value for i in flowing])
            found = [asked[i].taken(wave.samples) for i, wave in zip(flowing, waves, strict=True)]
        for i, answer in zip(flowing, found, strict=True):
            try:
                asked[i] = making[i].send(answer)
            except StopIteration:
                del asked[i]


@pytest.mark.parametrize("asks", [0, 1, 2, 3, 4])
def test_a_chunk_that_is_given_up_leaves_the_session_as_it_was(asks: int) -> None:
    """Or, where it was in the context already, complete: what is heard is the same as if nobody had interrupted."""
    model, codec = stirred(PAIRED), random_bands()

    def sound(interrupted: bool) -> torch.Tensor:
        session = opened(model, codec, 3)
        pieces = [next(session).samples for _ in range(3)]
        session.reseed(8)
        if interrupted:
            making = session.making()
            asked = next(making)
            for _ in range(asks):
                asked = making.send(asked.run())
            making.close()
        pieces += [next(session).samples for _ in range(4)]
        return torch.cat(pieces, 1)

    assert torch.equal(sound(True), sound(False))


def test_streams_pushed_together_decode_as_they_do_alone() -> None:
    codec = random_bands()
    values = [codec.encode(wave_of(seed)) for seed in range(3)]
    alone, beside = [codec.stream(i) for i in range(3)], [codec.stream(i) for i in range(3)]
    for step in range(4):
        own = [stream.push(value[step]) for stream, value in zip(alone, values, strict=True)]
        found = push_together(beside, [value[step] for value in values])
        for a, b in zip(own, found, strict=True):
            assert not isinstance(b, Exception)
            torch.testing.assert_close(b.samples, a.samples, rtol=0, atol=1e-5)


def test_what_one_stream_refuses_is_its_own_affair() -> None:
    codec = random_bands()
    value, other = codec.encode(wave_of(1)), random_bands(seed=2)
    streams = [codec.stream(i) for i in range(3)]
    push_together(streams, [value[0]] * 3)
    closed = codec.stream(3)
    foreign = Latents(value[1].values, other.spec)
    found = push_together(streams, [value[1], foreign, value[1]])
    assert (
        isinstance(found[1], Exception) and not isinstance(found[0], Exception) and not isinstance(found[2], Exception)
    )
    closed.finish()


def wave_of(seed: int) -> Any:
    from duotone.audio.synth import synthesize

    return synthesize(seed, 0.06)


def test_the_asks_of_a_chunk_are_its_evaluations_one_entry_and_one_decoding() -> None:
    session = opened(stirred(PAIRED), random_bands(), 1, steps=3)
    kinds = []
    making = session.making()
    asked = next(making)
    for _ in itertools.count():
        kinds.append(type(asked).__name__)
        try:
            asked = making.send(asked.run())
        except StopIteration:
            break
    assert kinds == ["Evaluation"] * 3 + ["Appending", "Decoding"]
