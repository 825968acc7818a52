"""The folder of a collection: finds its pieces, and other files that conflict with them.

A piece is ``NNNNN-KIND.flac``, with a note ``NNNNN-KIND.json`` of what it is and a hash of its bytes; `manifest.json`
repeats all notes. A file is a piece only if its note or the manifest lists it; all other files are kept. The note
is written before its piece is renamed, so every complete piece has one, and two processes that fill a folder with the same
collection recognise each other's pieces.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from duotone.atomic import replacing, write_json
from duotone.audio.files import read, write
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError

MANIFEST = "manifest.json"
_PIECE = re.compile(r"(\d{5,7})-[a-z]+\.flac")
_SETTINGS = ("recipe", "split", "seed", "kinds", "plain")

Note = dict[str, Any]
#: What the first so many pieces of a collection have to be: their file, kind, seed and so on.
Orders = Callable[[int], Sequence[Note]]


class CollectionFolder:
    """A folder to fill with the pieces that `orders` names, each of `seconds`; `head` begins its manifest."""

    def __init__(self, folder: Path, head: Note, orders: Orders, seconds: float) -> None:
        self.folder, self.head, self.orders, self.seconds = folder, head, orders, seconds
        self.notes: dict[str, Note] = {}  #: file -> note of the pieces that are there, whole

    def claim(self, count: int, force: bool) -> None:
        """Find existing pieces, and write a manifest if the folder has none.

        Raises `UsageError` for files that conflict with the first `count` pieces, or belong to another collection. With `force`,
        pieces of other collections are removed, and other files replaced where they are in the way.
        """
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file, expected a folder for the sounds. Choose another name.")
        self.folder.mkdir(parents=True, exist_ok=True)
        manifest = _read_object(self.folder / MANIFEST)
        proofs = self._proofs(manifest)
        strange = [] if manifest is None else self._differences(manifest)
        stale = self._stale(proofs)
        states = {n: _state(self.folder / n, note) for n, note in proofs.items() if n not in stale}
        problems = strange + [f"{name} is a piece of another seed, split, soundfont, voice or recipe" for name in stale]
        problems += [f"{name} was changed since it was made" for name, state in states.items() if state == "changed"]
        for order in self.orders(count):
            problems += self._in_the_way(self.folder / order["file"], order["file"] in proofs)
        if problems and not force:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise UsageError(
                f"{self.folder}: {problems[0]}{more}. Choose another folder, or add --force to replace what is there."
            )
        for name in stale:
            for path in _both(self.folder / name):
                path.unlink(missing_ok=True)
        self.notes = {name: proofs[name] for name, state in states.items() if state == "whole"}
        for name, note in self.notes.items():  # a damaged note is written again from the manifest
            if _read_object(_beside(self.folder / name)) != note:
                write_json(_beside(self.folder / name), note, indent=None)
        if strange:
            self._write_manifest([])
        elif manifest is None:
            self._mark()

    def finish(self) -> None:
        """Write the manifest: all pieces that are there, those that another process made meanwhile too."""
        proofs = self._proofs(_read_object(self.folder / MANIFEST))
        for name in proofs.keys() - self.notes.keys() - set(self._stale(proofs)):
            if (self.folder / name).is_file():
                self.notes[name] = proofs[name]
        self._write_manifest([self.notes[name] for name in sorted(self.notes, key=_number)])

    def _mark(self) -> None:
        """Write a first manifest. Raises `UsageError` where another process has just marked the folder for another one."""
        try:
            self._write_manifest([], force=False)
        except UsageError:
            problems = self._differences(_read_object(self.folder / MANIFEST) or {})
            if problems:
                raise UsageError(f"{self.folder}: {problems[0]}. Choose another folder.") from None

    def _write_manifest(self, pieces: list[Note], force: bool = True) -> None:
        values = {**self.head, "minutes": len(pieces) * self.seconds / 60, "pieces": pieces}
        with replacing(self.folder / MANIFEST, force=force) as temporary:
            temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

    def _differences(self, manifest: Note) -> list[str]:
        """How a manifest differs from ours."""
        if not _is_manifest(manifest):
            return [f"{MANIFEST} is not one of `duotone make-sounds`"]
        other = {k: manifest[k] for k in _SETTINGS if k in manifest and manifest[k] != self.head[k]}
        asked, there = (", ".join(f"{k} {_shown(values[k])}" for k in other) for values in (self.head, other))
        return [f"it holds a collection of {there}, and {asked} is asked for"] if other else []

    def _proofs(self, manifest: Note | None) -> dict[str, Note]:
        """Piece -> its note, from the manifest and from the note files (which are newer)."""
        listed = manifest["pieces"] if manifest is not None and _is_manifest(manifest) else []
        found = {note["file"]: note for note in listed if _is_note(note)}
        for path in self.folder.glob("*.json"):
            name = path.with_suffix(".flac").name
            if _PIECE.fullmatch(name):
                note = _read_object(path) or {}
                if _is_note(note) and note["file"] == name:
                    found[name] = note
        return found

    def _stale(self, proofs: dict[str, Note]) -> list[str]:
        """The pieces, of those that are there, that this collection does not have."""
        last = max((_number(name)[0] for name in proofs), default=-1)
        orders = {order["file"]: order for order in self.orders(last + 1)} if proofs else {}
        there = [n for n in sorted(proofs, key=_number) if any(map(os.path.lexists, _both(self.folder / n)))]
        return [n for n in there if n not in orders or any(proofs[n].get(k) != v for k, v in orders[n].items())]

    def _in_the_way(self, path: Path, known: bool) -> list[str]:
        """Unknown files with the names of a piece and its note. Raises `UsageError` for folders."""
        there = [each for each in _both(path) if os.path.lexists(each)]
        for each in there:
            if each.is_dir():
                raise UsageError(f"{each} is a folder, and a piece would become a file of that name. Move it away.")
        return [] if known else [f"{each.name} is not known to be of this collection" for each in there]


def write_piece(folder: Path, order: Note, wave: Waveform, about: Note) -> Note:
    """Write a piece, its note first; the note."""
    path = folder / order["file"]
    with replacing(path, suffix=path.suffix) as temporary:
        write(temporary, wave, force=True)
        note = {**order, **about, "sha256": _digest(temporary)}
        write_json(_beside(path), note, indent=None)
    return note


def _beside(piece: Path) -> Path:
    """The note of a piece."""
    return piece.with_suffix(".json")


def _both(piece: Path) -> tuple[Path, Path]:
    return piece, _beside(piece)


def _number(name: str) -> tuple[int, str]:
    """The number of a piece, for sorting."""
    return int(name.partition("-")[0]), name


def _shown(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)


def _is_manifest(values: Note) -> bool:
    kinds = {"recipe": int, "split": str, "seed": int, "pieces": list}
    return all(isinstance(values.get(key), kind) for key, kind in kinds.items())


def _is_note(values: Any) -> bool:
    kinds = {"file": str, "kind": str, "seed": int, "split": str, "recipe": int}
    ours = isinstance(values, dict) and all(isinstance(values.get(key), kind) for key, kind in kinds.items())
    return ours and _PIECE.fullmatch(values["file"]) is not None


def _read_object(path: Path) -> Note | None:
    """Read a JSON object; None if there is no file, empty if it holds anything else."""
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, IsADirectoryError):
        return {}
    return values if isinstance(values, dict) else {}


def _state(path: Path, note: Note) -> Literal["whole", "damaged", "changed"]:
    """Whether a piece agrees with its note, is damaged (or missing), or holds other audio."""
    if not path.is_file():
        return "damaged"
    if note.get("sha256") == _digest(path):
        return "whole"
    try:
        read(path)
    except AudioError:
        return "damaged"
    return "changed" if "sha256" in note else "whole"  # earlier versions noted no hash


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
