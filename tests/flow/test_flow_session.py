"""Sessions: the same sound as offline, in pieces, in another process; controls at their sample; what must never be heard."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from duotone import flow
from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.container import read_duo, write_duo
from duotone.codec.values import Latents
from duotone.errors import AudioError, CodecMismatchError, ConfigError, FormatError, UsageError
from duotone.flow import Chunk, FlowModel, Sampler, Session
from flow_toys import PAIRED, stirred
from small_bands import random_bands

CHUNK = 512
EXTRA = 192


def pair() -> tuple[FlowModel, BandCodec]:
    return stirred(PAIRED), random_bands()


def opened(**options: object) -> Session:
    model, codec = pair()
    return flow.session(model, codec, **{"prompt": prompt(), "seed": 3, **options})  # type: ignore[arg-type]


def prompt(chunks: int = 5) -> Waveform:
    return Waveform(synthesize(3, 0.1).samples[:, : chunks * CHUNK + 100].contiguous(), 48_000)


def sound(session: Session, pieces: int) -> Tensor:
    return torch.cat([piece.samples for piece in itertools.islice(session, pieces)], 1)


def test_a_session_is_the_sampler_and_the_decoder_offline() -> None:
    model, codec = pair()
    wave = prompt()
    with flow.session(model, codec, prompt=wave, seed=3, lookahead=1) as session:
        heard = sound(session, 6)
    usable = wave.length - codec.spec.ahead
    aligned = Waveform(wave.samples[:, usable % CHUNK :].contiguous(), wave.rate)
    with codec.encode_stream(48_000, 2) as stream:
        latents = stream.push(aligned).channels(8)
    assert len(latents) == usable // CHUNK
    sampler = Sampler(model, [3])
    sampler.push(latents)
    own = torch.cat([sampler.next().latents for _ in range(6)])
    live = codec.stream(3)
    for chunk in latents[-4:]:
        live.push(Latents.from_channels(chunk[None], codec.spec))
    whole = torch.cat([live.push(Latents.from_channels(chunk[None], codec.spec)).samples for chunk in own], 1)
    assert torch.equal(heard, whole) and heard.abs().max() > 1e-3
    assert session.chunks == 6 and session.steps == session.evaluations == 12


def test_without_a_prompt_the_sound_is_the_decoding_of_the_latents() -> None:
    model, codec = pair()
    sampler = Sampler(model, [5])
    latents = torch.cat([sampler.next().latents for _ in range(4)])
    live = codec.stream(5)
    pieces = torch.cat([live.push(Latents.from_channels(chunk[None], codec.spec)).samples for chunk in latents], 1)
    whole = codec.decode(Latents.from_channels(latents, codec.spec), seed=5, restore=False).samples
    heard = sound(flow.session(model, codec, seed=5), 4)
    assert torch.equal(heard, pieces) and heard.shape[1] == 4 * CHUNK - EXTRA
    torch.testing.assert_close(heard, whole, rtol=0, atol=1e-3)


def test_the_look_ahead_and_what_runs_beside_change_nothing() -> None:
    alone = sound(opened(), 6)
    first, second = opened(lookahead=1), opened(lookahead=4, seed=9)
    pieces = [(next(first).samples, next(second).samples) for _ in range(6)]
    assert torch.equal(torch.cat([a for a, _ in pieces], 1), alone)
    assert not torch.equal(torch.cat([b for _, b in pieces], 1), alone)
    assert (first.queued, second.queued) == (0, 3)


def test_the_prompt_is_heard_first_if_wished() -> None:
    with_it, without = opened(include_prompt=True), opened()
    assert with_it.made == with_it.prompt_chunks * CHUNK - EXTRA and with_it.queued == with_it.prompt_chunks == 5
    whole = sound(with_it, 7)
    assert whole.shape[1] == 7 * CHUNK - EXTRA
    assert sound(without, 2).shape[1] == 2 * CHUNK


def test_latents_are_a_prompt_too() -> None:
    model, codec = pair()
    latents = codec.encode(prompt())
    sampler = Sampler(model, [3])
    sampler.push(latents.channels(8))
    session = flow.session(model, codec, latents, seed=3)
    session.make()
    assert torch.equal(session._voice.recent[-1], sampler.next().latents[0])


def test_names_of_files_are_prompts_too(tmp_path: Path) -> None:
    model, codec = pair()
    path, duo = tmp_path / "song.wav", tmp_path / "song.duo"
    write(path, prompt())
    write_duo(duo, codec.encode(read(path)))
    for name, same in ((path, read(path)), (str(path), read(path)), (duo, read_duo(duo))):
        heard = sound(flow.session(model, codec, name, seed=3), 2)
        assert torch.equal(heard, sound(flow.session(model, codec, same, seed=3), 2))
    takes = next(iter(flow.Takes(model, codec, path, [3, 4])))
    assert torch.allclose(takes[0].samples, sound(flow.session(model, codec, path, seed=3), 1), atol=1e-4)


def busy(session: Session) -> None:
    """Everything that has state: controls, oscillators, input, changes of generation."""
    session.set(temperature=0.8, gain=1.5, context=2, lfos={0: {"target": "gain", "rate": 20, "depth": 0.2}})
    session.set(lfos={5: {"target": "channel_bias[2]", "shape": "sample-and-hold", "rate": 40}}, summary_scale={1: 1.2})
    sound(session, 3)
    session.push(Waveform(synthesize(8, 0.05).samples.contiguous(), 48_000), at=session.taken)
    session.reseed(77)
    sound(session, 2)
    session.reanchor()


def test_going_on_in_another_process_gives_the_same_samples(tmp_path: Path) -> None:
    session = opened()
    busy(session)
    (tmp_path / "state").write_bytes(session.state())
    wanted = sound(session, 8)
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1]), str(Path(__file__).parent)]!r}
import torch
from test_flow_session import pair, sound
from duotone import flow
torch.set_num_threads(1)
torch.save(sound(flow.resume(*pair(), open({str(tmp_path / "state")!r}, "rb").read()), 8), {str(tmp_path / "sound")!r})
"""
    subprocess.run([sys.executable, "-c", script], check=True)
    assert torch.equal(torch.load(tmp_path / "sound", weights_only=True), wanted)


def test_a_state_goes_on_at_every_place_and_taking_it_changes_nothing() -> None:
    model, codec = pair()
    session = opened()
    for _ in range(4):
        other = flow.resume(model, codec, session.state())
        assert other.made == session.made and other.controls == session.controls
        busy(session)
        busy(other)
        assert torch.equal(sound(session, 2), sound(other, 2))
        assert session.health() == other.health()
    assert session.state() == flow.resume(model, codec, session.state()).state()


def test_the_published_kind_of_codec_plays_too(codec: CoDiCodec) -> None:
    """Its live decoder denoises each chunk after the clean one before it; that is in the state."""
    size = codec.spec.latent or ()
    model = stirred(PAIRED.model_copy(update={"channels": size[0] * size[1] // 8}))
    session = flow.session(model, codec, prompt(), seed=3)
    sound(session, 3)
    session.reseed(5)
    sound(session, 2)
    other = flow.resume(model, codec, session.state())
    assert torch.equal(sound(session, 3), sound(other, 3))


class _Stateless:
    """A decoder that keeps its state to itself."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def push(self, value: Latents) -> Tensor:
        return self._inner.push(value)

    def finish(self) -> Tensor:
        return self._inner.finish()


class Opaque(BandCodec):
    """The small codec, whose decoders cannot be taken out."""

    def decoder(self, source: Any, seed: int = 0, **options: Any) -> Any:
        return _Stateless(super().decoder(source, seed, **options))


def test_decoders_that_keep_their_state_are_brought_to_the_place_by_the_last_chunks() -> None:
    """Seeds still change at the sample that was told and without a step; states go on with the same latents."""
    model, codec = stirred(PAIRED), Opaque(random_bands().network)
    session = flow.session(model, codec, prompt(), seed=3, lookahead=1)
    start = sound(session, 6)
    assert not session._voice.stream.resumable
    other = flow.resume(model, codec, session.state())
    assert other.made == session.made
    session.reseed(9)
    whole, again = sound(session, 3), sound(other, 3)
    assert whole.shape == again.shape == (2, 3 * CHUNK)
    assert (whole[:, 0] - start[:, -1]).abs().max() <= 1.5 * start.diff(dim=1).abs().max()
    plain = opened(lookahead=1)
    sound(plain, 9)
    assert torch.equal(other._voice.recent[-1], plain._voice.recent[-1])


def test_other_states_are_refused() -> None:
    model, codec = pair()
    state = opened().state()
    with pytest.raises(UsageError, match="with flow"):
        flow.resume(stirred(PAIRED, seed=4), codec, state)
    with pytest.raises(UsageError, match="with codec"):
        flow.resume(model, random_bands(seed=2), state)
    for bad in (b"", b"RIFF" * 40, state[:100]):
        with pytest.raises(FormatError, match="not the state of a session"):
            flow.resume(model, codec, bad)


@pytest.mark.parametrize(
    "change",
    [
        {"temperature": 0.5}, {"steps": 5}, {"solver": "midpoint"}, {"shift": 3.0}, {"guidance": 3.0}, {"context": 0}, {"gain": 0.5},
        {"summary_scale": {3: 0.2}}, {"summary_bias": 0.5}, {"channel_scale": 0.3}, {"channel_bias": [0.5] * 8},
        {"lfos": {2: {"target": "temperature", "shape": "square", "rate": 1}}},
    ],
)  # fmt: skip
@pytest.mark.parametrize("lookahead", [1, 2])
def test_a_control_is_heard_exactly_from_the_sample_that_was_told(change: dict[str, object], lookahead: int) -> None:
    plain = sound(opened(lookahead=lookahead), 8)
    session = opened(lookahead=lookahead)
    start = sound(session, 3)
    at = session.set(**change)
    whole = torch.cat([start, sound(session, 5)], 1)
    assert at - session.taken + 5 * CHUNK == (lookahead - 1) * CHUNK  # within the look-ahead of what was taken then
    assert torch.equal(whole[:, :at], plain[:, :at])
    differs = (whole[:, at:] != plain[:, at:]).any(0).nonzero()
    assert int(differs[0]) <= (2 if "gain" in change else 128)


def test_changes_that_do_not_fit_change_nothing() -> None:
    session = opened()
    before = session.controls
    for wrong in (
        {"volume": 1}, {"temperature": -1}, {"temperature": float("nan")}, {"steps": 0}, {"solver": "magic"}, {"summary_scale": {8: 1}},
        {"channel_bias": [1.0]}, {"channel_scale": 1e6}, {"lfos": {8: None}}, {"lfos": {0: {"target": "pitch"}}},
        {"lfos": {0: {"target": "channel_bias[8]"}}}, {"solver": "average"}, {"gain": 2, "context": -1},
    ):  # fmt: skip
        with pytest.raises((ConfigError, UsageError)):
            session.set(**wrong)
    assert session.controls == before


@pytest.mark.parametrize("kind", ["reseed", "reanchor", "both"])
def test_a_new_generation_fades_in_with_constant_power(kind: str) -> None:
    """Sample by sample: cos times the old generation plus sin times the new one, from the sample that was told on."""
    fade = 200 / 48_000
    old, fresh, session = opened(lookahead=1), opened(lookahead=1), opened(lookahead=1)
    for each in (old, fresh, session):
        sound(each, 3)
    for each, seconds in ((fresh, 0.0), (session, fade)):
        at = each.reseed(4, seconds) if kind != "reanchor" else each.made
        at = each.reanchor(seconds) if kind != "reseed" else at
    before, new, mixed = (sound(each, 2) for each in (old, fresh, session))
    turn = torch.arange(200) / 200 * torch.pi / 2
    wanted = torch.cat([before[:, :200] * turn.cos() + new[:, :200] * turn.sin(), new[:, 200:]], 1)
    assert at == 3 * CHUNK
    torch.testing.assert_close(mixed, wanted, rtol=0, atol=1e-6)
    assert (before - new).abs().max() > 1e-3


def test_a_fade_does_not_click() -> None:
    """No step at its joints is larger than the steps of the sounds themselves."""
    session = opened(lookahead=1)
    start = sound(session, 4)
    session.reseed(4)
    whole = torch.cat([start, sound(session, 4)], 1)
    steps = whole.diff(dim=1).abs().amax(0)
    at = start.shape[1]
    joints = torch.cat([steps[at - 2 : at + 2], steps[at + CHUNK - 2 : at + CHUNK + 2]])
    assert joints.max() <= 1.5 * steps[: at - 2].max()


def test_returning_to_the_prompt_with_the_seed_given_anew_plays_what_the_beginning_played() -> None:
    """The context is the prompt's, bit for bit; without a new seed, the noise is another."""
    session = opened()
    first = [session._voice.recent[-1] for _ in range(2) if session.make() is None]
    sound(session, 9)
    session.reseed(3)
    session.reanchor()
    session.make()
    assert torch.equal(session._voice.recent[-1], first[0])
    session.reanchor()
    session.make()
    assert not torch.equal(session._voice.recent[-1], first[0])
    assert session._voice.sampler.cache.index == session.prompt_chunks + 1


def sticky(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flows that collapse: where the last two chunks of a context are equal, so are all that follow."""
    entering, sampling = Sampler.entering, Sampler.sampling

    def remembering(self: Sampler, latents: Tensor) -> Any:
        seen = [*getattr(self.cache, "seen", []), latents.reshape(-1, *latents.shape[-2:])[-1]][-2:]
        found = entering(self, latents)
        self.cache.seen = seen  # type: ignore[attr-defined]
        return found

    def repeating(self: Sampler) -> Any:
        seen = getattr(self.cache, "seen", [])
        if len(seen) == 2 and torch.allclose(*seen, atol=1e-3):
            return Chunk(seen[1][None], self.cache.index, 1, 1)
        return (yield from sampling(self))

    monkeypatch.setattr(Sampler, "entering", remembering)
    monkeypatch.setattr(Sampler, "sampling", repeating)


def test_a_collapsed_context_is_noticed_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is pushed and the context collapses for good; after reanchor, eight chunks are as lively as before."""
    sticky(monkeypatch)
    session = opened()
    sound(session, 20)
    lively = session.health()
    assert lively.stuck is None and 0 < lively.similarity < 0.9
    session.push(Waveform(torch.zeros(2, 6 * CHUNK), 48_000))
    sound(session, 24)
    assert session.health().stuck == "repeats" and session.health().lag > 0
    session.reanchor()
    sound(session, session.queued + 8)
    recovered = session.health()
    assert recovered.stuck is None and abs(recovered.deviation / lively.deviation - 1) < 0.5


def test_an_oscillator_moves_the_gain_sample_by_sample_on_the_clock_of_the_sound() -> None:
    plain, session = opened(), opened()
    start = [sound(each, 2) for each in (plain, session)]
    at = session.set(
        gain=0.5, lfos={3: {"target": "gain", "shape": "square", "rate": 47.0, "depth": 0.25, "phase": 0.1}}
    )
    whole, moved = (torch.cat([a, sound(each, 5)], 1) for a, each in zip(start, (plain, session), strict=True))
    clock = torch.arange(at + 480, whole.shape[1])  # after the glide
    turns = 0.1 + 47.0 * clock.double() / 48_000
    gain = torch.where(turns - turns.floor() < 0.5, 0.75, 0.25)
    torch.testing.assert_close(moved[:, at + 480 :], whole[:, at + 480 :] * gain, rtol=0, atol=1e-6)


def poison(model: FlowModel, value: float) -> None:
    with torch.no_grad():
        model.proj_out.bias.fill_(value)


def test_what_is_not_finite_never_reaches_the_ear() -> None:
    model, codec = pair()
    session = flow.session(model, codec, prompt(), seed=3, lookahead=1)
    good = model.proj_out.bias.clone()
    start = sound(session, 3)
    poison(model, float("nan"))
    bad = sound(session, 3)
    with torch.no_grad():
        model.proj_out.bias.copy_(good)
    after = sound(session, 3)
    whole = torch.cat([start, bad, after], 1)
    assert torch.isfinite(whole).all() and whole.abs().max() <= 1
    assert not bad[:, 480:].any() and after[:, 600:].abs().max() > 1e-3  # silent after a glide, then back
    assert session.health().replaced == 3
    assert whole.diff(dim=1).abs().max() <= 1.5 * start.diff(dim=1).abs().max()


def test_a_context_that_is_not_finite_is_left_for_the_prompts() -> None:
    model, codec = pair()
    session = flow.session(model, codec, prompt(), seed=3)
    sound(session, 2)
    session._voice.sampler.cache._values.fill_(float("nan"))
    whole = sound(session, 4)
    assert torch.isfinite(whole).all() and session.health().replaced == 0
    assert session._voice.sampler.cache.index == session.prompt_chunks + 4


def test_a_decoder_that_fails_is_silent_and_opened_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    session = opened(lookahead=1)
    start = sound(session, 2)
    stream = session._voice.stream
    monkeypatch.setattr(stream, "push", lambda value: Waveform.of_checked(torch.full((2, CHUNK), torch.nan), 48_000))
    bad, after = sound(session, 1), sound(session, 3)
    assert not bad.any() and bad.shape[1] == CHUNK and torch.isfinite(after).all()
    assert session._voice.stream is not stream and after.abs().max() > 1e-3 and start.shape[1] == 2 * CHUNK


def test_memory_and_state_do_not_grow() -> None:
    session = opened()
    sizes, tensors = [], []
    for _ in range(4):
        sound(session, 30)
        sizes.append(len(session.state()))
        gc.collect()
        tensors.append(sum(t.numel() for t in gc.get_objects() if type(t) is Tensor))
    assert sizes[1] == pytest.approx(sizes[3], rel=0.01) and tensors[1] == pytest.approx(tensors[3], rel=0.01)
    assert session.chunks == 121 and session.taken == 120 * CHUNK


def test_latency_is_the_look_ahead_a_chunk_and_the_buffer() -> None:
    latency = opened(lookahead=3).latency(buffer=0.02)
    assert latency.seconds == pytest.approx(4 * CHUNK / 48_000 + 0.02)


def test_pairs_and_prompts_that_do_not_fit_are_refused() -> None:
    model, codec = pair()
    with pytest.raises(CodecMismatchError, match="was trained on latents of codec 00"):
        flow.session(stirred(PAIRED.model_copy(update={"codec": "00" * 8})), codec)
    with pytest.raises(UsageError, match="8 x 4 values"):
        flow.session(stirred(PAIRED.model_copy(update={"channels": 4})), codec)
    with pytest.raises(AudioError, match="expected at least"):
        flow.session(model, codec, Waveform(torch.zeros(2, CHUNK), 48_000))
    with pytest.raises(UsageError, match="The prompt got Tensor"):
        flow.session(model, codec, torch.zeros(2, 4 * CHUNK))  # type: ignore[arg-type]
    with pytest.raises(AudioError, match=r"none\.wav"):
        flow.session(model, codec, "none.wav")
    with pytest.raises(UsageError, match="lookahead"):
        flow.session(model, codec, lookahead=0)
    with opened() as session:
        pass
    with pytest.raises(UsageError, match="closed"):
        session.make()
    assert list(session) == []
