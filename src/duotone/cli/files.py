"""Plan which output file each input gets: folders are mirrored, names never collide, nothing is replaced unasked."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import typer

from duotone.atomic import is_stream
from duotone.audio.formats import READABLE, UNREADABLE_SOUND
from duotone.audio.walk import LeftOut, explain, walk
from duotone.errors import UsageError

_NAME_BYTES = 255  # longest name that file systems allow
#: What reads as the ending of a file's name, and not as a part of it ("Op. 5 live", "v1.2").
_ENDING = re.compile(r"\.[A-Za-z][A-Za-z0-9]{1,5}")


@dataclass(frozen=True)
class Job:
    """One file to make from one file; either may be ``-`` (standard input, standard output)."""

    source: str
    target: str


@dataclass(frozen=True)
class Plan:
    """The jobs of a command, the outputs that exist already, and the files that it cannot read."""

    jobs: list[Job]
    skipped: list[Job] = field(default_factory=list)  #: their outputs exist (`skip_existing`)
    left_out: list[LeftOut] = field(default_factory=list)  #: found in folders, not taken

    def notes(self) -> list[str]:
        """Lines of text about skipped and left-out files; empty if there are none."""
        count = len(self.skipped)
        there = [f"{count} of {count + len(self.jobs)} outputs exist already and are kept."] if count else []
        return there + explain(self.left_out)


@dataclass(frozen=True)
class _Found:
    """An input file, and its path relative to the output folder."""

    source: str
    place: Path


def plan(
    inputs: Sequence[str],
    output: str,
    *,
    takes: Sequence[str] = READABLE,
    makes: Sequence[str],
    suffix: str,
    force: bool,
    skip_existing: bool = False,
    spare: int = 0,
) -> Plan:
    """Plan the jobs of a command that converts files ending in `takes` to files ending in `makes`.

    An output ending in one of `makes` is a file (for one input), and so is a pipe or a device; ``-`` is standard output;
    any other output is a folder, for files ending in `suffix` whose names leave `spare` bytes for additions of the command.
    A single input folder is mirrored directly into it; with several inputs, folders keep their names, as with ``cp -r``. Raises
    `UsageError` when inputs and output do not go together, two inputs would make one file, an input would be replaced,
    or a target exists and neither `force` nor `skip_existing` is on.
    """
    if "" in (*inputs, output):
        raise UsageError(
            "A name is empty (a variable that is not set?). Write the name of a file or folder, or . here."
        )
    if force and skip_existing:
        raise UsageError("--force replaces what exists and --skip-existing keeps it. Choose one of them.")
    left_out: list[LeftOut] = []
    found = _find(inputs, takes, left_out)
    lone = len(found) == 1 and not any(map(os.path.isdir, inputs))
    if output == "-" or _names_a_file(output, makes):
        if not lone:
            what = "standard output" if output == "-" else output
            raise UsageError(
                f"{len(found)} files cannot all go into {what}. Name a folder with -o, for example -o out/."
            )
        jobs = [Job(found[0].source, output)]
    else:
        if os.path.isfile(output):
            raise UsageError(f"{output} is a file, expected a folder (or a name ending in {', '.join(makes)}).")
        places = _name(found, suffix, takes, _NAME_BYTES - spare)
        jobs = [Job(f.source, str(Path(output) / place)) for f, place in zip(found, places, strict=True)]
    there = _check_targets(jobs)
    if skip_existing:
        return Plan([job for job in jobs if job not in there], [job for job in jobs if job in there], left_out)
    if there and not force:
        _refuse(jobs, there)
    return Plan(jobs, [], left_out)


def named_path(name: str) -> Path:
    """The path given to an option. Raises `typer.BadParameter` for an empty name, which `Path` makes the current folder."""
    if not name:
        raise typer.BadParameter("the name is empty (a variable that is not set?). Write . for the current folder.")
    return Path(name)


def output_path(name: str | Path) -> Path:
    """The path of an output that cannot be streamed. Raises `typer.BadParameter` for an empty name and for ``-``."""
    return Path(output_name(os.fspath(name)))


def output_name(name: str) -> str:
    """Like `output_path`, for outputs that may also be URLs."""
    if name == "-":
        raise typer.BadParameter("this cannot be written to standard output. Give a name (./- for one of that name).")
    named_path(name)
    return name


def _find(inputs: Sequence[str], takes: Sequence[str], left_out: list[LeftOut]) -> list[_Found]:
    named = UNREADABLE_SOUND if set(READABLE) <= set(takes) else ()
    found: dict[str, _Found] = {}  # by the resolved path: a file given twice is processed once
    for name in inputs:
        path = Path(name)
        if name == "-" or not os.path.isdir(name):
            place = Path("stdin" if name == "-" else path.name)
            found.setdefault(name if name == "-" else os.path.realpath(name), _Found(name, place))
            continue
        inside = walk(path, takes, named)
        left_out += inside.left_out
        if not inside.files:
            what = (
                "readable audio file (.wav, .flac, .ogg, .mp3, ...)" if named else f"file ending in {', '.join(takes)}"
            )
            raise UsageError(
                "\n".join([f"The folder {name} holds no {what}. Name another folder, or files.", *explain(left_out)])
            )
        base = Path(os.path.basename(os.path.abspath(name))) if len(inputs) > 1 else Path()
        for p in inside.files:
            found.setdefault(os.path.realpath(p), _Found(str(p), base / p.relative_to(path)))
    return list(found.values())


def _names_a_file(output: str, makes: Sequence[str]) -> bool:
    """Whether OUT names a file. Raises `UsageError` for the suffix of an unsupported file format."""
    if output.endswith(("/", "\\")) or os.path.isdir(output):
        return False
    ending = os.path.splitext(output)[1]
    if is_stream(output) or ending.lower() in makes:
        return True
    if _ENDING.fullmatch(ending) and not os.path.isfile(output):
        raise UsageError(
            f"-o {output} ends in {ending!r}, expected {', '.join(makes)} for a file. "
            f"For a folder of that name write {output}/ with a slash."
        )
    return False


def _name(found: Sequence[_Found], suffix: str, takes: Sequence[str], limit: int) -> list[Path]:
    """Choose each file's output path: ``a.wav`` -> ``a.duo``, but ``a.wav.duo`` and ``a.flac.duo`` if both inputs exist.

    Some file systems cannot hold two names that differ only in case or in Unicode composition: all such names but the first
    get a hash, ``song~1b2d4f6a.duo``.
    """
    plain, keep, mark = range(3)
    ways = [plain] * len(found)
    while True:
        places = [
            _place(f.place, suffix, takes if way == plain else (), limit, way == mark)
            for f, way in zip(found, ways, strict=True)
        ]
        groups: dict[str, list[int]] = defaultdict(list)
        for i, place in enumerate(places):
            groups[unicodedata.normalize("NFC", str(place)).casefold()].append(i)
        clashes = [group for group in groups.values() if len(group) > 1]
        if not clashes:
            return places
        for group in clashes:
            change = [i for i in group if ways[i] == plain] or [i for i in group[1:] if ways[i] == keep]
            if not change or len({found[i].place for i in group}) < len(group):
                first, second = (found[i].source for i in group[:2])
                raise UsageError(f"{first} and {second} would both become {places[group[0]]}. Use different folders.")
            for i in change:
                ways[i] += 1


def _place(place: Path, suffix: str, takes: Sequence[str], limit: int, marked: bool) -> Path:
    """The path with another suffix: only one of `takes` is removed, so ``a.wav.duo`` becomes ``a.wav``.

    A name of more than `limit` bytes is shortened. A shortened or `marked` name gets a hash of the full name.
    """
    stem, ending = os.path.splitext(place.name)
    if ending.lower() not in takes:
        stem = place.name
    elif stem.lower().endswith(suffix) and len(stem) > len(suffix):
        stem = stem[: -len(suffix)]
    raw = os.fsencode(stem)
    room = limit - len(os.fsencode(suffix))
    if marked or len(raw) > room:
        mark = f"~{hashlib.blake2b(raw, digest_size=4).hexdigest()}"
        cut = min(len(raw), room - len(mark))
        while cut < len(raw) and raw[cut] & 0xC0 == 0x80:  # not in the middle of a UTF-8 character
            cut -= 1
        stem = os.fsdecode(raw[:cut]) + mark
    return place.with_name(stem + suffix)


def _check_targets(jobs: Sequence[Job]) -> set[Job]:
    """Select jobs whose targets exist. Raises `UsageError` if a target is a folder or an input of this command."""
    sources = {os.path.realpath(job.source) for job in jobs if job.source != "-"}
    there = set()
    for job in jobs:
        if job.target == "-" or is_stream(job.target):
            continue
        if os.path.isdir(job.target):
            raise UsageError(f"{job.target} is a folder, and {job.source} would become a file of that name.")
        if os.path.exists(job.target):
            there.add(job)
            if os.path.realpath(job.target) in sources:
                raise UsageError(f"{job.target} is an input and would be replaced. Choose another name with -o.")
    return there


def _refuse(jobs: Sequence[Job], there: set[Job]) -> None:
    first = next(job.target for job in jobs if job in there)
    more = f" (and {len(there) - 1} more of the {len(jobs)} outputs)" if len(there) > 1 else ""
    raise UsageError(
        f"{first} exists already{more}. Add --skip-existing to make only what is missing, --force to replace, "
        f"or choose another name with -o."
    )
