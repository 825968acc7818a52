"""The only table from names to codecs of others, and from a model's name to its codec."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from duotone.codec.adapters.contract import ForeignCodec
from duotone.codec.adapters.packages import DistillNeuCodec, FunCodec, MagiCodec, PackageCodec, SimVQ, WavTokenizer
from duotone.codec.adapters.semantic import NeuCodec, XCodec2
from duotone.codec.adapters.transformers_codecs import DAC, EnCodec, HiggsAudio, Mimi, TransformersCodec, XCodec
from duotone.errors import UsageError

CODECS: dict[str, type[TransformersCodec] | type[PackageCodec]] = {
    "encodec": EnCodec,
    "dac": DAC,
    "mimi": Mimi,
    "xcodec": XCodec,
    "xcodec2": XCodec2,
    "neucodec": NeuCodec,
    "higgs_audio_v2": HiggsAudio,
    "distill-neucodec": DistillNeuCodec,
    "funcodec": FunCodec,
    "wavtokenizer": WavTokenizer,
    "simvq": SimVQ,
    "magicodec": MagiCodec,
}

#: Parts of models' names, the first that fits; `audio_codec-encodec-...` are FunCodec's.
_PARTS = (
    ("audio_codec", "funcodec"), ("encodec", "encodec"), ("dac", "dac"), ("mimi", "mimi"), ("xcodec2", "xcodec2"),
    ("x-codec", "xcodec"), ("xcodec", "xcodec"), ("wavtokenizer", "wavtokenizer"), ("simvq", "simvq"),
    ("magicodec", "magicodec"), ("distill-neucodec", "distill-neucodec"), ("neucodec", "neucodec"),
    ("higgs", "higgs_audio_v2"),
)  # fmt: skip
_TYPES = {"higgs_audio_v2_tokenizer": "higgs_audio_v2"}


def kind_of(model: str) -> str:
    """The codec that a model is of: by the configuration in its folder, else by its name as `codec-bpe` does.

    Raises `UsageError` where neither tells.
    """
    config = Path(model) / "config.json"
    if config.is_file():
        try:
            found = json.loads(config.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError):
            found = {}
        named = str(found.get("model_type", "")) if isinstance(found, dict) else ""
        if _TYPES.get(named, named) in CODECS:
            return _TYPES.get(named, named)
    for part, kind in _PARTS:
        if part in model.lower():
            return kind
    raise UsageError(f"The name {model!r} does not tell its codec. Name it: one of {', '.join(CODECS)}.")


def load_codec(
    kind: str | None, model: str | None, device: str | torch.device = "cpu", repository: str | Path | None = None,
    **options: Any,
) -> ForeignCodec:  # fmt: skip
    """A codec of others by its name, its model (a folder, or published weights' name), or both.

    `repository` is the folder of its authors' code, for those that need it; `options` are `bandwidth` and
    `n_quantizers`, None where they are not asked for. Raises `UsageError` for what the codec does not know.
    """
    if kind is None and model is None:
        raise UsageError(f"Neither a codec nor a model is named. Name one of {', '.join(CODECS)}, a model, or both.")
    kind = kind_of(model or "") if kind is None else kind
    if kind not in CODECS:
        raise UsageError(f"The codec got {kind!r}, expected one of {', '.join(CODECS)}.")
    if kind == "neucodec" and model is not None and "distill" in model.lower():
        kind = "distill-neucodec"
    wanted = {name: value for name, value in options.items() if value is not None}
    found = CODECS[kind]
    for name in wanted:
        if name not in found.options:
            raise UsageError(f"{name.replace('_', '-')} is not an option of {kind}. Leave it out.")
    if issubclass(found, PackageCodec):
        return found.load(model, device, repository, **wanted)
    if repository is not None:
        raise UsageError(f"{kind} comes from transformers; it takes no repository. Leave it out.")
    return found.load(model, device, **wanted)
