"""The `.duo` container: latents or codes of one sound, streamable both ways, checked record by record.

Layout (little-endian; see docs/duo-format.md)::

    magic 8 | version u16 | header length u32 | header JSON | CRC32C u32
    record*: count u8 (1..chunks_per_record) | payload | CRC32C u32 over (payload, count, first chunk u64)
    end:     0 u8 | chunks u64 | samples u64 | source_samples u64 | CRC32C u32

A record's place is part of its checksum but not of its bytes. The end record makes the length known to writers that
did not know it at the start, and tells a whole file from a cut one.
"""

from __future__ import annotations

import json
import math
import os
import struct
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal

import numpy as np
import torch
from pydantic import Field

from duotone.codec.crc32c import crc32c
from duotone.codec.packing import pack_codes, pack_latents, packed_size, unpack_codes, unpack_latents
from duotone.codec.values import Codes, Latents, Particulars
from duotone.config import Config, Framing
from duotone.errors import ConfigError, FormatError, UsageError

MAGIC = b"\x89DUO\r\n\x1a\n"
VERSION = 1
CHUNKS_PER_RECORD = 4
MAX_HEADER = 1 << 20
_END = struct.Struct("<QQQ")
_LIMIT = 1 << 48

Kind = Literal["tokens", "latents"]


class Header(Config):
    """The JSON header: the particulars of the encoding, and how it is packed."""

    kind: Kind
    fingerprint: str = Field(pattern=r"^[0-9a-f]{1,64}$")
    rate: int = Field(ge=1, le=1_000_000)
    samples: int = Field(ge=0, le=_LIMIT)
    framing: Framing
    chunk_samples: int = Field(ge=1, le=1 << 24)
    latents: int = Field(ge=1, le=4096)
    levels: tuple[int, ...] = Field(min_length=1, max_length=16)
    source_rate: int = Field(ge=1, le=1_000_000)
    source_channels: int = Field(ge=1, le=2)
    source_samples: int = Field(ge=0, le=_LIMIT)
    chunks_per_record: int = Field(default=CHUNKS_PER_RECORD, ge=1, le=255)

    @classmethod
    def of(cls, about: Particulars, kind: Kind) -> Header:
        """The header of an encoding."""
        return cls.parse({"kind": kind, **asdict(about)}, "The header")

    def about(self) -> Particulars:
        """The particulars that it holds."""
        values = self.model_dump(exclude={"kind", "chunks_per_record"})
        return Particulars(**values)

    @property
    def size(self) -> int:
        """Number of codes in the codebook."""
        return math.prod(self.levels)

    def payload(self, chunks: int) -> int:
        """Bytes of the payload of a record of so many chunks."""
        if self.kind == "tokens":
            return packed_size(chunks * self.latents, self.size)
        return chunks * self.latents * len(self.levels) * 2


@dataclass(frozen=True)
class Damage:
    """Chunks that could not be kept: the first, how many, and why."""

    first_chunk: int
    chunks: int
    reason: str


def _checksum(payload: bytes, count: int, first: int) -> int:
    return crc32c(struct.pack("<BQ", count, first), crc32c(payload))


class DuoWriter:
    """Writes a `.duo` to a path (atomically) or to a binary file object such as a pipe; use as a context manager.

    The end record is written by `finish`; a ``with`` block left without it leaves no file behind.
    """

    def __init__(self, target: str | Path | BinaryIO, about: Particulars, kind: Kind = "tokens") -> None:
        self.header = Header.of(about, kind)
        self._about = about
        self._temporary: Path | None = None
        self._target = Path(target) if isinstance(target, (str, Path)) else None
        if self._target is not None:
            folder = self._target.resolve().parent
            if not folder.is_dir():
                raise UsageError(f"There is no folder {folder} to write into. Create it first.")
            handle, name = tempfile.mkstemp(prefix=f".{self._target.name}.", dir=folder)
            self._file: BinaryIO = os.fdopen(handle, "wb")
            self._temporary = Path(name)
        else:
            self._file = target  # type: ignore[assignment]
        self._waiting: list[torch.Tensor] = []
        self._chunks = 0
        self.bytes_written = 0
        text = self.header.model_dump_json().encode()
        self._put(MAGIC + struct.pack("<HI", VERSION, len(text)) + text + struct.pack("<I", crc32c(text)))

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self.bytes_written += len(data)

    def __enter__(self) -> DuoWriter:
        return self

    def write(self, value: Latents | Codes) -> None:
        """Append the chunks of a value. Raises `UsageError` for the other kind, or values that are not finite."""
        if isinstance(value, Codes) != (self.header.kind == "tokens"):
            raise UsageError(f"This file holds {self.header.kind}, got {type(value).__name__}.")
        if isinstance(value, Codes):
            rows = value.indices.reshape(-1, self.header.latents)
        else:
            if not torch.isfinite(value.values).all():
                raise UsageError("Latents hold values that are NaN or infinite; they cannot be written.")
            rows = value.values
        self._waiting.extend(rows.cpu())
        while len(self._waiting) >= self.header.chunks_per_record:
            self._record(self.header.chunks_per_record)

    def flush(self) -> None:
        """Write what waits as a shorter record (for live use; costs a few bytes)."""
        if self._waiting:
            self._record(len(self._waiting))
        self._file.flush()

    def _record(self, count: int) -> None:
        rows = torch.stack(self._waiting[:count]).numpy()
        del self._waiting[:count]
        if self.header.kind == "tokens":
            payload = pack_codes(rows.reshape(-1).astype(np.int64), self.header.size)
        else:
            payload = pack_latents(rows)
        self._put(bytes([count]) + payload + struct.pack("<I", _checksum(payload, count, self._chunks)))
        self._chunks += count

    def finish(self, about: Particulars | None = None) -> None:
        """Write the rest and the end record; `about` gives the final length where it was not known before."""
        self.flush()
        about = about or self._about
        fields = _END.pack(self._chunks, about.samples, about.source_samples)
        self._put(b"\0" + fields + struct.pack("<I", crc32c(b"\0" + fields)))
        self._file.flush()
        if self._temporary is not None and self._target is not None:
            self._file.close()
            mask = os.umask(0)
            os.umask(mask)
            self._temporary.chmod(0o666 & ~mask)
            os.replace(self._temporary, self._target)
            self._temporary = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary is not None:  # finish was not reached
            self._file.close()
            self._temporary.unlink(missing_ok=True)


class _Source:
    """Sequential bytes with look-ahead; works on pipes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.buffer, self.read_bytes = file, b"", 0

    def peek(self, count: int) -> bytes:
        while len(self.buffer) < count:
            more = self.file.read(count - len(self.buffer))
            if not more:
                break
            self.buffer += more
            self.read_bytes += len(more)
        return self.buffer[:count]

    def skip(self, count: int) -> None:
        self.buffer = self.buffer[count:]


class DuoReader:
    """Reads a `.duo` from a path or a binary file object; iterates over `Latents` or `Codes`, a record each.

    A damaged record raises `FormatError` naming its chunks; with `salvage` it is replaced by zeros of the same length,
    listed in `damage`, and reading goes on. `about` has the final length once everything was read.
    """

    def __init__(self, source: str | Path | BinaryIO, salvage: bool = False) -> None:
        self.salvage, self.complete = salvage, False
        self.damage: list[Damage] = []
        self._own: BinaryIO | None = None
        if isinstance(source, (str, Path)):
            path = Path(source)
            if not path.is_file():
                raise FormatError(f"There is no file {path}. Check the name and the folder.")
            self.name = str(path)
            self._own = path.open("rb")
            self._source = _Source(self._own)
        else:
            self.name = str(getattr(source, "name", "the stream"))
            self._source = _Source(source)
        try:
            self.header = self._header()
        except FormatError:
            self.close()
            raise
        self.about = self.header.about()
        self._next = 0

    @property
    def kind(self) -> Kind:
        """tokens or latents."""
        return self.header.kind

    @property
    def bytes_read(self) -> int:
        """Bytes read so far; all of the file once everything was read."""
        return self._source.read_bytes

    @property
    def lost(self) -> set[int]:
        """Indices of the chunks that were filled in."""
        return {c for d in self.damage for c in range(d.first_chunk, d.first_chunk + d.chunks)}

    def __enter__(self) -> DuoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file if this reader opened it."""
        if self._own is not None:
            self._own.close()

    def _header(self) -> Header:
        source = self._source
        start = source.peek(14)
        if start[:8] != MAGIC:
            raise FormatError(
                f"{self.name} is not a .duo file: it starts with {start[:8]!r}, expected {MAGIC!r}. "
                f"Encode sound with: duotone encode IN -o OUT.duo"
            )
        if len(start) < 14:
            raise FormatError(f"{self.name} is cut off inside its header; nothing of it can be kept.")
        version, length = struct.unpack("<HI", start[8:])
        if version != VERSION:
            raise FormatError(f"{self.name} has version {version}, this library reads {VERSION}. Update duotone.")
        if length > MAX_HEADER:
            raise FormatError(
                f"{self.name} has a damaged header: it claims {length} bytes, at most {MAX_HEADER} are allowed."
            )
        whole = source.peek(14 + length + 4)
        text, check = whole[14 : 14 + length], whole[14 + length :]
        if len(check) < 4 or struct.unpack("<I", check)[0] != crc32c(text):
            raise FormatError(f"{self.name} has a damaged or cut header (checksum); nothing of it can be kept.")
        try:
            header = Header.parse(json.loads(text), "The header")
        except (ConfigError, json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise FormatError(f"{self.name} has a header that is not valid: {error}") from None
        if any(n < 3 or n % 2 == 0 or n > 1 << 16 for n in header.levels) or header.size >= 1 << 62:
            raise FormatError(f"{self.name} has a header with unusable levels {header.levels}.")
        source.skip(len(whole))
        return header

    def __iter__(self) -> Iterator[Latents | Codes]:
        """The chunks in order. Raises `FormatError` at the first damage unless salvaging."""
        while True:
            lead = self._source.peek(1)
            if not lead:
                self._cut()
                return
            if lead == b"\0" and (end := self._try_end()) is not None:
                yield from self._finish(*end)
                return
            record = self._try_record(0, self._next)
            if record is not None:
                count, payload = record
                self._source.skip(1 + len(payload) + 4)
                yield self._value(payload, count)
                self._next += count
                continue
            yield from self._repair()
            if self.complete:
                return

    def _try_end(self, offset: int = 0) -> tuple[int, int, int] | None:
        size = 1 + _END.size + 4
        data = self._source.peek(offset + size)[offset:]
        if len(data) < size or data[0] != 0 or struct.unpack("<I", data[-4:])[0] != crc32c(data[:-4]):
            return None
        chunks, samples, source_samples = _END.unpack(data[1:-4])
        return chunks, samples, source_samples

    def _try_record(self, offset: int, first: int) -> tuple[int, bytes] | None:
        """The record at an offset of the look-ahead, if it is intact and its first chunk is `first`."""
        lead = self._source.peek(offset + 1)[offset:]
        if not lead or not 1 <= lead[0] <= self.header.chunks_per_record:
            return None
        count = lead[0]
        size = self.header.payload(count)
        data = self._source.peek(offset + 1 + size + 4)[offset + 1 :]
        if len(data) < size + 4:
            return None
        payload = data[:size]
        if struct.unpack("<I", data[size:])[0] != _checksum(payload, count, first):
            return None
        return count, payload

    def _where(self, first: int, count: int) -> str:
        seconds = [c * self.header.chunk_samples / self.header.rate for c in (first, first + count)]
        return f"chunks {first} to {first + count - 1} ({seconds[0]:.2f} s to {seconds[1]:.2f} s)"

    def _cut(self) -> None:
        """The bytes ended without an end record."""
        if not self.salvage:
            raise FormatError(
                f"{self.name} is cut off after chunk {self._next - 1} ({self._where(0, max(1, self._next))} are intact). "
                f"Decode with --salvage to keep them."
            )
        samples = self._next * self.header.chunk_samples
        if not self.about.samples or self.about.samples > samples:
            self.about = self.about.with_samples(samples)
        self.damage.append(Damage(self._next, 0, "the file is cut off here"))
        self.complete = True

    def _finish(self, chunks: int, samples: int, source_samples: int) -> Iterator[Latents | Codes]:
        if chunks != self._next:
            missing = chunks - self._next
            reason = f"the end record counts {chunks} chunks, {self._next} were found"
            if not self.salvage or missing < 0 or missing > self.header.chunks_per_record * 64:
                raise FormatError(f"{self.name} is damaged: {reason}. Decode with --salvage to keep what is intact.")
            self.damage.append(Damage(self._next, missing, reason))
            yield from self._blank(missing)
        self.about = self.about.with_samples(samples, source_samples)
        self.complete = True

    def _repair(self) -> Iterator[Latents | Codes]:
        """Find the next intact record (or the end) near by; fill in what is lost between."""
        full = self.header.chunks_per_record
        if not self.salvage:
            raise FormatError(
                f"{self.name} is damaged in {self._where(self._next, full)}: the checksum does not match. "
                f"Decode with --salvage to keep the other chunks."
            )
        stride = 1 + self.header.payload(full) + 4
        for offset in range(1, 3 * stride + 1):
            if not self._source.peek(offset + 1)[offset:]:
                break
            end = self._try_end(offset)
            if end is not None and 0 <= end[0] - self._next <= 64 * full:
                self._lose(end[0] - self._next, offset, "checksum does not match")
                yield from self._blank(end[0] - self._next)
                return
            for ahead in range(4 * full + 1):
                if self._try_record(offset, self._next + ahead) is not None:
                    self._lose(ahead, offset, "checksum does not match")
                    yield from self._blank(ahead)
                    return
        rest = len(self._source.peek(3 * stride))
        if rest < 3 * stride:  # the end of the bytes: what is here belongs to at most so many chunks
            lost = min(full, -(-rest // max(1, stride // full)))
            self._lose(lost, rest, "the rest of the file is damaged or cut off")
            yield from self._blank(lost)
        else:
            self._lose(3 * full, 3 * stride, "checksum does not match")
            yield from self._blank(3 * full)

    def _lose(self, chunks: int, skip: int, reason: str) -> None:
        self.damage.append(Damage(self._next, chunks, reason))
        self._source.skip(skip)

    def _blank(self, count: int) -> Iterator[Latents | Codes]:
        """Chunks of zeros in place of lost ones, a record at a time."""
        while count > 0:
            size = min(count, self.header.chunks_per_record)
            about = self.header.about()
            zeros = Latents(torch.zeros(size, about.latents, len(about.levels)), about)
            yield zeros.codes() if self.kind == "tokens" else zeros
            self._next += size
            count -= size

    def _value(self, payload: bytes, count: int) -> Latents | Codes:
        about = self.header.about()
        if self.kind == "latents":
            values = torch.from_numpy(unpack_latents(payload)).reshape(count, about.latents, len(about.levels))
            return Latents(values, about)
        try:
            indices = unpack_codes(payload, count * about.latents, self.header.size)
        except ValueError as error:
            raise FormatError(
                f"{self.name} holds impossible codes in {self._where(self._next, count)}: {error}."
            ) from None
        return Codes(torch.from_numpy(indices)[None], about)


def write_duo(target: str | Path | BinaryIO, value: Latents | Codes) -> int:
    """Write a whole value; returns the bytes written."""
    with DuoWriter(target, value.about, "tokens" if isinstance(value, Codes) else "latents") as writer:
        writer.write(value)
        writer.finish()
        return writer.bytes_written


def read_duo(source: str | Path | BinaryIO, salvage: bool = False) -> Latents | Codes:
    """Read a whole file. Raises `FormatError` when it is damaged (unless salvaging), cut, or not one at all."""
    with DuoReader(source, salvage) as reader:
        pieces = list(reader)
        if reader.kind == "tokens":
            codes = [p.indices for p in pieces if isinstance(p, Codes)]
            return Codes(torch.cat([torch.zeros(1, 0, dtype=torch.int64), *codes], dim=1), reader.about)
        values = [p.values for p in pieces if isinstance(p, Latents)]
        empty = torch.zeros(0, reader.header.latents, len(reader.header.levels))
        return Latents(torch.cat([empty, *values]), reader.about)


@dataclass(frozen=True)
class DuoInfo:
    """What a `.duo` file holds, as measured by reading it."""

    kind: Kind
    fingerprint: str
    chunks: int
    seconds: float
    source_rate: int
    source_channels: int
    source_samples: int
    framing: str
    bytes: int
    kbit_per_second: float
    information_kbit_per_second: float
    damage: tuple[Damage, ...]


def describe(source: str | Path) -> DuoInfo:
    """Measure a file: its length, its real bytes, and its damage if any. Raises `FormatError` if it is no `.duo`."""
    with DuoReader(source, salvage=True) as reader:
        chunks = sum(len(piece) for piece in reader)
        about, header = reader.about, reader.header
        seconds = about.source_samples / about.source_rate
        if header.kind == "tokens":
            bits = chunks * header.latents * math.log2(header.size)
        else:
            bits = chunks * header.latents * len(header.levels) * 16.0
        span = max(seconds, 1e-9)
        return DuoInfo(
            kind=reader.kind, fingerprint=about.fingerprint, chunks=chunks, seconds=seconds,
            source_rate=about.source_rate, source_channels=about.source_channels, source_samples=about.source_samples,
            framing=about.framing, bytes=reader.bytes_read, kbit_per_second=reader.bytes_read * 8 / span / 1000,
            information_kbit_per_second=bits / span / 1000, damage=tuple(reader.damage),
        )  # fmt: skip
