"""Read and write `.duo` files: latents or codes of one recording, as a stream, with a checksum for each record.

The bytes are those of `duofile`; docs/duo-format.md describes them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import torch

from duotone.atomic import is_stream, replacing
from duotone.codec.duofile import DuoInfo, RecordReader, describe, end_bytes, record_bytes
from duotone.codec.header import MAGIC, VERSION, Header, Kind, Record
from duotone.codec.repair import Damage
from duotone.codec.values import Codes, Latents
from duotone.errors import CodecMismatchError, UsageError
from duotone.spec import CodecSpec, Source

__all__ = ["MAGIC", "VERSION", "Damage", "DuoInfo", "DuoReader", "DuoWriter", "describe", "read_duo", "write_duo"]


class DuoWriter:
    """Writes a `.duo` to a path (atomically) or to a binary file object such as a pipe; use as a context manager.

    The end record is written by `finish`; if a ``with`` block ends without it, no file is created. `kind` defaults to
    tokens, where the codec has them. With `compact` codes take fewer bytes (version 3 of the format), for codecs with FSQ;
    nothing is lost. Raises `UsageError` if the file exists and `force` is off, or for values that cannot be compact.
    """

    def __init__(
        self,
        target: str | os.PathLike[str] | BinaryIO,
        spec: CodecSpec,
        source: Source | None = None,
        kind: Kind | None = None,
        force: bool = True,
        compact: bool = False,
    ) -> None:
        if not isinstance(target, (str, os.PathLike)) and not hasattr(target, "write"):
            raise UsageError(
                f"Got {type(target).__name__}, expected the path of a .duo file, or a file open for writing."
            )
        source = source or Source(spec.rate_out, spec.channels)
        self.header = Header.of(kind or ("tokens" if spec.codebooks else "latents"), spec, source, compact)
        self._stack = ExitStack()
        if isinstance(target, (str, os.PathLike)):
            # a pipe gets each record at once; a file is renamed when it is complete
            path = Path(target) if is_stream(target) else self._stack.enter_context(replacing(target, force=force))
            self._file: BinaryIO = path.open("wb")
        else:
            self._file = target
        self._own = isinstance(target, (str, os.PathLike))
        self._waiting: list[Record] = []
        self._chunks = 0  # written so far
        self.bytes_written = 0
        self._put(self.header.to_bytes())

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self.bytes_written += len(data)

    def __enter__(self) -> DuoWriter:
        return self

    def write(self, value: Latents | Codes) -> None:
        """Append the chunks of a value.

        Raises `UsageError` for another kind of value or number of channels, `CodecMismatchError` for another codec's value.
        """
        header = self.header
        if isinstance(value, Codes) != (header.kind == "tokens"):
            raise UsageError(f"This file holds {header.kind}, got {type(value).__name__}.")
        if (value.spec.space, value.spec.fingerprint) != (header.spec.space, header.spec.fingerprint):
            raise CodecMismatchError(
                f"This file holds {header.kind} of codec {header.spec.fingerprint}, got values of {value.spec.fingerprint}. "
                f"Write them to a separate file."
            )
        if value.streams != header.streams:
            raise UsageError(f"This file holds {header.streams} streams, got a value of {value.streams}.")
        self._waiting += _chunks(value)
        while len(self._waiting) >= header.chunks_per_record:
            self._record(header.chunks_per_record)

    def flush(self) -> None:
        """Write the buffered chunks as a shorter record (for live use; costs a few bytes)."""
        if self._waiting:
            self._record(len(self._waiting))
        self._file.flush()

    def _record(self, count: int) -> None:
        part, self._waiting = self._waiting[:count], self._waiting[count:]
        scales = [record.scale for record in part if record.scale is not None]
        if self.header.spec.scaled and self.header.kind == "tokens" and len(scales) != count:
            raise UsageError(
                "This codec codes loudness separately, and the codes have no scale. Give Codes(..., scale=...)."
            )
        values = np.concatenate([record.values for record in part])
        try:
            data = record_bytes(self.header, Record(self._chunks, values, np.concatenate(scales) if scales else None))
        except ValueError as error:
            raise UsageError(f"These values cannot be written: {error}.") from None
        self._put(data)
        self._chunks += count

    def finish(self, source: Source | None = None) -> None:
        """Write the remaining chunks and the end record; `source` gives the final length if it was not known before."""
        self.flush()
        self._put(end_bytes(self.header, self._chunks, source or self.header.source))
        self._file.flush()
        if self._own:
            self._file.close()
            self._stack.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._own and not self._file.closed:  # finish was not reached
            self._file.close()
            unfinished = error or UsageError("finish was not called")
            self._stack.__exit__(type(unfinished), unfinished, trace)


def _chunks(value: Latents | Codes) -> list[Record]:
    """A record for each chunk."""
    if len(value) == 0:
        return []
    if isinstance(value, Latents):
        return [Record(0, row[None]) for row in value.numpy()]
    steps = value.spec.steps
    codes = value.numpy().T.reshape(len(value), 1, steps, -1)
    scales = [None] * len(value) if value.scale is None else list(value.scale.detach().cpu().numpy().T[:, None])
    return [Record(0, row, scale) for row, scale in zip(codes, scales, strict=True)]


class DuoReader(RecordReader):
    """Reads a `.duo` from a path or a binary file object; iterates over `Latents` or `Codes`, a record each.

    A damaged record raises `FormatError` naming its chunks; with `salvage` it is replaced by zeros of the same length,
    listed in `damage`, and reading goes on. `source` has the final length once everything was read.
    """

    def __init__(self, source: str | os.PathLike[str] | BinaryIO, salvage: bool = False) -> None:
        if not isinstance(source, (str, os.PathLike)) and not hasattr(source, "read"):
            raise UsageError(
                f"Got {type(source).__name__}, expected the path of a .duo file, or a file open for reading."
            )
        super().__init__(Path(source) if isinstance(source, (str, os.PathLike)) else source, salvage)

    @property
    def spec(self) -> CodecSpec:
        """The spec of the codec that made the values."""
        return self.header.spec

    def __enter__(self) -> DuoReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Latents | Codes]:
        """The chunks in order. Raises `FormatError` at the first damage unless salvaging."""
        part = self.header.source.of_length(None)
        for record in self.records():
            yield _value(record, self.header, part)


def _value(record: Record, header: Header, source: Source) -> Latents | Codes:
    if header.kind == "latents":
        return Latents(torch.from_numpy(record.values), header.spec, source)
    indices = torch.from_numpy(np.ascontiguousarray(record.values.reshape(-1, record.values.shape[-1]).T))
    scale = None if record.scale is None else torch.from_numpy(np.ascontiguousarray(record.scale.T))
    return Codes(indices, header.spec, source, scale)


def write_duo(
    target: str | os.PathLike[str] | BinaryIO, value: Latents | Codes, *, force: bool = False, compact: bool = False
) -> int:
    """Write a whole value; returns the bytes written. Options and errors are those of `DuoWriter`."""
    if not isinstance(value, (Latents, Codes)):
        raise UsageError(f"write_duo got {type(value).__name__}, expected Latents or Codes: write_duo(path, value).")
    kind: Kind = "tokens" if isinstance(value, Codes) else "latents"
    with DuoWriter(target, value.spec, value.source, kind, force, compact) as writer:
        writer.write(value)
        writer.finish()
        return writer.bytes_written


def read_duo(source: str | os.PathLike[str] | BinaryIO, salvage: bool = False) -> Latents | Codes:
    """Read a whole file. Raises `FormatError` when it is damaged (unless salvaging), cut, or not one at all."""
    with DuoReader(source, salvage) as reader:
        pieces = list(reader)
        header = reader.header
        blank = _value(header.blank(0, 0), header, header.source)
        return type(blank).join([blank, *pieces], reader.source)  # type: ignore[list-item]
