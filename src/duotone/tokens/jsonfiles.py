"""JSON objects in files: read with errors that say what to do, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from duotone.errors import FormatError


def read_json(path: Path, expected: str) -> dict[str, Any]:
    """The object in a file. Raises `FormatError`; `expected` says what its folder should have been."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FormatError(f"No {path.name} in {path.parent}: expected {expected}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FormatError(f"{path} is damaged: {error}.") from None
    if not isinstance(values, dict):
        raise FormatError(f"{path} holds {type(values).__name__}, expected a JSON object.")
    return values


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write under a temporary name, then rename."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(json.dumps(values, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
