"""The described interface of Lycodec: arguments, encode, decode, load_model, YAML keys; and that it is the codec of the contract."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from duotone.audio.waveform import Waveform
from duotone.codec.lycodec.codec import Lycodec as Codec
from duotone.codec.lycodec.seed import KEYS, TRAINING, Lycodec, arguments, load_model
from duotone.codec.lycodec.weights import save_lycodec
from duotone.config import LycodecConfig
from duotone.errors import ConfigError, UsageError, WeightsError
from small_lycodec import SMALL_LYCODEC, random_lycodec

CODEC = random_lycodec()
MODEL = Lycodec.of(CODEC.network)
CHUNK = SMALL_LYCODEC.chunk_samples
SMALL = {"n_fft": 128, "win": 128, "hop": 40, "token_dim": 64, "hidden": 64, "layers": 1, "heads": 4}

#: The keys that the description lists, with its values.
DESCRIBED = """
sample_rate: 48000
stft: {n_fft: 2048, hop_length: 640, win_length: 2048}
token_rate: 12
crop_seconds: 1.5
chunk_seconds: 1.5
hop_seconds: 0.75
batch_size: 8
epochs: 2
lr: 0.0001
device: cuda
num_workers: 4
save_every: 1000
model: {hidden_dim: 512, token_dim: 256, transformer_layers: 8, heads: 8, use_rope: true, use_group_fsq: true, decoder_depth: 6, decoder_patch_size: 16}
train:
  stage: 2
  grad_clip: 1.0
  use_amp: true
  fsq_dropout_schedule: [[0, 0.50], [5000, 0.65], [10000, 0.75]]
  use_checkpoint: true
  ema: {enabled: true, decay: 0.9999}
data: {segment_seconds: 1.5}
logging: {use_wandb: false}
teacher: {primary: {enabled: false}}
"""


def sound(samples: int, batch: int = 1, channels: int = 2) -> torch.Tensor:
    return 0.2 * torch.randn(batch, channels, samples, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("samples", [1, 500, CHUNK, 3 * CHUNK - 5])
def test_it_is_the_codec_of_the_contract(samples: int) -> None:
    wav = sound(samples, 2)
    found = MODEL.encode(wav)
    for i in range(2):
        latents = CODEC.encode(Waveform(wav[i], 48_000))
        assert torch.allclose(found["cont"][i], latents.values.flatten(0, 1), atol=1e-5)
        assert torch.allclose(found["disc"][i], latents.codes().latents().values.flatten(0, 1))
        out = MODEL.decode(found["tokens"], samples, seed=4)
        assert out.shape == (2, 2, samples)
        assert torch.allclose(out[i], CODEC.decode(latents, seed=4).samples, atol=1e-4)
        plain = MODEL.decode(found["disc"], samples, seed=4)[i]
        assert torch.allclose(plain, CODEC.decode(latents.codes(), seed=4).samples, atol=1e-4)


def test_tokens_are_hybrid_and_disc_is_what_integers_carry() -> None:
    found = MODEL.encode(sound(CHUNK))
    assert found.keys() == {"tokens", "cont", "disc"}
    assert not torch.equal(found["tokens"], found["disc"]) and not torch.equal(found["tokens"], found["cont"])
    assert torch.allclose(found["disc"] * 5, (found["disc"] * 5).round(), atol=1e-5)


def test_decoding_starts_at_sigma_max_and_depends_on_the_tokens() -> None:
    """The description's level of .001 returns the noise; it is refused, with the reason."""
    tokens = MODEL.encode(sound(CHUNK))["tokens"]
    assert not torch.allclose(MODEL.decode(tokens, CHUNK), MODEL.decode(-tokens, CHUNK), atol=1e-3)
    assert not torch.equal(MODEL.decode(tokens, CHUNK), MODEL.decode(tokens, CHUNK, sigma=torch.tensor([20.0])))
    with pytest.raises(UsageError, match="returns that noise"):
        MODEL.decode(tokens, CHUNK, sigma=torch.tensor([0.001]))


def test_mono_is_both_channels() -> None:
    mono = sound(300, channels=1)
    assert torch.equal(MODEL.encode(mono)["cont"], MODEL.encode(mono.expand(-1, 2, -1))["cont"])


def test_arguments_make_the_network() -> None:
    model = Lycodec(**SMALL, decoder_depth=2, decoder_patch_size=8, use_checkpoint=True)  # type: ignore[arg-type]
    config = model.config
    assert len(model.network.decoder.blocks) == 2 and config.patch_bins == 8 and config.encoder_layers == 1
    assert model.network.encoder.checkpointing and config.levels == (11,) * 4
    assert Lycodec(**SMALL, use_group_fsq=False).config.levels == (11,)  # type: ignore[arg-type]
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in model.network.parameters())


@pytest.mark.parametrize(
    ("change", "match"),
    [({"win": 64}, "win"), ({"use_rope": False}, "use_rope"), ({"decoder_patch_size": 12}, "patch_bins"), ({"hidden": 60}, "stem_channels|encoder_dim")],
)  # fmt: skip
def test_arguments_that_cannot_be_had_are_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises((UsageError, ConfigError), match=match):
        Lycodec(**{**SMALL, **change})  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="semantic_dim"):
        Lycodec(semantic_dim=120)  # type: ignore[call-arg]


@pytest.mark.parametrize(("shape", "match"), [((2, 100), "shape"), ((1, 3, 100), "shape"), ((1, 2, 0), "shape")])
def test_sounds_of_other_shapes_are_refused(shape: tuple[int, ...], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        MODEL.encode(torch.zeros(shape))
    with pytest.raises(UsageError, match="expected \\[batch, 12, 16\\]"):
        MODEL.decode(torch.zeros(1, 6, 16), CHUNK)


def test_the_described_configuration_is_read(tmp_path: Path) -> None:
    file = tmp_path / "lycodec_48k.yaml"
    file.write_text(DESCRIBED)
    found = arguments(file)
    assert found == {
        "sr": 48_000, "n_fft": 2048, "hop": 640, "win": 2048, "hidden": 512, "token_dim": 256, "layers": 8, "heads": 8, "use_rope": True,
        "use_group_fsq": True, "decoder_depth": 6, "decoder_patch_size": 16, "use_checkpoint": True,
    }  # fmt: skip
    assert set(found) == set(KEYS.values()) and not set(KEYS) & TRAINING
    with torch.device("meta"):
        assert Lycodec(**found).config == LycodecConfig()


@pytest.mark.parametrize(
    ("text", "match"),
    [("model: {semantic_dim: 120, heads: 8}\nsamplerate: 3", "model.semantic_dim, samplerate"), ("train: {use_masked_prediction: true}", "use_masked"),
     ("token_rate: 13", "token_rate got 13"), ("- 1", "list"), ("a: [", "not YAML")],
)  # fmt: skip
def test_unknown_keys_are_refused_by_name(text: str, match: str, tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=match):
        arguments(file)


def test_models_are_loaded(tmp_path: Path) -> None:
    config, weights = tmp_path / "a.yaml", tmp_path / "a.pt"
    config.write_text(
        yaml.safe_dump({
            "stft": {"n_fft": 128, "win_length": 128, "hop_length": 40},
            "model": {"token_dim": 64, "hidden_dim": 64, "transformer_layers": 1, "heads": 4, "decoder_depth": 1},
        })
    )  # fmt: skip
    model = Lycodec(**arguments(config)).eval()
    for state in (model.state_dict(), {"model": model.state_dict()}):
        torch.save(state, weights)
        again = load_model(weights, config)
        wav = sound(200)
        assert torch.equal(again.encode(wav)["cont"], model.encode(wav)["cont"])
    save_lycodec(CODEC, tmp_path / "codec")
    assert isinstance(CODEC, Codec)
    assert torch.equal(load_model(tmp_path / "codec").encode(sound(9))["cont"], MODEL.encode(sound(9))["cont"])
    torch.save({"model": {"stages.0.weight": torch.zeros(2)}}, weights)
    with pytest.raises(WeightsError, match="no trained weights"):
        load_model(weights, config)
    torch.save({"model": 3}, weights)
    with pytest.raises(WeightsError, match="no weights"):
        load_model(weights, config)
    with pytest.raises(ConfigError, match="configuration too"):
        load_model(weights)
