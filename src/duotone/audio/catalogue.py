"""The catalogue of freely licensed recordings in Debian packages: what is in which package, by whom, under which licence.

``catalogue.yaml`` is the catalogue, and the section `packages` of ``split.yaml`` says what is for training and for evaluation.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath
from typing import Any, Literal

import yaml
from pydantic import Field, model_validator

from duotone.audio.split import section
from duotone.config import Config
from duotone.errors import UsageError

Kind = Literal["music", "speech"]
Split = Literal["train", "heldout"]
SPLITS: tuple[Split, ...] = ("train", "heldout")


class Recordings(Config):
    """Members of a package that are the same kind of recording, by the same authors, under the same licence."""

    kind: Kind
    members: tuple[str, ...] = Field(min_length=1)  #: globs of paths; ``*`` matches slashes too
    without: tuple[str, ...] = ()  #: globs of members that are left out
    title: str = Field(min_length=1)
    author: str = Field(min_length=1)
    licence: str = Field(min_length=1)  #: SPDX identifier
    languages: tuple[str, ...] = ()  #: ISO 639 codes of what is spoken

    def names(self, member: str) -> bool:
        """Whether this entry names the member with this path."""
        inside = any(fnmatchcase(member, glob) for glob in self.members)
        return inside and not any(fnmatchcase(member, glob) for glob in self.without)


class Package(Config):
    """A pinned Debian package, and the recordings in it."""

    package: str = Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")
    version: str = Field(pattern=r"^[A-Za-z0-9.+~:-]+$")
    architecture: str = Field(pattern=r"^[a-z0-9-]+$")
    pool: str = Field(pattern=r"^[A-Za-z0-9_.+~/-]+\.deb$")  #: path of the .deb below a mirror's address
    size: int = Field(gt=0)  #: bytes of the .deb
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    source: str = Field(min_length=1)  #: where the work comes from
    sounds: tuple[Recordings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _safe(self) -> Package:
        path = PurePosixPath(self.pool)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"pool is {self.pool!r}, expected a path inside the mirror")
        return self

    @property
    def file(self) -> str:
        """The file name of the .deb."""
        return PurePosixPath(self.pool).name

    def entry(self, member: str) -> Recordings | None:
        """The first entry that names a member; None if its authors and licence are not known."""
        return next((sounds for sounds in self.sounds if sounds.names(member)), None)

    def digest(self) -> str:
        """A hash of all that is said here; a folder keeps what it has of a package while this stays the same."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


class Catalogue(Config):
    """All packages, the licences that may occur (SPDX identifier -> address of the text), and the mirrors to try in order."""

    licences: dict[str, str]
    mirrors: tuple[str, ...] = Field(min_length=1)
    packages: tuple[Package, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Catalogue:
        names = [p.package for p in self.packages]
        if len(names) != len(set(names)):
            raise ValueError("a package is listed twice")
        for package in self.packages:
            for sounds in package.sounds:
                if sounds.licence not in self.licences:
                    known = ", ".join(self.licences)
                    raise ValueError(f"{package.package} has the licence {sounds.licence!r}, expected one of: {known}")
        return self

    def choose(self, names: Collection[str]) -> list[Package]:
        """The packages with these names, in the order of the catalogue. Raises `UsageError` for a name that is not there."""
        unknown = sorted(set(names) - {p.package for p in self.packages})
        if unknown:
            known = ", ".join(p.package for p in self.packages)
            raise UsageError(f"The catalogue has no package {unknown[0]!r}. It has: {known}.")
        return [p for p in self.packages if p.package in names]


@cache
def catalogue() -> Catalogue:
    """The catalogue of this version of Duotone."""
    values: Any = yaml.safe_load((files("duotone.audio") / "catalogue.yaml").read_text(encoding="utf-8"))
    return Catalogue.parse(values, "catalogue.yaml")


def splits() -> dict[str, Split]:
    """Package -> its split. Raises `UsageError` for a package of both."""
    table: dict[str, list[str]] = section("packages")
    both = sorted(set(table["train"]) & set(table["heldout"]))
    if both:
        raise UsageError(f"split.yaml has the package {both[0]!r} in train and in heldout. Remove it from one of them.")
    return {name: split for split in SPLITS for name in table[split]}


def licence_table(
    packages: Collection[Package], known: Catalogue, split_of: dict[str, Split], kind: str | None = None
) -> str:
    """A Markdown table of titles, authors, licences and sources, as a model card or a credits page needs it: of all, or of a kind."""
    lines = ["| Recordings | Kind | Author | Licence | Package | Split |", "|---|---|---|---|---|---|"]
    for package in packages:
        for sounds in package.sounds:
            if kind not in (None, sounds.kind):
                continue
            spoken = f" ({', '.join(sounds.languages)})" if sounds.languages else ""
            cells = (
                f"[{_cell(sounds.title)}]({package.source})", sounds.kind + spoken, _cell(sounds.author),
                f"[{sounds.licence}]({known.licences[sounds.licence]})", f"{package.package} {package.version}",
                split_of[package.package],
            )  # fmt: skip
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
