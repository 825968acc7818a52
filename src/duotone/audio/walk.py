"""Find audio files in folders, for all commands, and audio files of formats that cannot be read.

Folders that are symbolic links are followed, and each real file is given once: under its real name where that is inside
the folder, else under the first link to it. Hidden files and folders are never taken, so neither are files that are
still being written (see `duotone.atomic`) nor the ``._x`` files of macOS. Names may be any bytes; those that are no
UTF-8 are kept as Python keeps them (surrogateescape).
"""

from __future__ import annotations

import fnmatch
import glob
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from duotone.atomic import PARTIAL
from duotone.audio.formats import READABLE, UNREADABLE_SOUND

_NAMED = 10  # number of files that `explain` names; further ones are only counted


@dataclass(frozen=True)
class LeftOut:
    """A file or folder that a walk did not take, and why."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


@dataclass(frozen=True)
class Walk:
    """What a walk found, in the order of the names, and what it left out."""

    files: list[Path] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)


def walk(
    folder: str | os.PathLike[str], endings: Sequence[str] = READABLE, named: Sequence[str] = UNREADABLE_SOUND
) -> Walk:
    """The files below `folder` that end in one of `endings` (lower case, with the dot; any case in names).

    Files that end in one of `named` are listed as left out, and so are folders that cannot be opened and links that lead
    nowhere. Raises `OSError` where `folder` itself cannot be opened.
    """
    return _Walker(Path(folder), endings, named).run()


def expand(pattern: str, endings: Sequence[str] = READABLE, named: Sequence[str] = UNREADABLE_SOUND) -> Walk:
    """The files that fit a glob pattern; ``**`` stands for folders of any depth, walked as `walk` does.

    A pattern whose last part has a suffix (``*.wav``) gives all files that match; one without (``*``) gives only the
    files that end in one of `endings`, as `walk` does. Folders that exist under their literal name, as
    in ``Live [2019]/**/*.wav``, are no patterns. Where a pattern fits folders only, those are walked.
    """
    parts = Path(pattern).parts
    ending = _ending(parts[-1])
    wanted = None if ending and not glob.has_magic(ending) else endings
    if "**" in parts:
        depth = parts.index("**")
        bases = sorted(map(Path, glob.glob(_literal(parts[:depth])))) if depth else [Path()]
        return _together(_Walker(base, wanted, named, parts[depth:]).run() for base in bases if base.is_dir())
    matches = sorted(map(Path, glob.glob(_literal(parts))))
    files = [path for path in matches if not path.is_dir()]
    if not files:
        return _together(walk(path, endings, named) for path in matches)
    walker = _Walker(Path(), wanted, named)
    for path in files:
        walker.take(path, os.path.realpath(path), path.is_file())
    return walker.result()


def is_hidden(name: str) -> bool:
    """Whether a walk skips files and folders of this name."""
    return name.startswith(".") or name.endswith(PARTIAL)


def explain(left_out: Sequence[LeftOut]) -> list[str]:
    """Lines of text: the first few files that were left out, then their number and what to do."""
    if not left_out:
        return []
    lines = [f"Left out: {each}" for each in left_out[:_NAMED]]
    if len(left_out) > _NAMED:
        lines.append(f"Left out: {len(left_out) - _NAMED} more")
    unread = Counter(_ending(each.path.name) for each in left_out if each.reason == _UNREADABLE)
    if unread:
        kinds = ", ".join(f"{count} {ending}" for ending, count in sorted(unread.items()))
        files = "1 sound file" if unread.total() == 1 else f"{unread.total()} sound files"
        lines.append(f"{files} cannot be read ({kinds}). Convert them first, for example with: ffmpeg -i IN OUT.wav")
    return lines


_UNREADABLE = "sound of a format that cannot be read"


class _Walker:
    """One walk: real folders first, then the links found on the way, in order of their names."""

    def __init__(
        self, root: Path, endings: Sequence[str] | None, named: Sequence[str], pattern: Sequence[str] = ()
    ) -> None:
        self.root, self.endings, self.named, self.pattern = root, endings, named, pattern  # endings None: any
        self.files: list[Path] = []
        self.left_out: list[LeftOut] = []
        self.links: list[Path] = []
        self.folders: set[str] = set()  # real paths of the folders that were opened
        self.real: set[str] = set()  # real paths of the files that were taken

    def run(self) -> Walk:
        """Visit everything. Raises `OSError` where the root cannot be opened."""
        os.scandir(self.root).close()
        self._visit(self.root, os.path.realpath(self.root))
        while self.links:
            links, self.links = sorted(self.links), []
            for link in links:
                self._follow(link)
        return self.result()

    def result(self) -> Walk:
        """The result, sorted by name."""
        return Walk(sorted(self.files), sorted(self.left_out, key=lambda each: each.path))

    def take(self, path: Path, real: str, regular: bool) -> None:
        """Add a file, or record that it was left out, or ignore it."""
        if self.pattern and not _fits(path.parts[len(self.root.parts) :], self.pattern):
            return
        taken = self.endings is None or _ending(path.name) in self.endings
        if real in self.real or not (taken or _ending(path.name) in self.named):
            return
        if not regular:
            gone = not os.path.exists(path)
            self.left_out.append(LeftOut(path, "a link that leads nowhere" if gone else "not a regular file"))
        elif taken:
            self.real.add(real)
            self.files.append(path)
        else:
            self.left_out.append(LeftOut(path, _UNREADABLE))

    def _visit(self, folder: Path, real: str) -> None:
        waiting = [(folder, real)]
        while waiting:
            folder, real = waiting.pop()
            if real in self.folders:
                continue
            self.folders.add(real)
            try:
                entries = list(os.scandir(folder))
            except OSError as error:
                self.left_out.append(LeftOut(folder, f"the folder cannot be opened ({error.strerror})"))
                continue
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                path, target = folder / entry.name, os.path.join(real, entry.name)
                if entry.is_symlink():
                    self.links.append(path)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((path, target))
                else:
                    self.take(path, target, entry.is_file(follow_symlinks=False))

    def _follow(self, link: Path) -> None:
        target = os.path.realpath(link)
        if not os.path.isdir(target):
            self.take(link, target, os.path.isfile(target))
        elif target not in self.folders:
            inside = os.path.realpath(link.parent)
            if os.path.commonpath([inside, target]) == target:  # its own parent, or one above the root
                self.left_out.append(LeftOut(link, "a link to a folder above it"))
            else:
                self._visit(link, target)


def _ending(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _together(walks: Iterable[Walk]) -> Walk:
    """Merge several walks, without duplicate files."""
    files: dict[str, Path] = {}
    left_out: dict[Path, LeftOut] = {}
    for each in walks:
        for path in each.files:
            files.setdefault(os.path.realpath(path), path)
        left_out.update((entry.path, entry) for entry in each.left_out)
    return Walk(list(files.values()), list(left_out.values()))


def _literal(parts: Sequence[str]) -> str:
    """The pattern, with its first parts escaped as far as they exist as they are written."""
    plain, pattern = "", ""
    for part in parts:
        plain = os.path.join(plain, part)
        pattern = os.path.join(pattern, glob.escape(part) if os.path.lexists(plain) else part)
    return pattern


def _fits(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether the parts of a path fit those of a pattern."""
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_fits(parts[i:], pattern[1:] or ["*"]) for i in range(len(parts)))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], pattern[0]) and _fits(parts[1:], pattern[1:])
