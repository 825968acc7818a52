"""The adapters of transformers against its own classes: real feature extractors, real models, loading and its errors."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_adapters_makers import (
    make_dac,
    make_encodec,
    make_encodec_48khz,
    make_higgs,
    make_mimi,
    make_neucodec,
    make_xcodec,
    make_xcodec2,
)

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.adapters.table import kind_of, load_codec
from duotone.codec.adapters.transformers_codecs import DAC, EnCodec, XCodec
from duotone.codec.contract import Codec
from duotone.errors import UsageError, WeightsError


def sound(codec: Codec, seconds: float, seed: int = 0) -> Waveform:
    return synthesize(seed, seconds).to_channels(codec.spec.channels).resample(codec.spec.rate)


def whole_chunks(codec: Codec, seconds: float) -> Waveform:
    wave = sound(codec, seconds)
    return Waveform(wave.samples[:, : wave.length // codec.spec.chunk * codec.spec.chunk].contiguous(), wave.rate)


@torch.inference_mode()
@pytest.mark.parametrize("make", [make_encodec, make_dac, make_mimi, make_xcodec])
def test_same_as_transformers_with_its_feature_extractor(make: Any) -> None:
    import transformers

    codec = make()
    dac = isinstance(codec, DAC | XCodec)
    options = {"hop_length": codec.spec.chunk} if dac else {}
    rate = codec.spec.rate
    extractor = getattr(transformers, "DacFeatureExtractor" if dac else "EncodecFeatureExtractor")(
        sampling_rate=rate, **options
    )
    wave = whole_chunks(codec, 0.5)  # the extractor fills them up for DAC alone
    inputs = extractor(wave.samples[0].numpy(), sampling_rate=rate, return_tensors="pt")
    values = torch.as_tensor(np.asarray(inputs.input_values))  # DAC's gives arrays all the same
    if isinstance(codec, EnCodec | XCodec):
        wanted = codec.model.encode(values, bandwidth=codec.bandwidth).audio_codes
    elif isinstance(codec, DAC):
        wanted = codec.model.encode(values).audio_codes
    else:
        wanted = codec.model.encode(values, num_quantizers=3).audio_codes
    wanted = wanted[0] if isinstance(codec, EnCodec) else wanted
    found = codec.encode(wave)
    assert torch.equal(found.indices[None], wanted)
    arguments = (wanted[None], [None]) if isinstance(codec, EnCodec) else ()
    back = codec.model.decode(*arguments) if arguments else codec.model.decode(audio_codes=wanted)
    theirs = back.audio_values.reshape(1, -1)[:, : wave.length]
    assert torch.equal(codec.decode(found).samples[:, : theirs.shape[1]], theirs)


@torch.inference_mode()
def test_encodec_48khz_as_transformers_has_it() -> None:
    """Its blocks, one after the other; its loudness at each of their frames; and its sound from both."""
    from transformers import EncodecFeatureExtractor

    codec = make_encodec_48khz()
    spec = codec.spec
    assert (spec.chunk, spec.steps, spec.ahead, spec.channels) == (47_520, 150, 480, 2)
    assert spec.scaled and spec.independent and spec.steps_per_second == pytest.approx(150 / 0.99)
    extractor = EncodecFeatureExtractor(feature_size=2, sampling_rate=48_000, chunk_length_s=1.0, overlap=0.01)
    codec.model.double()  # where sums in another order give the same codes
    wave = sound(codec, 2.5)
    inputs = extractor(wave.samples.numpy(), sampling_rate=48_000, return_tensors="pt")
    theirs = codec.model.encode(inputs.input_values.double(), inputs.padding_mask, bandwidth=3.0)
    found = codec.encode(wave)
    assert found.indices.shape == (3, 3 * 150) and found.scale is not None
    # what transformers makes after these of the last overlap alone is no block
    blocks = found.indices.reshape(3, 3, 150).transpose(0, 1)
    assert torch.equal(blocks, theirs.audio_codes[:3, 0])
    assert torch.allclose(found.scale[0], torch.stack(theirs.audio_scales[:3]).reshape(3).float(), rtol=1e-5)
    back = codec.model.decode(theirs.audio_codes[:3], theirs.audio_scales[:3]).audio_values[0]
    ours = codec.decode(codec.codes(found.indices, scale=found.scale), restore=False)
    assert ours.samples.shape == back.shape == (2, 2 * 47_520 + 48_000)
    assert torch.allclose(ours.samples, back.float(), atol=1e-5)


def test_loudness_lies_in_the_scale_alone() -> None:
    codec = make_encodec_48khz()
    wave = sound(codec, 1.5)
    loud, soft = codec.encode(wave), codec.encode(Waveform(wave.samples / 8, wave.rate))
    assert (loud.indices == soft.indices).float().mean() > 0.99
    assert loud.scale is not None and soft.scale is not None and torch.allclose(loud.scale / 8, soft.scale, rtol=1e-3)

    def decoded(scale: Any) -> torch.Tensor:
        return codec.decode(codec.codes(loud.indices, loud.source, scale)).samples

    assert torch.allclose(decoded(loud.scale / 8), decoded(loud.scale) / 8, atol=1e-5)
    assert torch.allclose(2 * decoded(0.1), decoded(0.2), atol=1e-5) and float(decoded(0.1).abs().max()) > 0


@torch.inference_mode()
@pytest.mark.parametrize("make", [make_xcodec2, make_neucodec])
def test_mel_is_that_of_the_real_feature_extractor(make: Any) -> None:
    """Without torchaudio its class cannot be made; where it is installed, spectra and codes are compared."""
    pytest.importorskip("torchaudio")
    import transformers

    codec = make()
    wave = sound(codec, 1.0)
    inputs = getattr(transformers, f"{type(codec.model).__name__.removesuffix('Model')}FeatureExtractor")()(
        wave.samples[0].numpy(), sampling_rate=16_000, return_tensors="pt"
    )
    theirs = codec.model.encode(**inputs)
    codes = theirs.audio_codes[0, :, : int(theirs.audio_codes_mask.sum())].long()
    ours = codec.encode(wave).indices
    assert ours.shape == codes.shape == (1, 50) and len(ours.unique()) > 20
    assert (ours == codes).float().mean() >= 0.96  # spectra differ in the sixth digit, and 65536 codes lie close


@torch.inference_mode()
@pytest.mark.parametrize("make", [make_xcodec2, make_neucodec])
def test_mel_from_its_definition(make: Any) -> None:
    """The same spectrum written down by itself (Kaldi's: povey window, preemphasis, 80 mel bands), in float64."""
    codec = make()
    wave = sound(codec, 0.5)
    met: list[Any] = []
    handle = codec.model.semantic_encoder.register_forward_pre_hook(lambda module, inputs: met.append(inputs[0]))
    codec.encode(wave)
    handle.remove()
    margin = 160 if type(codec).__name__ == "XCodec2" else 0
    x = np.pad(wave.samples[0].double().numpy() * 2**15, (margin, 320 + margin))
    frames = np.lib.stride_tricks.sliding_window_view(x, 400)[::160]
    frames = frames - frames.mean(1, keepdims=True)
    frames = frames - 0.97 * np.concatenate([frames[:, :1], frames[:, :-1]], axis=1)
    povey = (0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 399)) ** 0.85
    power = np.abs(np.fft.rfft(frames * povey, 512)) ** 2

    def mel(hertz: Any) -> Any:
        return 1127 * np.log(1 + np.asarray(hertz) / 700)

    edges = np.linspace(mel(20), mel(8000), 82)
    at = mel(np.arange(257) * 16_000 / 512)[:, None]
    up, down = (at - edges[:-2]) / (edges[1] - edges[0]), (edges[2:] - at) / (edges[1] - edges[0])
    bands = np.log(np.maximum(power @ np.maximum(0, np.minimum(up, down)), 1.192092955078125e-07))
    bands = (bands - bands.mean(0)) / np.sqrt(bands.var(0, ddof=1) + 1e-7)
    wanted = bands[: len(bands) // 2 * 2].reshape(-1, 160)
    assert met[0].shape == (1, *wanted.shape)
    assert np.allclose(met[0][0].numpy(), wanted, atol=2e-3)


@torch.inference_mode()
def test_higgs_as_transformers_has_it() -> None:
    codec = make_higgs()
    assert (codec.spec.chunk, codec.spec.steps_per_second) == (960, 25.0)
    wave = sound(codec, 1.0)
    wanted = codec.model.encode(wave.samples[None], bandwidth=0.375).audio_codes
    assert torch.equal(codec.encode(wave).indices[None], wanted)


def test_a_saved_model_is_loaded_and_its_codec_known(tmp_path: Path) -> None:
    for make, options in (
        (make_dac, {"n_quantizers": 2}),
        (make_encodec_48khz, {"bandwidth": 6000}),
        (make_xcodec2, {}),
    ):
        made = make()
        folder = tmp_path / "any name"
        made.model.save_pretrained(folder)
        again = load_codec(None, str(folder), **options)
        wave = synthesize(0, 0.3)
        assert again.spec.model == "any name" and again.provenance["weights"] == str(folder)
        kept = min(2, len(again.spec.codebooks))
        assert type(again) is type(made) and again.spec.family == made.spec.family
        mono = wave.to_channels(made.spec.channels)
        assert torch.equal(again.encode(mono).indices[:kept], made.encode(mono).indices[:kept])
    assert load_codec("encodec", str(_saved(make_encodec_48khz, tmp_path)), bandwidth=6).spec.bit_rate == pytest.approx(
        6 * 6 * 150 / 0.99
    )


def _saved(make: Any, folder: Path) -> Path:
    make().model.save_pretrained(folder / "saved")
    return folder / "saved"


def test_options_and_models_that_do_not_fit_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = make_encodec()
    with pytest.raises(UsageError, match="bandwidth got"):
        EnCodec(made.model, "x", bandwidth=2.0)
    assert EnCodec(made.model, "x", bandwidth=3000).spec.codebooks == (64,) * 6  # bits a second, too
    for wrong in (0, 9):
        with pytest.raises(UsageError, match="n_quantizers"):
            DAC(make_dac().model, "x", n_quantizers=wrong)
    with pytest.raises(WeightsError, match="No model at"):
        load_codec("mimi", "./absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="could not be loaded as dac"):
        load_codec("dac", str(tmp_path / "empty"))
    with pytest.raises(WeightsError, match="of type 'dac', expected 'mimi'"):
        load_codec("mimi", str(_saved(make_dac, tmp_path)))
    with pytest.raises(UsageError, match="bandwidth is not an option of dac"):
        load_codec("dac", None, bandwidth=3.0)
    with pytest.raises(UsageError, match="takes no repository"):
        load_codec("dac", None, repository=tmp_path)
    with pytest.raises(UsageError, match="expected one of"):
        load_codec("opus", None)
    with pytest.raises(UsageError, match="Neither"):
        load_codec(None, None)
    with pytest.raises(UsageError, match="cannot be found by its name"):
        load_codec(None, "some/model")
    (tmp_path / "empty" / "config.json").write_text("{")
    assert kind_of(str(tmp_path / "empty").replace("empty", "empty_mimi")) == "mimi"
    with pytest.raises(UsageError, match="cannot be found by its name"):
        kind_of(str(tmp_path / "empty"))


def test_an_old_transformers_and_a_missing_package_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    (tmp_path / "config.json").write_text(json.dumps({"model_type": "higgs_audio_v2_tokenizer"}))
    if "torchaudio" not in sys.modules:
        with pytest.raises(UsageError, match="torchaudio"):
            load_codec(None, str(tmp_path))

    class Old:
        __version__ = "4.50.0"

    monkeypatch.setitem(sys.modules, "transformers", Old())  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"transformers 4.50.0 has no Xcodec2Model.*pip install -U"):
        load_codec("xcodec2", str(tmp_path))
    monkeypatch.setitem(sys.modules, "transformers", None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"duotone\[codecs\]"):
        load_codec("dac", str(tmp_path))
    assert transformers.__version__ != Old.__version__


@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("facebook/encodec_24khz", "encodec"), ("descript/dac_44khz", "dac"), ("kyutai/mimi", "mimi"),
        ("alibaba-damo/audio_codec-encodec-zh_en-general-16k-nq32ds640-pytorch", "funcodec"),
        ("HKUSTAudio/xcodec2", "xcodec2"), ("hf-audio/xcodec-hubert-librispeech", "xcodec"), ("simvq_4k", "simvq"),
        ("WavTokenizer-large-600-24k-4096", "wavtokenizer"), ("MagiCodec-50Hz-Base", "magicodec"),
        ("neuphonic/neucodec", "neucodec"), ("neuphonic/distill-neucodec", "distill-neucodec"),
        ("bosonai/higgs-audio-v2-tokenizer", "higgs_audio_v2"),
    ],
)  # fmt: skip
def test_models_names_tell_their_codec(model: str, kind: str) -> None:
    assert kind_of(model) == kind
