"""Fetch freely licensed recordings: 48 kHz stereo FLAC files from Debian packages, and a manifest of whose work they are.

``duotone fetch-sounds OUT --split train``. The folder:

    OUT/train/music/PACKAGE/NAME.flac    one file for each member; short clips of speech are joined (`GROUP_SECONDS`)
    OUT/packages/PACKAGE.json            written before (with ``finished: false``) and after a package is decoded
    OUT/manifest.jsonl                   a line for each file: title, author, licence, source, package, version, hashes
    OUT/LICENCES.md                      the same as a table, a row for each title
    OUT/downloads/                       packages while they are fetched and decoded
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from duotone.atomic import exclusive, sweep, write_json, write_text
from duotone.audio.catalogue import SPLITS, Catalogue, Package, Recordings, Split, catalogue, licence_table, splits
from duotone.audio.debian import fetch_package, is_safe, members
from duotone.audio.files import AudioReader, open_reader, open_writer
from duotone.audio.formats import READABLE, UNREADABLE_SOUND
from duotone.audio.resample import Resampler
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError

MANIFEST, LICENCES, PACKAGES, DOWNLOADS = "manifest.jsonl", "LICENCES.md", "packages", "downloads"
#: Raised whenever the same package would give other files, so that a folder never mixes two ways of decoding.
FORM = 1
RATE, CHANNELS = 48_000, 2
#: Shorter recordings are left out.
SHORTEST_SECONDS = 0.5
#: Clips of speech shorter than `LONG_SECONDS` are joined, with a pause between them, into files of at least `GROUP_SECONDS`.
LONG_SECONDS, GROUP_SECONDS, PAUSE_SECONDS = 12.0, 20.0, 0.1
#: What a file may lack of the length that its header promises: some encoders count padding that does not decode.
PADDING_SECONDS = 0.1
_LONGEST_NAME = 120

Note = dict[str, Any]
#: Called with (what is done, how far, of how much).
Progress = Callable[[str, int, int], None]


@dataclass
class Fetched:
    """What a folder holds of the packages asked for: a note for each file, and a reason for each member left out."""

    files: list[Note] = field(default_factory=list)
    left_out: list[Note] = field(default_factory=list)

    def hours(self) -> dict[str, float]:
        """Kind -> hours."""
        kinds = sorted({note["kind"] for note in self.files})
        return {kind: sum(note["seconds"] for note in self.files if note["kind"] == kind) / 3600 for kind in kinds}


def fetch_recordings(
    out: str | Path,
    split: Split | None = None,
    only: Sequence[str] = (),
    mirrors: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
    known: Catalogue | None = None,
    split_of: dict[str, Split] | None = None,
) -> Fetched:
    """Fill a folder with the recordings of a split (default: both), or of the packages `only`; finished ones are kept.

    `mirrors` are tried before any other (default: those of the catalogue); `known` and `split_of` replace the catalogue
    and its splits. Raises `UsageError` for unknown names, and for files of others in the folder of a package (`force` replaces
    them); `DownloadError` for a package that cannot be had.
    """
    known, split_of = known or catalogue(), splits() if split_of is None else split_of
    if split is not None and split not in SPLITS:
        raise UsageError(f"There is no split {split!r}. There are: {', '.join(SPLITS)}.")
    chosen = _chosen(known, split_of, split, only)
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file, expected a folder for the sounds. Choose another name.")
    for name in (PACKAGES, DOWNLOADS):
        (folder / name).mkdir(parents=True, exist_ok=True)
    fetched = Fetched()
    with exclusive(folder):
        for package in chosen:
            record = _finished(folder, package)
            if record is None:
                work = _PackageWork(folder, package, split_of[package.package], progress)
                record = work.run(mirrors or known.mirrors, force)
                _write_manifest(folder, known, split_of)
            fetched.files += record["files"]
            fetched.left_out += [{"package": package.package, **left} for left in record["left_out"]]
        _write_manifest(folder, known, split_of)
        if not any((folder / DOWNLOADS).iterdir()):
            (folder / DOWNLOADS).rmdir()
    return fetched


def _chosen(known: Catalogue, split_of: dict[str, Split], split: Split | None, only: Sequence[str]) -> list[Package]:
    chosen = known.choose(only or [p.package for p in known.packages])
    homeless = [p.package for p in chosen if p.package not in split_of]
    if homeless:
        raise UsageError(f"The package {homeless[0]!r} has no split. Add it to `packages` in split.yaml.")
    chosen = [p for p in chosen if split in (None, split_of[p.package])]
    if not chosen:
        raise UsageError(f"No package of {', '.join(only)} belongs to {split}. Leave out --split or --only.")
    return chosen


class _PackageWork:
    """Fetches and decodes one package."""

    def __init__(self, folder: Path, package: Package, split: Split, progress: Progress | None) -> None:
        self.folder, self.package, self.split, self.progress = folder, package, split, progress
        self.kinds = sorted({sounds.kind for sounds in package.sounds})
        self.files: list[Note] = []
        self.left_out: list[Note] = []
        self._groups = 0

    def run(self, mirrors: Sequence[str], force: bool) -> Note:
        """The record of the finished package."""
        package = self.package
        self._claim(force)
        downloads = self.folder / DOWNLOADS
        deb = fetch_package(package, downloads, mirrors, lambda n, of: self._tell(f"fetching {package.package}", n, of))
        sweep(downloads)
        with tempfile.TemporaryDirectory(prefix=".duotone-", suffix=".part", dir=downloads) as temporary:
            found = self._extract(deb, Path(temporary))
            done = 0
            for sounds in package.sounds:
                mine = [(member, path) for member, path, entry in found if entry is sounds]
                for index, _ in enumerate(self._decode(sounds, mine)):
                    self._tell(f"decoding {package.package}", done + index + 1, len(found))
                done += len(mine)
        if not self.files:
            raise AudioError(
                f"{package.package} {package.version} gave no sound: its members fit no entry of the catalogue, or cannot be read."
            )
        record = self._record(finished=True)
        write_json(self._record_file, record)
        deb.unlink()
        return record

    @property
    def _record_file(self) -> Path:
        return _record_file(self.folder, self.package)

    def _record(self, finished: bool) -> Note:
        return {
            "finished": finished, "form": FORM, "entry": self.package.digest(), "package": self.package.package,
            "version": self.package.version, "split": self.split, "files": self.files, "left_out": self.left_out,
        }  # fmt: skip

    def _claim(self, force: bool) -> None:
        """Empty the package's folders, which are ours if there is a record. Raises `UsageError` for files of others."""
        folders = [self.folder / self.split / kind / self.package.package for kind in self.kinds]
        ours = self._record_file.is_file()
        for each in folders:
            if not ours and not force and each.is_dir() and any(each.iterdir()):
                raise UsageError(
                    f"{each} has files that are not known to be of this collection. Choose another folder, or add --force "
                    f"to remove them."
                )
        write_json(self._record_file, self._record(finished=False))
        for each in folders:
            if each.is_dir():
                shutil.rmtree(each)
            each.mkdir(parents=True)

    def _extract(self, deb: Path, into: Path) -> list[tuple[str, Path, Recordings]]:
        """Copy the members that an entry names to numbered files; sound that none names is noted as left out."""
        found: list[tuple[str, Path, Recordings]] = []
        for member, content in members(deb):
            suffix = Path(member).suffix.lower()
            if suffix not in READABLE and suffix not in UNREADABLE_SOUND:
                continue
            entry = self.package.entry(member)
            if not is_safe(member):
                self._leave(member, "its path leads out of the package")
            elif content is None:
                self._leave(member, "it is a link or no plain file")
            elif entry is None:
                self._leave(member, "the catalogue names no author and licence")
            else:
                path = into / f"{len(found)}{suffix}"
                with path.open("wb") as file:
                    shutil.copyfileobj(content, file)
                found.append((member, path, entry))
        return sorted(found, key=lambda one: one[0].split("/"))

    def _leave(self, member: str, reason: str) -> None:
        self.left_out.append({"member": member, "reason": reason})

    def _decode(self, sounds: Recordings, found: list[tuple[str, Path]]) -> Iterator[None]:
        """Write the files of one entry, yielding after each member."""
        held: list[torch.Tensor] = []
        names: list[str] = []
        for member, path in found:
            try:
                with open_reader(path) as reader:
                    seconds = None if reader.samples is None else reader.samples / reader.rate
                    if seconds is not None and seconds < SHORTEST_SECONDS:
                        self._leave(member, f"it is shorter than {SHORTEST_SECONDS} s")
                    elif sounds.kind == "speech" and seconds is not None and seconds < LONG_SECONDS:
                        clip = torch.cat([wave.samples for wave in _at_48_khz(reader)], dim=1)
                        if held:
                            held.append(torch.zeros(CHANNELS, round(PAUSE_SECONDS * RATE)))
                        held.append(clip)
                        names.append(member)
                    else:
                        self._put(sounds, self._name(member), [member], _at_48_khz(reader))
            except AudioError as error:
                self._leave(member, f"it cannot be read: {str(error).replace(str(path), path.name)}")
            path.unlink()
            if sum(part.shape[1] for part in held) >= GROUP_SECONDS * RATE:
                self._put_group(sounds, names, held)
                held, names = [], []
            yield
        if held:
            self._put_group(sounds, names, held)

    def _put_group(self, sounds: Recordings, names: list[str], parts: list[torch.Tensor]) -> None:
        wave = Waveform(torch.cat(parts, dim=1), RATE)
        self._put(sounds, f"group-{self._groups:04d}", names, iter([wave]))
        self._groups += 1

    def _put(self, sounds: Recordings, name: str, names: list[str], blocks: Iterator[Waveform]) -> None:
        """Write one file, and note whose work it is."""
        place = Path(self.split, sounds.kind, self.package.package, f"{name}.flac")
        path, length = self.folder / place, 0
        with open_writer(path, RATE, CHANNELS, subtype="PCM_16") as writer:
            for wave in blocks:
                if wave.length:
                    writer.write(wave)
                    length += wave.length
        self.files.append({
            "file": place.as_posix(), "kind": sounds.kind, "split": self.split, "seconds": round(length / RATE, 4),
            "title": sounds.title, "author": sounds.author, "licence": sounds.licence, "source": self.package.source,
            "languages": list(sounds.languages), "package": self.package.package, "version": self.package.version,
            "deb_sha256": self.package.sha256, "members": names, "sha256": _digest(path),
        })  # fmt: skip

    def _name(self, member: str) -> str:
        """A file name from a member's path, which may hold anything: plain characters, bounded, unique in its folder."""
        plain = re.sub(r"[^\w .@+-]", "_", member.removeprefix("usr/share/").replace("/", "_"), flags=re.ASCII)
        plain = plain.rsplit(".", 1)[0].lstrip(".") or "sound"
        if len(plain) > _LONGEST_NAME or any(Path(note["file"]).stem.lower() == plain.lower() for note in self.files):
            plain = (
                f"{plain[:_LONGEST_NAME]}-{hashlib.sha256(member.encode('utf-8', 'surrogateescape')).hexdigest()[:8]}"
            )
        return plain

    def _tell(self, what: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(what, done, total)


def _whole(reader: AudioReader) -> Iterator[Waveform]:
    """The blocks of an open file; what it lacks at its end is no error if that is only padding (`PADDING_SECONDS`)."""
    blocks, count = iter(reader), 0
    while True:
        try:
            wave = next(blocks, None)
        except AudioError:
            if reader.samples is None or not 0 < reader.samples - count <= PADDING_SECONDS * reader.rate or count == 0:
                raise
            return
        if wave is None:
            return
        count += wave.length
        yield wave


def _at_48_khz(reader: AudioReader) -> Iterator[Waveform]:
    """The blocks of an open file as 48 kHz stereo."""
    resampler = Resampler(reader.rate, RATE, CHANNELS) if reader.rate != RATE else None
    for wave in _whole(reader):
        stereo = wave.to_channels(CHANNELS)
        yield stereo if resampler is None else Waveform.of_checked(resampler.push(stereo.samples), RATE)
    if resampler is not None:
        yield Waveform.of_checked(resampler.finish(), RATE)


def _finished(folder: Path, package: Package) -> Note | None:
    """The record of a package whose files are all there, whole and as the catalogue has them now; else None."""
    record = _read_record(_record_file(folder, package))
    if record is None or not record["finished"] or (record["form"], record["entry"]) != (FORM, package.digest()):
        return None
    whole = all(
        (folder / note["file"]).is_file() and _digest(folder / note["file"]) == note["sha256"]
        for note in record["files"]
    )
    return record if whole else None


def _record_file(folder: Path, package: Package) -> Path:
    return folder / PACKAGES / f"{package.package}.json"


def _read_record(path: Path) -> Note | None:
    """A record, or None if there is none or it is damaged."""
    try:
        values = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    expected = {"finished": bool, "form": int, "entry": str, "package": str, "files": list, "left_out": list}
    sound = isinstance(values, dict) and all(isinstance(values.get(key), kind) for key, kind in expected.items())
    return values if sound else None


def _write_manifest(folder: Path, known: Catalogue, split_of: dict[str, Split]) -> None:
    """Write the manifest and the table of licences of all finished packages in the folder."""
    records = [_read_record(path) for path in sorted((folder / PACKAGES).glob("*.json"))]
    finished = [record for record in records if record is not None and record["finished"]]
    lines = [json.dumps(note, ensure_ascii=False) for record in finished for note in record["files"]]
    write_text(folder / MANIFEST, "".join(f"{line}\n" for line in lines))
    names = {record["package"] for record in finished}
    packages = [package for package in known.packages if package.package in names]
    write_text(folder / LICENCES, licence_table(packages, known, split_of))


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
