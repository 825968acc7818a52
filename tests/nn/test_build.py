"""The kernel cache is checked, not trusted: what is damaged, foreign or open to others is never loaded."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from duotone import atomic
from duotone.nn import build, native

pytestmark = pytest.mark.skipif(native.compiler() is None, reason="no C compiler")
FAST = ("-O0", *build.FLAGS[1:])


class Compiler:
    """The real one behind a script that counts how often it is called."""

    def __init__(self, folder: Path) -> None:
        self.calls = folder / "calls"
        self.path = folder / "counting-cc"
        self.path.write_text(f'#!/bin/sh\necho call >> "{self.calls}"\nexec "{native.compiler()}" "$@"\n')
        self.path.chmod(0o755)

    def load(self, cache: Path | None) -> ctypes.CDLL:
        library = build.load(str(self.path), cache, FAST)
        assert library.duotone_lanes() in (4, 8, 16)
        return library

    @property
    def count(self) -> int:
        return len(self.calls.read_text().splitlines())

    @property
    def name(self) -> str:
        return build.library_name(str(self.path), FAST)


@pytest.fixture
def compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return Compiler(tmp_path)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def nothing_temporary_is_left(tmp_path: Path) -> bool:
    return not list((tmp_path / "temporary").iterdir())


def test_compiled_once_and_again_for_other_flags(compiler: Compiler, cache: Path, tmp_path: Path) -> None:
    compiler.load(cache)
    compiler.load(cache)
    assert compiler.count == 1
    build.load(str(compiler.path), cache, (*FAST, "-DLANES=4"))
    assert compiler.count == 2
    assert sorted(p.suffix for p in cache.iterdir()) == [".b2", ".b2", ".so", ".so"]
    assert nothing_temporary_is_left(tmp_path)


def test_what_is_kept_can_be_read_by_all_and_written_by_us_alone(compiler: Compiler, cache: Path) -> None:
    before = os.umask(0o077)
    try:
        compiler.load(cache)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(p.stat().st_mode) for p in cache.iterdir()} == {0o644}


def replace(path: Path, content: bytes) -> None:
    """As a new file: this process has the old one in its memory."""
    path.unlink()
    path.write_bytes(content)


def another_user_owns(path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(path, 12345, -1)


DAMAGE: dict[str, Callable[[Path, Path], None]] = {
    "empty": lambda library, beside: replace(library, b""),
    "cut": lambda library, beside: replace(library, library.read_bytes()[:4096]),
    "another byte": lambda library, beside: replace(library, library.read_bytes()[:-1] + b"?"),
    "removed": lambda library, beside: library.unlink(),
    "no hash": lambda library, beside: beside.unlink(),
    "empty hash": lambda library, beside: replace(beside, b""),
    "hash of bytes that are no text": lambda library, beside: replace(beside, b"\xff\xfe"),
    "writable by others": lambda library, beside: library.chmod(0o666),
    "writable by the group": lambda library, beside: library.chmod(0o664),
    "of another user": lambda library, beside: another_user_owns(library),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_and_foreign_entries_are_made_again(compiler: Compiler, cache: Path, damage: str) -> None:
    compiler.load(cache)
    library, beside = cache / compiler.name, cache / f"{compiler.name}.b2"
    whole = library.read_bytes(), beside.read_bytes()
    DAMAGE[damage](library, beside)
    compiler.load(cache)
    assert compiler.count == 2
    assert (library.read_bytes(), beside.read_bytes()) == whole
    assert stat.S_IMODE(library.stat().st_mode) == 0o644
    compiler.load(cache)
    assert compiler.count == 2


def test_a_library_that_does_not_load_is_made_again(compiler: Compiler, cache: Path) -> None:
    cache.mkdir()
    build._keep(b"of another system", cache / compiler.name)
    compiler.load(cache)
    compiler.load(cache)
    assert compiler.count == 1


@pytest.mark.parametrize("mode", [0o777, 0o775, 0o1777])
def test_nothing_is_loaded_from_a_folder_that_others_may_write_to(compiler: Compiler, cache: Path, mode: int) -> None:
    cache.mkdir()
    build._keep(b"planted", cache / compiler.name)
    cache.chmod(mode)
    compiler.load(cache)
    own = cache / f"kernels-{os.geteuid()}"
    assert (cache / compiler.name).read_bytes() == b"planted" and (own / compiler.name).is_file()
    assert not stat.S_IMODE(own.stat().st_mode) & 0o022
    compiler.load(cache)
    assert compiler.count == 1
    own.chmod(0o777)  # not even from our own folder then
    compiler.load(cache)
    assert compiler.count == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_nothing_is_loaded_from_a_folder_of_another_user(compiler: Compiler, cache: Path, tmp_path: Path) -> None:
    compiler.load(cache)
    os.chown(cache, 12345, -1)
    compiler.load(cache)
    assert compiler.count == 2 and (cache / "kernels-0" / compiler.name).is_file()
    os.chown(cache / "kernels-0", 12345, -1)
    compiler.load(cache)
    assert compiler.count == 3
    assert nothing_temporary_is_left(tmp_path)


def test_an_unusable_cache_is_done_without(
    compiler: Compiler, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler.load(None)
    cache.write_text("a file in the way")
    compiler.load(cache)
    compiler.load(cache / "below")
    cache.unlink()
    (cache / compiler.name).mkdir(parents=True)  # a folder where the library should be
    compiler.load(cache)

    def full(target: object, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic, "write_bytes", full)
    compiler.load(tmp_path / "full")
    assert compiler.count == 5
    assert not list((tmp_path / "full").iterdir()) and nothing_temporary_is_left(tmp_path)
