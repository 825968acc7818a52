"""What the tests of the adapters run on: small models of the real classes, and doubles of others' repositories.

Weights are random. Codebooks are laid where the embeddings of a sound lie, so that codes differ. The doubles have the
interface of the repositories that they stand for, found by reading these, and none of their code.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import BuiltinImporter, ModuleSpec
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import pytest
import torch

from duotone.audio.synth import synthesize
from duotone.codec.adapters.latents import SAME, Oobleck, PocketTTS, VibeVoice
from duotone.codec.adapters.semantic import NeuCodec, XCodec2
from duotone.codec.adapters.table import CODECS, load_codec
from duotone.codec.adapters.transformers_codecs import DAC, EnCodec, HiggsAudio, Mimi, WavTokenizer, XCodec
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.contract import Codec
from small import SMALL

#: Those of real classes of transformers and diffusers; all others are doubles but our own.
TOKENS = ("encodec", "encodec_48khz", "dac", "mimi", "xcodec", "xcodec2", "neucodec", "higgs_audio_v2", "wavtokenizer")
LATENTS = ("pocket_tts", "vibevoice", "oobleck", "same")
REAL = TOKENS + LATENTS
DOUBLES = ("distill-neucodec", "funcodec", "wavtokenizer_clone", "simvq", "magicodec")


def lay_codebooks(codec: Any) -> Any:
    """Each codebook gets vectors that it meets in a sound, at the first sight of them."""
    books = [
        m for m in codec.model.modules() if hasattr(m, "quantize") and isinstance(getattr(m, "embed", 0), torch.Tensor)
    ]

    def wrapped(book: Any, original: Callable[[Any], Any], seed: int) -> Callable[[Any], Any]:
        def quantize(states: Any) -> Any:
            if seed not in seen:
                seen.add(seed)
                generator = torch.Generator().manual_seed(seed)
                chosen = states[torch.randint(len(states), (len(book.embed),), generator=generator)]
                apart = torch.randn(chosen.shape, generator=generator)  # silence gives many the same: no ties
                book.embed.copy_(chosen + 0.05 * states.std() * apart)
            return original(states)

        return quantize

    seen: set[int] = set()
    for seed, book in enumerate(books):
        book.quantize = wrapped(book, book.quantize, seed)
    codec.encode(synthesize(5, 3.0).to_channels(codec.spec.channels))
    for book in books:
        del book.quantize
    assert seen
    return again(codec)


def again(codec: Any) -> Any:
    """The codec of a model whose weights were changed, with its new identity."""
    options = {name: getattr(codec, name) for name in codec.options}
    return type(codec)(codec.model, codec.spec.model, **options)


def make_encodec() -> EnCodec:
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    config = EncodecConfig(
        target_bandwidths=[1.5, 3.0], num_filters=4, hidden_size=16, codebook_size=64, codebook_dim=16,
        num_lstm_layers=1, upsampling_ratios=[8, 5, 4, 2], sampling_rate=24_000,
    )  # fmt: skip
    return lay_codebooks(EnCodec(EncodecModel(config), "random"))


def make_encodec_48khz() -> EnCodec:
    """As the published one is made: stereo, normalised, blocks of a second that overlap by 1%, another norm."""
    from transformers import EncodecConfig, EncodecModel

    torch.manual_seed(0)
    config = EncodecConfig(
        target_bandwidths=[3.0, 6.0], num_filters=2, hidden_size=16, codebook_size=64, codebook_dim=16,
        num_lstm_layers=1, upsampling_ratios=[8, 5, 4, 2], sampling_rate=48_000, audio_channels=2, normalize=True,
        chunk_length_s=1.0, overlap=0.01, norm_type="time_group_norm", use_causal_conv=False,
    )  # fmt: skip
    return lay_codebooks(EnCodec(EncodecModel(config), "random"))


def make_dac() -> DAC:
    from transformers import DacConfig, DacModel

    torch.manual_seed(0)
    config = DacConfig(
        encoder_hidden_size=8, downsampling_ratios=[2, 4, 5, 8], decoder_hidden_size=64, n_codebooks=4,
        codebook_size=32, codebook_dim=4, sampling_rate=16_000,
    )  # fmt: skip
    return DAC(DacModel(config), "random")


def make_mimi() -> Mimi:
    from transformers import MimiConfig, MimiModel

    torch.manual_seed(0)
    config = MimiConfig(
        num_filters=4, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, head_dim=16,
        intermediate_size=32, codebook_size=32, codebook_dim=16, vector_quantization_hidden_dimension=16,
        num_quantizers=4, upsample_groups=32,
    )  # fmt: skip
    model = MimiModel(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in [*model.named_parameters(), *model.named_buffers()]:
            if value.is_floating_point() and ("embed" in name or "codebook" in name):
                value.copy_(torch.randn(value.shape, generator=generator))
    for module in model.modules():
        if hasattr(module, "_embed"):  # a product of two buffers, kept
            module._embed = None
    return Mimi(model, "random", n_quantizers=3)


def _with_hubert(**more: Any) -> dict[str, Any]:
    """A small acoustic and a small semantic part; the latter's strides are those of the real one."""
    return {
        "codebook_size": 32,
        "acoustic_model_config": {
            "model_type": "dac", "encoder_hidden_size": 4, "downsampling_ratios": [8, 5, 4, 2], "hidden_size": 16,
            "decoder_hidden_size": 32, "upsampling_ratios": [8, 5, 4, 2], **more,
        },
        "semantic_model_config": {
            "model_type": "hubert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 16, "conv_dim": [4] * 7, "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
        },
    }  # fmt: skip


def make_xcodec() -> XCodec:
    from transformers import XcodecConfig, XcodecModel

    torch.manual_seed(0)
    return lay_codebooks(XCodec(XcodecModel(XcodecConfig(target_bandwidths=[0.25, 0.75], **_with_hubert())), "random"))


def make_higgs() -> HiggsAudio:
    pytest.importorskip("torchaudio", reason="transformers' class of Higgs Audio needs it")
    from transformers import HiggsAudioV2TokenizerConfig, HiggsAudioV2TokenizerModel

    torch.manual_seed(0)
    ratios = [8, 5, 4, 2, 3]
    parts = _with_hubert(downsampling_ratios=ratios, upsampling_ratios=ratios)
    config = HiggsAudioV2TokenizerConfig(target_bandwidths=[0.125, 0.375], codebook_dim=8, **parts)
    return lay_codebooks(HiggsAudio(HiggsAudioV2TokenizerModel(config), "random"))


def _of_two_parts(codec: Any) -> Any:
    """Random projections of the mean of all they see hardly move: spread them over the levels of the codebook."""
    met: list[Any] = []
    project = codec.model.quantizer.project_in
    handle = project.register_forward_hook(lambda module, inputs, output: met.append(output))
    codec.encode(synthesize(5, 2.0).to_channels(1))
    handle.remove()
    with torch.no_grad():
        deviation, mean = torch.std_mean(met[0].flatten(0, 1), dim=0)
        project.weight.div_(deviation[:, None])
        project.bias.sub_(mean).div_(deviation)
    return again(codec)


_TWO_PARTS: dict[str, Any] = {
    "encoder_hidden_size": 1, "hidden_size": 64, "intermediate_size": 32, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32, "num_hidden_layers": 1, "quantization_dim": 96,
    "semantic_model_config": {
        "model_type": "wav2vec2-bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32,
    },
}  # fmt: skip


def make_xcodec2() -> XCodec2:
    from transformers import Xcodec2Config, Xcodec2Model

    torch.manual_seed(0)
    return _of_two_parts(XCodec2(Xcodec2Model(Xcodec2Config(**_TWO_PARTS)), "random"))


def make_neucodec() -> NeuCodec:
    from transformers import NeuCodecConfig, NeuCodecModel

    torch.manual_seed(0)
    return _of_two_parts(NeuCodec(NeuCodecModel(NeuCodecConfig(**_TWO_PARTS)), "random"))


def _needs(name: str, library: str = "transformers") -> Any:
    """A class of a library, where its version has it."""
    found = getattr(pytest.importorskip(library), name, None)
    if found is None:
        pytest.skip(f"this version of {library} has no {name}")
    return found


def make_native_wavtokenizer() -> WavTokenizer:
    model = _needs("WavTokenizerModel")
    torch.manual_seed(0)
    config = model.config_class(
        num_filters=4, hidden_size=16, codebook_dim=16, codebook_size=64, num_lstm_layers=1, decoder_hidden_size=32,
        decoder_intermediate_size=32, decoder_num_layers=2, decoder_attention_num_groups=4,
    )  # fmt: skip
    return lay_codebooks(WavTokenizer(model(config), "random"))


def make_pocket_tts() -> PocketTTS:
    model = _needs("PocketTTSAudioTokenizerModel")
    torch.manual_seed(0)
    config = model.config_class(
        hidden_size=16, num_filters=4, upsample_groups=16, num_hidden_layers=1, intermediate_size=16,
        num_attention_heads=2, num_key_value_heads=2, sliding_window=20, latent_dim=8, layer_scale_initial_scale=0.5,
    )  # fmt: skip
    return PocketTTS(model(config), "random")


def make_vibevoice() -> VibeVoice:
    model = _needs("VibeVoiceAcousticTokenizerModel")
    torch.manual_seed(0)
    config = model.config_class(
        hidden_size=8, num_filters=2, depths=[1] * 7, layer_scale_init_value=0.5, initializer_range=0.3,
    )  # fmt: skip
    return VibeVoice(model(config), "random")


def make_oobleck(ratios: tuple[int, ...] = (2, 4, 4, 8, 8)) -> Oobleck:
    model = _needs("AutoencoderOobleck", "diffusers")
    torch.manual_seed(0)
    return Oobleck(model(8, list(ratios), [1, 2, 2, 2, 2], 4, 4), "random")


def make_same() -> SAME:
    model = _needs("AutoencoderSAME", "diffusers")
    torch.manual_seed(0)
    made = model(encoder_channels=16, encoder_c_mults=(2,), encoder_transformer_depths=(2,), latent_dim=8, dim_heads=8)
    with torch.no_grad():
        for name, value in made.named_parameters():
            if name.endswith(("to_out.weight", "proj_out.weight", "new_tokens")):  # zeros, before training
                value.normal_(std=0.3)
    return SAME(made, "random")


# -- doubles -----------------------------------------------------------------------------------------------------------
# All code the loudest sample of a frame and the two before it: exact numbers, and a past of two frames that matters.

_PEAKS = '''
import torch


def peaks(wave, hop):
    """[B, T] -> [B, F]: the loudest sample of each frame and the two before it."""
    frames = wave.abs().unfold(-1, hop, hop).amax(-1)
    past = torch.nn.functional.pad(frames, (2, 0))
    return torch.stack([past[:, :-2], past[:, 1:-1], frames]).amax(0)
'''

_WAVTOKENIZER = {
    "encoder/utils.py": _PEAKS,
    "decoder/__init__.py": "",
    "decoder/parts.py": '''
        import torch
        from torch import nn

        class Layer(nn.Module):
            def __init__(self, bins):
                super().__init__()
                self.codebook = torch.linspace(0, 1, bins)[:, None]

        class Quantizer(nn.Module):
            def __init__(self, bins):
                super().__init__()
                self.bins, self.vq = bins, nn.Module()
                self.vq.layers = nn.ModuleList([Layer(bins)])

        class Features(nn.Module):
            def __init__(self, bins):
                super().__init__()
                self.encodec = nn.Module()
                self.encodec.sample_rate, self.encodec.quantizer = 24_000, Quantizer(bins)
                self.gain = nn.Parameter(torch.zeros(1))
    ''',
    "decoder/pretrained.py": '''
        import torch, yaml
        from torch import nn
        from encoder.utils import peaks  # by bare names, as the original does

        class WavTokenizer(nn.Module):
            @classmethod
            def from_hparams0802(cls, config_path):
                from decoder.parts import Features
                model = cls()
                settings = yaml.safe_load(open(config_path))["model"]["init_args"]
                model.feature_extractor, model.hop = Features(settings["bins"]), settings["hop"]
                return model

            @torch.inference_mode()
            def encode_infer(self, audio, bandwidth_id):
                from decoder import parts  # while it runs
                assert audio.ndim == 2 and int(bandwidth_id) == 0
                bins = self.feature_extractor.encodec.quantizer.bins
                loud = peaks(audio, self.hop) * self.feature_extractor.gain
                codes = (loud.clamp(0, 1) * (bins - 1)).round().long()[None]
                return None, codes  # [K, B, F]

            def codes_to_features(self, codes):
                table = torch.cat([layer.codebook for layer in self.feature_extractor.encodec.quantizer.vq.layers])
                return table[codes].sum(0).transpose(1, 2)

            def decode(self, features, bandwidth_id):
                return features[:, 0].repeat_interleave(self.hop, dim=-1)
    ''',
}  # fmt: skip

_SIMVQ = {
    "main.py": '''
        import importlib

        def instantiate_from_config(config):
            module, name = config["target"].rsplit(".", 1)
            return getattr(importlib.import_module(module), name)(**config.get("params", {}))
    ''',
    "taming/util.py": _PEAKS,
    "taming/modules/quantize.py": '''
        import torch
        from torch import nn

        class SimVQ1D(nn.Module):
            def __init__(self, n_e, e_dim):
                super().__init__()
                self.n_e = n_e
                self.embedding, self.embedding_proj = nn.Embedding(n_e, e_dim), nn.Linear(e_dim, e_dim)
    ''',
    "taming/models/vq_audio.py": '''
        import torch
        from torch import nn
        from main import instantiate_from_config
        from taming.util import peaks

        class VQModel(nn.Module):
            def __init__(self, ddconfig, lossconfig, quantconfig, sample_rate, audio_normalize):
                super().__init__()
                self.loss = instantiate_from_config(lossconfig)
                self.quantize = instantiate_from_config(quantconfig)
                self.hop = ddconfig["hop"]

            def encode(self, x):
                assert x.ndim == 3
                codebook = self.quantize.embedding_proj(self.quantize.embedding.weight)[:, 0]
                indices = (peaks(x[:, 0], self.hop)[..., None] - codebook).abs().argmin(-1).reshape(-1)
                return (None, None), None, indices, None

            def decode(self, pair):
                quant, scale = pair
                assert scale is None and quant.ndim == 3
                return quant[:, :1].repeat_interleave(self.hop, dim=-1)
    ''',
}  # fmt: skip

_MAGICODEC = {
    "utils.py": _PEAKS,
    "codec/generator.py": '''
        import torch
        from torch import nn
        from utils import peaks

        class Quantizer(nn.Module):
            def __init__(self, size):
                super().__init__()
                self.codebook, self.codebook_proj = nn.Embedding(size, 1), nn.Linear(1, 1)

            def inference(self, z):
                codebook = self.codebook_proj(self.codebook.weight)[:, 0]
                indices = (z - codebook).abs().argmin(-1)
                return codebook[indices], indices

        class Generator(nn.Module):
            def __init__(self, sample_rate=16000, token_hz=75):
                super().__init__()
                self.sample_rate, self.frame_len, self.codebook_size = sample_rate, sample_rate // token_hz, 64
                self.quantizer = Quantizer(64)

            def pad_audio(self, x):
                return torch.nn.functional.pad(x, (0, -x.shape[-1] % self.frame_len))

            def encoder(self, x):
                return peaks(x[:, 0], self.frame_len)[..., None]

            def decoder(self, z):
                return z[:, :, 0].repeat_interleave(self.frame_len, dim=-1)[:, None]
    ''',
}  # fmt: skip

_FUNCODEC = {
    "funcodec/peaks.py": _PEAKS,
    "funcodec/bin/codec_inference.py": '''
        from types import SimpleNamespace
        import torch, yaml
        from torch import nn
        from funcodec.peaks import peaks

        class Speech2Token(nn.Module):
            def __init__(self, config_file, model_file, device="cpu"):
                super().__init__()
                settings = yaml.safe_load(open(config_file))
                self.model_args = SimpleNamespace(**settings)
                self.gain = nn.Parameter(torch.load(model_file, weights_only=True)["gain"])

            def __call__(self, speech, bit_width=None, run_mod="inference"):
                size, hop = self.model_args.quantizer_conf["codebook_size"], self.model_args.hop
                if run_mod == "decode":  # [B, F, K]
                    return None, None, (speech[..., 0] / (size - 1)).repeat_interleave(hop, -1)[:, None], None
                assert run_mod == "encode" and speech.ndim == 3
                scale = speech.abs().amax(-1) + 1e-8  # [B, 1], exact here; the root of the mean square there
                books = 4 if bit_width is None else bit_width // 250
                codes = (peaks(speech[:, 0], hop) * self.gain).clamp(0, 1).mul(size - 1).round().long()
                return [torch.stack([codes // (i + 1) for i in range(books)])], [(None, scale)], None, None
    ''',
}  # fmt: skip


def write_repository(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(dedent(text))
    return folder


def make_wavtokenizer_clone(folder: Path) -> Codec:
    code = write_repository(folder / "WavTokenizer", _WAVTOKENIZER)
    weights = write_repository(folder / "weights", {"w.yaml": "model: {init_args: {bins: 64, hop: 600}}"})
    state = {"feature_extractor.gain": torch.ones(1), "discriminator.x": torch.ones(2)}
    torch.save({"state_dict": state}, weights / "w.ckpt")
    return load_codec("wavtokenizer", str(weights), repository=code)


def make_simvq(folder: Path) -> Codec:
    code = write_repository(folder / "SimVQ", _SIMVQ)
    config = """
        model:
          class_path: taming.models.vq_audio.VQModel
          init_args:
            ddconfig: {hop: 320}
            lossconfig: {target: not.to.be.Loaded}
            quantconfig: {target: taming.modules.quantize.SimVQ1D, params: {n_e: 32, e_dim: 2}}
            sample_rate: 24000
            audio_normalize: false
    """
    weights = write_repository(folder / "weights", {"1second/config.yaml": config})
    table = torch.linspace(0, 1, 32)[:, None].expand(32, 2)
    state = {"embedding.weight": table, "embedding_proj.weight": torch.eye(2), "embedding_proj.bias": torch.zeros(2)}
    torch.save({"state_dict": {f"quantize.{k}": v.clone() for k, v in state.items()}}, weights / "epoch=1.ckpt")
    return load_codec("simvq", str(weights), repository=code)


def make_magicodec(folder: Path) -> Codec:
    code = write_repository(folder / "MagiCodec", _MAGICODEC)
    (folder / "weights").mkdir()
    state = {"codebook.weight": torch.linspace(0, 1, 64)[:, None], "codebook_proj.weight": torch.ones(1, 1)}
    state["codebook_proj.bias"] = torch.zeros(1)
    torch.save({f"quantizer.{k}": v for k, v in state.items()}, folder / "weights" / "MagiCodec-50Hz-Base.ckpt")
    return load_codec("magicodec", str(folder / "weights"), repository=code)


def make_funcodec(folder: Path) -> Codec:
    code = write_repository(folder / "FunCodec", _FUNCODEC)
    config = "{sampling_rate: 16000, hop: 640, quantizer_conf: {codebook_size: 64}}"
    weights = write_repository(folder / "weights", {"config.yaml": config})
    torch.save({"gain": torch.ones(1)}, weights / "model.pth")
    return load_codec("funcodec", str(weights), repository=code, bandwidth=0.5)


class _DistillNeuCodec(torch.nn.Module):
    """The package's class: one recording at a time, a frame more at the end, and sound at another rate."""

    sample_rate = 24_000

    @classmethod
    def from_pretrained(cls, name: str) -> _DistillNeuCodec:
        assert name == "neuphonic/distill-neucodec"
        return cls()

    def encode_code(self, wave: torch.Tensor) -> torch.Tensor:
        assert wave.shape[:2] == (1, 1)
        padded = torch.nn.functional.pad(wave[0, 0], (0, 320 - wave.shape[-1] % 320)).abs()
        frames = padded.unfold(-1, 320, 320).amax(-1)
        past = torch.nn.functional.pad(frames, (2, 0)).unfold(-1, 3, 1).amax(-1)
        return (past.clamp(0, 1) * 65_535).round().int()[None, None]

    def decode_code(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes / 65_535).repeat_interleave(480, dim=-1)


@contextmanager
def installed(name: str, **names: Any) -> Iterator[None]:
    """A package of that name, as if it were installed."""
    with pytest.MonkeyPatch.context() as patch:
        module = ModuleType(name)
        module.__dict__.update(names)
        module.__spec__ = ModuleSpec(name, BuiltinImporter)
        patch.setitem(sys.modules, name, module)
        yield


def make_distill(folder: Path) -> Codec:
    with installed("neucodec", DistillNeuCodec=_DistillNeuCodec):
        return load_codec("neucodec", "neuphonic/distill-neucodec")


def make_own(folder: Path) -> Codec:
    return CoDiCodec.random(SMALL, seed=1)


def _real(make: Callable[[], Any]) -> Callable[[Path], Codec]:
    return lambda folder: make()


MAKERS: dict[str, Callable[[Path], Codec]] = {
    "encodec": _real(make_encodec), "encodec_48khz": _real(make_encodec_48khz), "dac": _real(make_dac),
    "mimi": _real(make_mimi), "xcodec": _real(make_xcodec), "xcodec2": _real(make_xcodec2),
    "neucodec": _real(make_neucodec), "higgs_audio_v2": _real(make_higgs), "wavtokenizer": _real(make_native_wavtokenizer),
    "pocket_tts": _real(make_pocket_tts), "vibevoice": _real(make_vibevoice), "oobleck": _real(make_oobleck),
    "same": _real(make_same), "distill-neucodec": make_distill, "funcodec": make_funcodec,
    "wavtokenizer_clone": make_wavtokenizer_clone, "simvq": make_simvq, "magicodec": make_magicodec,
    "duotone": make_own,
}  # fmt: skip


def test_every_codec_is_tested() -> None:
    assert {*REAL, *DOUBLES, "duotone"} == set(MAKERS)
    assert {name for name in MAKERS if name not in ("encodec_48khz", "wavtokenizer_clone", "duotone")} == set(CODECS)
