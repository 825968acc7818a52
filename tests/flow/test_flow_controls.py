"""Oscillators on the audio clock, gain, limiter and crossfade; and the user's sound in the context."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duotone import flow
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError
from duotone.flow.controls import Changes, Controls, Lfo, wave
from duotone.flow.sampler import Sampler
from duotone.flow.sound import Gain, Limiter, crossfade
from flow_toys import PAIRED, TOY, stirred
from small_bands import random_bands

CHUNK, EXTRA = 512, 192


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ("sine", [0, 1, 0, -1]), ("triangle", [0, 1, 0, -1]), ("saw", [-1, -0.5, 0, 0.5]), ("square", [1, 1, -1, -1]),
    ],
)  # fmt: skip
def test_a_wave_has_its_values_at_quarters_of_its_period(shape: str, values: list[float]) -> None:
    lfo = Lfo.parse({"target": "gain", "shape": shape, "rate": 2.0, "depth": 3.0})
    found = wave(lfo, 0, np.array([0, 0.125, 0.25, 0.375]), seed=0)
    np.testing.assert_allclose(found, 3 * np.array(values), atol=1e-12)
    later = wave(lfo.model_copy(update={"phase": 0.25}), 0, np.array([0.0, 10.0]), seed=0)
    np.testing.assert_allclose(later, 3 * values[1], atol=1e-9)


def test_sample_and_hold_is_constant_in_a_period_and_depends_on_seed_and_slot() -> None:
    lfo = Lfo(target="gain", shape="sample-and-hold", rate=1.0, depth=1.0)
    times = np.arange(0, 2000) / 10
    found = wave(lfo, 0, times, seed=1)
    assert (np.ptp(found.reshape(-1, 10), axis=1) == 0).all()
    assert (
        abs(found.mean()) < 0.15 and found.std() == pytest.approx(1 / math.sqrt(3), rel=0.1) and abs(found).max() <= 1
    )
    assert (found == wave(lfo, 0, times, seed=1)).all()
    for other in (wave(lfo, 1, times, seed=1), wave(lfo, 0, times, seed=2)):
        assert abs(np.corrcoef(found, other)[0, 1]) < 0.3


@given(first=st.integers(0, 10**9), count=st.integers(1, 300), rate=st.floats(0.01, 50))
def test_gains_depend_on_the_sample_alone_however_pieces_are_cut(first: int, count: int, rate: float) -> None:
    lfos = {0: Lfo(target="gain", rate=rate), 3: Lfo(target="gain", shape="sample-and-hold", rate=rate)}
    controls = Controls.of(TOY).changed(Changes(lfos=lfos))
    whole = controls.gains(first, count, 48_000, seed=3)
    cut = count // 2
    assert whole is not None
    parts = [controls.gains(first, cut, 48_000, seed=3), controls.gains(first + cut, count - cut, 48_000, seed=3)]
    assert torch.equal(whole, torch.cat([part for part in parts if part is not None]))


def test_oscillators_move_their_control_and_stay_in_its_range() -> None:
    controls = Controls.of(TOY).changed(
        Changes(
            temperature=0.9, steps=3, context=2, channel_bias=0.1,
            lfos={
                0: Lfo(target="temperature", shape="square", depth=-5), 1: Lfo(target="steps", shape="square", depth=2.4),
                2: Lfo(target="context", shape="square", depth=-9), 3: Lfo(target="channel_bias[4]", shape="square", depth=0.5),
                4: Lfo(target="summary_scale", shape="square", depth=1),
            },
        )
    )  # fmt: skip
    now = controls.at(0.0, seed=0)
    assert (now.sampling.temperature, now.sampling.steps, now.context) == (0.0, 5, 0)
    assert now.channel_bias == (0.1, 0.1, 0.1, 0.1, 0.6, 0.1) and now.summary_scale == (2.0,) * 4
    assert controls.sampling.temperature == 0.9 and not Controls.of(TOY).shapes and now.shapes


def test_scale_and_bias_are_a_factor_and_an_offset() -> None:
    controls = Controls.of(TOY).changed(
        Changes(summary_scale={1: 2.0}, channel_bias=[0, 0, 1, 0, 0, 0], channel_scale=0.5)
    )
    x = torch.randn(3, 4, 6)
    wanted = x / 2
    wanted[:, 1] *= 2
    wanted[..., 2] += 1
    torch.testing.assert_close(controls.shape(x), wanted)


def test_gain_glides_and_costs_nothing_at_one() -> None:
    gain, ones = Gain(1.0, 48_000), torch.ones(2, 1000)
    assert gain.apply(ones, 1.0) is ones
    moved = gain.apply(ones, 0.0)
    assert (
        moved[0, 0] == 1 and (moved.diff() <= 0).all() and moved.diff().abs().max() < 0.003 and not moved[:, 480:].any()
    )
    assert not gain.apply(ones, 0.0).any()


@pytest.mark.parametrize("pieces", [1, 7])
def test_the_limiter_holds_the_ceiling_keeps_the_ratio_and_passes_what_is_below(pieces: int) -> None:
    time = torch.arange(14_000) / 48_000
    tone = torch.stack([torch.sin(440 * 2 * torch.pi * time), 0.5 * torch.sin(440 * 2 * torch.pi * time)])
    loud = tone * torch.where(time > 0.1, 3.0, 0.5)
    limiter = Limiter(48_000)
    out = torch.cat([limiter.apply(part) for part in loud.chunk(pieces, 1)], 1)
    assert out.abs().max() <= 1 and torch.equal(out[:, :4600], loud[:, :4600])
    steady = out[:, 8000:]
    assert steady.abs().max() > 0.95
    torch.testing.assert_close(
        steady[1], steady[0] / 2, rtol=0, atol=1e-4 if pieces == 1 else 0.01
    )  # one gain for both
    quiet = torch.cat([limiter.apply(0.3 * tone) for _ in range(12)], 1)
    assert torch.equal(quiet[:, -14_000:], 0.3 * tone)  # recovered


def test_a_crossfade_of_unlike_sounds_keeps_their_power() -> None:
    old, new = (torch.randn(1, 40_000, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    out = crossfade(old, new, 20_000)
    power = out.view(8, 5000).square().mean(1)
    assert (power - 1).abs().max() < 0.1 and torch.equal(out[:, 20_000:], new[:, 20_000:]) and out[0, 0] == old[0, 0]


def noise(samples: int, seed: int) -> torch.Tensor:
    return 0.3 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed))


def prompted(lookahead: int = 2) -> flow.Session:
    wave = Waveform(synthesize(3, 0.1).samples[:, :2660].contiguous(), 48_000)
    return flow.session(stirred(PAIRED), random_bands(), wave, seed=3, lookahead=lookahead)


@pytest.mark.parametrize("size", [77, 512, 5000])
@pytest.mark.parametrize("lookahead", [1, 2])
def test_input_stands_in_the_context_in_place_of_ours_in_time(size: int, lookahead: int) -> None:
    """The context is that of a sampler to which the user's chunks were pushed in place of ours, each at its place on the clock."""
    session = prompted(lookahead)
    model, codec = session.model, session.codec
    for _ in range(2):
        next(session)
    at = session.taken  # the ear
    user = noise(3 * CHUNK + 200, seed=5)
    done = sum(
        session.push(Waveform(block.contiguous(), 48_000), at if i == 0 else None)
        for i, block in enumerate(user.split(size, 1))
    )
    origin = EXTRA  # where chunk 0's own samples begin on the session's clock
    first = -(-(at - origin) // CHUNK)
    skipped = first * CHUNK + origin - at
    need = codec.spec.ahead
    count = (user.shape[1] - skipped - need) // CHUNK
    assert done == count >= 2 and session.late == 0
    padded = torch.nn.functional.pad(user[:, skipped:], (codec.spec.behind, 0))
    latents = codec.encode_batch(padded[None, :, : codec.spec.behind + count * CHUNK + need]).latents
    users = codec.latents(latents[0]).channels(8)
    for _ in range(5):
        session.make()
    sampler = Sampler(model, [3])
    sampler.push(flow.prompt.encoded(codec, model, Waveform(synthesize(3, 0.1).samples[:, :2660].contiguous(), 48_000)))
    stood = list(session._past._stood)
    indices = [(each.start - origin) // CHUNK for each in stood]
    assert indices == list(range(indices[0], indices[0] + len(indices)))
    for index, each in zip(indices, stood, strict=True):
        if first <= index < first + count:
            torch.testing.assert_close(each.latents, users[index - first], rtol=0, atol=1e-4)
    assert any(first <= index < first + count for index in indices)
    # from the chunks that stand, the context follows
    again = flow.session(model, codec, None, seed=3)._voice.sampler
    again.cache = session._voice.sampler.cache.clone()
    for each in reversed(stood):
        again.cache.rewind(each.undo)
    for each in stood:
        again.push(each.latents[None, None])
    wanted, found = again.next(push=False).latents, session._voice.sampler.next(push=False).latents
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-3)


def test_input_changes_what_follows_and_never_what_was_made() -> None:
    plain, session = prompted(), prompted()
    for each in (plain, session):
        for _ in range(3):
            next(each)
    made = session.made
    session.push(Waveform(noise(2 * CHUNK, 1), 48_000), at=session.taken)
    assert session.made == made and session.queued == 1
    assert torch.equal(next(session).samples, next(plain).samples)  # it was made already
    following = [(next(session).samples, next(plain).samples) for _ in range(3)]
    assert not torch.equal(following[0][0], following[0][1])


def test_own_sound_is_never_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    session = prompted()
    encoded: list[torch.Tensor] = []
    original = session.codec.encode_batch
    monkeypatch.setattr(session.codec, "encode_batch", lambda samples: encoded.append(samples) or original(samples))
    for _ in range(5):
        next(session)
    session.reanchor()
    next(session)
    assert not encoded
    session.push(Waveform(torch.full((1, 2 * CHUNK), 0.25), 48_000))
    assert len(encoded) == 1 and set(encoded[0].unique().tolist()) <= {0.0, 0.25}


def test_input_that_comes_too_late_is_counted_and_of_another_rate_refused() -> None:
    session = prompted()
    for _ in range(12):
        next(session)
    assert session.push(Waveform(noise(2 * CHUNK, 1), 48_000), at=0) == 1 and session.late == 1
    with pytest.raises(AudioError, match="expected 48000 Hz"):
        session.push(Waveform(noise(100, 1), 44_100))
