"""The bytes of `.duo` files: header, records, end. Works on arrays, without torch (`container` converts them to values).

Layout (little-endian; see docs/duo-format.md)::

    magic 8 | version u16 | header length u32 | header JSON | CRC32C u32
    record*: count u8 (1..chunks_per_record) | payload | CRC32C u32 over (payload, count, first chunk u64)
    end:     0 u8 | chunks u64 | samples u64 | source_samples u64 | CRC32C u32

A record's position is part of its checksum but is not stored. The end record holds the length, which may be unknown when
the header is written, and marks a file as complete. Version 2 has the codec's spec and the source in its header; version 1
(one FSQ codebook, CoDiCodec) has some of their fields, and can still be read. Version 3 is version 2 with codes that are coded
adaptively: a payload begins with its size, u16.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from duotone.codec.crc32c import crc32c
from duotone.codec.header import COMPACT, MAGIC, SIZE, START, VERSION, Header, Kind, Record
from duotone.codec.repair import Damage, Found, Search, repair
from duotone.errors import FormatError
from duotone.spec import CodecSpec, Source

MAX_HEADER = 1 << 20
END = struct.Struct("<QQQ")


def checksum(payload: bytes, count: int, first: int) -> int:
    """The checksum of a record, over its payload, its count and its position."""
    return crc32c(struct.pack("<BQ", count, first), crc32c(payload))


def record_bytes(header: Header, record: Record) -> bytes:
    """The bytes of a record."""
    payload, count = header.pack(record), len(record)
    return bytes([count]) + payload + struct.pack("<I", checksum(payload, count, record.first))


def end_bytes(header: Header, chunks: int, source: Source) -> bytes:
    """The bytes of the end record; a length of 0 means that it is not known."""
    fields = END.pack(chunks, source.at(header.spec.rate) or 0, source.samples or 0)
    return b"\0" + fields + struct.pack("<I", crc32c(b"\0" + fields))


_END_BYTES = 1 + END.size + 4


def _end_of(data: bytes) -> tuple[int, int] | None:
    """Chunks and source samples of the end record at the start of `data`, if there is an intact one."""
    data = data[:_END_BYTES]
    if len(data) < _END_BYTES or data[0] != 0 or struct.unpack("<I", data[-4:])[0] != crc32c(data[:-4]):
        return None
    chunks, _, source_samples = END.unpack(data[1:-4])
    return chunks, source_samples


class LookAhead:
    """Sequential bytes with look-ahead; works on pipes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.buffer, self.read_bytes = file, b"", 0

    def peek(self, count: int) -> bytes:
        """The next bytes, fewer at the end of the file."""
        while len(self.buffer) < count:
            more = self.file.read(count - len(self.buffer))
            if not more:
                break
            self.buffer += more
            self.read_bytes += len(more)
        return self.buffer[:count]

    def skip(self, count: int) -> None:
        """Skip bytes that were peeked at."""
        self.buffer = self.buffer[count:]


class RecordReader:
    """Reads a `.duo` from a path or a binary file object; iterates over `Record`s.

    A damaged record raises `FormatError` naming its chunks; with `salvage` it is replaced by zeros of the same length,
    listed in `damage`, and reading goes on. `source` has the final length once everything was read.
    """

    def __init__(self, source: str | Path | BinaryIO, salvage: bool = False) -> None:
        self.salvage, self.complete = salvage, False
        self.damage: list[Damage] = []
        self._own: BinaryIO | None = None
        if isinstance(source, (str, Path)):
            path = Path(source)
            if path.is_dir() or not path.exists():
                what = "is a folder, expected a file" if path.is_dir() else "is not there"
                raise FormatError(f"{path} {what}. Check the name and the folder.")
            self.name = str(path)
            self._own = path.open("rb")
            self.bytes = LookAhead(self._own)
        else:
            self.name = str(getattr(source, "name", "the stream"))
            self.bytes = LookAhead(source)
        try:
            self.header = self._header()
        except FormatError:
            self.close()
            raise
        self.source = self.header.source
        self.next = 0  # index of the next chunk
        self._sizes: dict[int, int] = {}  # of payloads, by their chunks

    @property
    def kind(self) -> Kind:
        """tokens or latents."""
        return self.header.kind

    @property
    def bytes_read(self) -> int:
        """Number of bytes read so far."""
        return self.bytes.read_bytes

    @property
    def lost(self) -> set[int]:
        """Indices of the chunks that were filled in."""
        return {c for d in self.damage for c in range(d.first_chunk, d.first_chunk + d.chunks)}

    def close(self) -> None:
        """Close the file if this reader opened it."""
        if self._own is not None:
            self._own.close()

    def _header(self) -> Header:
        start = self.bytes.peek(14)
        if start[:8] != MAGIC:
            raise FormatError(
                f"{self.name} is not a .duo file: it starts with {start[:8]!r}, expected {MAGIC!r}. "
                f"Encode sound with: duotone encode IN -o OUT.duo"
            )
        if len(start) < 14:
            raise FormatError(f"{self.name} is truncated inside its header; nothing of it can be recovered.")
        version, length = START.unpack(start[8:])
        if version not in (1, VERSION, COMPACT):
            raise FormatError(f"{self.name} has version {version}, this library reads 1 to {COMPACT}. Update duotone.")
        if length > MAX_HEADER:
            raise FormatError(
                f"{self.name} has a damaged header: it claims {length} bytes, at most {MAX_HEADER} are allowed."
            )
        whole = self.bytes.peek(14 + length + 4)
        text, check = whole[14 : 14 + length], whole[14 + length :]
        if len(check) < 4 or struct.unpack("<I", check)[0] != crc32c(text):
            raise FormatError(
                f"{self.name} has a damaged or truncated header (checksum); nothing of it can be recovered."
            )
        header = Header.parse(version, text, self.name)
        self.bytes.skip(len(whole))
        return header

    def records(self) -> Iterator[Record]:
        """The chunks in order. Raises `FormatError` at the first damage unless salvaging."""
        while True:
            lead = self.bytes.peek(1)
            if not lead:
                self._cut()
                return
            if lead == b"\0" and (end := _end_of(self.bytes.peek(_END_BYTES))) is not None:
                yield from self._finish(*end)
                return
            found = self.try_record(self.next)
            if found is not None:
                count, payload = found
                self.bytes.skip(1 + len(payload) + 4)
                yield self._unpacked(count, payload)
                self.next += count
                continue
            if not self.salvage:
                raise FormatError(
                    f"{self.name} is damaged in {self.where(self.next, self.header.chunks_per_record)}: the checksum "
                    f"does not match. Decode with --salvage to keep the other chunks."
                )
            yield from self.blank(self._lose(repair(self._search())))

    def try_record(self, first: int) -> tuple[int, bytes] | None:
        """Count and payload of the next record, if it is intact and begins at chunk `first`."""
        lead = self.bytes.peek(1)
        if not lead or not 1 <= lead[0] <= self.header.chunks_per_record:
            return None
        count = lead[0]
        size = self._payload(count)
        if self.header.version == COMPACT:
            stated = self.bytes.peek(1 + SIZE.size)[1:]
            if len(stated) < SIZE.size or not SIZE.size < SIZE.size + SIZE.unpack(stated)[0] <= size:
                return None
            size = SIZE.size + SIZE.unpack(stated)[0]
        data = self.bytes.peek(1 + size + 4)[1:]
        if len(data) < size + 4:
            return None
        payload = data[:size]
        if struct.unpack("<I", data[size:])[0] != checksum(payload, count, first):
            return None
        return count, payload

    def _payload(self, count: int) -> int:
        """`Header.payload` of this number of chunks (cached, because it computes large powers)."""
        if count not in self._sizes:
            self._sizes[count] = self.header.payload(count)
        return self._sizes[count]

    def _search(self) -> Search:
        """Search range for the next intact record: up to three records ahead, and two more to confirm it."""
        full = self.header.chunks_per_record
        data = self.bytes.peek(5 * (1 + self._payload(full) + 4) + 64)
        stated = SIZE.size if self.header.version == COMPACT else 0
        return Search(data, self._payload, lambda part: (_end_of(part) or (None,))[0], full, self.next, stated)

    def where(self, first: int, count: int) -> str:
        """Name chunks for messages, with their time."""
        seconds = [c * self.header.spec.chunk_seconds for c in (first, first + count)]
        return f"chunks {first} to {first + count - 1} ({seconds[0]:.2f} s to {seconds[1]:.2f} s)"

    def blank(self, count: int) -> Iterator[Record]:
        """Yield records of zeros in place of lost chunks."""
        while count > 0:
            size = min(count, self.header.chunks_per_record)
            yield self.header.blank(self.next, size)
            self.next += size
            count -= size

    def _lose(self, found: Found) -> int:
        """Record the damage and skip it; returns the number of chunks to fill in."""
        self.damage.append(Damage(self.next, found.chunks, found.reason))
        self.bytes.skip(found.skip)
        return found.chunks

    def _unpacked(self, count: int, payload: bytes) -> Record:
        try:
            return self.header.unpack(self.next, count, payload)
        except ValueError as error:
            raise FormatError(
                f"{self.name} holds impossible codes in {self.where(self.next, count)}: {error}."
            ) from None

    def _cut(self) -> None:
        """Handle the end of the bytes without an end record."""
        if not self.salvage:
            raise FormatError(
                f"{self.name} is cut off after chunk {self.next - 1} ({self.where(0, max(1, self.next))} are intact). "
                f"Decode with --salvage to keep them."
            )
        samples = round(self.next * self.header.spec.chunk * self.source.rate / self.header.spec.rate)
        if self.source.samples is None or self.source.samples > samples:
            self.source = self.source.of_length(samples)
        self.damage.append(Damage(self.next, 0, "the file is truncated here"))
        self.complete = True

    def _finish(self, chunks: int, source_samples: int) -> Iterator[Record]:
        if chunks != self.next:
            missing = chunks - self.next
            reason = f"the end record counts {chunks} chunks, {self.next} were found"
            if not self.salvage or missing < 0 or missing > self.header.chunks_per_record * 64:
                raise FormatError(f"{self.name} is damaged: {reason}. Decode with --salvage to keep what is intact.")
            self.damage.append(Damage(self.next, missing, reason))
            yield from self.blank(missing)
        self.source = self.source.of_length(source_samples or None)
        self.complete = True
        self.bytes.skip(_END_BYTES)
        if self.bytes.peek(1):
            reason = "more bytes follow after its end record: were two files joined?"
            if not self.salvage:
                raise FormatError(f"{self.name} holds a whole file, and {reason} Decode with --salvage to drop them.")
            self.damage.append(Damage(self.next, 0, reason))


@dataclass(frozen=True)
class DuoInfo:
    """The content of a `.duo` file, measured by reading all of it."""

    version: int
    kind: Kind
    spec: CodecSpec
    source: Source
    chunks: int
    seconds: float
    bytes: int
    kbit_per_second: float
    information_kbit_per_second: float
    damage: tuple[Damage, ...]


class TooDamaged(FormatError):
    """A `.duo` is damaged in more places than are looked for."""


def describe(source: str | Path | BinaryIO, most_damage: int | None = None) -> DuoInfo:
    """Measure a file: its length, its bytes, and its damage if any. Raises `FormatError` if it is not a `.duo`.

    What follows a damage is found by a search that takes up to a second: with `most_damage`, more damaged places than that
    raise `TooDamaged`, so that a file of noise does not take hours.
    """
    reader, chunks = RecordReader(source, salvage=True), 0
    try:
        for record in reader.records():
            chunks += len(record)
            if most_damage is not None and len(reader.damage) > most_damage:
                raise TooDamaged(
                    f"{reader.name} is damaged in more than {most_damage} places. Look at it with: duotone info"
                )
    finally:
        reader.close()
    header, sound = reader.header, reader.source
    seconds = sound.seconds
    if seconds is None:  # codes from a model: the length is that of the decoded audio
        seconds = header.spec.framed(sound.framing).samples(chunks) / header.spec.rate
    span = max(seconds, 1e-9)
    return DuoInfo(
        version=header.version, kind=header.kind, spec=header.spec, source=sound, chunks=chunks, seconds=seconds,
        bytes=reader.bytes_read, kbit_per_second=reader.bytes_read * 8 / span / 1000,
        information_kbit_per_second=chunks * header.bits / span / 1000, damage=tuple(reader.damage),
    )  # fmt: skip
