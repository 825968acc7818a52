"""Find the next intact record of a damaged `.duo` file, and what was lost before it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from duotone.codec.crc32c import Parts, after_zeros, crc32c

#: From so many chunks a record on, a chance match of the checksum is no longer negligible: the next record must fit too.
_CONFIRM = 16
#: An end record is believed if it counts at most so many full records more.
_FURTHEST = 64
_TAIL = struct.Struct("<BQ")  # count and position, which a record's checksum covers after its payload
_ZEROS = bytes(_TAIL.size)


@dataclass(frozen=True)
class Damage:
    """Lost chunks: the first, how many, and why."""

    first_chunk: int
    chunks: int
    reason: str


@dataclass(frozen=True)
class Found:
    """How to continue: chunks to fill in, bytes to skip, and the reason for the message."""

    chunks: int
    skip: int
    reason: str


@dataclass(frozen=True)
class Search:
    """The bytes to search, from the damaged record on, and the layout of this file's records.

    `payload(count)` is the size of a payload, `end(data)` the chunks of an intact end record at the start of `data`. Where
    payloads begin with the number of bytes that follow, of `stated` bytes, `payload(count)` is their largest size.
    """

    data: bytes
    payload: Callable[[int], int]
    end: Callable[[bytes], int | None]
    full: int  # chunks of a full record
    first: int  # index of the lost record's first chunk
    stated: int = 0

    @property
    def stride(self) -> int:
        """Bytes of a full record, at most."""
        return 1 + self.payload(self.full) + 4

    @property
    def reach(self) -> int:
        """Bytes that are searched: three records."""
        return 3 * self.stride

    @property
    def ahead(self) -> int:
        """Chunks that may lie in these bytes, at most; of records that may be short, as many as an end record may count."""
        return (_FURTHEST if self.stated else 4) * self.full

    def sizes(self, count: int, offsets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Sizes of the payloads of `count` chunks of records that begin at these offsets; -1 for impossible ones."""
        largest = self.payload(count)
        if not self.stated:
            return np.full(len(offsets), largest)
        data = np.frombuffer(self.data, np.uint8).astype(np.int64)
        places = np.minimum(offsets[:, None] + 1 + np.arange(self.stated), len(data) - 1)
        sizes = self.stated + data[places] @ 256 ** np.arange(self.stated)
        return np.where((sizes > self.stated) & (sizes <= largest), sizes, -1)


def repair(search: Search) -> Found:
    """Find the nearest intact record, or end record, up to three records ahead."""
    reason, full, first = "checksum does not match", search.full, search.first
    limit = min(search.reach, len(search.data) - 1)
    ends = _ends(search, limit)
    record = _nearest_record(search, limit, before=ends[0] if ends else limit + 1)
    if record is not None:
        offset, place = record
        return Found(place - first, offset, reason)
    if ends:
        return Found(ends[1] - first, ends[0], reason)
    if len(search.data) < search.reach:  # at the end of the bytes: the rest can hold at most this many chunks
        lost = min(full, -(-len(search.data) // max(1, search.stride // full)))
        if search.stated:  # short ones may hold any number: what the record itself says
            lost = search.data[0] if search.data and 1 <= search.data[0] <= full else full
        return Found(lost, len(search.data), "the rest of the file is damaged or cut off")
    return Found(3 * full, search.reach, reason)


def _ends(search: Search, limit: int) -> tuple[int, int] | None:
    """Offset and chunks of the nearest end record."""
    at = search.data.find(b"\0", 1, limit + 1)
    while at >= 0:
        chunks = search.end(search.data[at : at + 64])
        if chunks is not None and 0 <= chunks - search.first <= _FURTHEST * search.full:
            return at, chunks
        at = search.data.find(b"\0", at + 1, limit + 1)
    return None


# CRC is affine: the checksum of the XOR of two messages is the XOR of their checksums, and so for the state before.
#     crc(count || place, state) = crc(0, state) ^ part(count) ^ part(place)
# So a record's position is computed from its checksum, without trying every position.


def _part(count: int, place: int) -> int:
    """The contribution of a record's count, or of its position, to its checksum."""
    return crc32c(_TAIL.pack(count, place)) ^ crc32c(_ZEROS)


def _nearest_record(search: Search, limit: int, before: int) -> tuple[int, int] | None:
    """Offset and position of the nearest intact record that begins before an offset."""
    places = {_part(0, search.first + ahead): search.first + ahead for ahead in range(search.ahead + 1)}
    known = np.array(sorted(places), np.uint32)
    data, sums = np.frombuffer(search.data, np.uint8), Parts(search.data)
    leads = data[1 : min(limit + 1, before)]
    found: list[tuple[int, int, int]] = []  # offset, end, residue
    for count in np.unique(leads[(leads >= 1) & (leads <= search.full)]).tolist():
        starts: NDArray[np.int64] = np.flatnonzero(leads == count) + 1
        sizes = search.sizes(count, starts)
        for size in np.unique(sizes[sizes >= 0]).tolist():
            offsets = starts[(sizes == size) & (starts + 1 + size + 4 <= len(data))]
            residues = _stored(data, offsets + 1 + size) ^ np.uint32(_part(count, 0))
            residues ^= after_zeros(sums.of(offsets + 1, size), _TAIL.size)
            hits = np.isin(residues, known)
            found += [(int(o), int(o) + size + 5, int(r)) for o, r in zip(offsets[hits], residues[hits], strict=True)]
    for offset, end, residue in sorted(found):
        place = places[residue]
        if (search.full < _CONFIRM and not search.stated) or _confirmed(search, end, place + search.data[offset]):
            return offset, place
    return None


def _stored(data: NDArray[np.uint8], at: NDArray[np.int64]) -> NDArray[np.uint32]:
    """The checksums stored at these offsets, little-endian."""
    parts = [data[at + i].astype(np.uint32) << np.uint32(8 * i) for i in range(4)]
    stored: NDArray[np.uint32] = parts[0] | parts[1] | parts[2] | parts[3]
    return stored


def _confirmed(search: Search, at: int, place: int) -> bool:
    """Whether at an offset the bytes end, or an end record or the record of that position follows."""
    data = search.data
    if at >= len(data) or search.end(data[at : at + 64]) is not None:
        return True
    count = data[at]
    if not 1 <= count <= search.full:
        return False
    size = int(search.sizes(count, np.array([at]))[0])
    if size < 0:
        return False
    end = at + 1 + size
    if end + 4 > len(data):
        return True  # truncated, or beyond what was read: accept it
    checksum = crc32c(_TAIL.pack(count, place), crc32c(data[at + 1 : end]))
    return bool(struct.unpack_from("<I", data, end)[0] == checksum)
