"""The codec that a training starts from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from duotone.codec.codicodec.weights import import_codicodec, load_codec
from duotone.codec.contract import Codec


def start_codec(name: str, load: Callable[[str], Any] | None) -> Codec:
    """A codec by its name: through the caller's `load`, else a published checkpoint or a folder."""
    if load is not None:
        found: Codec = load(name)
        return found
    return import_codicodec(Path(name)) if Path(name).is_file() else load_codec(Path(name))
