"""Text files as editors and shells write them."""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


def encoding_of(path: Path) -> str:
    """The encoding given by a file's byte order mark (some shells redirect to UTF-16); else UTF-8."""
    with path.open("rb") as file:
        return encoding_of_bytes(file.read(3))


def encoding_of_bytes(start: bytes) -> str:
    """The same for the first bytes of a file."""
    return next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8")
