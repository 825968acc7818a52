"""The only table from names to codecs: `load("tiny")`, `load(folder)`, `load("org/name")`."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import torch

from duotone.codec.codicodec import CoDiCodec, best_dtype
from duotone.codec.weights import import_codicodec, load_codec, save_codec
from duotone.errors import UsageError, WeightsError

#: The published checkpoint's repository and file; its weights are CC BY-NC 4.0.
PUBLISHED = ("SonyCSLParis/codicodec", "codicodec.pt")
DEFAULT = "tiny"


def bundled() -> list[str]:
    """Names of the codecs whose weights come with the package."""
    root = Path(str(files("duotone") / "weights"))
    return sorted(p.name for p in root.iterdir() if (p / "config.json").is_file()) if root.is_dir() else []


def load(
    name: str | Path = DEFAULT, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None
) -> CoDiCodec:
    """Load a codec: a bundled name, a folder, a published `.pt` file, or `org/name` on the Hugging Face Hub.

    Only an `org/name` reaches for the network. `device` defaults to the CPU; `dtype` to bfloat16 where the device has
    matrix units for it and float32 elsewhere. Raises `WeightsError` when nothing is found or the weights do not fit.
    """
    target = resolve_device(device)
    codec = _find(str(name))
    return codec.to(target, resolve_dtype(dtype, target))


def save(codec: CoDiCodec, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a codec as `config.json` + `model.safetensors`; `dtype` converts the weights (for example bfloat16)."""
    save_codec(codec, folder, dtype)


def resolve_device(device: str | torch.device | None) -> torch.device:
    """A device from its name. Raises `UsageError` when it is unknown or not present."""
    try:
        target: torch.device | None = torch.device(device or "cpu")
    except RuntimeError:
        target = None
    if target is None or target.type not in ("cpu", "cuda", "mps"):
        raise UsageError(f"device got {str(device)!r}, expected cpu, cuda, cuda:N or mps.")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device got {device}, but PyTorch sees no CUDA device here. Use device='cpu'.")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device got {device}, but there are {torch.cuda.device_count()} CUDA devices, from cuda:0 on."
        )
    if target.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device got mps, but PyTorch sees no Metal device here. Use device='cpu'.")
    return target


def resolve_dtype(dtype: torch.dtype | str | None, device: torch.device) -> torch.dtype:
    """A number format from its name, or the best one for the device."""
    if dtype is None or dtype == "auto":
        return best_dtype(device)
    names = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    found = names.get(dtype) if isinstance(dtype, str) else dtype
    if found is None or found not in names.values():
        raise UsageError(f"dtype got {dtype!r}, expected auto, float32, bfloat16 or float16.")
    return found


def _find(name: str) -> CoDiCodec:
    path = Path(name)
    if name in bundled():
        return load_codec(Path(str(files("duotone") / "weights" / name)))
    if path.is_dir():
        return load_codec(path)
    if path.is_file():
        return import_codicodec(path)
    if name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return _from_hub(name)
    raise WeightsError(
        f"No codec is called {name!r}. Bundled: {', '.join(bundled()) or 'none'}; else give a folder of a saved codec, "
        f"the published codicodec.pt, or org/name on the Hugging Face Hub."
    )


def _from_hub(repository: str) -> CoDiCodec:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    try:
        if repository == PUBLISHED[0]:
            return import_codicodec(hf_hub_download(*PUBLISHED))
        folder = Path(hf_hub_download(repository, "config.json")).parent
        hf_hub_download(repository, "model.safetensors")
    except RepositoryNotFoundError:
        raise WeightsError(f"The Hugging Face Hub has no repository {repository} (or it is private).") from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise WeightsError(f"{repository} could not be fetched from the Hugging Face Hub: {error}") from error
    return load_codec(folder)
