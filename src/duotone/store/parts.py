"""Encoded recordings that wait on the local disk until they are put into a file of the store.

A part is a file of raw values for each array, and a JSON file that is written last: a part without it does not count. So a run
that is killed loses only the recordings that it was encoding. Does not import torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.atomic import replacing, write_bytes
from duotone.errors import FormatError, UsageError
from duotone.spec import Source
from duotone.store.manifest import Stamp, StoreInfo

_BLOCK = 1 << 20


@dataclass(frozen=True)
class Part:
    """An encoded recording on disk; `crc32` of each array's bytes."""

    folder: str
    key: str
    name: str
    chunks: int
    crc32: dict[str, int]
    source: Source
    sound: str
    stamp: Stamp
    size: int  #: bytes of all arrays

    def to_json(self) -> str:
        """Everything but the folder."""
        return json.dumps({key: value for key, value in asdict(self).items() if key != "folder"})

    @classmethod
    def from_json(cls, text: str | bytes, folder: str) -> Part:
        """The inverse of `to_json`. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
        values = json.loads(text)
        there, source = values.pop("stamp"), Source(**values.pop("source"))
        return cls(folder, **values, source=source, stamp=None if there is None else (int(there[0]), int(there[1])))

    def path(self, array: str) -> Path:
        """The file of an array's values."""
        return Path(self.folder, f"{self.key}.{array}")

    def values(self, array: str, info: StoreInfo) -> NDArray[Any]:
        """The values of an array, memory-mapped."""
        kind, shape = info.array(array)
        return np.memmap(self.path(array), kind, "r", 0, (self.chunks, *shape))

    def blocks(self, array: str) -> Iterator[bytes]:
        """The bytes of an array. Raises `FormatError` at the end if they are not those that were written."""
        found = 0
        with self.path(array).open("rb") as file:
            while block := file.read(_BLOCK):
                found = zlib.crc32(block, found)
                yield block
        if found != self.crc32[array]:
            raise FormatError(
                f"{self.path(array)} changed on disk after it was written. Check the disk, remove the file, and run again."
            )

    def remove(self) -> None:
        """Remove the part's files, that which makes it count first."""
        for suffix in ("json", *self.crc32):
            with suppress(FileNotFoundError):
                Path(self.folder, f"{self.key}.{suffix}").unlink()


class PartWriter:
    """Writes a part, block by block, in constant memory; use as a context manager, and call `finish` in it.

    Raises `UsageError` for arrays of other shapes than the store's.
    """

    def __init__(self, folder: Path, info: StoreInfo, name: str, sound: str, stamp: Stamp) -> None:
        self.folder, self.info, self.name, self.sound, self.stamp = folder, info, name, sound, stamp
        self._key, self._chunks, self._bytes = _key(name, info), 0, 0
        self._crc = dict.fromkeys(map(str, info.holds), 0)
        self._stack = ExitStack()
        self._files: dict[str, Any] = {}

    def __enter__(self) -> PartWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._stack:  # closed again if a file cannot be opened
            for array in self._crc:
                temporary = self._stack.enter_context(replacing(self.folder / f"{self._key}.{array}"))
                self._files[array] = self._stack.enter_context(temporary.open("wb"))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def push(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Append chunks to all arrays."""
        lengths = {len(values) for values in arrays.values()}
        for array, file in self._files.items():
            kind, shape = self.info.array(array)
            values = arrays.get(array)
            if values is None or values.shape[1:] != shape or len(lengths) != 1:
                got = {name: list(each.shape) for name, each in arrays.items()}
                raise UsageError(f"{self.name} has {array} of {got}, expected [N, {', '.join(map(str, shape))}].")
            data = np.ascontiguousarray(values, dtype=kind).tobytes()
            self._crc[array] = zlib.crc32(data, self._crc[array])
            self._bytes += len(data)
            file.write(data)
        self._chunks += lengths.pop()

    def finish(self, source: Source) -> Part:
        """End the part. Raises `UsageError` if it has no chunks."""
        if not self._chunks:
            raise UsageError(f"{self.name} has no chunks; there is nothing to store.")
        for file in self._files.values():
            file.flush()
        self._stack.close()  # puts the files in place
        part = Part(
            str(self.folder), self._key, self.name, self._chunks, self._crc, source, self.sound, self.stamp, self._bytes
        )
        _finish(part)
        return part


def _finish(part: Part) -> None:
    write_bytes(Path(part.folder, f"{part.key}.json"), part.to_json().encode())


def keep_part(part: Part, files: dict[str, bytes]) -> Part:
    """Write a part that was encoded elsewhere, from the bytes of its arrays."""
    for array, data in files.items():
        write_bytes(part.path(array), data)
    _finish(part)
    return part


def find_part(folder: Path, info: StoreInfo, name: str, stamp: Stamp) -> Part | None:
    """The part of a recording that an earlier run encoded from the same audio file; None if there is none."""
    key = _key(name, info)
    if stamp is None:
        return None
    try:
        part = Part.from_json((folder / f"{key}.json").read_bytes(), str(folder))
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
    ):  # none, or one that a crash of the machine left: encode it
        return None
    if part.name != name or part.stamp != stamp or set(part.crc32) != set(info.holds):
        return None
    for array in part.crc32:
        path = part.path(array)
        if not path.is_file() or path.stat().st_size != part.chunks * info.chunk_bytes(array):
            return None
    return part


def stamp_of(sound: str) -> Stamp:
    """Size and modification time of an audio file; None if it is not a regular file."""
    if not os.path.isfile(sound):
        return None
    about = os.stat(sound)
    return about.st_size, about.st_mtime_ns


def _key(name: str, info: StoreInfo) -> str:
    """The name of a part's files: any recording name, on any file system; other settings have other names."""
    told = f"{name}\n{json.dumps(info.settings(), sort_keys=True)}"
    return hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
