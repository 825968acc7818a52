"""Where training sound lies: folders, globs, lists of files and tar shards; all of them become `Place` values."""

from __future__ import annotations

import glob
import io
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duotone.audio.files import EXTENSIONS
from duotone.errors import AudioError

LISTS = (".txt", ".lst", ".m3u", ".m3u8")


@dataclass(frozen=True, order=True)
class Place:
    """A sound file: a path, or `size` bytes from `offset` on of an uncompressed tar shard (`size` -1: a plain file)."""

    path: str
    member: str = ""
    offset: int = 0
    size: int = -1

    @property
    def name(self) -> str:
        """For messages: the path, and the member of a shard."""
        return f"{self.path}::{self.member}" if self.member else self.path

    def open(self) -> Any:
        """What soundfile can read: the path, or the part of the shard as a file."""
        return self.path if self.size < 0 else _Part(self.path, self.offset, self.size)


class _Part(io.RawIOBase):
    """`size` bytes of a file from `offset` on, as a file of its own."""

    def __init__(self, path: str, offset: int, size: int) -> None:
        super().__init__()
        self._file, self._offset, self._size, self._at = Path(path).open("rb"), offset, size, 0  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        self._file.seek(self._offset + self._at)
        count = self._file.readinto(view[: max(0, min(len(view), self._size - self._at))])
        self._at += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def find(data: str | Path | Sequence[str | Path]) -> tuple[list[Place], list[str]]:
    """All sound files that `data` names, sorted, and a line for each source that could not be used.

    `data` is one or several of: a folder (searched to the bottom, shards in it too), a glob, a list of files (one a
    line; .txt, .lst, .m3u), a tar shard, a sound file. Raises `AudioError` for a source that does not exist.
    """
    sources = [data] if isinstance(data, str | Path) else list(data)
    if not sources:
        raise AudioError("No data was named. Give a folder, a glob, a list of files (.txt) or a tar shard.")
    problems: list[str] = []
    places: set[Place] = set()
    for source in sources:
        for path in _paths(str(source)):
            if path.suffix.lower() == ".tar":
                places |= set(_members(path, problems))
            else:
                places.add(Place(str(path)))
    return sorted(places), problems


def _paths(source: str) -> Iterator[Path]:
    path = Path(source)
    if path.is_dir():
        for found in sorted(path.rglob("*")):
            if found.suffix.lower() in (*EXTENSIONS, ".tar") and found.is_file():
                yield found
    elif path.is_file() and path.suffix.lower() in LISTS:
        for line in path.read_text(encoding="utf-8").splitlines():
            name = line.strip()
            if name and not name.startswith("#"):
                yield path.parent / name  # an absolute name stays what it is
    elif path.is_file():
        yield path
    elif glob.has_magic(source):
        found_any = False
        for name in sorted(glob.glob(source, recursive=True)):
            if Path(name).is_file():
                found_any = True
                yield Path(name)
        if not found_any:
            raise AudioError(f"No file fits the pattern {source}. Quote it, so that the shell leaves it alone.")
    else:
        raise AudioError(f"There is no file or folder {source}. Give a folder, a glob, a list (.txt) or a tar shard.")


def _members(path: Path, problems: list[str]) -> Iterator[Place]:
    """The sound files in a shard; their bytes are read in place, so the shard must not be compressed."""
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                if member.isfile() and Path(member.name).suffix.lower() in EXTENSIONS:
                    yield Place(str(path), member.name, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        problems.append(f"{path}: not a readable tar shard, or a compressed one ({error})")
