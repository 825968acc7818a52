"""Folders that hold stores: local ones, which are memory-mapped, and those behind a URL, read and written through fsspec.

Does not import torch; fsspec is imported for URLs only.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.atomic import exclusive, remove_unused, replacing, sweep, write_bytes
from duotone.config import cache_folder
from duotone.errors import UsageError

PathLike = str | os.PathLike[str]
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PARTS = ".parts"  # encoded recordings that are not in a file of the store yet
_MAPS = 256  # files of a folder that stay mapped


def is_url(path: PathLike) -> bool:
    """Whether a path goes through fsspec, such as ``s3://bucket/store`` or ``memory://store``."""
    return isinstance(path, str) and _URL.match(path) is not None


def file_system(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it. Raises `UsageError` where a package for it is missing."""
    try:
        import fsspec

        found, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UsageError(
            f"{url} needs a package that is not installed ({error}). Install duotone[remote] and the file system's "
            f"package, for example s3fs for s3://."
        ) from None
    except ValueError as error:
        raise UsageError(f"{url} has a protocol that fsspec does not know ({error}).") from None
    return found, str(path)


class Folder(ABC):
    """A folder; names of files are relative to it, with / between folders."""

    @abstractmethod
    def show(self, name: str) -> str:
        """The full path of a file, for messages."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the entries that are not hidden; none if there is no folder yet. Raises `UsageError` for a file."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The bytes of a file. Raises `FileNotFoundError`."""

    @abstractmethod
    def size(self, name: str) -> int | None:
        """The size of a file in bytes; None if there is none."""

    @abstractmethod
    def array(self, name: str, kind: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """Values in a file from a byte on, read-only; reads no other bytes. Raises `OSError` or `ValueError` if they are not there."""

    @abstractmethod
    def write(self, name: str, data: bytes) -> None:
        """Write a file, completely or not at all."""

    @abstractmethod
    def append(self, name: str, data: bytes) -> None:
        """Add bytes at the end of a file, and wait until they are on disk."""

    @abstractmethod
    def replacing(self, name: str) -> AbstractContextManager[Path]:
        """Yield a local path to write to; its content becomes the file if the block ends without an exception."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file."""

    @abstractmethod
    def claim(self) -> AbstractContextManager[None]:
        """Create the folder and, if it is local, lock it. Raises `UsageError` if another process holds the lock."""

    @property
    @abstractmethod
    def parts(self) -> Path:
        """Local folder for what is encoded and not in the store yet."""


class LocalFolder(Folder):
    """A folder on disk. Files stay memory-mapped, up to a number of them."""

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._maps: dict[str, NDArray[Any]] = {}

    def __str__(self) -> str:
        return str(self.path)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_maps": {}}

    def show(self, name: str) -> str:
        """The full path."""
        return str(self.path / name)

    def names(self) -> list[str]:
        """Entries that are not hidden."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file, expected a folder. Choose another name.")
        return sorted(p.name for p in self.path.iterdir() if p.name[0] != ".") if self.path.is_dir() else []

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return (self.path / name).read_bytes()

    def size(self, name: str) -> int | None:
        """The size of a file; None if there is none."""
        path = self.path / name
        return path.stat().st_size if path.is_file() else None

    def array(self, name: str, kind: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """Values, memory-mapped."""
        mapped = self._maps.get(name)
        if mapped is None:
            mapped = np.memmap(self.path / name, np.uint8, "r")
            if len(self._maps) >= _MAPS:
                self._maps.pop(next(iter(self._maps)))
            self._maps[name] = mapped
        size = kind.itemsize * int(np.prod(shape))
        if offset + size > len(mapped):
            raise ValueError(f"it has {len(mapped)} bytes, expected {offset + size}")
        found: NDArray[Any] = np.ndarray(shape, kind, mapped, offset)
        return found

    def write(self, name: str, data: bytes) -> None:
        """Write a file."""
        write_bytes(self.path / name, data)

    def append(self, name: str, data: bytes) -> None:
        """Add bytes, and wait for the disk."""
        with (self.path / name).open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    def replacing(self, name: str) -> AbstractContextManager[Path]:
        """A temporary path in the same folder, renamed at the end."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        self._maps.pop(name, None)
        return replacing(target)

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """Create and lock the folder; temporary files of killed processes are removed."""
        self.names()
        is_new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        with exclusive(self.path):
            sweep(self.path)
            yield
        if is_new:
            remove_unused(self.path)

    @property
    def parts(self) -> Path:
        """A hidden folder in it."""
        return self.path / _PARTS


class RemoteFolder(Folder):
    """A folder behind a URL. It cannot be locked: let one process at a time write into it."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self._system, self._path = file_system(self.url)

    def __str__(self) -> str:
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    def show(self, name: str) -> str:
        """The full path."""
        return f"{self.url}/{name}"

    def _at(self, name: str) -> str:
        return f"{self._path}/{name}"

    def names(self) -> list[str]:
        """Entries that are not hidden."""
        self._system.invalidate_cache()
        if self._system.isfile(self._path):
            raise UsageError(f"{self.url} is a file, expected a folder. Choose another name.")
        try:
            found = self._system.ls(self._path, detail=False)
        except FileNotFoundError:
            return []
        names = (str(each).rstrip("/").rpartition("/")[2] for each in found)
        return sorted(name for name in names if not name.startswith("."))

    def read(self, name: str) -> bytes:
        """The bytes of a file."""
        return bytes(self._system.cat_file(self._at(name)))

    def size(self, name: str) -> int | None:
        """The size of a file; None if there is none."""
        try:
            return int(self._system.size(self._at(name)))
        except FileNotFoundError:
            return None

    def array(self, name: str, kind: np.dtype[Any], offset: int, shape: tuple[int, ...]) -> NDArray[Any]:
        """Values, by a request for their range alone."""
        count = int(np.prod(shape))
        data = self._system.cat_file(self._at(name), start=offset, end=offset + kind.itemsize * count)
        return np.frombuffer(data, kind, count).reshape(shape)

    def write(self, name: str, data: bytes) -> None:
        """Write an object."""
        self._system.pipe_file(self._at(name), data)

    def append(self, name: str, data: bytes) -> None:
        """Writes the whole file again: object storage cannot append."""
        before = b"" if self.size(name) is None else self.read(name)
        self.write(name, before + data)

    @contextmanager
    def replacing(self, name: str) -> Iterator[Path]:
        """A temporary local file, uploaded at the end."""
        with tempfile.TemporaryDirectory(prefix="duotone-") as folder:
            path = Path(folder) / "whole"
            yield path
            parent = self._at(name).rpartition("/")[0]
            self._system.makedirs(parent, exist_ok=True)
            self._system.put_file(str(path), self._at(name))

    def remove(self, name: str) -> None:
        """Remove a file."""
        self._system.rm_file(self._at(name))

    def claim(self) -> AbstractContextManager[None]:
        """Create the folder."""
        self.names()
        self._system.makedirs(self._path, exist_ok=True)
        return nullcontext()

    @property
    def parts(self) -> Path:
        """A folder in the user's cache."""
        base = cache_folder()
        if base is None:
            raise UsageError(
                f"Writing to {self.url} needs a local folder. Set DUOTONE_CACHE to one that can be written."
            )
        return base / f"prepare-{hashlib.blake2b(self.url.encode(), digest_size=8).hexdigest()}"


def open_folder(path: PathLike | Folder) -> Folder:
    """The folder of a path or a URL."""
    if isinstance(path, Folder):
        return path
    if is_url(path):
        return RemoteFolder(os.fspath(path))
    return LocalFolder(path)


def has_parts(folder: Folder) -> bool:
    """Whether something is encoded and not in the store yet."""
    return folder.parts.is_dir() and any(folder.parts.iterdir())


def remove_parts(folder: Folder) -> None:
    """Remove the local folder of what is not in the store yet; a worker of a killed run may still be writing there."""
    shutil.rmtree(folder.parts, ignore_errors=True)
