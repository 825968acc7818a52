"""The bytes of `.duo` files: header, records, end. Arrays in and out; needs no torch (`container` makes values of them).

Layout (little-endian; see docs/duo-format.md)::

    magic 8 | version u16 | header length u32 | header JSON | CRC32C u32
    record*: count u8 (1..chunks_per_record) | payload | CRC32C u32 over (payload, count, first chunk u64)
    end:     0 u8 | chunks u64 | samples u64 | source_samples u64 | CRC32C u32

A record's place is part of its checksum but not of its bytes. The end record makes the length known to writers that did
not know it at the start, and tells a whole file from a cut one. Version 2 has the codec's spec and the source in its
header; version 1 (one FSQ codebook, CoDiCodec) had their numbers alone and is still read.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from duotone.codec.crc32c import crc32c
from duotone.codec.packing import pack_codes, pack_latents, packed_size, unpack_codes, unpack_latents
from duotone.codec.repair import Damage, Found, Search, repair
from duotone.config import Config
from duotone.errors import ConfigError, FormatError, UsageError
from duotone.spec import CodecSpec, Framing, Source

MAGIC = b"\x89DUO\r\n\x1a\n"
VERSION = 2
#: A record's length, about: 4 chunks of CoDiCodec. Damage costs a record; each costs 5 bytes besides its payload.
RECORD_SECONDS = 4 * 32_768 / 48_000
RECORD_BITS = 1 << 16  # and no longer than this: a record is one large integer, whose cost grows with its square
MAX_HEADER = 1 << 20
MAX_RECORD_BITS = 1 << 23
END = struct.Struct("<QQQ")
START = struct.Struct("<HI")
_LIMIT = 1 << 48

Kind = Literal["tokens", "latents"]

#: The space of codecs that wrote files of version 1, which knew only their fingerprint: of the bundled ones.
SPACES = {"e8c608f7f1106d66": "953e3f4a2b72cae3"}


@dataclass(frozen=True)
class Record:
    """Some chunks: tokens `[count, steps, streams * K]` int64 or latents `[count, *latent]` float32.

    `scale` `[count, streams]` float32 is their loudness, of codecs that code it apart.
    """

    first: int
    values: NDArray[Any]
    scale: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Header:
    """What the header says: the face, the codec's spec, the source, and chunks a record."""

    kind: Kind
    spec: CodecSpec
    source: Source
    chunks_per_record: int
    version: int = VERSION

    @classmethod
    def of(cls, kind: Kind, spec: CodecSpec, source: Source) -> Header:
        """The header of a new file. Raises `UsageError` for a face that the codec has not."""
        if kind not in spec.faces:
            raise UsageError(f"{spec.model or spec.family} has {' and '.join(spec.faces)} alone, got {kind}.")
        one = cls(kind, spec, source, 1)
        count = min(255, round(RECORD_SECONDS / spec.chunk_seconds), int(RECORD_BITS / max(1.0, one.bits)))
        return replace(one, chunks_per_record=max(1, count))

    @property
    def streams(self) -> int:
        """Streams of a chunk: the source's channels, for a codec of one channel."""
        return self.source.channels if self.spec.channels == 1 else 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the codebooks of a step, of all streams."""
        return self.spec.codebooks * self.streams

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a chunk's values."""
        if self.kind == "tokens":
            return (self.spec.steps, len(self.sizes))
        latent = self.spec.latent or (0,)
        return (*latent[:-1], latent[-1] * self.streams)

    @property
    def bits(self) -> float:
        """Information of a chunk, in bits."""
        if self.kind == "latents":
            return 16.0 * math.prod(self.shape)
        return self.spec.bits_per_chunk * self.streams + 32 * self.streams * self.spec.scaled

    def payload(self, chunks: int) -> int:
        """Bytes of the payload of a record of so many chunks."""
        if self.kind == "latents":
            return chunks * math.prod(self.shape) * 2
        return packed_size(chunks * math.prod(self.shape), self.sizes) + 4 * chunks * self._scales

    @property
    def _scales(self) -> int:
        return self.streams if self.spec.scaled and self.kind == "tokens" else 0

    def pack(self, record: Record) -> bytes:
        """The payload of a record."""
        if self.kind == "latents":
            return pack_latents(record.values, self.spec.bounded)
        data = pack_codes(record.values.reshape(-1).astype(np.int64), self.sizes)
        return data if record.scale is None else data + record.scale.astype("<f4").tobytes()

    def unpack(self, first: int, count: int, payload: bytes) -> Record:
        """The inverse of `pack`. Raises `ValueError` for a payload that no writer makes."""
        if self.kind == "latents":
            return Record(first, unpack_latents(payload, self.spec.bounded).reshape(count, *self.shape))
        tail = 4 * count * self._scales
        data, rest = payload[: len(payload) - tail], payload[len(payload) - tail :]
        codes = unpack_codes(data, count * math.prod(self.shape), self.sizes).reshape(count, *self.shape)
        if not tail:
            return Record(first, codes)
        scale = np.frombuffer(rest, "<f4").astype(np.float32).reshape(count, -1)
        if not np.isfinite(scale).all():
            raise ValueError("its loudness is not finite")
        return Record(first, codes, scale)

    def blank(self, first: int, count: int) -> Record:
        """Chunks of zeros in place of lost ones: the middle level of FSQ codes, else code 0."""
        if self.kind == "latents":
            return Record(first, np.zeros((count, *self.shape), np.float32))
        middle = (math.prod(self.spec.levels) - 1) // 2 if self.spec.levels else 0
        scale = np.zeros((count, self._scales), np.float32) if self._scales else None
        return Record(first, np.full((count, *self.shape), middle, np.int64), scale)

    def to_bytes(self) -> bytes:
        """Magic, version, JSON and checksum."""
        document = {
            "kind": self.kind, "spec": self.spec.to_dict(short=True), "source": asdict(self.source),
            "chunks_per_record": self.chunks_per_record,
        }  # fmt: skip
        text = json.dumps(document, separators=(",", ":")).encode()
        return MAGIC + START.pack(VERSION, len(text)) + text + struct.pack("<I", crc32c(text))

    @classmethod
    def parse(cls, version: int, text: bytes, name: str) -> Header:
        """The header of a file. Raises `FormatError` naming what cannot be used."""
        try:
            document = json.loads(text)
            header = _version_1(document) if version == 1 else _version_2(document)
            _check_sizes(header)
        except (ConfigError, FormatError, ValueError, RecursionError) as error:
            raise FormatError(f"{name} has a header that is not valid: {error}") from None
        return header


class _First(Config):
    """The header of version 1."""

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
    chunks_per_record: int = Field(default=4, ge=1, le=255)


class _Sound(Config):
    """The source in a header of version 2."""

    rate: int = Field(ge=1, le=1_000_000)
    channels: int = Field(ge=1, le=2)
    samples: int | None = Field(ge=0, le=_LIMIT)
    framing: Framing
    format: str = Field(pattern=r"^[a-z0-9]{1,16}$")


class _Second(Config):
    """The header of version 2."""

    kind: Kind
    spec: dict[str, Any]
    source: _Sound
    chunks_per_record: int = Field(ge=1, le=255)


def _version_1(document: Any) -> Header:
    old = _First.parse(document, "The header")
    hop = old.chunk_samples // 32  # which version 1 did not hold; CoDiCodec has 32 frames a chunk
    spec = CodecSpec(
        family="codicodec", model="", fingerprint=old.fingerprint, space=SPACES.get(old.fingerprint, ""), rate=old.rate, rate_out=old.rate, channels=2,
        chunk=old.chunk_samples, behind=hop, extra=hop, steps=old.latents, codebooks=(math.prod(old.levels),),
        latent=(old.latents, len(old.levels)), levels=old.levels, independent=True, seeded=True, live=True,
        strategies=("parallel", "autoregressive", "wavefront"),
    )  # fmt: skip
    source = Source(old.source_rate, old.source_channels, old.source_samples or None, old.framing, "not recorded")
    return Header(old.kind, spec, source, old.chunks_per_record, version=1)


def _version_2(document: Any) -> Header:
    new = _Second.parse(document, "The header")
    spec = CodecSpec.from_dict(new.spec)
    sound = new.source
    source = Source(sound.rate, sound.channels, sound.samples, sound.framing, sound.format)
    if new.kind not in spec.faces:
        raise FormatError(f"it holds {new.kind}, which its codec has not")
    spec.framed(source.framing)
    return Header(new.kind, spec, source, new.chunks_per_record)


def _check_sizes(header: Header) -> None:
    """Refuse sizes that no codec has, before anything of such a size is made. Raises `ValueError`."""
    spec = header.spec
    if max(spec.rate, spec.rate_out) > 1_000_000 or spec.chunk > 1 << 24 or abs(spec.extra) > spec.chunk * 2:
        raise ValueError(f"rate {spec.rate} or chunk {spec.chunk} cannot be used")
    if spec.levels is not None and any(n < 3 or n % 2 == 0 or n > 1 << 16 for n in spec.levels):
        raise ValueError(f"levels {spec.levels} cannot be used")
    if len(spec.codebooks) > 1024 or any(size > 1 << 62 for size in spec.codebooks):
        raise ValueError(f"{len(spec.codebooks)} codebooks cannot be used")
    if spec.levels and spec.codebooks and any(size != math.prod(spec.levels) for size in spec.codebooks):
        raise ValueError(f"codebooks {spec.codebooks[:4]} are not those of levels {spec.levels}")
    if len(spec.latent or ()) > 8 or header.bits * header.chunks_per_record > MAX_RECORD_BITS:
        raise ValueError(f"records of {header.bits * header.chunks_per_record:.3g} bits cannot be used")


def checksum(payload: bytes, count: int, first: int) -> int:
    """The checksum of a record, over its payload, its length and its place."""
    return crc32c(struct.pack("<BQ", count, first), crc32c(payload))


def record_bytes(header: Header, record: Record) -> bytes:
    """A record as it stands in the file."""
    payload, count = header.pack(record), len(record)
    return bytes([count]) + payload + struct.pack("<I", checksum(payload, count, record.first))


def end_bytes(header: Header, chunks: int, source: Source) -> bytes:
    """The end record; a length of 0 stands for one that is not known."""
    fields = END.pack(chunks, source.at(header.spec.rate) or 0, source.samples or 0)
    return b"\0" + fields + struct.pack("<I", crc32c(b"\0" + fields))


_END_BYTES = 1 + END.size + 4


def _end_of(data: bytes) -> tuple[int, int] | None:
    """Chunks and source samples of the end record at the start of some bytes, if an intact one is there."""
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
        """The next bytes, fewer where the file ends."""
        while len(self.buffer) < count:
            more = self.file.read(count - len(self.buffer))
            if not more:
                break
            self.buffer += more
            self.read_bytes += len(more)
        return self.buffer[:count]

    def skip(self, count: int) -> None:
        """Go past some bytes that were looked at."""
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
        self.next = 0  # place of the next chunk
        self._sizes: dict[int, int] = {}  # of payloads, by their chunks

    @property
    def kind(self) -> Kind:
        """tokens or latents."""
        return self.header.kind

    @property
    def bytes_read(self) -> int:
        """Bytes read so far; all of the file once everything was read."""
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
            raise FormatError(f"{self.name} is cut off inside its header; nothing of it can be kept.")
        version, length = START.unpack(start[8:])
        if version not in (1, VERSION):
            raise FormatError(f"{self.name} has version {version}, this library reads 1 to {VERSION}. Update duotone.")
        if length > MAX_HEADER:
            raise FormatError(
                f"{self.name} has a damaged header: it claims {length} bytes, at most {MAX_HEADER} are allowed."
            )
        whole = self.bytes.peek(14 + length + 4)
        text, check = whole[14 : 14 + length], whole[14 + length :]
        if len(check) < 4 or struct.unpack("<I", check)[0] != crc32c(text):
            raise FormatError(f"{self.name} has a damaged or cut header (checksum); nothing of it can be kept.")
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
        data = self.bytes.peek(1 + size + 4)[1:]
        if len(data) < size + 4:
            return None
        payload = data[:size]
        if struct.unpack("<I", data[size:])[0] != checksum(payload, count, first):
            return None
        return count, payload

    def _payload(self, count: int) -> int:
        """Bytes of the payload of so many chunks; large powers, computed once."""
        if count not in self._sizes:
            self._sizes[count] = self.header.payload(count)
        return self._sizes[count]

    def _search(self) -> Search:
        """Where to look for the next intact record: up to three records ahead, and two more to confirm it."""
        full = self.header.chunks_per_record
        data = self.bytes.peek(5 * (1 + self._payload(full) + 4) + 64)
        return Search(data, self._payload, lambda part: (_end_of(part) or (None,))[0], full, self.next)

    def where(self, first: int, count: int) -> str:
        """Chunks as words, with their time."""
        seconds = [c * self.header.spec.chunk_seconds for c in (first, first + count)]
        return f"chunks {first} to {first + count - 1} ({seconds[0]:.2f} s to {seconds[1]:.2f} s)"

    def blank(self, count: int) -> Iterator[Record]:
        """Chunks of zeros in place of lost ones, a record at a time."""
        while count > 0:
            size = min(count, self.header.chunks_per_record)
            yield self.header.blank(self.next, size)
            self.next += size
            count -= size

    def _lose(self, found: Found) -> int:
        """Note what was lost and go past it; the number of chunks to fill in."""
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
        """The bytes ended without an end record."""
        if not self.salvage:
            raise FormatError(
                f"{self.name} is cut off after chunk {self.next - 1} ({self.where(0, max(1, self.next))} are intact). "
                f"Decode with --salvage to keep them."
            )
        samples = round(self.next * self.header.spec.chunk * self.source.rate / self.header.spec.rate)
        if self.source.samples is None or self.source.samples > samples:
            self.source = self.source.of_length(samples)
        self.damage.append(Damage(self.next, 0, "the file is cut off here"))
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
    """What a `.duo` file holds, as measured by reading it."""

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


def describe(source: str | Path | BinaryIO) -> DuoInfo:
    """Measure a file: its length, its real bytes, and its damage if any. Raises `FormatError` if it is no `.duo`."""
    reader = RecordReader(source, salvage=True)
    try:
        chunks = sum(len(record) for record in reader.records())
    finally:
        reader.close()
    header, sound = reader.header, reader.source
    seconds = sound.seconds
    if seconds is None:  # codes that a model made: as long as decoding them gives
        seconds = header.spec.framed(sound.framing).samples(chunks) / header.spec.rate
    span = max(seconds, 1e-9)
    return DuoInfo(
        version=header.version, kind=header.kind, spec=header.spec, source=sound, chunks=chunks, seconds=seconds,
        bytes=reader.bytes_read, kbit_per_second=reader.bytes_read * 8 / span / 1000,
        information_kbit_per_second=chunks * header.bits / span / 1000, damage=tuple(reader.damage),
    )  # fmt: skip
