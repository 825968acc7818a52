"""Files are written whole or not at all: names, links, pipes, permissions, two writers at once."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from duotone import atomic
from duotone.atomic import PARTIAL, is_stream, replacing, replacing_folder, sweep, write_bytes, write_json, write_text
from duotone.errors import UsageError

posix = pytest.mark.skipif(os.name != "posix", reason="needs links, permissions and pipes")


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_the_target_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert not target.exists() and temporary.parent == tmp_path
        assert temporary.name.startswith(".") and temporary.name.endswith(PARTIAL)
    assert target.read_text() == "new" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(error), replacing(tmp_path / "a.txt") as temporary:
        temporary.write_text("new")
        raise error
    assert (tmp_path / "a.txt").read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_temporary_file_that_was_taken_away_hides_no_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "a") as temporary:
        temporary.unlink()
    assert names(tmp_path) == []


def test_force_off_keeps_what_is_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    with replacing(target, force=False) as temporary:
        temporary.write_text("first")
    with pytest.raises(UsageError, match="exists already"), replacing(target, force=False) as temporary:
        temporary.write_text("never")
    assert target.read_text() == "first" and names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("links", [True, False])
def test_force_off_keeps_what_another_made_meanwhile(
    tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise PermissionError(1, "no hard links here")

    if not links:
        monkeypatch.setattr(os, "link", refused)
    with pytest.raises(UsageError, match="exists already"), replacing(tmp_path / "a", force=False) as temporary:
        temporary.write_text("slow")
        write_text(tmp_path / "a", "quick")
    assert (tmp_path / "a").read_text() == "quick"
    with replacing(tmp_path / "b", force=False) as temporary:
        temporary.write_text("alone")
    assert (tmp_path / "b").read_text() == "alone" and names(tmp_path) == ["a", "b"]


def test_what_cannot_be_a_target(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        write_text(tmp_path, "x")
    with pytest.raises(UsageError, match="no folder"):
        write_text(tmp_path / "none" / "a", "x")
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["x" * 255, "\u00e9" * 127, "-x", "a [1]", ".hidden"])
def test_names_of_any_kind(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as temporary:
        assert len(os.fsencode(temporary.name)) < 80
        temporary.name.encode()  # cut between characters
        temporary.write_text("x")
    assert names(tmp_path) == [name]


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are any bytes")
def test_a_name_that_is_not_utf8(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    write_text(tmp_path / name, name)
    assert os.listdir(os.fsencode(tmp_path)) == [b"caf\xe9"] and (tmp_path / name).read_bytes() == b"caf\xe9"
    with pytest.raises(UsageError) as found, replacing(tmp_path / name, force=False):
        pass
    str(found.value).encode()  # can be shown


def test_an_ending_of_its_own(tmp_path: Path) -> None:
    with replacing(tmp_path / "a.wav", suffix=".part.wav") as temporary:
        assert temporary.name.endswith(".part.wav")


@posix
def test_permissions(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "new", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o640
    for mode in (0o600, 0o666, 0o444):
        (tmp_path / "new").chmod(mode)
        write_text(tmp_path / "new", "y")
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == mode


@posix
def test_a_disk_without_permissions_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(1, "not here")

    monkeypatch.setattr(Path, "chmod", refused)
    write_text(tmp_path / "a", "x")
    assert names(tmp_path) == ["a"]


@posix
def test_links_are_written_through(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "one").symlink_to("two")
    (tmp_path / "two").symlink_to("deep/three")
    for text in ("first", "second"):
        write_text(tmp_path / "one", text)
        assert (tmp_path / "one").is_symlink() and (tmp_path / "two").is_symlink()
        assert (tmp_path / "deep" / "three").read_text() == text
    assert names(tmp_path / "deep") == ["three"]


@posix
@pytest.mark.parametrize("force", [True, False])
def test_pipes_are_written_to(tmp_path: Path, force: bool) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert is_stream(tmp_path / "pipe") and is_stream("/dev/null")
    assert not is_stream(tmp_path) and not is_stream(tmp_path / "none")
    with ThreadPoolExecutor(1) as pool:
        got = pool.submit((tmp_path / "pipe").read_bytes)
        with replacing(tmp_path / "pipe", force=force) as temporary:
            temporary.write_bytes(bytes(300_000))
        assert got.result() == bytes(300_000)
    assert names(tmp_path) == ["pipe"] and is_stream(tmp_path / "pipe")


@posix
def test_standard_output_by_its_name() -> None:
    code = "from duotone.atomic import write_text; write_text('/dev/stdout', 'hello')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"hello"


@posix
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device_is_an_error() -> None:
    with pytest.raises(OSError, match="space"):
        write_text("/dev/full", "x")


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    def work(letter: str) -> None:
        for _ in range(50):
            write_text(tmp_path / "a", 1000 * letter)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, "abcd"))
    assert len(set((tmp_path / "a").read_text())) == 1 and names(tmp_path) == ["a"]


@posix
def test_a_process_that_is_asked_to_end_leaves_nothing(tmp_path: Path) -> None:
    """Where the program turns the signal into an exception, as the command line does."""
    code = (
        "import signal, sys, time; from duotone.atomic import replacing\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "with replacing(sys.argv[1]):\n    print('ready', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "a")], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
    assert len(names(tmp_path)) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert process.returncode == 143 and names(tmp_path) == []


def test_contents(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"\0\xff")
    write_text(tmp_path / "b", "h\u00e9\n")
    write_json(tmp_path / "c", {"a": [1, "\u00e9"]})
    assert (tmp_path / "a").read_bytes() == b"\0\xff" and (tmp_path / "b").read_bytes() == "h\u00e9\n".encode()
    assert json.loads((tmp_path / "c").read_text()) == {"a": [1, "\u00e9"]}
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "d", float("nan"))
    assert names(tmp_path) == ["a", "b", "c"]


def test_everything_reaches_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(atomic.os, "fsync", lambda _: steps.append("bytes"))
    replace = os.replace
    monkeypatch.setattr(atomic.os, "replace", lambda *paths: (steps.append("name"), replace(*paths)))
    write_text(tmp_path / "a", "x")
    assert steps == ["bytes", "name"]


def test_a_folder_takes_the_place_of_another_at_the_end(tmp_path: Path) -> None:
    for text in ("first", "second"):
        with replacing_folder(tmp_path / "run") as temporary:
            (temporary / text).write_text(text)
            assert (
                temporary.parent == tmp_path
                and temporary.name.startswith(".duotone-run.")
                and temporary.suffix == PARTIAL
            )
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
    for name in (".duotone-a.xyz.part", ".a.xyz.part", "a.part", ".hidden", "kept"):
        (tmp_path / name).write_text("")
    (tmp_path / ".duotone-b.xyz.part").mkdir()
    (tmp_path / ".duotone-c.part").symlink_to(tmp_path / "kept")
    sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".a.xyz.part", ".hidden", "a.part", "kept"]


def test_an_empty_file_is_replaced_without_force(tmp_path: Path) -> None:
    """A name that `tempfile` reserved; a file that holds something is refused."""
    target = tmp_path / "a"
    target.touch()
    with replacing(target, force=False) as temporary:
        temporary.write_text("now")
    assert target.read_text() == "now"
    with pytest.raises(UsageError, match="exists already"), replacing(target, force=False):
        pass
    assert target.read_text() == "now"
