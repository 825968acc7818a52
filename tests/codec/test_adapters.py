"""Codecs of others keep the contract of all codecs: exact cuts, exact contexts, nothing of their neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapters_makers import DOUBLES, LATENTS, MAKERS, REAL

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.batches import Window
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.codec.verify import Tolerance, verify_codec
from duotone.errors import AudioError, CodecMismatchError, UsageError


@pytest.fixture(scope="module", params=[*REAL, *DOUBLES])
def codec(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Codec:
    """Real classes in double precision, where sums in another order give the same codes."""
    found = MAKERS[request.param](tmp_path_factory.mktemp("codec"))
    return in_double(found) if request.param in REAL else found


def in_double(codec: Any) -> Codec:
    codec.model.double()
    codec._move(torch.device("cpu"), None)  # Mimi forgets the codebooks that it kept
    found: Codec = codec
    return found


def sounds(codec: Codec, count: int = 4) -> list[Waveform]:
    longer = max(1, round(4 * codec.spec.chunk_seconds))  # some chunks
    waves = [synthesize(i, longer * (0.2 + 0.13 * i)).to_channels(codec.spec.channels) for i in range(count)]
    return [wave.resample(codec.spec.rate) for wave in waves]


def close(one: Latents | Codes, other: Latents | Codes) -> bool:
    """Codes and scales equal; latents too, but for what a convolution of float32 inside a model rounds."""
    if isinstance(one, Latents) and isinstance(other, Latents):
        return one.values.shape == other.values.shape and torch.allclose(one.values, other.values, atol=1e-5)
    assert isinstance(one, Codes) and isinstance(other, Codes)
    if one.scale is not None or other.scale is not None:
        assert one.scale is not None and other.scale is not None
        assert torch.allclose(one.scale, other.scale, rtol=1e-6, atol=0)
    return torch.equal(one.indices, other.indices)


@pytest.mark.parametrize("name", MAKERS)
def test_every_adapter_keeps_the_contract(name: str, tmp_path: Path) -> None:
    rules = verify_codec(MAKERS[name](tmp_path), tolerance=Tolerance(codes=0.01))
    assert len(rules) >= 10


def test_values_and_sound_have_their_shapes(codec: Codec) -> None:
    spec = codec.spec
    found = codec.encode(synthesize(0, 1.01))
    chunks = spec.chunks(round(1.01 * spec.rate))
    streams = 2 // spec.channels
    assert len(found) == chunks and found.streams == streams
    if isinstance(found, Latents):
        assert spec.latent is not None and found.values.shape == (chunks, streams * spec.latent[0])
        assert float(found.values.std()) > 0.01
    else:
        assert found.indices.shape == (streams * len(spec.codebooks), chunks * spec.steps)
        assert len(found.indices.unique()) > 4 and (found.scale is not None) == spec.scaled
    again = codec.decode(found)
    assert again.rate == 48_000 and again.channels == 2 and again.length == round(1.01 * 48_000)
    whole = codec.decode(type(found).join([found], found.source.of_length(None)), restore=False)
    assert whole.rate == spec.rate_out and whole.channels == 2
    assert abs(whole.seconds - chunks * spec.chunk_seconds) < 0.1 + spec.ahead / spec.rate
    assert float(whole.samples.std()) > 0


def test_channels_of_a_codec_of_one_are_streams_of_their_own(codec: Codec) -> None:
    if codec.spec.channels == 2:
        pytest.skip("it codes the pair")
    wave = synthesize(0, 1.01)
    both = codec.encode(wave)
    sides = [codec.encode(Waveform(wave.samples[i : i + 1].contiguous(), wave.rate)) for i in (0, 1)]
    if isinstance(both, Latents):
        assert torch.allclose(both.values, torch.cat([side.values for side in sides], dim=-1), atol=1e-5)
        assert not torch.equal(sides[0].values, sides[1].values)
    else:
        assert torch.equal(both.indices, torch.cat([side.indices for side in sides]))
        assert not torch.equal(sides[0].indices, sides[1].indices)
    left, right = (codec.decode(side).samples[0] for side in sides)
    assert torch.allclose(codec.decode(both).samples, torch.stack([left, right]), atol=1e-4)


@pytest.mark.parametrize(("chunks", "context"), [(1, 2), (3, 0), (64, 1)])
def test_windows_are_parts_of_the_sound(codec: Codec, chunks: int, context: int) -> None:
    """Each window is, code for code, what the codec gives for it with its past; all join to the chunks of the whole."""
    spec = codec.spec
    if spec.independent:
        context = 0  # has no influence
    wave = sounds(codec)[2]
    padded = torch.nn.functional.pad(wave.samples, (context * spec.chunk, 99 * spec.chunk))
    whole = spec.chunks(wave.length)
    found = codec.encode(wave, window=Window(chunks, context))
    assert len(found) == whole == len(codec.encode(wave))
    for first in range(0, whole, max(chunks, whole // 3 // chunks * chunks)):  # the first, and some
        count = min(chunks, whole - first)
        length = (context + count) * spec.chunk + spec.ahead
        with torch.no_grad():
            alone = codec.encode_batch(padded[None, :, first * spec.chunk : first * spec.chunk + length])
        part = alone.part(0, context, count, spec.steps)
        got = found[first : first + count]
        if isinstance(got, Latents):
            assert part.latents is not None and torch.allclose(got.values, part.latents[0], atol=1e-5)
        else:
            assert part.codes is not None and torch.equal(got.indices, part.codes[0])


def test_neighbours_and_batch_size_change_nothing(codec: Codec) -> None:
    waves = sounds(codec)
    window = Window(5, 1)
    alone = [codec.encode(wave, window=window) for wave in waves]
    for batch, order in ((3, [0, 1, 2, 3]), (3, [3, 0, 2]), (64, [1, 2, 3])):
        found = list(codec.encode_many([waves[i] for i in order], window=window, batch=batch))
        assert len(found) == len(order)
        for i, value in zip(order, found, strict=True):
            assert close(value, alone[i])


@pytest.mark.parametrize("name", ["wavtokenizer_clone", "simvq", "magicodec", "distill-neucodec"])
def test_enough_context_makes_windows_exact(name: str, tmp_path: Path) -> None:
    """The doubles hear two steps of their past: with these, windows of any length join to the codes of the whole."""
    codec = MAKERS[name](tmp_path)
    wave = synthesize(1, 1.3).to_channels(1)
    whole = codec.encode(wave)
    for chunks in (1, 2, 7, 25):
        assert codec.encode(wave, window=Window(chunks, 2)) == whole
        assert codec.encode(wave, window=Window(chunks, 5)) == whole
    assert codec.encode(wave, window=Window(1, 0)) != whole


def test_independent_chunks_need_no_context(tmp_path: Path) -> None:
    codec = in_double(MAKERS["encodec_48khz"](tmp_path))
    wave = synthesize(1, 2.3)
    assert close(codec.encode(wave, window=Window(1, 0)), codec.encode(wave))
    with codec.encode_stream(wave.rate, 2) as stream:  # and come as soon as they are complete
        assert len(stream.push(wave)) == 2 and len(stream.finish()) == 1


def test_context_brings_a_causal_codec_nearer_to_the_whole(tmp_path: Path) -> None:
    codec = MAKERS["encodec"](tmp_path)
    wave = synthesize(2, 1.0).to_channels(1)
    padded = Waveform(torch.nn.functional.pad(wave.samples, (wave.rate, 0)), wave.rate)
    whole = codec.encode(padded).indices[:, 75:]
    near, far = (codec.encode(wave, window=Window(5, context)).indices for context in (70, 0))
    assert (near != whole).float().mean() < (far != whole).float().mean()


def test_seconds_mean_what_they_mean_in_codec_bpe(tmp_path: Path) -> None:
    spec = MAKERS["encodec"](tmp_path).spec  # 75 steps a second
    assert Window.of(spec, 0.08, 0.4) == Window(6, 24)  # 80 ms at a time in a window of 400 ms
    assert Window.of(spec, 30.0, 0.0) == Window(2250, 0)
    assert Window.of(spec, 30.0, 10.0) == Window(2250, 0)  # the chunk fills the window
    assert Window.of(spec, 0.01, 0.1) == Window(1, 7)
    assert Window.of(spec, None, 1.0) == Window()
    for seconds in ((0.001, 0.0), (-1.0, 0.0), (1.0, -0.1)):
        with pytest.raises(UsageError, match="at least one"):
            Window.of(spec, *seconds)


def test_few_segments_wait(tmp_path: Path) -> None:
    """Recordings of as many lengths as there are recordings do not gather in memory until the end."""
    codec = MAKERS["wavtokenizer_clone"](tmp_path)
    given = 0

    def recordings() -> Any:
        nonlocal given
        for given in range(1, 200):
            yield Waveform(torch.zeros(1, 600 * given), 24_000)

    count = 0
    for count, found in enumerate(codec.encode_many(recordings(), batch=4), start=1):
        assert given - count <= 8 * 4 and len(found) == count
    assert count == 199


def test_what_does_not_fit_says_so(tmp_path: Path) -> None:
    codec, stereo = MAKERS["dac"](tmp_path), MAKERS["encodec_48khz"](tmp_path)
    with pytest.raises(UsageError, match="expected 0 to 31"):
        codec.codes(torch.full((4, 3), 32))
    for shape in ((9, 3), (3, 4, 3), (5, 1)):
        with pytest.raises(UsageError, match="Codes got shape"):
            codec.codes(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(UsageError, match="no chunks"):
        codec.decode(codec.codes(torch.zeros(4, 0, dtype=torch.int64)))
    with pytest.raises(UsageError, match="Leave it out"):
        codec.codes(torch.zeros(4, 3, dtype=torch.int64), scale=0.1)
    with pytest.raises(UsageError, match="one number for all chunks"):
        stereo.decode(stereo.codes(torch.zeros(3, 150, dtype=torch.int64)))
    with pytest.raises(UsageError, match="multiple of 150"):
        stereo.codes(torch.zeros(3, 149, dtype=torch.int64), scale=0.1)
    with pytest.raises(UsageError, match="scale got shape"):
        stereo.codes(torch.zeros(3, 150, dtype=torch.int64), scale=torch.ones(3))
    with pytest.raises(UsageError, match="batch got 0"):
        list(codec.encode_many([synthesize(0, 0.1)], batch=0))
    with pytest.raises(AudioError, match="zero samples"):
        codec.encode(Waveform(torch.zeros(1, 0), 16_000))
    with pytest.raises(CodecMismatchError, match="Load the codec that made it"):
        codec.decode(MAKERS["encodec"](tmp_path).encode(synthesize(0, 0.1)))
    with pytest.raises(UsageError, match="has no latents"):
        codec.latents(torch.zeros(3, 4))
    with pytest.raises(UsageError, match="has no codes"):
        MAKERS["oobleck"](tmp_path).codes(torch.zeros(1, 3, dtype=torch.int64))


def test_the_first_codebooks_alone_decode(tmp_path: Path) -> None:
    for name in ("encodec", "dac", "mimi"):
        codec = MAKERS[name](tmp_path)
        found = codec.encode(synthesize(0, 0.3).to_channels(1))
        few = codec.decode(codec.codes(found.indices[:2], found.source))
        assert few.length == found.source.samples and not torch.equal(few.samples, codec.decode(found).samples)


@pytest.mark.parametrize("name", LATENTS)
def test_gradients_flow_from_sound_to_latents(name: str, tmp_path: Path) -> None:
    codec = MAKERS[name](tmp_path)
    found = codec.encode(synthesize(0, 0.5).to_channels(codec.spec.channels))
    values = found.values.clone().requires_grad_(True)
    wave = codec.decode(codec.latents(values), grad=True, restore=False)
    wave.samples.square().mean().backward()
    assert values.grad is not None and float(values.grad.abs().max()) > 0


@pytest.mark.parametrize("name", [name for name in REAL if name != "encodec_48khz"])
def test_number_formats(name: str, tmp_path: Path) -> None:
    """A format that is asked for stands in the source; the identity stays; float32 comes back."""
    codec = MAKERS[name](tmp_path)
    fingerprint = codec.fingerprint
    wave = synthesize(0, 0.3)
    assert codec.encode(wave).source.format == "float32"  # and Mimi has used its codebooks before it is moved
    assert codec.to(dtype="auto").encode(wave).source.format == "float32"
    codec.to("cpu", "bfloat16")
    assert codec.source().format == "bfloat16" and codec.fingerprint == fingerprint
    found = codec.encode(wave)
    assert found.source.format == "bfloat16" and codec.decode(found).length == wave.length
    assert codec.to(dtype=torch.float32).encode(wave).source.format == "float32"


@pytest.mark.parametrize(("name", "why"), [("simvq", "runs only in float32"), ("encodec_48khz", "too coarse")])
def test_some_codecs_run_in_float32_alone(name: str, why: str, tmp_path: Path) -> None:
    codec = MAKERS[name](tmp_path)
    assert codec.to("cpu", "auto").to(dtype="float32") is codec
    with pytest.raises(UsageError, match=why):
        codec.to(dtype="bfloat16")
    assert codec.encode(synthesize(0, 0.1)).source.format == "float32"
