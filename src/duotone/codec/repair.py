"""Finding the next intact record of a damaged `.duo` file, and what was lost before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Damage:
    """Chunks that could not be kept: the first, how many, and why."""

    first_chunk: int
    chunks: int
    reason: str


@dataclass(frozen=True)
class Found:
    """How to go on: chunks to fill in, bytes to go past, and the reason to tell."""

    chunks: int
    skip: int
    reason: str


class Bytes(Protocol):
    """What the search needs of a reader."""

    def try_end(self, offset: int = 0) -> tuple[int, int] | None:
        """Chunks and source samples of an end record at that offset."""
        ...

    def try_record(self, offset: int, first: int) -> tuple[int, bytes] | None:
        """Count and payload of a record at that offset which begins at chunk `first`."""
        ...

    def stride(self) -> int:
        """Bytes of a full record."""
        ...

    def remaining(self, most: int) -> int:
        """Bytes that are left, looking at most so far."""
        ...


def repair(reader: Bytes, full: int, first: int) -> Found:
    """Search up to three records ahead, byte by byte; `full` chunks a record, `first` the place of the lost one."""
    reason, stride = "checksum does not match", reader.stride()
    for offset in range(1, 3 * stride + 1):
        if reader.remaining(offset + 1) <= offset:
            break
        end = reader.try_end(offset)
        if end is not None and 0 <= end[0] - first <= 64 * full:
            return Found(end[0] - first, offset, reason)
        for ahead in range(4 * full + 1):
            if reader.try_record(offset, first + ahead) is not None:
                return Found(ahead, offset, reason)
    rest = reader.remaining(3 * stride)
    if rest < 3 * stride:  # the end of the bytes: what is here belongs to at most so many chunks
        lost = min(full, -(-rest // max(1, stride // full)))
        return Found(lost, rest, "the rest of the file is damaged or cut off")
    return Found(3 * full, 3 * stride, reason)
