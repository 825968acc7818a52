"""The contract that every codec keeps: both ways, exact cuts, exact contexts, and nothing of its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapters_makers import MAKERS, REAL

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.adapters.contract import Batched, Encoded, ForeignCodec, Windows
from duotone.errors import AudioError, UsageError


@pytest.fixture(scope="module", params=MAKERS)
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ForeignCodec:
    """Real classes in double precision, where sums in another order give the same codes."""
    codec: Any = MAKERS[request.param](tmp_path_factory.mktemp("foreign"))
    return in_double(codec) if request.param in REAL else codec


def in_double(codec: Any) -> ForeignCodec:
    codec.model.double()
    for module in codec.model.modules():
        if hasattr(module, "_embed"):  # of Mimi: kept from before
            module._embed = None
    found: ForeignCodec = codec
    return found


def same(one: Encoded, other: Encoded, codec: ForeignCodec) -> bool:
    """Ours runs in single precision: there a code in a thousand may differ."""
    if one.codes.shape != other.codes.shape:
        return False
    if one.scale is not None or other.scale is not None:
        assert one.scale is not None and other.scale is not None
        assert torch.allclose(one.scale, other.scale, rtol=1e-6, atol=0)
    share = (one.codes == other.codes).float().mean()
    return bool(share > 0.999 if codec.info.codec_type == "duotone" else share == 1)


def sounds(codec: ForeignCodec, count: int = 4) -> list[torch.Tensor]:
    longer = 5 if codec.ahead else 1  # blocks of a second
    waves = [synthesize(i, longer * (0.2 + 0.13 * i)) for i in range(count)]
    waves = [wave.resample(codec.info.sampling_rate_encoder) for wave in waves]
    return [codec.streams(wave.to_channels(codec.channels))[0] for wave in waves]


def test_codes_and_sound_both_ways(foreign: ForeignCodec) -> None:
    info = foreign.info
    found = foreign.encode(synthesize(0, 1.01))
    frames = foreign.blocks(round(1.01 * info.sampling_rate_encoder)) * foreign.frames
    streams = 2 // foreign.channels
    codes = found.codes
    assert codes.shape == (streams, info.num_codebooks, frames) and codes.dtype == torch.int64
    assert int(codes.min()) >= 0 and int(codes.max()) < info.codebook_size and len(codes.unique()) > 4
    assert (found.scale is not None) == foreign.scaled
    again = foreign.decode(codes, found.scale)
    assert again.rate == info.sampling_rate_decoder and again.channels == 2
    assert abs(again.seconds - frames / info.framerate) < 0.1 and bool(torch.isfinite(again.samples).all())
    assert abs(foreign.hop / info.sampling_rate_encoder * info.framerate - foreign.frames) < 1e-9
    if streams == 2:  # each channel by itself
        mono = foreign.decode(codes[0], None if found.scale is None else found.scale[0])
        assert torch.allclose(mono.samples[0], again.samples[0], atol=1e-4)
        assert not torch.equal(codes[0], codes[1])


@pytest.mark.parametrize(("blocks", "context"), [(1, 2), (3, 0), (64, 1)])
def test_chunks_are_windows_of_the_sound(foreign: ForeignCodec, blocks: int, context: int) -> None:
    """Each chunk is, code for code, what the codec gives for it with its past; all join to the frames of the whole."""
    samples = sounds(foreign)[2]
    padded = torch.nn.functional.pad(samples, (context * foreign.hop + foreign.behind, 99 * foreign.hop))
    whole = foreign.blocks(samples.shape[-1])
    wave = Waveform(samples.contiguous(), foreign.info.sampling_rate_encoder)
    found = foreign.encode(wave, Windows(blocks, context))
    assert found.codes.shape[-1] == whole * foreign.frames
    assert found.codes.shape == foreign.encode(wave).codes.shape
    for first in range(0, whole, max(blocks, whole // 3 // blocks * blocks)):  # the first, and some
        count = min(blocks, whole - first)
        length = (context + count) * foreign.hop + foreign.behind + foreign.ahead
        start = first * foreign.hop
        alone = foreign.encode_batch(padded[None, :, start : start + length])
        want = alone.part(context * foreign.frames, count * foreign.frames)
        got = found.part(first * foreign.frames, count * foreign.frames)
        assert same(got, want, foreign)


def test_neighbours_and_batch_size_change_nothing(foreign: ForeignCodec) -> None:
    waves, rate = sounds(foreign), foreign.info.sampling_rate_encoder
    windows = Windows(5, 1)
    alone = [foreign.encode(Waveform(w, rate), windows) for w in waves]
    for batch_size, order in ((3, [0, 1, 2, 3]), (3, [3, 0, 2]), (64, [1, 2, 3])):
        found = dict(Batched[int](foreign, windows, batch_size).run((i, waves[i]) for i in order))
        assert set(found) == set(order)
        for i in order:
            scale = alone[i].scale
            assert same(found[i], Encoded(alone[i].codes[0], None if scale is None else scale[0]), foreign)


@pytest.mark.parametrize("name", ["wavtokenizer", "simvq", "magicodec", "distill-neucodec"])
def test_enough_context_makes_chunks_exact(name: str, tmp_path: Path) -> None:
    """The doubles hear two frames of their past: with these, chunks of any length join to the codes of the whole."""
    codec = MAKERS[name](tmp_path)
    wave = synthesize(1, 1.3).to_channels(1)
    whole = codec.encode(wave).codes
    for blocks in (1, 2, 7, 25):
        assert torch.equal(codec.encode(wave, Windows(blocks, 2)).codes, whole)
        assert torch.equal(codec.encode(wave, Windows(blocks, 5)).codes, whole)
    assert not torch.equal(codec.encode(wave, Windows(1, 0)).codes, whole)


@pytest.mark.parametrize("name", ["encodec_48khz", "duotone"])
def test_blocks_that_stand_alone_need_no_context(name: str, tmp_path: Path) -> None:
    codec = MAKERS[name](tmp_path)
    codec = in_double(codec) if name in REAL else codec
    wave = synthesize(1, 2.3 if codec.ahead else 0.1)
    assert same(codec.encode(wave, Windows(1, 0)), codec.encode(wave), codec)


@pytest.mark.parametrize("length", [1, 448, 449, 512, 513, 5000])
def test_our_codec_has_the_codes_of_its_own_encode(length: int, tmp_path: Path) -> None:
    own: Any = MAKERS["duotone"](tmp_path)  # a chunk is 512 samples, of which the first 64 lie before the sound
    for channels in (1, 2):
        wave = synthesize(4, 0.2).to_channels(channels)
        wave = Waveform(wave.samples[:, :length].contiguous(), wave.rate)
        want = own.codec.encode(wave).codes().indices
        codes = own.encode(wave).codes[0]
        assert codes.shape == want.shape and (codes == want).float().mean() > 0.99


def test_context_brings_a_causal_codec_nearer_to_the_whole(tmp_path: Path) -> None:
    codec = MAKERS["encodec"](tmp_path)
    wave = synthesize(2, 1.0).to_channels(1)
    padded = Waveform(torch.nn.functional.pad(wave.samples, (wave.rate, 0)), wave.rate)
    whole = codec.encode(padded).codes[..., 75:]
    near, far = (codec.encode(wave, Windows(5, context)).codes for context in (70, 0))
    assert (near != whole).float().mean() < (far != whole).float().mean()


def test_seconds_mean_what_they_mean_in_codec_bpe(tmp_path: Path) -> None:
    codec = MAKERS["encodec"](tmp_path)  # 75 frames a second
    assert Windows.of(codec, 0.08, 0.4) == Windows(6, 24)  # 80 ms at a time in a window of 400 ms
    assert Windows.of(codec, 30.0, 0.0) == Windows(2250, 0)
    assert Windows.of(codec, 30.0, 10.0) == Windows(2250, 0)  # the chunk fills the window
    assert Windows.of(codec, 0.01, 0.1) == Windows(1, 7)
    assert Windows.of(codec, None, 1.0) == Windows.whole()
    for seconds in ((0.001, 0.0), (-1.0, 0.0), (1.0, -0.1)):
        with pytest.raises(UsageError, match="at least one"):
            Windows.of(codec, *seconds)


def test_few_segments_wait(tmp_path: Path) -> None:
    """Recordings of as many lengths as there are recordings do not gather in memory until the end."""
    codec = MAKERS["wavtokenizer"](tmp_path)
    given = 0

    def recordings() -> Any:
        nonlocal given
        for given in range(1, 200):
            yield given, torch.zeros(1, 600 * given)

    encoder = Batched[int](codec, Windows.whole(), batch_size=4)
    for count, (key, found) in enumerate(encoder.run(recordings()), start=1):
        assert given - count <= 8 * 4 and found.codes.shape[-1] == key
    assert count == 199


def test_what_does_not_fit_says_so(tmp_path: Path) -> None:
    codec, stereo = MAKERS["dac"](tmp_path), MAKERS["encodec_48khz"](tmp_path)
    with pytest.raises(UsageError, match=r"values .* expected 0\.\.31"):
        codec.decode(torch.full((4, 3), 32))
    for shape in ((9, 3), (3, 4, 3), (4, 0)):
        with pytest.raises(UsageError, match="Codes got"):
            codec.decode(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(UsageError, match="Leave it out"):
        codec.decode(torch.zeros(4, 3, dtype=torch.int64), 0.1)
    with pytest.raises(UsageError, match="one number for all frames"):
        stereo.decode(torch.zeros(2, 150, dtype=torch.int64))
    with pytest.raises(UsageError, match="multiple of 150"):
        stereo.decode(torch.zeros(2, 149, dtype=torch.int64), 0.1)
    with pytest.raises(UsageError, match="scale got shape"):
        stereo.decode(torch.zeros(2, 150, dtype=torch.int64), torch.ones(3))
    with pytest.raises(UsageError, match="batch_size"):
        Batched[int](codec, Windows.whole(), 0)
    with pytest.raises(AudioError, match="zero samples"):
        codec.encode(Waveform(torch.zeros(1, 0), 16_000))
