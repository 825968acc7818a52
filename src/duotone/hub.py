"""The only table from names to models: `load("tiny")`, `load(folder)`, `load("mimi")`, `load("org/name")`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from duotone.codec.adapters.table import CODECS, kind_of
from duotone.codec.adapters.table import load_codec as load_adapter
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.codec import CoDiCodec
from duotone.codec.codicodec.weights import import_codicodec, save_codec
from duotone.codec.contract import Codec, as_dtype, resolve_device
from duotone.codec.families import load_own, no_options
from duotone.codec.folder import FORMAT
from duotone.codec.lycodec.codec import Lycodec
from duotone.codec.lycodec.weights import save_lycodec
from duotone.config import FLOW_PRESETS, LM_PRESETS, LYCODEC_PRESETS, PRESETS
from duotone.errors import ConfigError, UsageError, WeightsError
from duotone.flow import weights as flow_weights
from duotone.flow.model import FlowModel
from duotone.lm import model as lm_model
from duotone.nn.state import INDEX, NAME, shards
from duotone.tokens.extended import is_extended, load_extended
from duotone.tokens.tokenizer import AudioTokenizer

#: The published checkpoint's repository and file; its weights are CC BY-NC 4.0.
PUBLISHED = ("SonyCSLParis/codicodec", "codicodec.pt")
DEFAULT = "tiny"

#: Folders of weights that come with the package; their names are those of models.
WEIGHTS = Path(str(files("duotone") / "weights"))
#: Generative models by kind: their names are those of presets.
GENERATIVE: dict[str, Collection[str]] = {"flow": FLOW_PRESETS.keys(), "lm": LM_PRESETS.keys()}


def bundled_folder(name: str) -> Path | None:
    """Where the weights of a bundled model are; None for other names."""
    return WEIGHTS / name if name in _weights() else None


def bundled(kind: Literal["codec", "flow", "lm"] = "codec") -> list[str]:
    """Names of the models of a kind whose weights come with the package."""
    of = {name: next((k for k, names in GENERATIVE.items() if name in names), "codec") for name in _weights()}
    return [name for name, own in of.items() if own == kind]


def _weights() -> list[str]:
    there = WEIGHTS.iterdir() if WEIGHTS.is_dir() else ()
    return sorted(p.name for p in there if (p / "config.json").is_file())


def _document(path: Path) -> dict[str, Any]:
    """The content of a config.json; empty where there is none. Raises `ConfigError` for what is not JSON."""
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from None
    return document if isinstance(document, dict) else {}


def load(
    name: str | os.PathLike[str] = DEFAULT,
    device: str | torch.device | None = None,
    dtype: torch.dtype | str | None = None,
    *,
    say: Callable[[str], object] | None = None,
    **options: Any,
) -> Any:
    """Load a codec (or an audio tokenizer, a flow or a language model): ours, or one of another project.

    `name` is a bundled name, a folder of ours or of transformers or diffusers, a published `.pt` file, the name of a codec
    (``"mimi"``), or ``org/name`` on the Hugging Face Hub. Only the last two use the network, and `say` is called
    with a message before they do. `device` defaults to the CPU; `dtype` to float32 for encoding, and for decoding to the fastest format
    of the device. `options` are those of other projects' codecs: `bandwidth`, `n_quantizers`, `repository`; of ours, Lycodec takes
    `n_quantizers`.
    Raises `WeightsError` when nothing is found or the weights do not fit, `UsageError` for unknown options.
    """
    if not isinstance(name, (str, os.PathLike)) or not os.fspath(name):
        raise UsageError(f"load got {name!r}, expected the name or the folder of a codec, for example {DEFAULT!r}.")
    target = resolve_device(device)
    wanted = {key: value for key, value in options.items() if value is not None}
    found = _find(os.fspath(name), target, wanted, say)
    if isinstance(found, Codec):
        found.to(target, "auto" if dtype is None else dtype)
    elif isinstance(found, FlowModel | lm_model.LanguageModel):
        found.to(target, None if dtype == "auto" else as_dtype(dtype))
    return found


def save(
    codec: CoDiCodec | BandCodec | Lycodec, folder: str | os.PathLike[str], dtype: torch.dtype | str | None = None
) -> None:
    """Write a codec as `config.json` + `model.safetensors`; `dtype` converts the weights (for example bfloat16).

    Raises `UsageError` for codecs of other projects.
    """
    if not isinstance(codec, CoDiCodec | BandCodec | Lycodec):
        raise UsageError(
            f"save got {type(codec).__name__}, expected a codec and a folder: save(codec, folder). "
            f"Latents and codes are written by duotone.write_duo(path, value)."
        )
    if not os.fspath(folder) or Path(folder).is_file():
        raise UsageError(f"save got {os.fspath(folder)!r}, expected the name of a folder.")
    if isinstance(codec, Lycodec):
        save_lycodec(codec, folder, as_dtype(dtype))
    else:
        save_codec(codec, folder, as_dtype(dtype))


def _find(name: str, device: torch.device, options: dict[str, Any], say: Callable[[str], object] | None) -> Any:
    path = Path(name)
    if name == "duotone":  # name of our codec in `duotone codes --codec`
        name = DEFAULT
    own = bundled_folder(name)
    if own is not None:
        return _folder(own, device, options)
    if path.is_dir():
        return _folder(path, device, options)
    if path.is_file():
        published = flow_weights.import_published if flow_weights.is_published(path) else import_codicodec
        return published(no_options(path, options))
    if name in CODECS:
        _tell(say, f"Loading {name} from the Hugging Face Hub (or its cache).")
        return load_adapter(name, None, device, **options)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name.partition("/")[0]).exists():
        _tell(say, f"{name} is not a folder here; loading it from the Hugging Face Hub (or its cache).")
        return _from_hub(name, device, options)
    kind = next((kind for kind, presets in GENERATIVE.items() if name in presets), None)
    if kind is not None:
        raise WeightsError(
            f"{name!r} is a configuration, and no weights of it come with this installation. Train them (duotone prepare SOUNDS -o STORE, then "
            f"duotone train {name} --data STORE --out RUN), and name their folder, RUN/{kind}."
        )
    if name in LYCODEC_PRESETS:
        raise WeightsError(
            f"{name!r} is a configuration of Lycodec, and no weights of it come with this installation. Train them (duotone train {name} --data SOUNDS "
            f"--out RUN), and name their folder, RUN/codec."
        )
    if name in PRESETS:
        raise WeightsError(
            f"{name!r} is a configuration without bundled weights. Train it (duotone train), or load published weights: "
            f"{PUBLISHED[0]} for base."
        )
    raise WeightsError(
        f"No codec is called {name!r}, and no file or folder either. Bundled: {_bundled_names()}; of other projects: "
        f"{', '.join(CODECS)}; else give a folder of a saved codec, the published codicodec.pt, or org/name on the Hugging Face Hub."
    )


def _bundled_names() -> str:
    """``tiny, flow-tiny (flow)``."""
    kinds: tuple[tuple[Literal["codec", "flow", "lm"], str], ...] = (
        ("codec", ""),
        ("flow", " (flow)"),
        ("lm", " (language model)"),
    )
    return ", ".join(f"{name}{note}" for kind, note in kinds for name in bundled(kind)) or "none"


def _tell(say: Callable[[str], object] | None, message: str) -> None:
    if say is not None:
        say(message)


def _folder(path: Path, device: torch.device, options: dict[str, Any]) -> Any:
    """Load a folder: our codec or an audio tokenizer if it has their files, else a codec of another project."""
    document = _document(path / "config.json")
    if document.get("format") == FORMAT:
        return load_own(path, options)
    if document.get("format") == flow_weights.FORMAT:
        return flow_weights.load(no_options(path, options))
    if lm_model.is_language_model(path):
        return lm_model.load(no_options(path, options))
    if (path / "tokenizer.json").is_file():
        if is_extended(path):
            return load_extended(no_options(path, options))
        if not document:
            return AudioTokenizer.load(no_options(path, options))
    try:
        kind = kind_of(str(path))
    except UsageError:
        raise WeightsError(
            f"No codec at {path}: it has no config.json of Duotone, and neither its config.json nor its name is that of a known codec. "
            f"Known: {', '.join(CODECS)}."
        ) from None
    return load_adapter(kind, str(path), device, **options)


def _fetch_weights(repository: str) -> None:
    """Fetch a codec's weights from the Hub into its cache: one file, or the shards that an index names."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    try:
        index = Path(hf_hub_download(repository, INDEX))
    except EntryNotFoundError:
        hf_hub_download(repository, NAME)
        return
    for shard in shards(index):
        hf_hub_download(repository, shard)


def _from_hub(repository: str, device: torch.device, options: dict[str, Any]) -> Codec:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        if repository == PUBLISHED[0]:
            return import_codicodec(hf_hub_download(*no_options(PUBLISHED, options)))
        try:
            kind = kind_of(repository)
        except UsageError:
            folder = Path(hf_hub_download(repository, "config.json")).parent
            document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            if document.get("format") != FORMAT:
                return load_adapter(kind_of(str(folder)), repository, device, **options)
            _fetch_weights(repository)
            return load_own(folder, options, repository)
    except RepositoryNotFoundError:
        raise WeightsError(f"The Hugging Face Hub has no repository {repository} (or it is private).") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(f"{repository} could not be fetched from the Hugging Face Hub: {error}") from error
    return load_adapter(kind, repository, device, **options)
