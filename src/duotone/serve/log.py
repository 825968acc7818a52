"""JSON logs: one object a line, with the session where there is one. Tokens and keys are never written."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO


class Log:
    """Writes lines to a stream (default: standard error); `now` gives seconds since 1970."""

    def __init__(self, stream: TextIO | None = None, now: Callable[[], float] = time.time) -> None:
        self._stream, self._now = stream, now

    def __call__(self, event: str, **fields: Any) -> None:
        """Write an event with its fields."""
        stream = sys.stderr if self._stream is None else self._stream
        line = {"time": round(self._now(), 3), "event": event, **fields}
        stream.write(json.dumps(line, default=str) + "\n")
        stream.flush()
