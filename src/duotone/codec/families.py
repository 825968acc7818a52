"""Our codecs by the family that their configuration names, and loading any of them from a folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from duotone.codec.codicodec.weights import load_codec
from duotone.codec.contract import Codec
from duotone.codec.folder import read_folder
from duotone.codec.lycodec.weights import load_lycodec
from duotone.errors import ConfigError, UsageError

#: Family -> loader of a folder.
FAMILIES: dict[str, Callable[..., Codec]] = {"codicodec": load_codec, "lycodec": load_lycodec}
#: The options of each family, besides the folder.
_OPTIONS: dict[str, tuple[str, ...]] = {"lycodec": ("n_quantizers",)}


def load_own(folder: str | os.PathLike[str], options: dict[str, Any] | None = None, name: str | None = None) -> Codec:
    """Load a folder of one of our codecs; `name` stands for it in messages (default: the folder's).

    Raises `ConfigError` for a family that is not known, `UsageError` for an option that the family does not have, and
    `WeightsError` for a folder that holds no codec of ours.
    """
    found = read_folder(folder)
    family = found.config.get("family", "codicodec") if isinstance(found.config, dict) else "codicodec"
    if family not in FAMILIES:
        raise ConfigError(
            f"{folder} holds a model of family {family!r}, this version supports {', '.join(FAMILIES)}. Update duotone."
        )
    options = options or {}
    no_options(name or found.path.name, {k: v for k, v in options.items() if k not in _OPTIONS.get(family, ())})
    return FAMILIES[family](folder, **options)


def no_options(name: Any, options: dict[str, Any]) -> Any:
    """Returns the name of what is loaded. Raises `UsageError` if there are options that it does not take."""
    if options:
        raise UsageError(
            f"{name} has no option {', '.join(options)}. Leave {'it' if len(options) == 1 else 'them'} out."
        )
    return name
