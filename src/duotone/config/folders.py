"""Where caches are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """The folder for caches: $DUOTONE_CACHE, $XDG_CACHE_HOME/duotone or ~/.cache/duotone.

    None if there is no such folder: no variable is set, and the user has no home (for example in a container).
    The folder may be missing or read-only; callers must then work without a cache.
    """
    own, shared = os.environ.get("DUOTONE_CACHE"), os.environ.get("XDG_CACHE_HOME", "")
    base = (
        Path(shared) if os.path.isabs(shared) else Path("~/.cache")
    )  # the XDG specification says to ignore relative paths
    try:
        return (Path(own) if own else base / "duotone").expanduser()
    except RuntimeError:  # "~" of a user without a home
        return None
