"""Which file becomes which: folders are walked and mirrored, names never collide, nothing is replaced unasked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duotone.errors import UsageError


@dataclass(frozen=True)
class Job:
    """One file to make from one file; either may be ``-`` (standard input, standard output)."""

    source: str
    target: str


@dataclass(frozen=True)
class _Found:
    """A file to work on, and its place below the output folder."""

    source: str
    place: Path


def plan(
    inputs: Sequence[str], output: str, *, takes: Sequence[str], makes: Sequence[str], suffix: str, force: bool
) -> list[Job]:
    """The jobs of a command that turns files ending in `takes` into files ending in `makes`.

    An output ending in one of `makes` is a file (for one input), ``-`` is standard output, anything else is a folder,
    filled with names ending in `suffix`. One folder is mirrored straight into it; several inputs keep their folder's
    name, as ``cp -r`` does. Raises `UsageError` when inputs and output do not go together, two inputs would make one
    file, or a target exists and `force` is off.
    """
    found = _find(inputs, takes)
    lone = len(inputs) == 1 and not Path(inputs[0]).is_dir()
    if output == "-" or _names_a_file(output, makes):
        if not lone:
            what = "standard output" if output == "-" else output
            raise UsageError(
                f"{len(found)} files cannot all go into {what}. Name a folder with -o, for example -o out/."
            )
        jobs = [Job(found[0].source, output)]
    else:
        if Path(output).is_file():
            raise UsageError(f"{output} is a file, expected a folder (or a name ending in {', '.join(makes)}).")
        jobs = [Job(f.source, str(Path(output) / place)) for f, place in zip(found, _name(found, suffix), strict=True)]
    if not force:
        _refuse_existing(jobs)
    return jobs


def _find(inputs: Sequence[str], takes: Sequence[str]) -> list[_Found]:
    found: dict[str, _Found] = {}  # by the real path: a file named twice is done once
    for name in inputs:
        path = Path(name)
        if name == "-" or not path.is_dir():
            place = Path("stdin" if name == "-" else path.name)
            found.setdefault(name if name == "-" else str(path.resolve()), _Found(name, place))
            continue
        inside = sorted(p for p in path.rglob("*") if p.is_file() and p.suffix.lower() in takes)
        if not inside:
            raise UsageError(
                f"The folder {path} holds no file ending in {', '.join(takes)}. Name the files themselves."
            )
        base = Path(path.resolve().name) if len(inputs) > 1 else Path()
        for p in inside:
            found.setdefault(str(p.resolve()), _Found(str(p), base / p.relative_to(path)))
    return list(found.values())


def _names_a_file(output: str, makes: Sequence[str]) -> bool:
    """Whether OUT is a file's name. Raises `UsageError` for an ending that is neither a folder's nor one of ours."""
    path = Path(output)
    if output.endswith(("/", "\\")) or path.is_dir():
        return False
    if path.suffix.lower() in makes:
        return True
    if path.suffix and not path.is_file():
        raise UsageError(
            f"-o {output} ends in {path.suffix!r}, expected {', '.join(makes)} for a file. "
            f"For a folder of that name write {output}/ with a slash."
        )
    return False


def _name(found: Sequence[_Found], suffix: str) -> list[Path]:
    """A place for each file: ``a.wav`` -> ``a.duo``, but ``a.wav.duo`` and ``a.flac.duo`` where both would be that.

    Names that differ only in case count as the same: some file systems cannot hold both.
    """
    keep: set[int] = set()
    while True:
        places = [
            f.place.with_name(f.place.name + suffix) if i in keep else f.place.with_suffix(suffix)
            for i, f in enumerate(found)
        ]
        groups: dict[str, list[int]] = defaultdict(list)
        for i, place in enumerate(places):
            groups[str(place).casefold()].append(i)
        clashes = [group for group in groups.values() if len(group) > 1]
        if not clashes:
            return places
        for group in clashes:
            if keep.issuperset(group):
                first, second = (found[i].source for i in group[:2])
                raise UsageError(f"{first} and {second} would both become {places[group[0]]}. Use different folders.")
        keep.update(i for group in clashes for i in group)


def _refuse_existing(jobs: Sequence[Job]) -> None:
    there = [job.target for job in jobs if job.target != "-" and Path(job.target).exists()]
    if there:
        more = f" (and {len(there) - 1} more of the {len(jobs)} outputs)" if len(there) > 1 else ""
        raise UsageError(f"{there[0]} exists already{more}. Add --force to replace, or choose another name with -o.")
