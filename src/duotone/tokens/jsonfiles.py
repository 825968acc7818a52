"""Read JSON objects with helpful errors, and write them completely or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from duotone import atomic
from duotone.errors import FormatError, UsageError


def read_json(path: str | os.PathLike[str], expected: str) -> dict[str, Any]:
    """The object in a file (UTF-8 or UTF-16, with or without a byte order mark).

    Raises `FormatError`; `expected` says what its folder should have been.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_bytes())  # from bytes, json tells the encoding itself
    except (FileNotFoundError, NotADirectoryError):
        raise FormatError(f"No {path.name} in {path.parent}: expected {expected}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"{path} is damaged: {error}.") from None
    if not isinstance(values, dict):
        raise FormatError(f"{path} holds {type(values).__name__}, expected a JSON object.")
    return values


def write_json(path: str | os.PathLike[str], values: dict[str, Any]) -> None:
    """Write an object, completely or not at all. NumPy's numbers and arrays become JSON numbers and lists.

    Raises `UsageError` for values that JSON does not have.
    """
    try:
        text = json.dumps(values, ensure_ascii=False, indent=1, allow_nan=False, default=_plain)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{Path(path).name} cannot hold these values: {error}.") from None
    atomic.write_text(path, text + "\n")


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a folder if it is missing. Raises `UsageError` if there is a file of that name."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UsageError(f"{folder} cannot be a folder: a file of that name is there. Choose another name.") from None
    return folder


def _plain(value: Any) -> Any:
    """Convert a NumPy value to a JSON value."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")
