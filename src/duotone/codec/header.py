"""The header of a `.duo` file in all versions, and packing of records under it. Only records of version 3 import torch."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from duotone.codec import adaptive
from duotone.codec.crc32c import crc32c
from duotone.codec.packing import pack_codes, pack_latents, packed_size, unpack_codes, unpack_latents
from duotone.config import Config
from duotone.errors import ConfigError, FormatError, UsageError
from duotone.spec import CodecSpec, Framing, Source

MAGIC = b"\x89DUO\r\n\x1a\n"
#: What is written; `COMPACT` has records of codes that are coded adaptively (see `adaptive`).
VERSION, COMPACT = 2, 3
#: A record's length, about: 4 chunks of CoDiCodec. Damage costs a record; each costs 5 bytes besides its payload.
RECORD_SECONDS = 4 * 32_768 / 48_000
RECORD_BITS = (
    1 << 16
)  # at most this size: a record is one large integer, and the cost of arithmetic grows with its square
MAX_RECORD_BITS = 1 << 23
START = struct.Struct("<HI")
#: A payload of version 3 begins with the number of bytes that follow.
SIZE = struct.Struct("<H")
#: Distances in steps at which codes of version 3 may resemble each other.
_LAGS = (1, 2, 4, 8, 16, 32, 64, 128)
_LIMIT = 1 << 48

Kind = Literal["tokens", "latents"]

#: The space of codecs that wrote files of version 1, which knew only their fingerprint: of the bundled ones.
SPACES = {"e8c608f7f1106d66": "953e3f4a2b72cae3"}


@dataclass(frozen=True)
class Record:
    """Consecutive chunks: tokens `[count, steps, streams * K]` int64 or latents `[count, *latent]` float32.

    `scale` `[count, streams]` float32 is their loudness, for codecs that code it separately.
    """

    first: int
    values: NDArray[Any]
    scale: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class Header:
    """The header: kind of values, the codec's spec, the source, and chunks per record."""

    kind: Kind
    spec: CodecSpec
    source: Source
    chunks_per_record: int
    version: int = VERSION

    @classmethod
    def of(cls, kind: Kind, spec: CodecSpec, source: Source, compact: bool = False) -> Header:
        """The header of a new file, of version 3 with `compact`.

        Raises `UsageError` for a kind of values that the codec does not have, or that cannot be compact.
        """
        if kind not in spec.faces:
            raise UsageError(f"{spec.model or spec.family} has only {' and '.join(spec.faces)}, got {kind}.")
        one = cls(kind, spec, source, 1, COMPACT if compact else VERSION)
        if compact and not one.adaptable:
            raise UsageError(
                f"Compact files hold codes of a quantiser whose dimensions have equally many levels, at most {adaptive.MOST_LEVELS}; "
                f"got {kind} of {spec.model or spec.family}. Write this file without compact."
            )
        count = min(255, round(RECORD_SECONDS / spec.chunk_seconds), int(RECORD_BITS / max(1.0, one.bits)))
        return replace(one, chunks_per_record=max(1, count))

    @property
    def streams(self) -> int:
        """Streams per chunk: for a mono codec the channels of the source, else 1."""
        return self.source.channels if self.spec.channels == 1 else 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """Sizes of the codebooks of a step, for all streams."""
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

    @property
    def adaptable(self) -> bool:
        """Whether records can be coded adaptively."""
        levels = self.spec.levels or (0,)
        known = 1 < levels[0] <= adaptive.MOST_LEVELS and set(levels) == {levels[0]} and not self.spec.scaled
        return self.kind == "tokens" and known

    def payload(self, chunks: int) -> int:
        """Payload size of a record of this number of chunks in bytes; in version 3 the largest."""
        if self.kind == "latents":
            return chunks * math.prod(self.shape) * 2
        stated = SIZE.size + 1 if self.version == COMPACT else 0
        return stated + packed_size(chunks * math.prod(self.shape), self.sizes) + 4 * chunks * self._scales

    @property
    def _scales(self) -> int:
        return self.streams if self.spec.scaled and self.kind == "tokens" else 0

    def pack(self, record: Record) -> bytes:
        """The payload of a record."""
        if self.kind == "latents":
            return pack_latents(record.values, self.spec.bounded)
        codes = record.values.reshape(-1).astype(np.int64)
        data = pack_codes(codes, self.sizes)
        if self.version == COMPACT:
            return self._compact(codes, data)
        return data if record.scale is None else data + record.scale.astype("<f4").tobytes()

    def unpack(self, first: int, count: int, payload: bytes) -> Record:
        """The inverse of `pack`. Raises `ValueError` for an invalid payload."""
        if self.kind == "latents":
            return Record(first, unpack_latents(payload, self.spec.bounded).reshape(count, *self.shape))
        if self.version == COMPACT:
            return Record(first, self._expanded(count, payload).reshape(count, *self.shape))
        tail = 4 * count * self._scales
        data, rest = payload[: len(payload) - tail], payload[len(payload) - tail :]
        codes = unpack_codes(data, count * math.prod(self.shape), self.sizes).reshape(count, *self.shape)
        if not tail:
            return Record(first, codes)
        scale = np.frombuffer(rest, "<f4").astype(np.float32).reshape(count, -1)
        if not np.isfinite(scale).all():
            raise ValueError("its loudness is not finite")
        return Record(first, codes, scale)

    def _compact(self, codes: NDArray[np.int64], data: bytes) -> bytes:
        """The payload of version 3: size, lag, and the codes coded adaptively; lag 0 and `data` where that is not longer."""
        levels, dimensions = (self.spec.levels or ())[0], len(self.spec.levels or ())
        values = codes[:, None] // levels ** np.arange(dimensions) % levels
        tokens = values.reshape(-1, len(self.sizes) * dimensions)  # of all codebooks
        lags = [lag for lag in _LAGS if lag < len(tokens)] or [1]
        lag = min(
            lags, key=lambda lag: float(np.abs(tokens[lag:] - tokens[:-lag]).mean()) if lag < len(tokens) else 0.0
        )
        coded = adaptive.encode(values.reshape(-1), lag * tokens.shape[1], levels)
        body = bytes([lag]) + coded if len(coded) < len(data) else b"\0" + data
        return SIZE.pack(len(body)) + body

    def _expanded(self, count: int, payload: bytes) -> NDArray[np.int64]:
        """The inverse of `_compact`. Raises `ValueError` for an invalid payload."""
        lag, data, number = payload[SIZE.size], payload[SIZE.size + 1 :], count * math.prod(self.shape)
        if lag == 0:
            return unpack_codes(data, number, self.sizes)
        levels, dimensions = (self.spec.levels or ())[0], len(self.spec.levels or ())
        values = adaptive.decode(data, number * dimensions, lag * len(self.sizes) * dimensions, levels)
        return values.reshape(-1, dimensions) @ levels ** np.arange(dimensions)

    def blank(self, first: int, count: int) -> Record:
        """Chunks of zeros in place of lost ones: the middle level of FSQ codes, else code 0."""
        if self.kind == "latents":
            return Record(first, np.zeros((count, *self.shape), np.float32))
        middle = [(size - 1) // 2 if self.spec.levels else 0 for size in self.sizes]
        scale = np.zeros((count, self._scales), np.float32) if self._scales else None
        return Record(first, np.tile(np.array(middle, np.int64), (count, self.shape[0], 1)), scale)

    def to_bytes(self) -> bytes:
        """Magic, version, JSON and checksum."""
        document = {
            "kind": self.kind, "spec": self.spec.to_dict(short=True), "source": asdict(self.source),
            "chunks_per_record": self.chunks_per_record,
        }  # fmt: skip
        text = json.dumps(document, separators=(",", ":")).encode()
        return MAGIC + START.pack(self.version, len(text)) + text + struct.pack("<I", crc32c(text))

    @classmethod
    def parse(cls, version: int, text: bytes, name: str) -> Header:
        """Parse a file's header. Raises `FormatError` naming what is invalid."""
        try:
            document = json.loads(text)
            header = _version_1(document) if version == 1 else _version_2(document, version)
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
    """The source in a header of versions 2 and 3."""

    rate: int = Field(ge=1, le=1_000_000)
    channels: int = Field(ge=1, le=2)
    samples: int | None = Field(ge=0, le=_LIMIT)
    framing: Framing
    format: str = Field(pattern=r"^[a-z0-9]{1,16}$")


class _Second(Config):
    """The header of versions 2 and 3."""

    kind: Kind
    spec: dict[str, Any]
    source: _Sound
    chunks_per_record: int = Field(ge=1, le=255)


def _version_1(document: Any) -> Header:
    old = _First.parse(document, "The header")
    hop = old.chunk_samples // 32  # not in version 1; CoDiCodec has 32 frames per chunk
    spec = CodecSpec(
        family="codicodec", model="", fingerprint=old.fingerprint, space=SPACES.get(old.fingerprint, ""), rate=old.rate, rate_out=old.rate, channels=2,
        chunk=old.chunk_samples, behind=hop, extra=hop, steps=old.latents, codebooks=(math.prod(old.levels),),
        latent=(old.latents, len(old.levels)), levels=old.levels, independent=True, seeded=True, live=True,
        strategies=("parallel", "autoregressive", "wavefront"),
    )  # fmt: skip
    source = Source(old.source_rate, old.source_channels, old.source_samples or None, old.framing, "not recorded")
    return Header(old.kind, spec, source, old.chunks_per_record, version=1)


def _version_2(document: Any, version: int) -> Header:
    new = _Second.parse(document, "The header")
    spec = CodecSpec.from_dict(new.spec)
    sound = new.source
    source = Source(sound.rate, sound.channels, sound.samples, sound.framing, sound.format)
    if new.kind not in spec.faces:
        raise FormatError(f"it holds {new.kind}, which its codec does not have")
    spec.framed(source.framing)
    return Header(new.kind, spec, source, new.chunks_per_record, version)


def _check_sizes(header: Header) -> None:
    """Check sizes before anything of that size is allocated. Raises `ValueError`."""
    spec = header.spec
    if max(spec.rate, spec.rate_out) > 1_000_000 or spec.chunk > 1 << 24 or abs(spec.extra) > spec.chunk * 2:
        raise ValueError(f"rate {spec.rate} or chunk {spec.chunk} cannot be used")
    if spec.levels is not None and any(n < 3 or n % 2 == 0 or n > 1 << 16 for n in spec.levels):
        raise ValueError(f"levels {spec.levels} cannot be used")
    # a codebook of one code has no bits, so the limit on bits would allow any number of steps
    if len(spec.codebooks) > 1024 or any(not 2 <= size <= 1 << 62 for size in spec.codebooks):
        raise ValueError(f"{len(spec.codebooks)} codebooks of sizes {spec.codebooks[:4]} cannot be used")
    if spec.levels and spec.codebooks and sum(map(len, spec.digits)) > (spec.latent or (0,))[-1] and spec.latent:
        raise ValueError(f"codebooks {spec.codebooks[:4]} have more values than latents of {spec.latent}")
    if len(spec.latent or ()) > 8 or header.bits * header.chunks_per_record > MAX_RECORD_BITS:
        raise ValueError(f"records of {header.bits * header.chunks_per_record:.3g} bits cannot be used")
    if header.version == COMPACT and not (
        header.adaptable and header.payload(header.chunks_per_record) < 1 << 8 * SIZE.size
    ):
        raise ValueError("version 3 holds codes of equally many levels, in records of less than 64 KiB")
