"""A `.duo` that arrives in parts: gives its values as soon as their bytes are there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from duotone.codec.container import DuoReader
from duotone.codec.duofile import MAX_HEADER
from duotone.codec.header import START
from duotone.codec.values import Codes, Latents
from duotone.serve.uploads import Upload
from duotone.spec import CodecSpec

_LEAD = 8 + START.size  # magic, version, length of the header


class Feed:
    """Reads an upload that still grows; set `complete` when its last part was written. `check` gets the spec before anything is read."""

    def __init__(self, upload: Upload, check: Callable[[CodecSpec], None]) -> None:
        self._upload, self._check = upload, check
        self._file: BinaryIO | None = None
        self._values: Iterator[Latents | Codes] | None = None
        self.reader: DuoReader | None = None  #: from when the header has come
        self._given = 0  # chunks
        self.complete = False
        self.over = False  #: whether all values were given

    @property
    def ready(self) -> bool:
        """Whether `next` gives a value, tells the end, or finds damage."""
        if self.over:
            return False
        if self.complete:
            return True
        return self._has_header() if self.reader is None else self._has_record(self.reader)

    def next(self) -> Latents | Codes | None:
        """The next value; None if more bytes are needed, or at the end (`over`). Raises `FormatError` for damage."""
        if not self.ready:
            return None
        if self.reader is None:
            self._file = self._upload.reader()
            self.reader = DuoReader(self._file)
            self._check(self.reader.spec)
            self._values = iter(self.reader)
            return self.next()
        assert self._values is not None
        value = next(self._values, None)
        self.over = value is None
        self._given += 0 if value is None else len(value)
        return value

    def _has_header(self) -> bool:
        """Whether the header has come, or enough of what is none to say so."""
        if self._upload.size < _LEAD:
            return False
        with self._upload.reader() as file:
            start = file.read(_LEAD)
        _, length = START.unpack(start[8:])
        return int(length) > MAX_HEADER or self._upload.size >= _LEAD + length + 4

    def _has_record(self, reader: DuoReader) -> bool:
        """Whether a whole record waits; its end, and what is no record, wait for the last part."""
        lead = reader.bytes.peek(1)
        if not lead or not 1 <= lead[0] <= reader.header.chunks_per_record:
            return False
        if reader.try_record(self._given) is not None:
            return True
        most = 1 + reader.header.payload(lead[0]) + 4  # with so many bytes it is damaged, which the reader tells
        return len(reader.bytes.peek(most)) >= most

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
