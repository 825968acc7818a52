"""Read sequences of tokens from files of models and tools: ids (NumPy, JSON, plain text) or text."""

from __future__ import annotations

import io
import json
import re
from typing import Any

import numpy as np

from duotone.errors import FormatError, UsageError
from duotone.tokens.textfiles import encoding_of_bytes
from duotone.tokens.values import Int, as_ids

_NUMPY = b"\x93NUMPY"
_IDS = re.compile(r"[\d\s,;+-]+")
_KEYS = ("input_ids", "token_ids", "ids", "text")

Sequence = Int | str


def read_sequences(data: bytes, name: str) -> list[Sequence]:
    """Read the sequences in a file's bytes: ids `[M]` int64, or text.

    Read are ``.npy`` arrays `[M]` or `[B, M]`; JSON (lists of ids, lists of such lists, texts, objects with `input_ids`,
    `token_ids`, `ids` or `text`), whole or an item a line; and lines of text, each one of ids (digits alone) or of
    characters. Raises `FormatError` for what is none of these.
    """
    try:
        found = _of_array(data) if data.startswith(_NUMPY) else _of_text(data, name.endswith((".json", ".jsonl")))
    except (ValueError, EOFError, RecursionError) as error:  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        raise FormatError(f"{name} cannot be read as token ids or text: {error}") from None
    if not found:
        raise FormatError(f"{name} holds no token ids and no text.")
    return found


def _of_array(data: bytes) -> list[Sequence]:
    array = np.load(io.BytesIO(data), allow_pickle=False)
    return [as_ids(row) for row in (array if array.ndim == 2 else [array])]


def _of_text(data: bytes, is_json: bool) -> list[Sequence]:
    text = data.decode(encoding_of_bytes(data[:3]))
    lines = [line for line in text.splitlines() if line.strip()]
    if text.lstrip()[:1] in ("[", "{") or is_json:
        try:
            return _of_json(json.loads(text))
        except json.JSONDecodeError:
            if len(lines) < 2 and is_json:
                raise
    return [one for line in lines for one in _of_line(line, is_json)]


def _of_line(line: str, is_json: bool) -> list[Sequence]:
    start = line.lstrip()[0]
    if is_json or start in '["{':
        try:
            return _of_json(json.loads(line))
        except json.JSONDecodeError:
            if is_json:
                raise
    if _IDS.fullmatch(line):
        return [as_ids([int(part) for part in re.split(r"[\s,;]+", line.strip()) if part])]
    return [line]


def _of_json(value: Any) -> list[Sequence]:
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        key = next((key for key in _KEYS if key in value), None)
        if key is None:
            raise UsageError(f"an object has the keys {sorted(value)}, expected one of {', '.join(_KEYS)}.")
        return _of_json(value[key])
    if isinstance(value, list) and any(isinstance(part, (list, dict, str)) for part in value):
        return [one for part in value for one in _of_json(part)]
    if isinstance(value, list):
        return [as_ids(value)]
    raise UsageError(f"got {value!r}, expected lists of ids, texts, or objects that hold them.")
