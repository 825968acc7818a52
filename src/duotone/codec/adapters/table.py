"""The table from names to codecs of other projects, and from a model's name to its codec."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from duotone.codec.adapters.base import Adapter, options_of
from duotone.codec.adapters.latents import SAME, Oobleck, PocketTTS, VibeVoice
from duotone.codec.adapters.packages import (
    PUBLISHED,
    DistillNeuCodec,
    FunCodec,
    MagiCodec,
    PackageCodec,
    SimVQ,
    WavTokenizerClone,
)  # fmt: skip
from duotone.codec.adapters.semantic import NeuCodec, XCodec2
from duotone.codec.adapters.transformers_codecs import DAC, EnCodec, HiggsAudio, Mimi, WavTokenizer, XCodec
from duotone.errors import UsageError

CODECS: dict[str, type[Adapter]] = {
    "encodec": EnCodec,
    "dac": DAC,
    "mimi": Mimi,
    "xcodec": XCodec,
    "xcodec2": XCodec2,
    "neucodec": NeuCodec,
    "higgs_audio_v2": HiggsAudio,
    "wavtokenizer": WavTokenizer,
    "pocket_tts": PocketTTS,
    "vibevoice": VibeVoice,
    "oobleck": Oobleck,
    "same": SAME,
    "distill-neucodec": DistillNeuCodec,
    "funcodec": FunCodec,
    "simvq": SimVQ,
    "magicodec": MagiCodec,
}

#: Parts of models' names, the first that fits; `audio_codec-encodec-...` are FunCodec's.
_PARTS = (
    ("audio_codec", "funcodec"), ("encodec", "encodec"), ("dac", "dac"), ("mimi", "mimi"), ("xcodec2", "xcodec2"),
    ("x-codec", "xcodec"), ("xcodec", "xcodec"), ("wavtokenizer", "wavtokenizer"), ("simvq", "simvq"),
    ("magicodec", "magicodec"), ("distill-neucodec", "distill-neucodec"), ("neucodec", "neucodec"),
    ("higgs", "higgs_audio_v2"), ("pocket-tts", "pocket_tts"), ("vibevoice", "vibevoice"), ("oobleck", "oobleck"),
    ("stable-audio-open", "oobleck"), ("ace-step", "oobleck"), ("acestep", "oobleck"), ("stable-audio-3", "same"),
)  # fmt: skip
#: What configurations call a model, where it is not its name here.
_TYPES = {
    "higgs_audio_v2_tokenizer": "higgs_audio_v2", "pocket_tts_audio_tokenizer": "pocket_tts",
    "vibevoice_acoustic_tokenizer": "vibevoice", "AutoencoderOobleck": "oobleck", "AutoencoderSAME": "same",
}  # fmt: skip


def kind_of(model: str) -> str:
    """The codec of a model, found by the configuration in its folder, else by its name as `codec-bpe` does.

    Raises `UsageError` if neither determines it.
    """
    for config in (Path(model) / "config.json", Path(model) / "vae" / "config.json"):
        named = _type_in(config)
        if _TYPES.get(named, named) in CODECS:
            return _TYPES.get(named, named)
    for part, kind in _PARTS:
        if part in model.lower():
            return kind
    raise UsageError(f"The codec of {model!r} cannot be found by its name. Give one of {', '.join(CODECS)}.")


def _type_in(config: Path) -> str:
    """The model type in a configuration; empty if the file is missing or cannot be read."""
    if not config.is_file():
        return ""
    try:
        found = json.loads(config.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError):
        return ""
    return str(found.get("model_type") or found.get("_class_name") or "") if isinstance(found, dict) else ""


def load_codec(
    kind: str | None, model: str | None, device: str | torch.device = "cpu", repository: str | Path | None = None,
    *, say: Callable[[str], object] | None = None, **options: Any,
) -> Adapter:  # fmt: skip
    """Load a codec of another project by its name, its model (a folder, or the name of published weights), or both.

    `repository` is the folder of its authors' code, for those that need it; `say` is called with a message before the
    Hugging Face Hub is used; `options` are `bandwidth` and `n_quantizers`, None if not given. Raises `UsageError` for
    options that the codec does not have.
    """
    if kind is None and model is None:
        raise UsageError(f"Neither a codec nor a model is named. Name one of {', '.join(CODECS)}, a model, or both.")
    kind = kind_of(model or "") if kind is None else kind
    if kind not in CODECS:
        raise UsageError(f"The codec got {kind!r}, expected one of {', '.join(CODECS)}.")
    if kind == "neucodec" and model is not None and "distill" in model.lower():
        kind = "distill-neucodec"
    found = WavTokenizerClone if kind == "wavtokenizer" and _is_cloned(model, repository) else CODECS[kind]
    wanted = options_of(kind, found.options, options)
    if say is not None and (model is None or not Path(model).is_dir()):
        say(f"{model or found.default} is not a folder here; loading it from the Hugging Face Hub (or its cache).")
    if issubclass(found, PackageCodec):
        return found.load(model, device, repository, **wanted)
    if repository is not None:
        raise UsageError(f"{kind} does not need its authors' code; it takes no repository. Leave it out.")
    return found.load(model, device, **wanted)


def _is_cloned(model: str | None, repository: str | Path | None) -> bool:
    """Whether weights of WavTokenizer are in its authors' format, not that of transformers."""
    if repository is not None or model is None:
        return repository is not None
    return model.lower() in PUBLISHED or (Path(model).is_dir() and not (Path(model) / "config.json").is_file())
