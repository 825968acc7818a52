"""The catalogue is complete, free, and keeps training and evaluation apart."""

from __future__ import annotations

import re
from typing import Any

import pytest

from debs import LICENCES, recordings
from duotone.audio import catalogue as module
from duotone.audio.catalogue import Catalogue, catalogue, licence_table, splits
from duotone.errors import ConfigError, UsageError

FREE = {
    "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "MIT", "BSD-2-Clause", "BSD-3-Clause",
    "GPL-2.0-only", "GPL-2.0-or-later", "GPL-3.0-or-later", "LGPL-2.1-or-later",
}  # fmt: skip


def test_every_package_is_pinned_and_free() -> None:
    known = catalogue()
    assert len(known.packages) >= 10 and set(known.licences) <= FREE
    for package in known.packages:
        assert not package.package.startswith(("wesnoth", "asterisk"))
        upstream = re.escape(package.version.partition(":")[2] or package.version)
        assert re.fullmatch(rf"{re.escape(package.package)}_{upstream}_{package.architecture}\.deb", package.file)
        assert re.match(r"https?://", package.source)
        assert all(sounds.kind == "music" or sounds.languages for sounds in package.sounds)
    assert {re.match(r"https?://([^/]+)", mirror).group(1) for mirror in known.mirrors} == {  # type: ignore[union-attr]
        "deb.debian.org", "snapshot.debian.org",
    }  # fmt: skip


def test_each_package_is_in_one_split_and_each_split_has_both_kinds_twice() -> None:
    split_of = splits()
    assert set(split_of) == {p.package for p in catalogue().packages}
    for split in ("train", "heldout"):
        for kind in ("music", "speech"):
            mine = [p for p in catalogue().packages if split_of[p.package] == split]
            assert sum(any(s.kind == kind for s in p.sounds) for p in mine) >= 2
    projects = {name.partition("-")[0]: {s for n, s in split_of.items() if n.partition("-")[0] == name.partition("-")[0]}
                for name in split_of if not name.startswith("fretsonfire")}  # fmt: skip
    assert all(len(found) == 1 for found in projects.values())  # the same voices are not in both


def test_a_package_of_both_splits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "section", lambda _: {"train": ["a", "b"], "heldout": ["b"]})
    with pytest.raises(UsageError, match="'b' in train and in heldout"):
        splits()


def entry(**more: Any) -> dict[str, Any]:
    return {
        "package": "tunes", "version": "1.0-1", "architecture": "all", "pool": "pool/t/tunes_1.0-1_all.deb", "size": 1,
        "sha256": "0" * 64, "source": "https://example.org", "sounds": [recordings("music", "*")], **more,
    }  # fmt: skip


@pytest.mark.parametrize(
    "packages",
    [
        [entry(sha256="0" * 63)], [entry(version="")], [entry(pool="../x.deb")], [entry(pool="/etc/x.deb")],
        [entry(sounds=[])], [entry(size=0)], [entry(), entry()], [entry(package="../x")], [entry(more=1)],
        [entry(sounds=[recordings("music", "*", licence="CC-BY-NC-4.0")])],
        [entry(sounds=[recordings("music", "*", author="")])], [entry(sounds=[recordings("noise", "*")])],
    ],
)  # fmt: skip
def test_unclear_entries_are_refused(packages: list[dict[str, Any]]) -> None:
    Catalogue.parse({"licences": LICENCES, "mirrors": ["x"], "packages": [entry()]})
    with pytest.raises(ConfigError):
        Catalogue.parse({"licences": LICENCES, "mirrors": ["x"], "packages": packages})


def test_the_first_entry_that_fits_counts() -> None:
    first = recordings("music", "a/*", author="A", without=["*/x.ogg"])
    values = {"licences": LICENCES, "mirrors": ["x"], "packages": [entry(sounds=[first, recordings("music", "*.ogg")])]}
    (package,) = Catalogue.parse(values).packages
    found = [package.entry(member) for member in ("a/b/c.ogg", "a/b/x.ogg", "c.ogg", "c.wav")]
    assert [one and one.author for one in found] == ["A", "An author", "An author", None]


def test_the_table_has_a_row_for_each_entry() -> None:
    known = catalogue()
    lines = licence_table(known.packages, known, splits()).splitlines()
    assert len(lines) == 2 + sum(len(p.sounds) for p in known.packages)
    assert len({line.count("|") for line in lines}) == 1
