"""Write and read the log of a run, RUN/log.jsonl, with one JSON object per step."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from duotone.atomic import write_text

LOG = "log.jsonl"

Record = dict[str, Any]


def read_log(path: Path) -> tuple[list[Record], list[str]]:
    """The records of a log, and a message for each invalid line (truncated by a crash, overwritten, not UTF-8).

    A record has a whole number `step`. Where the file is missing there are no records.
    """
    if not path.is_file():
        return [], []
    records, problems = [], []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line.decode())
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both ValueErrors
            problems.append(f"Line {number} of {path} is not JSON ({error}); it is left out.")
            continue
        if not isinstance(record, dict) or type(record.get("step")) is not int:
            problems.append(f"Line {number} of {path} is no record of a step; it is left out.")
            continue
        records.append(record)
    return records, problems


def as_line(record: Record) -> str:
    """A record as a line of JSON; numbers that are not finite become null, which every JSON reader accepts."""
    plain = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in record.items()}
    return json.dumps(plain, allow_nan=False)


@contextmanager
def writing_log(path: Path, first: int) -> Iterator[Callable[[Record], None]]:
    """Appends records to a log, after removing those from step `first` on: an interruption lost their results."""
    kept, _ = read_log(path)
    write_text(path, "".join(as_line(record) + "\n" for record in kept if record["step"] < first))
    with path.open("a", encoding="utf-8") as file:

        def write(record: Record) -> None:
            file.write(as_line(record) + "\n")
            file.flush()

        yield write
