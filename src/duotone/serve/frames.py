"""The binary frames of sessions: a type byte, then what docs/serve.md says. Little-endian; imports no torch.

Legend: c channels, T samples.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from duotone.errors import FormatError

VERSION = 1
FRAME_SECONDS = 0.04  #: of sound in an audio frame, at most
PART_BYTES = 1 << 16  #: of a metadata frame that we send
ECHO_BYTES = 64  #: of a ping, at most
_VERSION = struct.Struct("<H")
_PLACE = struct.Struct("<Q")
_META = struct.Struct("<BB")


class Type(IntEnum):
    """The first byte."""

    handshake = 1
    audio = 2
    control = 3
    metadata = 4
    error = 5
    ping = 6


class What(IntEnum):
    """What metadata holds."""

    duo = 1
    state = 2
    prompt = 3


@dataclass(frozen=True)
class Handshake:
    """The first frame of each side."""

    document: dict[str, Any]
    version: int = VERSION

    def to_bytes(self) -> bytes:
        """As a message."""
        return bytes([Type.handshake]) + _VERSION.pack(self.version) + _json(self.document)


@dataclass(frozen=True)
class Audio:
    """Samples `[T, 2]` of 16 bits, the first of them at `place`."""

    place: int
    samples: NDArray[np.int16]

    def to_bytes(self) -> bytes:
        """As a message."""
        return bytes([Type.audio]) + _PLACE.pack(self.place) + self.samples.astype("<i2", copy=False).tobytes()


@dataclass(frozen=True)
class Control:
    """A command or an event as JSON text."""

    text: str

    def to_bytes(self) -> bytes:
        """As a message."""
        return bytes([Type.control]) + self.text.encode()


@dataclass(frozen=True)
class Metadata:
    """A part of a `.duo`, a state or a prompt."""

    what: What
    last: bool
    data: bytes

    def to_bytes(self) -> bytes:
        """As a message."""
        return bytes([Type.metadata]) + _META.pack(self.what, self.last) + self.data


@dataclass(frozen=True)
class Failure:
    """An error object."""

    document: dict[str, Any]

    def to_bytes(self) -> bytes:
        """As a message."""
        return bytes([Type.error]) + _json(self.document)


@dataclass(frozen=True)
class Ping:
    """Samples played or sent, and bytes that come back."""

    samples: int
    echo: bytes = b""

    def to_bytes(self) -> bytes:
        """As a message."""
        return bytes([Type.ping]) + _PLACE.pack(self.samples) + self.echo


Frame: TypeAlias = Handshake | Audio | Control | Metadata | Failure | Ping


def parse(message: bytes) -> Frame:
    """A frame from a message. Raises `FormatError` for what is none, whatever the bytes."""
    kind = message[0] if message else None
    body = message[1:]
    if kind == Type.handshake:
        (version,) = _head(_VERSION, body, "a handshake")
        return Handshake(_document(body[_VERSION.size :], "a handshake"), version)
    if kind == Type.audio:
        (place,) = _head(_PLACE, body, "an audio frame")
        data = body[_PLACE.size :]
        if len(data) % 4:
            raise FormatError(f"Got {len(data)} bytes of sound, expected a multiple of 4: two channels of 16 bits.")
        return Audio(place, np.frombuffer(data, "<i2").reshape(-1, 2))
    if kind == Type.control:
        return Control(_text(body, "a control frame"))
    if kind == Type.metadata:
        what, last = _head(_META, body, "a metadata frame")
        if what not in tuple(What) or last > 1:
            raise FormatError(f"Got metadata of kind {what} with mark {last}, expected kind 1 to 3 and mark 0 or 1.")
        return Metadata(What(what), bool(last), body[_META.size :])
    if kind == Type.error:
        return Failure(_document(body, "an error frame"))
    if kind == Type.ping:
        (samples,) = _head(_PLACE, body, "a ping")
        echo = body[_PLACE.size :]
        if len(echo) > ECHO_BYTES:
            raise FormatError(f"Got a ping with {len(echo)} bytes to send back, expected at most {ECHO_BYTES}.")
        return Ping(samples, echo)
    told = "an empty message" if kind is None else f"a message of type {kind}"
    raise FormatError(f"Got {told}, expected a frame of type 1 to 6 (docs/serve.md).")


def parts(what: What, data: bytes, last: bool = True) -> Iterator[Metadata]:
    """Bytes as metadata frames; the final one is marked, if `last`."""
    for at in range(0, max(1, len(data)), PART_BYTES):
        yield Metadata(what, last and at + PART_BYTES >= len(data), data[at : at + PART_BYTES])


def pieces(place: int, samples: NDArray[np.int16], rate: int) -> Iterator[Audio]:
    """Samples `[T, 2]` as audio frames of equal length, one more sample in some: at most `FRAME_SECONDS`, and more than half of it."""
    count, total = -(-len(samples) // max(1, int(rate * FRAME_SECONDS))), len(samples)
    for i in range(count):
        first, last = i * total // count, (i + 1) * total // count
        yield Audio(place + first, samples[first:last])


def _head(form: struct.Struct, body: bytes, what: str) -> tuple[int, ...]:
    if len(body) < form.size:
        raise FormatError(f"Got {what} of {len(body)} bytes after its type, expected at least {form.size}.")
    return form.unpack(body[: form.size])


def _text(body: bytes, what: str) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise FormatError(f"Got {what} that is not UTF-8 ({error.reason} at byte {error.start}).") from None


def _document(body: bytes, what: str) -> dict[str, Any]:
    try:
        found = json.loads(_text(body, what))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"Got {what} whose JSON cannot be read ({error}).") from None
    if not isinstance(found, dict):
        raise FormatError(f"Got {what} with {type(found).__name__}, expected an object in JSON.")
    return found


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
