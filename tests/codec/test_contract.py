"""What is written once for all codecs: number formats, identities, gradients, autocast, and mistakes that are natural."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import duotone
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, CodecMismatchError, UsageError, WeightsError
from duotone.spec import Source
from small import SMALL
from small_bands import random_bands
from toys import Features, Grouped, Pcm, Scaled


@pytest.fixture
def own() -> CoDiCodec:
    """A codec that a test may change."""
    return CoDiCodec.random(SMALL, seed=1)


def sound(samples: int = 3000, channels: int = 2, rate: int = 48_000) -> Waveform:
    generator = torch.Generator().manual_seed(samples)
    return Waveform(0.2 * torch.randn(channels, samples, generator=generator), rate)


def test_encoding_is_float32_unless_asked_otherwise(own: CoDiCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    codes = own.encode(sound()).codes()
    monkeypatch.setattr("duotone.codec.codicodec.codec.best_dtype", lambda device: torch.bfloat16)
    own.to(dtype="auto")
    assert own.dtype == torch.bfloat16 and own.encoding_format == "float32"
    again = own.encode(sound())
    assert again.codes() == codes and again.source.format == "float32"
    assert own.decode(again).samples.dtype == torch.float32
    own.to(dtype="bfloat16")
    assert own.encode(sound()).source.format == "bfloat16"
    with pytest.raises(UsageError, match="float32"):
        own.to(dtype="int3")


def test_moving_keeps_the_identity(own: CoDiCodec) -> None:
    before = own.spec
    own.to(dtype=torch.bfloat16)
    assert own.spec == before


def test_the_space_is_that_of_the_encoder_alone(own: CoDiCodec) -> None:
    """A decoder that was trained further decodes what was encoded before, and says that it sounds different."""
    value = own.encode(sound())
    network = CoDiCodec.random(SMALL, seed=1).network
    with torch.no_grad():
        network.denoiser.registers.add_(0.1)
    further = CoDiCodec(network)
    assert further.spec.space == own.spec.space and further.fingerprint != own.fingerprint
    with pytest.warns(UserWarning, match="the decoder differs"):
        assert further.decode(value).length == 3000
    with torch.no_grad():
        network.encoder.registers.add_(0.1)
    other = CoDiCodec(network)
    assert other.spec.space != own.spec.space
    with pytest.raises(CodecMismatchError, match=own.spec.space):
        other.decode(value)


def test_an_altered_value_is_refused(own: CoDiCodec) -> None:
    value = own.encode(sound())
    with pytest.raises(CodecMismatchError, match="altered"):
        own.decode(replace(value, spec=replace(value.spec, chunk=1024)))


def test_a_decoder_without_gradients_says_so() -> None:
    bands = random_bands()
    value = bands.encode(sound())
    free = Latents(value.values.clone().requires_grad_(), value.spec, value.source)
    with pytest.raises(UsageError, match="gives no gradients"):
        bands.decode(free, grad=True)
    assert torch.equal(bands.decode(free).samples, bands.decode(value).samples)


def test_gradients_flow_where_they_are_asked_for(own: CoDiCodec) -> None:
    value = own.encode(sound())
    free = Latents(value.values.clone().requires_grad_(), value.spec, value.source)
    for strategy in ("parallel", "autoregressive", "wavefront"):
        heard = own.decode(free, strategy, steps=2, grad=True)
        plain = own.decode(value, strategy, steps=2)
        assert torch.allclose(heard.samples.detach(), plain.samples, atol=1e-5)
        (gradient,) = torch.autograd.grad(heard.samples.pow(2).sum(), free.values)
        assert bool(torch.isfinite(gradient).all()) and float(gradient.abs().max()) > 0
    assert not own.decode(free).samples.requires_grad
    with own.decode_stream(value) as stream:
        stream.push(value[:1])
        with pytest.raises(UsageError, match="new stream"):
            stream.push(free[1:])
    elsewhere = Latents(free.values, value.spec, Source(44_100, 2, None))
    with pytest.raises(UsageError, match="restore=False"):
        own.decode(elsewhere, grad=True)


def test_decoded_samples_are_ordinary_tensors(own: CoDiCodec) -> None:
    value = own.encode(sound())
    heard = own.decode(value)
    heard.samples.mul_(0.5)
    weight = torch.nn.Parameter(torch.ones(1))
    (heard.samples * weight).pow(2).mean().backward()
    assert weight.grad is not None and float(weight.grad) > 0
    assert not value.values.is_inference()


def test_autocast_around_a_codec_changes_nothing(own: CoDiCodec) -> None:
    value = own.encode(sound())
    heard = own.decode(value).samples
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(own.encode(sound()).values, value.values)
        assert torch.equal(own.decode(value).samples, heard)


def test_autocast_changes_nothing_in_published_framing_either(own: CoDiCodec) -> None:
    value = own.encode(sound(), framing="published")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(own.encode(sound(), framing="published").values, value.values)


@pytest.mark.parametrize("make", [lambda: CoDiCodec.random(SMALL, seed=1), random_bands], ids=["convolutions", "bands"])
def test_another_default_dtype_changes_nothing(make: Callable[[], Codec], tmp_path: Path) -> None:
    own = make()
    wave = sound(rate=44_100)
    value = own.encode(wave)
    heard = {strategy: own.decode(value, strategy) for strategy in own.spec.strategies or (None,)}
    duotone.save(own, tmp_path)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        loaded = duotone.load(tmp_path, dtype="float32")
        for codec in (own, loaded):
            assert codec.encode(wave) == value
            for strategy, expected in heard.items():
                assert torch.allclose(codec.decode(value, strategy).samples, expected.samples, atol=1e-6)
    finally:
        torch.set_default_dtype(before)


def test_weights_changed_in_place_count(own: CoDiCodec) -> None:
    before = own.encode(sound()).values
    with torch.no_grad():
        for p in own.network.encoder.parameters():
            p.data.mul_(1.3)
    assert float((own.encode(sound()).values - before).abs().max()) > 1e-3


def test_natural_mistakes_get_the_sentence_that_helps(own: CoDiCodec) -> None:
    array = np.zeros((2, 3000), np.float32)
    with pytest.raises(UsageError, match=r"duotone\.read\('song\.wav'\)"):
        own.encode("song.wav")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"Waveform\(array, rate\)"):
        own.encode(array)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"codec\.latents"):
        own.decode(torch.zeros(1, 8, 4))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="write_duo"):
        duotone.save("x.duo", own.encode(sound()).codes())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no chunks"):
        own.decode(own.encode(sound())[:0])
    with pytest.raises(UsageError, match="Waveform"), own.encode_stream(48_000, 2) as stream:
        stream.push(array)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="rate"):
        own.encode_stream(0, 1)
    with pytest.raises(UsageError, match="expected steps"):
        own.decode(own.encode(sound()), step=2)
    with pytest.raises(UsageError, match="autoregressive"):
        own.decode(own.encode(sound()), "parallel", time_prompt=0.2)
    with pytest.raises(UsageError, match="'exact'"):
        Pcm().encode(sound(), framing="published")


def test_names_of_codecs(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="duotone train"):
        duotone.load("base")
    (tmp_path / "models").mkdir()
    with pytest.raises(WeightsError, match="No codec is called 'models/tinny'"):  # a path typed wrong: never a download
        duotone.load("models/tinny")
    with pytest.raises(UsageError, match="bandwidth"):
        duotone.load("tiny", bandwidth=6.0)
    assert duotone.load("duotone").spec.model == "tiny"


def test_values_from_arrays() -> None:
    codec = Pcm()
    value = codec.encode(sound(rate=16_000))
    assert codec.codes(value.numpy(), value.source) == value
    few = codec.codes(value.numpy()[:2])
    assert len(few.spec.codebooks) == 2 and few.source.samples is None
    grouped = Grouped()
    latents = grouped.encode(sound())
    assert grouped.latents(latents.numpy(), latents.source) == latents
    with pytest.raises(UsageError, match="shape"):
        codec.codes(np.zeros((5, 100), np.int64))


def test_a_loudness_apart_is_kept_or_asked_for() -> None:
    codec = Scaled()
    value = codec.encode(sound(rate=24_000))
    assert value.scale is not None and value.scale.shape == (1, len(value))
    bare = Codes(value.indices, value.spec, value.source)
    with pytest.raises(UsageError, match="loudness separately"):
        codec.decode(bare)
    loud = codec.decode(codec.codes(value.indices, value.source, 0.1))
    assert loud.length == 3000


def test_codes_of_some_codebooks_alone_and_several_waves() -> None:
    codec = Features()
    waves = [sound(n, c, 16_000) for n, c in ((900, 1), (50, 2), (900, 2))]
    many = list(codec.encode_many(iter(waves), batch=2))
    assert [v.streams for v in many] == [1, 2, 2] and [v.source.samples for v in many] == [900, 50, 900]
    with pytest.raises(UsageError, match="batch"):
        list(codec.encode_many(waves, batch=0))


def test_known_sounds_give_no_warning(own: CoDiCodec) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own.decode(own.encode(sound()))


def test_tokenizers_are_loaded_by_the_same_call(tmp_path) -> None:  # type: ignore[no-untyped-def]
    from duotone.tokens import Alphabet, AudioTokenizer, train_bpe

    codes = np.repeat(np.random.default_rng(0).integers(0, 8, (2, 150)), 2, axis=1)
    made = train_bpe([codes], Alphabet(2, 8), vocab_size=60, pad_token="<pad>")
    made.save(tmp_path / "tokenizer")
    found = duotone.load(tmp_path / "tokenizer")
    assert isinstance(found, AudioTokenizer) and found == made
