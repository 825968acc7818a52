"""The cache of the index on disk: a line for each file, with a checksum, so that damaged lines are measured again.

The first line names the version and that of libsndfile (another one may read more, or other lengths). Each further line is
a checksum and JSON: ``[key, {rate, frames, ...}]``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile

from duotone.atomic import is_stream, write_bytes

_HEAD = f"duotone index 2, {soundfile.__libsndfile_version__}".encode()
_LARGEST = 1 << 48


@dataclass(frozen=True)
class Measured:
    """Measurements of a file: its header and loudness, or its problem."""

    rate: int = 0
    frames: int = 0  #: by what can be read, whatever the header says
    channels: int = 0
    level_db: float = 0.0  #: RMS of the windows that are not silent, dBFS
    silent: float = 0.0  #: share of the windows below the silence threshold
    clipped: float = 0.0  #: share of samples at full scale
    problem: str = ""
    lasting: bool = True  #: whether it stays so until the file changes: a permission may change without a sign


def read_cache(path: Path | None) -> dict[str, Measured]:
    """The intact entries; none if the cache is missing or cannot be read."""
    try:
        if path is None or is_stream(path):
            return {}
        head, *lines = path.read_bytes().split(b"\n")
    except OSError:  # unreadable entries are measured again
        return {}
    entries = [_entry(line) for line in lines] if head == _HEAD else []
    return dict(entry for entry in entries if entry is not None)


def write_cache(path: Path, known: Mapping[str, Measured]) -> None:
    """Write the entries that remain valid. Raises `OSError` or `UsageError` if the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [_HEAD]
    for key, measured in known.items():
        if measured.lasting:
            values = dataclasses.asdict(measured)
            del values["lasting"]
            text = json.dumps([key, values], allow_nan=False).encode()
            lines.append(b"%08x %b" % (zlib.crc32(text), text))
    write_bytes(path, b"\n".join(lines) + b"\n")


def _entry(line: bytes) -> tuple[str, Measured] | None:
    """Key and values of a line; None if it is damaged or of another format."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        key, values = json.loads(text)
        measured = Measured(**values)
    except (ValueError, TypeError, RecursionError):
        return None
    return (key, measured) if isinstance(key, str) and _usable(measured) else None


def _usable(about: Measured) -> bool:
    """Whether the values are valid measurements (the file may have been changed by others)."""
    whole: tuple[Any, ...] = (about.rate, about.frames, about.channels)
    real: tuple[Any, ...] = (about.level_db, about.silent, about.clipped)
    if about.problem:
        return isinstance(about.problem, str)
    return (
        all(type(value) is int and 0 < value < _LARGEST for value in whole)
        and about.channels <= 2
        and all(type(value) is float and math.isfinite(value) for value in real)
    )
