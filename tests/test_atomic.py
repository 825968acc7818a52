"""Files written whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from duotone.atomic import PARTIAL, is_stream, replacing, replacing_folder, sweep, write_bytes, write_json, write_text
from duotone.errors import UsageError


def test_what_is_replaced_keeps_its_permissions_and_stands_until_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.json"
    target.write_text("before")
    target.chmod(0o640)
    with replacing(target) as temporary:
        temporary.write_text("after")
        assert target.read_text() == "before"
        assert temporary.parent == tmp_path and temporary.name.startswith(".") and temporary.suffix == PARTIAL
    assert target.read_text() == "after" and target.stat().st_mode & 0o777 == 0o640
    write_bytes(tmp_path / "new", b"")
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o666 & ~mask
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "new"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "a") as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    with pytest.raises(ValueError, match=r"nan|NaN|compliant"):
        write_json(tmp_path / "b.json", float("nan"))
    assert not list(tmp_path.iterdir())


def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/file")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real" / "file").read_text() == "text"


def test_names_of_any_length_and_bytes(tmp_path: Path) -> None:
    for name in ("x" * 255, "\u00e9" * 127, "caf\udce9", "-", "[a]"):
        write_text(tmp_path / name, name)
        assert (tmp_path / name).read_bytes() == os.fsencode(name)


def test_pipes_and_devices_are_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_bytes(pipe, b"through" * 100_000)
    reader.join()
    assert got == [b"through" * 100_000] and is_stream(pipe)
    write_bytes("/dev/null", b"away")
    assert is_stream("/dev/null") and not is_stream(tmp_path) and not is_stream(tmp_path / "none")
    program = "from duotone.atomic import write_text; write_text('/dev/stdout', 'out')"
    assert subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True).stdout == b"out"


def test_folders_and_missing_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write_bytes(tmp_path, b"")
    with pytest.raises(UsageError, match="Create it first"):
        write_bytes(tmp_path / "none" / "a", b"")


def test_a_folder_takes_the_place_of_another_at_the_end(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replacing_folder(tmp_path / "run") as temporary:
            (temporary / text).write_text(text)
            assert temporary.parent == tmp_path and temporary.name.startswith(".run.") and temporary.suffix == PARTIAL
        assert [p.name for p in tmp_path.rglob("*")] == ["run", text]
    with pytest.raises(KeyboardInterrupt), replacing_folder(tmp_path / "run") as temporary:
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.rglob("*")] == ["run", "second"]
    mask = os.umask(0)
    os.umask(mask)
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o777 & ~mask
    for wrong, hint in ((tmp_path / "run" / "second", "is a file"), (tmp_path / "none" / "a", "Create it first")):
        with pytest.raises(UsageError, match=hint), replacing_folder(wrong):
            pass


def test_sweeping_removes_what_killed_processes_left_and_nothing_else(tmp_path: Path) -> None:
    for name in (".a.xyz.part", "a.part", ".hidden", "kept"):
        (tmp_path / name).write_text("")
    (tmp_path / ".b.xyz.part").mkdir()
    (tmp_path / ".c.part").symlink_to(tmp_path / "kept")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".hidden", "a.part", "kept"]
