"""FunCodec, WavTokenizer, SimVQ, MagiCodec and Distill-NeuCodec, running their authors' code.

The code is an installed package, or a cloned repository whose folder the user names; the weights are a folder, or the
name of published ones, which are downloaded only on request. Weights are read as plain tensors.
Legend: B rows of a batch, K codebooks, N chunks (of one step each), T samples, D dimensions of a code's vector.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from duotone.codec.adapters.base import Adapter, is_hub_name, louder, model_name
from duotone.codec.adapters.repository import Repository
from duotone.codec.batches import Batch
from duotone.errors import UsageError, WeightsError
from duotone.spec import ENCODING_FORMAT, CodecSpec

_WAVTOKENIZER = "wavtokenizer_{}data_frame{}_3s_nq1_code4096_dim512_kmeans200_attn.yaml"
_SMALL, _MEDIUM = "novateur/WavTokenizer", "novateur/WavTokenizer-medium"

#: Name (lower case) -> (Hub repository, configuration's file), (Hub repository, weights' file), as `codec-bpe` has them.
PUBLISHED: dict[str, tuple[tuple[str, str] | None, tuple[str, str]]] = {
    "wavtokenizer-small-600-24k-4096": (
        (_SMALL, _WAVTOKENIZER.format("small", 40)), (_SMALL, "WavTokenizer_small_600_24k_4096.ckpt")),
    "wavtokenizer-small-320-24k-4096": (
        (_SMALL, _WAVTOKENIZER.format("small", 75)), (_SMALL, "WavTokenizer_small_320_24k_4096.ckpt")),
    "wavtokenizer-medium-speech-320-24k-4096": (
        (f"{_MEDIUM}-speech-75token", _WAVTOKENIZER.format("medium", 75)),
        (f"{_MEDIUM}-speech-75token", "wavtokenizer_medium_speech_320_24k_v2.ckpt")),
    "wavtokenizer-medium-music-audio-320-24k-4096": (
        (f"{_MEDIUM}-music-audio-75token", _WAVTOKENIZER.format("medium", "75").replace("data_", "data_music_audio_")),
        (f"{_MEDIUM}-music-audio-75token", "wavtokenizer_medium_music_audio_320_24k_v2.ckpt")),
    "wavtokenizer-large-600-24k-4096": (
        (_SMALL, _WAVTOKENIZER.format("small", 40)),
        ("novateur/WavTokenizer-large-unify-40token", "wavtokenizer_large_unify_600_24k.ckpt")),
    "wavtokenizer-large-320-24k-4096": (
        (_SMALL, _WAVTOKENIZER.format("small", 75)),
        ("novateur/WavTokenizer-large-speech-75token", "wavtokenizer_large_speech_320_v2.ckpt")),
    **{
        f"simvq_{size}": (
            ("youngsheen/SimVQ", f"vq_audio_log/simvq_{size}/1second/config.yaml"),
            ("youngsheen/SimVQ", f"vq_audio_log/simvq_{size}/epoch=49-step=138600.ckpt"))
        for size in ("4k", "8k", "65k", "262k")
    },
    "magicodec-50hz-base": (None, ("Ereboas/MagiCodec_16k_50hz", "MagiCodec-50Hz-Base.ckpt")),
}  # fmt: skip


class PackageCodec(Adapter):
    """Base of these codecs: the repository, and a spec found by encoding one second of silence."""

    origin: ClassVar[str]  #: where its code is
    hop_length: ClassVar[int | None] = None  #: where a second of silence does not tell it

    def __init__(
        self, model: Any, name: str, repository: Repository, device: str | torch.device = "cpu", **options: Any
    ) -> None:
        self.repository, self._device = repository, torch.device(device)
        state = {key: value.detach().cpu() for key, value in model.state_dict().items()}  # before it is moved
        self.model = self._placed(model)
        rate, rate_out = self._rates()
        with torch.no_grad():
            found = self.encode_batch(torch.zeros(1, 1, rate))
        _, books, steps = found.codes.shape if found.codes is not None else (0, 0, 0)
        if self.hop_length is None and (steps == 0 or rate % steps):
            raise UsageError(f"{self.kind} gave {steps} steps for a second of {rate} samples, expected a divisor.")
        grid = CodecSpec(
            self.kind, model_name(name), "", "", rate, rate_out, 1, self.hop_length or rate // steps,
            codebooks=(self._codebook_size(),) * books, scaled=found.scale is not None, bounded=False,
        )  # fmt: skip
        self.spec = self._identified(grid, state, **options)
        self.provenance = {"weights": name, "code": repository.described}

    @classmethod
    def load(
        cls, name: str | None = None, device: str | torch.device = "cpu", repository: str | Path | None = None,
        **options: Any,
    ) -> PackageCodec:  # fmt: skip
        """Load a folder of weights, or the name of published ones; `repository` is the folder of their code.

        Raises `UsageError` if the code or a package is missing, `WeightsError` if weights are missing or do not fit.
        """
        code = Repository(repository, cls.origin)
        with code.entered():
            model = cls._build(code, name or cls.default, torch.device(device))
        return cls(model, name or cls.default, code, device, **options)

    @classmethod
    @abstractmethod
    def _build(cls, code: Repository, name: str, device: torch.device) -> Any:
        """Build the model from weights; called while the repository is entered."""

    def _placed(self, model: Any) -> Any:
        return model.to(self._device).eval()

    def _move(self, device: torch.device, dtype: torch.dtype | None) -> None:
        if dtype not in (None, torch.float32):
            raise UsageError(
                f"{self.kind} runs only in float32, got {str(dtype).removeprefix('torch.')}. Leave it out."
            )
        with self.repository.entered():
            self.model.to(device)

    @abstractmethod
    def _rates(self) -> tuple[int, int]:
        """Sample rates of the encoder's input and the decoder's output, in Hz."""

    @abstractmethod
    def _codebook_size(self) -> int:
        """Number of codes in a codebook."""

    def encode_batch(self, samples: Tensor) -> Batch:
        """Samples `[B, 1, n * chunk]` -> codes `[B, K, n]` or longer, on the CPU."""
        with self.repository.entered():
            return self._codes_of(samples.to(self.device))

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """Codes `[B, K, N]`, and loudness `[B, N]` if it is coded separately -> samples `[B, 1, T]`, on the CPU."""
        with self.repository.entered():
            rows = [self._sound_of(row[None].to(self.device)).reshape(1, -1).float().cpu() for row in codes]
        samples = torch.stack(rows)
        return samples if scale is None else louder(samples, scale)

    @abstractmethod
    def _codes_of(self, samples: Tensor) -> Batch:
        """Samples `[B, 1, T]` -> codes, on the CPU."""

    @abstractmethod
    def _sound_of(self, codes: Tensor) -> Tensor:
        """Codes `[1, K, N]` -> T samples in any shape."""


def _batch(codes: Tensor, scale: Tensor | None = None) -> Batch:
    return Batch(codes=codes.long().cpu(), scale=None if scale is None else scale.float().cpu())


class FunCodec(PackageCodec):
    """FunCodec (arXiv 2309.07405); with a separate loudness for each segment if the model was trained that way."""

    kind, origin = "funcodec", "https://github.com/modelscope/FunCodec"
    default = "alibaba-damo/audio_codec-encodec-zh_en-general-16k-nq32ds640-pytorch"
    options = ("bandwidth",)

    def __init__(
        self, model: Any, name: str, repository: Repository, device: str | torch.device = "cpu",
        bandwidth: float | None = None,
    ) -> None:  # fmt: skip
        # bits per second; numbers up to 16 must be kbit/s
        self.bandwidth = None if bandwidth is None else int(bandwidth * 1000 if bandwidth <= 16 else bandwidth)
        super().__init__(model, name, repository, device, bandwidth=self.bandwidth)

    @classmethod
    def _build(cls, code: Repository, name: str, device: torch.device) -> Any:
        speech_to_token = code.load("funcodec.bin.codec_inference").Speech2Token
        config, weights = _files(name, cls, ("config.yaml",), ("model.pth",))
        return speech_to_token(str(config), str(weights), device=str(device))

    def _rates(self) -> tuple[int, int]:
        rate = int(self.model.model_args.sampling_rate)
        return rate, rate

    def _codebook_size(self) -> int:
        return int(self.model.model_args.quantizer_conf["codebook_size"])

    def _codes_of(self, samples: Tensor) -> Batch:
        indices, embedded, _, _ = self.model(samples, bit_width=self.bandwidth, run_mod="encode")
        if len(indices) != 1:
            raise UsageError(f"This FunCodec got {len(indices)} pieces for a segment, expected 1. Use shorter chunks.")
        scale = embedded[0][1]  # [B, 1]
        codes = indices[0].permute(1, 0, 2)
        return _batch(codes, None if scale is None else scale.expand(-1, codes.shape[-1]))

    def _sound_of(self, codes: Tensor) -> Tensor:
        out: Tensor = self.model(codes.transpose(1, 2), run_mod="decode")[2]
        return out


class WavTokenizerClone(PackageCodec):
    """WavTokenizer (arXiv 2408.16532) from its authors' repository: 24 kHz, one codebook of 4096."""

    kind, origin = "wavtokenizer", "https://github.com/jishengpeng/WavTokenizer"
    default = "wavtokenizer-large-320-24k-4096"
    deciding = ("feature_extractor.",)

    @classmethod
    def _build(cls, code: Repository, name: str, device: torch.device) -> Any:
        found = code.load("decoder.pretrained", "wavtokenizer.decoder.pretrained").WavTokenizer
        config, weights = _files(name, cls, (".yaml", ".yml"), (".ckpt", ".pth", ".bin"))
        model = found.from_hparams0802(str(config))
        return _filled(model, weights, ("feature_extractor.", "backbone.", "head."), device)

    def _rates(self) -> tuple[int, int]:
        rate = int(self.model.feature_extractor.encodec.sample_rate)
        return rate, rate

    def _codebook_size(self) -> int:
        return int(self.model.feature_extractor.encodec.quantizer.bins)

    def _codes_of(self, samples: Tensor) -> Batch:
        _, codes = self.model.encode_infer(samples[:, 0], bandwidth_id=self._bandwidth())
        return _batch(codes.transpose(0, 1))

    def _sound_of(self, codes: Tensor) -> Tensor:
        features = self.model.codes_to_features(codes.transpose(0, 1))
        out: Tensor = self.model.decode(features, bandwidth_id=self._bandwidth())
        return out

    def _bandwidth(self) -> Tensor:
        return torch.tensor([0], device=self.device)  # there is one


class SimVQ(PackageCodec):
    """SimVQ (arXiv 2411.02038): 24 kHz, one codebook of 4096 to 262144. Uses the trained weights, not their moving average."""

    kind, origin, default = "simvq", "https://github.com/youngsheen/SimVQ", "simvq_4k"
    deciding = ("encoder.", "quantize.")

    @classmethod
    def _build(cls, code: Repository, name: str, device: torch.device) -> Any:
        config, weights = _files(name, cls, (".yaml", ".yml"), (".ckpt",))
        section = _yaml(config).get("model", {})
        path, arguments = str(section.get("class_path", "")), dict(section.get("init_args", {}))
        if not path.startswith("taming.") or arguments.get("audio_normalize"):
            raise WeightsError(
                f"{config} got the model {path!r}, expected taming.models.vq_audio.VQModel without audio_normalize."
            )
        arguments["lossconfig"] = {"target": "torch.nn.Identity"}  # is for training
        module, _, class_name = path.rpartition(".")
        model = getattr(code.load(module), class_name)(**arguments)
        model.duotone_rate = int(arguments["sample_rate"])
        return _filled(model, weights, ("encoder.", "quantize.", "backbone.", "head."), device)

    def _rates(self) -> tuple[int, int]:
        return int(self.model.duotone_rate), int(self.model.duotone_rate)

    def _codebook_size(self) -> int:
        return int(self.model.quantize.n_e)

    def _codes_of(self, samples: Tensor) -> Batch:
        _, _, indices, _ = self.model.encode(samples)
        return _batch(indices.reshape(samples.shape[0], 1, -1))

    def _sound_of(self, codes: Tensor) -> Tensor:
        quantizer = self.model.quantize
        codebook = quantizer.embedding_proj(quantizer.embedding.weight)  # [codes, D]
        out: Tensor = self.model.decode((codebook[codes[:, 0]].transpose(1, 2), None))
        return out


class MagiCodec(PackageCodec):
    """MagiCodec (arXiv 2506.00385): 16 kHz, one codebook of 131072. Its code needs flash-attn, and therefore a GPU."""

    kind, origin, default = "magicodec", "https://github.com/Ereboas/MagiCodec", "magicodec-50hz-base"
    deciding = ("encoder.", "quantizer.")

    @classmethod
    def _build(cls, code: Repository, name: str, device: torch.device) -> Any:
        generator = code.load("codec.generator", "magicodec.generator").Generator
        weights = _files(name, cls, (".ckpt", ".pth"))[0]
        found = re.search(r"(\d+)hz", weights.name.lower())
        model = generator(sample_rate=16_000, token_hz=int(found.group(1)) if found else 50)
        return _filled(model, weights, ("encoder.", "quantizer.", "decoder."), device)

    def _rates(self) -> tuple[int, int]:
        return int(self.model.sample_rate), int(self.model.sample_rate)

    def _codebook_size(self) -> int:
        return int(self.model.codebook_size)

    @property
    def encoding_format(self) -> str:
        """bfloat16 on CUDA, because flash-attn does not support float32."""
        return "bfloat16" if self._in_bfloat16() else ENCODING_FORMAT

    def _in_bfloat16(self) -> bool:
        return self.device.type == "cuda" and torch.cuda.is_bf16_supported()

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self._in_bfloat16())

    def _codes_of(self, samples: Tensor) -> Batch:
        with self._autocast():
            _, indices = self.model.quantizer.inference(self.model.encoder(self.model.pad_audio(samples)))
        return _batch(indices[:, None])

    def _sound_of(self, codes: Tensor) -> Tensor:
        quantizer = self.model.quantizer
        with self._autocast():
            codebook = quantizer.codebook_proj(quantizer.codebook.weight)  # [codes, D]
            out: Tensor = self.model.decoder(codebook[codes[:, 0]])
        return out


class DistillNeuCodec(PackageCodec):
    """Distill-NeuCodec (arXiv 2509.09550) through the `neucodec` package, the only one with its smaller encoder."""

    kind, origin = "distill-neucodec", "https://github.com/neuphonic/neucodec"
    default = "neuphonic/distill-neucodec"
    hop_length = 320  # it adds a step of silence at the end

    @classmethod
    def _build(cls, code: Repository, name: str, device: torch.device) -> Any:
        found = code.load("neucodec").DistillNeuCodec
        if name != cls.default:
            raise WeightsError(f"The package neucodec loads only {cls.default}, got {name}.")
        return found.from_pretrained(name)

    def _rates(self) -> tuple[int, int]:
        return 16_000, int(self.model.sample_rate)

    def _codebook_size(self) -> int:
        return 65_536  # eight dimensions of four levels in every version

    def _codes_of(self, samples: Tensor) -> Batch:
        return _batch(
            torch.cat([self.model.encode_code(row[None]) for row in samples])
        )  # the model decodes one at a time

    def _sound_of(self, codes: Tensor) -> Tensor:
        out: Tensor = self.model.decode_code(codes)
        return out


def _files(name: str, cls: type[PackageCodec], *wanted: Sequence[str]) -> list[Path]:
    """Find one file for each suffix, in a folder or among published weights, which are downloaded."""
    if Path(name).is_dir():
        return [_only(Path(name), ends) for ends in wanted]
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    if name.lower() in PUBLISHED and name.lower().startswith(cls.kind):
        sources = [source for source in PUBLISHED[name.lower()] if source is not None]
    elif cls is FunCodec and (name == cls.default or is_hub_name(name)):
        sources = [(name, ends[0]) for ends in wanted]
    else:
        known = ", ".join(n for n in PUBLISHED if n.startswith(cls.kind)) or cls.default
        raise WeightsError(f"No weights at {name}. Give a folder of them, or one of the published: {known}.")
    try:
        return [Path(hf_hub_download(repository, file)) for repository, file in sources]
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(f"{name} could not be downloaded from the Hugging Face Hub: {error}") from error


def _only(folder: Path, ends: Sequence[str]) -> Path:
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.name.endswith(tuple(ends)))
    if len(found) != 1:
        listed = ", ".join(str(p.relative_to(folder)) for p in found) or "none"
        raise WeightsError(f"{folder} got {listed}, expected one file ending in {' or '.join(ends)}.")
    return found[0]


def _yaml(file: Path) -> dict[str, Any]:
    import yaml

    values = yaml.safe_load(file.read_text(encoding="utf-8"))
    return values if isinstance(values, dict) else {}


def _filled(model: Any, file: Path, prefixes: tuple[str, ...], device: torch.device) -> Any:
    """Load a checkpoint's weights into a model. Raises `WeightsError` if weights of the required parts are missing."""
    try:
        found = torch.load(file, map_location=device, weights_only=True)
    except Exception as error:  # torch raises half a dozen unrelated types for a bad file
        raise WeightsError(f"{file} could not be read as a PyTorch checkpoint of plain tensors: {error}") from error
    state = found.get("state_dict", found) if isinstance(found, dict) else {}
    state = {name: value for name, value in state.items() if name.startswith(prefixes)}
    missing = [n for n, _ in model.named_parameters() if n.startswith(prefixes) and n not in state]
    if missing:
        raise WeightsError(f"{file} lacks {len(missing)} weights of the model, {missing[0]} among them.")
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # another shape
        raise WeightsError(f"{file} does not fit the model: {error}") from error
    return model
