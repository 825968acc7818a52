"""Codecs of others: real model classes of transformers with small random weights, encoded and decoded both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.adapters.contract import Batched, ForeignCodec, Windows
from duotone.codec.adapters.transformers_codecs import CODECS, DAC, EnCodec, Mimi
from duotone.errors import UsageError, WeightsError


def alive(model: Any) -> Any:
    """Random weights, codebooks included (their zeros would give the same code for everything)."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and ("embed" in name or "codebook" in name):
                value.copy_(torch.randn(value.shape, generator=generator))
    for module in model.modules():
        if hasattr(module, "_embed"):  # Mimi keeps a product of two buffers
            module._embed = None
    return model


def make_encodec() -> EnCodec:
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    config = EncodecConfig(
        target_bandwidths=[1.5, 3.0], num_filters=4, hidden_size=16, codebook_size=64, codebook_dim=16,
        num_lstm_layers=1, upsampling_ratios=[8, 5, 4, 2], sampling_rate=24_000,
    )  # fmt: skip
    model = EncodecModel(config)
    sound = synthesize(5, 2.0).to_channels(1).resample(24_000).samples
    with torch.no_grad():  # codebooks where the embeddings are, so that codes differ
        frames = model.encoder(sound[None])[0].T
        for i, layer in enumerate(model.quantizer.layers):
            chosen = frames[torch.randperm(len(frames), generator=torch.Generator().manual_seed(i))[:64]]
            layer.codebook.embed.copy_(chosen - (frames.mean(0) if i else 0))
    return EnCodec(model, "random")


def make_dac() -> DAC:
    from transformers import DacConfig, DacModel

    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[2, 4, 5, 8], decoder_hidden_size=64, n_codebooks=4,
        codebook_size=32, codebook_dim=4, sampling_rate=16_000,
    )  # fmt: skip
    return DAC(alive(DacModel(config)), "random")


def make_mimi() -> Mimi:
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(0)
    config = MimiConfig(
        num_filters=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        intermediate_size=32, codebook_size=32, codebook_dim=16, vector_quantization_hidden_dimension=16,
        num_quantizers=4, upsample_groups=32,
    )  # fmt: skip
    return Mimi(alive(MimiModel(config)), "random", n_quantizers=3)


MAKERS = {"encodec": make_encodec, "dac": make_dac, "mimi": make_mimi}


@pytest.fixture(scope="module", params=MAKERS)
def foreign(request: pytest.FixtureRequest) -> ForeignCodec:
    return MAKERS[request.param]()


def test_codes_and_sound_both_ways(foreign: ForeignCodec) -> None:
    info = foreign.info
    wave = synthesize(0, 1.01)
    codes = foreign.encode(wave)
    frames = -(-round(1.01 * info.sampling_rate_encoder) // foreign.hop)
    assert codes.shape == (2, info.num_codebooks, frames) and codes.dtype == torch.int64
    assert int(codes.min()) >= 0 and int(codes.max()) < info.codebook_size and len(codes.unique()) > 4
    again = foreign.decode(codes)
    assert again.rate == info.sampling_rate_decoder and again.channels == 2
    assert abs(again.seconds - frames / info.framerate) < 0.1
    mono = foreign.decode(codes[0])
    assert torch.allclose(mono.samples[0], again.samples[0], atol=1e-4)
    assert not torch.equal(codes[0], codes[1])  # each channel by itself


@pytest.mark.parametrize("seconds", [(0.5, 0.0), (0.1, 0.3), (0.013, 0.2), (30.0, 0.0)])
def test_chunks_join_to_the_frames_of_the_whole(foreign: ForeignCodec, seconds: tuple[float, float]) -> None:
    wave = synthesize(1, 1.3).to_channels(1)
    try:
        windows = Windows.of(foreign.info, *seconds)
    except UsageError:
        assert seconds[0] * foreign.info.framerate < 0.5
        return
    whole, parts = foreign.encode(wave), foreign.encode(wave, windows)
    assert whole.shape == parts.shape
    if seconds[0] > 1.3:
        assert torch.equal(whole, parts)


def test_context_brings_chunks_nearer_to_the_whole() -> None:
    codec = make_encodec()  # causal: with all of its past, a chunk is exact
    wave = synthesize(2, 1.0).to_channels(1)
    padded = Waveform(torch.nn.functional.pad(wave.samples, (wave.rate, 0)), wave.rate)
    whole = codec.encode(padded)[..., 75:]
    near, far = (codec.encode(wave, Windows(5, context)) for context in (70, 0))
    assert (near != whole).float().mean() < (far != whole).float().mean()


def test_neighbours_and_batch_size_change_nothing(foreign: ForeignCodec) -> None:
    rate = foreign.info.sampling_rate_encoder
    waves = [synthesize(i, 0.4 + 0.13 * i).to_channels(1).resample(rate).samples[0] for i in range(4)]
    alone = [foreign.encode(Waveform(w[None], rate), Windows(8, 2))[0] for w in waves]
    for batch_size in (1, 3, 64):
        found = dict(Batched[int](foreign, Windows(8, 2), batch_size).run(enumerate(waves)))
        for i, want in enumerate(alone):
            assert (found[i] == want).float().mean() > 0.999  # but for sums in another order


def test_what_does_not_fit_says_so(tmp_path: Path) -> None:
    from transformers import EncodecConfig, EncodecModel

    with pytest.raises(UsageError, match="loudness beside its codes"):
        EnCodec(EncodecModel(EncodecConfig(num_filters=2, audio_channels=2, chunk_length_s=1.0, normalize=True)), "x")
    with pytest.raises(UsageError, match="bandwidth got"):
        EnCodec(make_encodec().model, "x", bandwidth=2.0)
    assert EnCodec(make_encodec().model, "x", bandwidth=3000).info.num_codebooks == 6  # bits a second, too
    with pytest.raises(UsageError, match="n_quantizers"):
        DAC(make_dac().model, "x", n_quantizers=9)
    codec = make_dac()
    with pytest.raises(UsageError, match=r"values .* expected 0\.\.31"):
        codec.decode(torch.full((4, 3), 32))
    with pytest.raises(UsageError, match="shape"):
        codec.decode(torch.zeros(9, 3, dtype=torch.int64))
    with pytest.raises(UsageError, match="at least one frame"):
        Windows.of(codec.info, 0.001, 0.0)
    with pytest.raises(WeightsError, match="No model at"):
        CODECS["mimi"].load("./absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match="could not be loaded as dac"):
        CODECS["dac"].load(str(tmp_path / "empty"))


def test_a_saved_model_is_loaded(tmp_path: Path) -> None:
    made = make_dac()
    made.model.save_pretrained(tmp_path / "dac")
    again = CODECS["dac"].load(str(tmp_path / "dac"), n_quantizers=2)
    wave = synthesize(0, 0.5)
    assert torch.equal(again.encode(wave), made.encode(wave)[:, :2])
    assert again.info.codec_type == "dac" and again.info.framerate == 50
