"""Lengths in the headers of audio files, and what to read if they are wrong. Does not import torch.

A program that writes to a pipe cannot go back to enter the length, so WAV, W64, CAF and RF64 files exist whose sound has
"0" or "all ones" bytes. MP3 has no length at all: encoders put one into a first, silent frame (Xing or Info), which is
missing in streams and recordings of radio, and right for the first file only where files are joined. An Ogg file may be
several streams, one after another (recordings of radio: one a song).

`layout` finds these. It does not decode: it returns the bytes to read, with the right length inserted.

Sources: the WAVE, AIFF, CAF and Sony W64 descriptions; ISO/IEC 11172-3 and 13818-3, 2.4.2.3 (MPEG frames); RFC 3533 (Ogg).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Literal

#: What a reader is given in place of the file: bytes of ours, and parts ``(start, stop)`` of the file.
Piece = bytes | tuple[int, int]

_SLACK = 4096  # bytes: headers that count their own size, or a tag after the sound, are no sign of a cut file
_UNKNOWN_32 = 0x7FFF0000  # sizes from here on are not meant: sox, arecord, ffmpeg and others, each with its own
_UNKNOWN_64 = 1 << 62
_TAG = 128  # bytes of an ID3v1 tag


@dataclass(frozen=True)
class Layout:
    """The parts of a file to read, one after another (empty: the whole file)."""

    parts: tuple[tuple[Piece, ...], ...] = ()
    exact: bool = True  #: whether the length that libsndfile takes from the header is the true one
    endless: bool = False  #: whether libsndfile must be kept from estimating the length
    promised: int = 0  #: bytes of sound that the header promises, where the file holds fewer
    held: int = 0  #: bytes of sound that it holds then


def layout(file: BinaryIO) -> Layout:
    """Look at the header of an open file, and at the end or at all frames where it must be."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    kind = head[:4]
    if kind in _CHUNKED and (kind != b"riff" or size > 40):
        return _chunked(file, size, kind)
    if kind == b"OggS":
        return _ogg(file, size)
    return Layout() if kind in _TRUSTED else _mpeg(file, 0, size)


_TRUSTED = {b"fLaC", b".snd", b"dns.", b"Crea", b"NIST"}


class View(io.RawIOBase):
    """Parts of a file, and bytes inserted between them, as a file object.

    With `endless` it pretends to be a thousand times as long: libmpg123 estimates the length of a stream from that of the
    file, and libsndfile would stop there.
    """

    def __init__(self, file: BinaryIO, pieces: tuple[Piece, ...], endless: bool = False) -> None:
        super().__init__()
        self._file, self._at, self._end = file, 0, 0
        self._pieces: list[tuple[int, int, Piece]] = []
        for piece in pieces:
            length = len(piece) if isinstance(piece, bytes) else piece[1] - piece[0]
            if length > 0:
                self._pieces.append((self._end, self._end + length, piece))
                self._end += length
        self._size = self._end * (1000 if endless else 1)

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As any file's."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        """As any file's."""
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As any file's: fills the buffer unless the end comes first."""
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view):
            data = self._some(len(view) - done)
            if not data:
                break
            view[done : done + len(data)] = data
            done, self._at = done + len(data), self._at + len(data)
        return done

    def _some(self, count: int) -> bytes:
        """Up to `count` of the next bytes, of one piece."""
        if self._at >= self._end:  # libmpg123 searches for a tag there, and must find bytes
            return bytes(min(count, self._size - self._at)) if self._size - _TAG <= self._at < self._size else b""
        start, stop, piece = next(p for p in self._pieces if self._at < p[1])
        count, at = min(count, stop - self._at), self._at - start
        if isinstance(piece, bytes):
            return piece[at : at + count]
        self._file.seek(piece[0] + at)
        return self._file.read(count)


# Files of chunks: name, size, content.


@dataclass(frozen=True)
class _Chunks:
    """How a kind of file writes its chunks."""

    first: int  #: where the first chunk begins
    name: int  #: bytes of a name
    width: int  #: bytes of a size
    order: Literal["little", "big"]
    sound: bytes  #: the first bytes of the name of the chunk of sound
    align: int = 2
    inclusive: bool = False  #: whether a size counts name and size too


_CHUNKED = {
    b"RIFF": _Chunks(12, 4, 4, "little", b"data"),
    b"RIFX": _Chunks(12, 4, 4, "big", b"data"),
    b"RF64": _Chunks(12, 4, 4, "little", b"data"),
    b"FORM": _Chunks(12, 4, 4, "big", b"SSND"),
    b"caff": _Chunks(8, 4, 8, "big", b"data", align=1),
    b"riff": _Chunks(40, 16, 8, "little", b"data", align=8, inclusive=True),  # Sony W64: names are GUIDs
}
_W64_SIZE, _DS64_SIZE = 16, 28  # where W64 keeps the size of the file, and RF64 that of the sound
_LARGE = 1 << 32
_MP3_IN_WAV = 0x55


def _walk(file: BinaryIO, size: int, kind: _Chunks, at: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield chunks from `at` on: name, start of the content, stated length."""
    head = kind.name + kind.width
    while at + head <= size:
        file.seek(at)
        data = file.read(head)
        declared = int.from_bytes(data[kind.name :], kind.order) - (head if kind.inclusive else 0)
        yield data[: kind.name], at + head, declared
        at += head + max(0, declared)
        at += -at % kind.align


def _chunked(file: BinaryIO, size: int, magic: bytes) -> Layout:
    kind = _CHUNKED[magic]
    tag = 0
    for name, start, declared in _walk(file, size, kind, kind.first):  # noqa: B007 (used after the loop)
        if name == b"fmt ":
            file.seek(start)
            tag = int.from_bytes(file.read(2), kind.order)
        if name.startswith(kind.sound):
            break
    else:
        return Layout()
    held = size - start
    if magic == b"RF64":
        file.seek(_DS64_SIZE)
        declared = int.from_bytes(file.read(8), "little")
    wide = kind.width == 8 or magic == b"RF64"
    unknown = declared <= 0 or declared >= (_UNKNOWN_64 if wide else _UNKNOWN_32)
    if magic == b"RIFF" and held >= _LARGE and (unknown or (held - declared) % _LARGE < _SLACK):
        return Layout((_as_rf64(start, held, size),))
    if not unknown and declared > held + _SLACK:
        return Layout(promised=declared, held=held)
    if tag == _MP3_IN_WAV and magic == b"RIFF":
        return _mpeg(file, start, size if unknown else min(size, start + declared))
    if declared == 0 and (held == 0 or _chunks_to_the_end(file, size, kind, start)):
        return Layout()
    lacking = unknown or declared > held
    if lacking and (wide or (declared == 0 and magic != b"FORM")):  # libsndfile finds the end of the others itself
        return Layout(parts=(_with_size(magic, start, held, size),))
    return Layout()


def _chunks_to_the_end(file: BinaryIO, size: int, kind: _Chunks, start: int) -> bool:
    """Whether complete chunks follow up to the end: then a chunk of zero bytes is really empty."""
    end = start
    for name, begin, declared in _walk(file, size, kind, start):
        if not all(32 <= byte < 127 for byte in name):
            return False
        end = begin + declared
    return start < end <= size <= end + kind.align


def _with_size(magic: bytes, start: int, held: int, size: int) -> tuple[Piece, ...]:
    """The file with the number of bytes that the sound really has."""
    kind = _CHUNKED[magic]
    if magic == b"RF64":
        return ((0, _DS64_SIZE), held.to_bytes(8, "little"), (_DS64_SIZE + 8, size))
    head = kind.name + kind.width if kind.inclusive else 0
    own = min(held + head, (1 << 8 * kind.width) - 1).to_bytes(kind.width, kind.order)
    rest: tuple[Piece, ...] = (own, (start, size))
    if magic == b"riff":
        return ((0, _W64_SIZE), size.to_bytes(8, "little"), (_W64_SIZE + 8, start - kind.width), *rest)
    return ((0, start - kind.width), *rest)


def _as_rf64(start: int, held: int, size: int) -> tuple[Piece, ...]:
    """Present a WAV file of more than 4 GiB, whose size does not fit 32 bits, as an RF64 file."""
    ds64 = b"ds64" + (28).to_bytes(4, "little") + (size + 28).to_bytes(8, "little") + held.to_bytes(8, "little")
    return (b"RF64" + b"\xff" * 4 + b"WAVE" + ds64 + bytes(12), (12, start - 4), b"\xff" * 4, (start, size))


# MPEG audio: frames, each with its own header.

_BIT_RATES = {  # kbit/s by (MPEG 1, layer)
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_RUN = 4  # frames in a row that prove that these bytes are MPEG audio
_SEARCH = 1 << 16
_HEAD = 56  # bytes of a frame that are read: its header, and the length that it may state


@dataclass(frozen=True)
class _Frame:
    """A frame's header: its length in bytes, and what all frames of a stream share."""

    length: int
    version: int
    layer: int
    rate: int
    tag_at: int  #: where a Xing or Info tag would stand

    def like(self, other: _Frame) -> bool:
        """Whether both can be of one stream."""
        return (self.version, self.layer, self.rate) == (other.version, other.layer, other.rate)


@lru_cache(1024)  # a file has few different ones
def _frame(head: bytes) -> _Frame | None:
    """Read the header of a frame, or None for other bytes (and for free format, whose length it does not say)."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    index, rate_index, padding = head[2] >> 4, head[2] >> 2 & 3, head[2] >> 1 & 1
    if version == 1 or layer == 4 or index in (0, 15) or rate_index == 3:
        return None
    rate, bits = _MPEG_RATES[version][rate_index], 1000 * _BIT_RATES[version == 3, layer][index]
    if layer == 1:
        length = (12 * bits // rate + padding) * 4
    else:
        length = (144 if layer == 2 or version == 3 else 72) * bits // rate + padding
    mono = head[3] >> 6 == 3
    side = (17 if mono else 32) if version == 3 else (9 if mono else 17)
    return _Frame(length, version, layer, rate, 4 + side)


class _Bytes:
    """Small pieces of a file, read in larger ones."""

    def __init__(self, file: BinaryIO, stop: int) -> None:
        self._file, self.stop, self._at, self._data = file, stop, 0, b""

    def at(self, place: int, count: int) -> bytes:
        """`count` bytes, fewer at the end."""
        count = max(0, min(count, self.stop - place))
        if not self._at <= place <= place + count <= self._at + len(self._data):
            self._file.seek(place)
            self._at, self._data = place, self._file.read(max(count, _SEARCH))
        return self._data[place - self._at :][:count]


def _mpeg(file: BinaryIO, start: int, stop: int) -> Layout:
    """Layout of a stream of MPEG frames, or the whole file if there is none."""
    data = _Bytes(file, stop)
    begin = _after_tag(data, start)
    first = _next_frame(data, begin, None)
    if first is None:  # not MPEG, or in free format
        return Layout(exact=data.at(begin, 1) != b"\xff")
    at, frame = first
    told = _told_length(data.at(at, _HEAD), frame)
    if told is not None and told[0] and told[1] >= 0 and at + told[1] + _SLACK >= stop:
        return Layout((((at, stop),),) if start or at != begin else ())
    count, spans = _count_frames(data, at, frame)
    if not count:
        return Layout(exact=False)
    if told is not None and abs(told[0] - count) <= 1:  # right after all: a long tag follows the sound
        return Layout((((at, spans[-1][1]),),))
    return Layout((tuple(spans),), exact=False, endless=True)


def _after_tag(data: _Bytes, at: int) -> int:
    """Where an ID3v2 tag ends that begins here."""
    while (head := data.at(at, 10))[:3] == b"ID3" and len(head) == 10 and max(head[6:]) < 128:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        at += 10 + size + (10 if head[5] & 0x10 else 0)
    return at


def _next_frame(data: _Bytes, at: int, like: _Frame | None) -> tuple[int, _Frame] | None:
    """The next position of consecutive frames: several, or all up to the end."""
    limit = at + _SEARCH if like is None else data.stop
    while at < min(limit, data.stop):
        block = data.at(at, _SEARCH)
        if not block:  # the file became shorter meanwhile
            return None
        found = block.find(b"\xff")
        if found < 0:
            at += len(block)
            continue
        at += found
        frame = _frame(data.at(at, 4))
        if frame is not None and (like is None or frame.like(like)) and _is_run(data, at, frame):
            return at, frame
        at += 1
    return None


def _is_run(data: _Bytes, at: int, first: _Frame) -> bool:
    """Whether several consecutive frames begin here, or fewer up to the end or a tag."""
    frame = first
    for found in range(1, _RUN):
        at += frame.length
        following = _frame(data.at(at, 4))
        if following is None or not following.like(first):
            ends = at == data.stop or data.at(at, 3) in (b"TAG", b"ID3") or data.at(at, 8) == b"APETAGEX"
            return ends or (at > data.stop - 4 and found > 1)
        frame = following
    return True


def _told_length(head: bytes, frame: _Frame) -> tuple[int, int] | None:
    """Frames and bytes stated in a Xing or Info frame (-1 bytes: not stated), None for any other frame."""
    tag = head[frame.tag_at :]
    if tag[:4] not in (b"Xing", b"Info") or frame.layer != 3:
        return None
    flags = tag[7] if len(tag) > 7 else 0
    frames = int.from_bytes(tag[8:12], "big") if flags & 1 else 0
    place = 12 if flags & 1 else 8
    return frames, int.from_bytes(tag[place : place + 4], "big") if flags & 2 else -1


def _count_frames(data: _Bytes, at: int, first: _Frame) -> tuple[int, list[tuple[int, int]]]:
    """All frames of the stream except those that state a length, and their byte ranges."""
    count, begin, spans = 0, at, list[tuple[int, int]]()
    while True:
        head = data.at(at, _HEAD)
        frame = _frame(head[:4])
        if frame is not None and frame.like(first) and _told_length(head, frame) is None:
            count += 1
            at = min(at + frame.length, data.stop)
            continue
        if begin < at:
            spans.append((begin, at))
        if frame is not None and frame.like(first):  # it states a length, and holds no audio
            at = begin = min(at + frame.length, data.stop)
            continue
        found = _next_frame(data, _after_tag(data, at), first)
        if found is None:
            return count, spans
        at = begin = found[0]


# Ogg: pages, each with the serial number of its stream.

_PAGE = 65_307  # the longest page
_FIRST_OF_STREAM = 2


def _ogg(file: BinaryIO, size: int) -> Layout:
    """A part for each of several consecutive streams; the whole file if there is only one."""
    serials = set()
    at = 0
    while (page := _page(file, at)) and page[0] & _FIRST_OF_STREAM:
        serials.add(page[1])
        at = page[2]
    file.seek(max(0, size - _PAGE))
    tail = file.read(_PAGE)
    last = tail.rfind(b"OggS")
    if last < 0 or tail[last + 14 : last + 18] in serials:
        return Layout()
    starts, before, at = [0], True, 0
    while page := _page(file, at):
        first = bool(page[0] & _FIRST_OF_STREAM)
        if first and not before:
            starts.append(at)
        before, at = first, page[2]
    return Layout(tuple(((start, stop),) for start, stop in zip(starts, [*starts[1:], size], strict=True)), exact=False)


def _page(file: BinaryIO, at: int) -> tuple[int, bytes, int] | None:
    """Flags and serial number of the page that begins at `at`, and where it ends."""
    file.seek(at)
    head = file.read(27 + 255)
    if head[:4] != b"OggS" or len(head) < 27:
        return None
    lacing = head[27 : 27 + head[26]]
    return head[5], head[14:18], at + 27 + len(lacing) + sum(lacing)
