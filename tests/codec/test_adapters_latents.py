"""Autoencoders of transformers and diffusers against their own classes; long recordings in overlapping parts."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from test_adapters_makers import make_native_wavtokenizer, make_oobleck, make_pocket_tts, make_same, make_vibevoice

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.adapters import latents
from duotone.codec.adapters.latents import Oobleck
from duotone.codec.adapters.table import load_codec
from duotone.errors import UsageError, WeightsError


def sound(codec: Any, chunks: int) -> Waveform:
    rate = codec.spec.rate
    wave = synthesize(0, chunks * codec.spec.chunk_seconds + 0.1).to_channels(codec.spec.channels).resample(rate)
    return Waveform(wave.samples[:, : chunks * codec.spec.chunk].contiguous(), rate)


def test_wavtokenizer_is_that_of_transformers_with_its_feature_extractor() -> None:
    import transformers

    codec = make_native_wavtokenizer()
    assert (codec.spec.rate, codec.spec.chunk, codec.spec.codebooks) == (24_000, 600, (64,))
    wave = sound(codec, 40)
    wave = Waveform(wave.samples[:, :-123].contiguous(), wave.rate)
    extractor = transformers.WavTokenizerFeatureExtractor()
    inputs = extractor(wave.samples[0].numpy(), sampling_rate=24_000, return_tensors="pt")
    with torch.no_grad():
        padded = torch.nn.functional.pad(inputs.input_values, (0, 123))  # the model fills up by reflection, we by zeros
        wanted = codec.model.encode(padded).audio_codes
        back = codec.model.decode(wanted).audio_values
    found = codec.encode(wave)
    assert torch.equal(found.indices[None], wanted) and len(found.indices.unique()) > 4
    assert torch.equal(codec.decode(found).samples, back[0, :, : wave.length])


def test_pocket_tts_is_that_of_transformers() -> None:
    codec = make_pocket_tts()
    assert (codec.spec.chunk, codec.spec.latent, codec.spec.steps_per_second) == (1920, (8,), 12.5)
    wave = sound(codec, 6)
    with torch.no_grad():
        wanted = codec.model.encode(wave.samples[None]).latents
        back = codec.model.decode(wanted).audio_values
    found = codec.encode(wave)
    assert torch.equal(found.values, wanted[0]) and torch.equal(codec.decode(found).samples, back[0])


def test_vibevoice_is_that_of_transformers_without_its_noise() -> None:
    """Its feature extractor changes the loudness unless told not to; the mean of its latents is taken."""
    import transformers

    codec = make_vibevoice()
    assert (codec.spec.chunk, codec.spec.latent, codec.spec.steps_per_second) == (3200, (8,), 7.5)
    wave = sound(codec, 5)
    extractor = transformers.VibeVoiceAcousticTokenizerFeatureExtractor(normalize_audio=False)
    inputs = extractor(wave.samples[0].numpy(), sampling_rate=24_000)
    with torch.no_grad():
        wanted = codec.model.encode(inputs.input_values, sample=False).latents
        back = codec.model.decode(wanted).audio
    found = codec.encode(wave)
    assert torch.equal(found.values, wanted[0]) and torch.equal(codec.decode(found).samples, back[0])
    assert codec.encode(wave) == found  # no noise


@pytest.mark.parametrize("make", [make_oobleck, make_same])
def test_autoencoders_are_those_of_diffusers(make: Any) -> None:
    codec = make()
    wave = sound(codec, 5)
    with torch.no_grad():
        theirs = codec.model.encode(wave.samples[None])
        wanted = theirs.latent_dist.mean if isinstance(codec, Oobleck) else theirs.latents
        back = codec.model.decode(wanted).sample
    found = codec.encode(wave)
    assert torch.equal(found.values, wanted[0].T) and torch.equal(codec.decode(found).samples, back[0])
    assert codec.spec.channels == 2 and found.values.shape == (5, codec.spec.latent[0])
    mono = codec.encode(wave.to_channels(1))
    assert mono == type(mono)(codec.encode(wave.to_channels(1).to_channels(2)).values, codec.spec, mono.source)


def test_published_sizes() -> None:
    """The grids that the papers and pages tell, from configurations as they are published."""
    import diffusers

    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        open_, ace = diffusers.AutoencoderOobleck(), diffusers.AutoencoderOobleck(
            encoder_hidden_size=128, downsampling_ratios=[2, 4, 4, 6, 10], sampling_rate=48_000
        )  # fmt: skip
        same = diffusers.AutoencoderSAME()
    for kind, model, rate, chunk, size in (
        (Oobleck, open_, 44_100, 2048, 64), (Oobleck, ace, 48_000, 1920, 64), (latents.SAME, same, 44_100, 4096, 256),
    ):  # fmt: skip
        codec = kind.__new__(kind)
        codec.model = model
        spec = codec._grid("x", model.config)
        assert (spec.rate, spec.chunk, spec.latent, spec.channels, spec.codebooks) == (rate, chunk, (size,), 2, ())


@pytest.mark.parametrize("make", [make_oobleck, make_same, lambda: make_oobleck((2, 3, 4, 5, 2))])
def test_long_recordings_in_parts_are_the_whole(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = make()
    wave = sound(codec, 40)
    whole = codec.encode(wave)
    heard = codec.decode(whole).samples
    monkeypatch.setattr(latents, "CHUNKS_AT_ONCE", 7)
    parts = codec.encode(wave)
    assert torch.allclose(parts.values, whole.values, atol=1e-5)
    assert torch.allclose(codec.decode(whole).samples, heard, atol=1e-5) and heard.shape == wave.samples.shape


@pytest.mark.parametrize("make", [make_oobleck, make_same])
def test_the_reach_is_true(make: Any) -> None:
    """Another sound farther away than a chunk is said to see does not change it; nearer, it does.

    (Not NaN here: attention weighs what it does not see by 0, and 0 times NaN is NaN.)
    """
    codec = make()
    into, out = codec._reach() if isinstance(codec, Oobleck) else (codec._reach(),) * 2
    for reach, values, unit, run in (
        (into, sound(codec, 60).samples[None], codec.spec.chunk, codec._latents_of),
        (out, torch.randn(1, 60, codec.spec.latent[0]), 1, codec._sound_of),
    ):
        middle = 30
        spoilt = values.clone()
        time = spoilt if unit > 1 else spoilt.transpose(1, 2)  # a view
        other = torch.randn(time.shape)
        before, after = (middle - reach) * unit, (middle + 1 + reach) * unit
        time[..., :before], time[..., after:] = other[..., :before], other[..., after:]
        with torch.no_grad():
            found, wanted = run(spoilt), run(values)
        found, wanted = (x.transpose(1, 2) if unit > 1 else x for x in (found, wanted))
        each = found.shape[-1] // 60
        place = slice(middle * each, (middle + 1) * each)
        assert torch.allclose(found[..., place], wanted[..., place], atol=1e-5)
        near = slice((middle + reach - 1) * each, (middle + reach) * each)
        assert not torch.allclose(found[..., near], wanted[..., near], atol=1e-5)


def test_folders_of_an_autoencoder_and_of_a_pipeline_are_found(tmp_path: Path) -> None:
    made = make_oobleck()
    made.model.save_pretrained(tmp_path / "alone")
    made.model.save_pretrained(tmp_path / "pipeline" / "vae")
    wave = sound(made, 3)
    for folder in ("alone", "pipeline"):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = load_codec(None, str(tmp_path / folder))
        assert isinstance(again, Oobleck) and (again.fingerprint, again.spec.space) == (
            made.fingerprint,
            made.spec.space,
        )
        assert torch.equal(again.encode(wave).values, made.encode(wave).values)
    make_same().model.save_pretrained(tmp_path / "same")
    assert load_codec(None, str(tmp_path / "same")).spec.family == "same"
    with pytest.raises(WeightsError, match="of type 'AutoencoderOobleck', expected 'AutoencoderSAME'"):
        load_codec("same", str(tmp_path / "alone"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="could not be loaded as oobleck"):
        load_codec("oobleck", str(tmp_path / "empty"))
    shutil.copy(tmp_path / "alone" / "config.json", tmp_path / "empty")
    with pytest.raises(WeightsError, match="could not be loaded as oobleck"):
        load_codec("oobleck", str(tmp_path / "empty"))


def test_a_saved_tokenizer_of_latents_is_loaded(tmp_path: Path) -> None:
    for make, family in ((make_pocket_tts, "pocket_tts"), (make_vibevoice, "vibevoice")):
        made = make()
        made.model.save_pretrained(tmp_path / family)
        again = load_codec(None, str(tmp_path / family))
        assert again.spec.family == family and again.spec.space == made.spec.space
        assert again.encode(sound(made, 2)) == made.encode(sound(made, 2))
    config = json.loads((tmp_path / "pocket_tts" / "config.json").read_text())
    (tmp_path / "pocket_tts" / "config.json").write_text(json.dumps({**config, "encoder_config": None}))
    with pytest.raises(WeightsError, match="has no encoder"):
        load_codec(None, str(tmp_path / "pocket_tts"))


def test_wavtokenizer_is_taken_from_transformers_or_from_a_clone(tmp_path: Path) -> None:
    made = make_native_wavtokenizer()
    made.model.save_pretrained(tmp_path / "native")
    assert type(load_codec("wavtokenizer", str(tmp_path / "native"))) is type(made)
    (tmp_path / "theirs").mkdir()
    for name in (str(tmp_path / "theirs"), "WavTokenizer-large-320-24k-4096"):  # the weights that its authors publish
        with pytest.raises(UsageError, match=r"git clone .*WavTokenizer"):
            load_codec("wavtokenizer", name)


def test_a_missing_package_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Old:
        __version__ = "0.30.0"

    monkeypatch.setitem(sys.modules, "diffusers", Old())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"diffusers 0.30.0 has no AutoencoderSAME.*pip install -U diffusers"):
        load_codec("same", str(tmp_path))
    monkeypatch.setitem(sys.modules, "diffusers", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"same needs the package diffusers.*duotone\[codecs\]"):
        load_codec("same", str(tmp_path))
