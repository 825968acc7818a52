"""Folders of codes in `.npy` files, as `codec-bpe` and others write them: three layouts, and a file that tells of them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import FormatError, UsageError

INFO = "codec_info.json"


@dataclass(frozen=True)
class Info:
    """What `codec_info.json` says of a folder's codes; what is not known is None."""

    codebooks: int | None = None
    size: int | None = None
    framerate: float | None = None
    codec: str | None = None


def read_info(folder: str | Path) -> Info:
    """FOLDER/codec_info.json, if it is there. Raises `FormatError` if it is damaged."""
    path = Path(folder) / INFO
    if not path.is_file():
        return Info()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        return Info(
            int(values["num_codebooks"]), int(values["codebook_size"]), float(values["framerate"]),
            str(values.get("codec_type", "codec")),
        )  # fmt: skip
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"{path} is damaged ({error!r}): expected num_codebooks, codebook_size and framerate. "
            f"Mend or remove it, and give them by hand."
        ) from None


def find(
    folder: str | Path, suffixes: Sequence[str] = (".npy",), only: Sequence[str] = (), limit: int | None = None
) -> list[Path]:
    """Files below a folder, in order of their names. `only`: parts of which a path has to hold one.

    Raises `UsageError` where there are none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UsageError(f"No folder at {folder}. Give the folder that holds the codes ({', '.join(suffixes)}).")
    found = sorted(
        os.path.join(root, name)
        for root, _, names in os.walk(folder)
        for name in names
        if name.endswith(tuple(suffixes))
    )
    chosen = [Path(name) for name in found if not only or any(part in name for part in only)]
    if not chosen:
        why = (
            f"none of the {len(found)} files match {list(only)}"
            if found
            else f"no {' or '.join(suffixes)} file is there"
        )
        raise UsageError(f"Nothing to read below {folder}: {why}.")
    return chosen[:limit]


def load_npy(path: str | Path, codebooks: int | None = None) -> NDArray[Any]:
    """Codes `[K, T]` of a file that holds `[K, T]`, `[1, K, T]` or `[1, 1, K, T]`; the first `codebooks` of them.

    Raises `FormatError` for anything else.
    """
    path = Path(path)
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise FormatError(f"{path} cannot be read as codes: {error}. Encode that recording again.") from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
        raise FormatError(f"{path} holds {getattr(array, 'dtype', type(array).__name__)}, expected whole numbers.")
    shape = array.shape
    while array.ndim > 2 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 2:
        raise FormatError(f"{path} holds codes {list(shape)}, expected [K, T], [1, K, T] or [1, 1, K, T].")
    if codebooks is not None and array.shape[0] < codebooks:
        raise FormatError(f"{path} holds {array.shape[0]} codebooks, expected at least {codebooks}.")
    codes: NDArray[Any] = array[:codebooks]
    return codes
