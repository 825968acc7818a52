"""Sources of training audio: folders, globs, lists of files and tar shards; their files become `Place` values."""

from __future__ import annotations

import codecs
import glob
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from duotone.audio.blocks import BLOCK_SECONDS, Blocks
from duotone.audio.formats import READABLE, UNREADABLE_SOUND
from duotone.audio.headers import View
from duotone.audio.walk import Walk, expand, is_hidden, walk
from duotone.errors import AudioError

LISTS = (".txt", ".lst", ".m3u", ".m3u8")
SHARD = ".tar"
_TAKEN = (*READABLE, SHARD)
#: Byte order marks, the longer ones first: that of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"), (codecs.BOM_UTF8, "utf-8-sig"),
)  # fmt: skip


@dataclass(frozen=True, order=True)
class Place:
    """An audio file: a path, or `size` bytes from `offset` on in an uncompressed tar shard (`size` -1: a plain file)."""

    path: str
    member: str = ""
    offset: int = 0
    size: int = -1

    @property
    def name(self) -> str:
        """For messages: the path, and the member of a shard."""
        return f"{self.path}::{self.member}" if self.member else self.path

    @contextmanager
    def blocks(self, seconds: float = BLOCK_SECONDS) -> Iterator[Blocks]:
        """Read the audio to its actual end. Raises `AudioError` for a file that cannot be read."""
        if self.size < 0:
            with Blocks(self.path, seconds) as sound:
                yield sound
        else:
            with _Part(self) as part, Blocks(part, seconds) as sound:
                yield sound


class _Part(View):
    """The bytes of a file in a shard, as a file object."""

    def __init__(self, place: Place) -> None:
        self._shard = Path(place.path).open("rb")  # noqa: SIM115
        super().__init__(self._shard, ((place.offset, place.offset + place.size),))
        self.name = place.name

    def close(self) -> None:
        """Close the shard too."""
        self._shard.close()
        super().close()


def find(data: str | Path | Sequence[str | Path]) -> tuple[list[Place], list[str]]:
    """All audio files that `data` names, sorted, without duplicates, and a line for everything that could not be used.

    `data` is one or several of: a folder (searched recursively, also for shards), a glob, a list of files (one a
    line; .txt, .lst, .m3u), a tar shard, a sound file. Clips in the samples of a
    training run are left out. Raises `AudioError` for a source that does not exist.
    """
    sources = [data] if isinstance(data, str | Path) else list(data)
    if not sources or "" in sources:
        raise AudioError("No data was given. Give a folder, a glob, a list of files (.txt) or a tar shard.")
    problems: list[str] = []
    paths: dict[str, Path] = {}  # by the resolved path: a file that two sources name is used once
    folders: dict[Path, str] = {}
    for source in sources:
        for path in _paths(str(source), problems):
            run = _run_of(path)
            if run is not None:
                problems.append(f"{run / 'samples'}: clips that a training run wrote")
                continue
            paths.setdefault(_real(path, folders), path)
    places: list[Place] = []
    for path in paths.values():
        if path.suffix.lower() == SHARD:
            places += _members(path, problems)
        else:
            places.append(Place(str(path)))
    return sorted(places), list(dict.fromkeys(problems))


def _real(path: Path, folders: dict[Path, str]) -> str:
    """The resolved path of a file; `folders` caches those of folders."""
    if os.path.islink(path):
        return os.path.realpath(path)
    if path.parent not in folders:
        folders[path.parent] = os.path.realpath(path.parent)
    return os.path.join(folders[path.parent], path.name)


def _run_of(path: Path) -> Path | None:
    """The training run that wrote a file into its samples; None for any other file."""
    step, samples = path.parent, path.parent.parent
    if samples.name != "samples" or not step.name.startswith("step-"):
        return None
    return samples.parent if (samples.parent / "recipe.json").is_file() else None


def _paths(source: str, problems: list[str]) -> Iterator[Path]:
    """The audio files and shards of a source."""
    path = Path(source)
    if os.path.isdir(source):
        yield from _told(walk(path, _TAKEN, UNREADABLE_SOUND), problems)
    elif os.path.isfile(source) and path.suffix.lower() in LISTS:
        yield from _listed(path, problems)
    elif os.path.isfile(source):
        yield path
    elif glob.has_magic(source):
        found = expand(source, _TAKEN, UNREADABLE_SOUND)
        if not (found.files or found.left_out):
            raise AudioError(f"No file matches the pattern {source}. Quote it, so that the shell does not expand it.")
        yield from _told(found, problems)
    else:
        raise AudioError(f"There is no file or folder {source}. Give a folder, a glob, a list (.txt) or a tar shard.")


def _told(found: Walk, problems: list[str]) -> list[Path]:
    problems += map(str, found.left_out)
    return found.files


def _listed(path: Path, problems: list[str]) -> Iterator[Path]:
    """The files of a list: names relative to it or absolute, one a line; lines that begin with # are comments."""
    for line in re.split(r"\r\n|\n|\r", _text(path.read_bytes())):
        name = line.strip(" \t")
        if not name:
            continue
        entry = path.parent / name  # an absolute name is kept
        if os.path.isdir(entry):
            yield from _told(walk(entry, _TAKEN, UNREADABLE_SOUND), problems)
        elif os.path.isfile(entry):
            yield entry
        elif not name.startswith("#"):
            problems.append(f"{entry}: there is no such file, though {path} lists it")


def _text(data: bytes) -> str:
    """The text of a list: UTF-8 unless a byte order mark, or zero bytes, say UTF-16. Other bytes stay as in file names."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data.decode(encoding, "surrogateescape" if mark == codecs.BOM_UTF8 else "replace")
    if b"\0" in data[:2]:
        return data.decode("utf-16-be" if data[:1] == b"\0" else "utf-16-le", "replace")
    return data.decode("utf-8", "surrogateescape")


def _members(path: Path, problems: list[str]) -> Iterator[Place]:
    """The sound files in a shard; their bytes are read in place, so the shard must not be compressed."""
    try:
        with tarfile.open(path, "r:") as shard:
            for member in shard:
                inside = Path(member.name)
                if not member.isfile() or any(is_hidden(part) for part in inside.parts):
                    continue
                if inside.suffix.lower() in READABLE:
                    yield Place(str(path), member.name, member.offset_data, member.size)
                elif inside.suffix.lower() in UNREADABLE_SOUND:
                    problems.append(f"{path}::{member.name}: sound of a format that cannot be read")
    except (tarfile.TarError, OSError) as error:
        problems.append(f"{path}: not a readable tar shard, or a compressed one ({error})")
