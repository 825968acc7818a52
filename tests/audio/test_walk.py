"""The walk over folders: links, loops, hidden and unfinished files, names of any bytes, and what is left out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from duotone.atomic import replacing
from duotone.audio.walk import LeftOut, Walk, expand, explain, walk


def make(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def found(*names: str) -> list[str]:
    return [path.as_posix() for name in names for path in walk(name).files]


def test_the_order_is_that_of_the_names_and_endings_are_of_any_case() -> None:
    make("s/b.WAV", "s/a.flac", "s/a/z.mp3", "s/a-b/c.ogg", "s/notes.txt", "s/wav", "s/album.wav/1.opus")
    assert found("s") == ["s/a/z.mp3", "s/a-b/c.ogg", "s/a.flac", "s/album.wav/1.opus", "s/b.WAV"]
    assert [p.name for p in walk("s", (".txt",), ()).files] == ["notes.txt"]


def test_hidden_and_unfinished_files_are_never_taken() -> None:
    make("s/a.wav", "s/._a.wav", "s/.git/b.wav", "s/.duotone-x.wav", "s/c.wav.part")
    with replacing("s/d.wav", suffix=".wav") as temporary:
        temporary.write_bytes(b"half")
        assert found("s") == ["s/a.wav"]
        assert [p.name for p in expand("s/**/*.wav").files] == ["a.wav"]
    make(".hidden/e.wav")  # but a folder that is named is walked
    assert found(".hidden") == [".hidden/e.wav"]


def test_links_are_followed_and_each_real_file_is_given_once() -> None:
    make("s/a/1.wav", "other/2.wav", "other/deep/3.wav", "far/4.wav")
    os.symlink("../other", "s/more")  # a folder beside
    os.symlink("a", "s/0")  # a folder that is walked already: under its real name
    os.symlink("../other/deep", "s/zz")  # a part of one that was followed
    os.symlink("../far/4.wav", "s/four.wav")
    os.symlink("four.wav", "s/vier.wav")
    os.symlink("a/1.wav", "s/one.wav")
    assert found("s") == ["s/a/1.wav", "s/four.wav", "s/more/2.wav", "s/more/deep/3.wav"]
    assert walk("s").left_out == []


def test_loops_of_links_end_and_a_link_above_the_folder_is_told_of() -> None:
    make("top/s/a.wav", "top/secret.wav", "x/b.wav")
    os.symlink(".", "top/s/self")
    os.symlink("../s", "top/s/again")
    os.symlink("../..", "top/s/up")
    os.symlink("loop", "top/s/loop")
    os.symlink("../../x", "top/s/x")
    os.symlink("../top/s", "x/back")  # two folders that point at each other
    result = walk("top/s")
    assert [p.as_posix() for p in result.files] == ["top/s/a.wav", "top/s/x/b.wav"]
    assert result.left_out == [LeftOut(Path("top/s/up"), "a link to a folder above it")]
    assert [p.as_posix() for p in expand("top/s/**/*.wav").files] == ["top/s/a.wav", "top/s/x/b.wav"]


def test_what_cannot_be_taken_is_named() -> None:
    make("s/a.wav", "s/b.m4a", "s/c.WMA", "s/cover.jpg")
    os.symlink("nowhere.wav", "s/gone.wav")
    os.mkfifo("s/pipe.wav")
    result = walk("s")
    assert [str(each) for each in result.left_out] == [
        "s/b.m4a: sound of a format that cannot be read",
        "s/c.WMA: sound of a format that cannot be read",
        "s/gone.wav: a link that leads nowhere",
        "s/pipe.wav: not a regular file",
    ]
    lines = explain(result.left_out)
    assert len(lines) == 5 and "2 sound files cannot be read (1 .m4a, 1 .wma)" in lines[-1] and "ffmpeg" in lines[-1]
    assert explain([]) == []
    assert walk("s", (".duo",), ()) == Walk()  # no sound was asked for


def test_many_that_were_left_out_are_counted() -> None:
    lines = explain([LeftOut(Path(f"{i}.m4a"), "sound of a format that cannot be read") for i in range(1234)])
    assert len(lines) == 12 and lines[10] == "Left out: 1224 more" and "1234 .m4a" in lines[11]


def test_a_folder_that_cannot_be_opened_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    make("s/a.wav", "s/shut/b.wav")
    scandir = os.scandir

    def refuse(path: Path) -> object:  # root may open every folder, whatever its permissions
        if path.name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = walk("s")
    assert [p.name for p in result.files] == ["a.wav"]
    assert [str(each) for each in result.left_out] == ["s/shut: the folder cannot be opened (Permission denied)"]


def test_a_missing_folder_is_an_error() -> None:
    with pytest.raises(FileNotFoundError):
        walk("none")


def test_names_of_any_bytes_survive() -> None:
    names = ["-x.wav", "a[1].wav", "b\nc.wav", "caf\udce9.wav", "x" * 251 + ".wav"]
    make(*(f"s/{name}" for name in names))
    assert [p.name for p in walk("s").files] == sorted(names)
    assert all(p.is_file() for p in walk("s").files)
    assert [p.name for p in expand("s/**/*.wav").files] == sorted(names)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("s/**/*.wav", ["s/a.wav", "s/more/c.wav", "s/x/y/b.wav"]),
        ("s/**/b.*", ["s/x/y/b.wav"]),
        ("s/**", ["s/a.wav", "s/d.mp3", "s/more/c.wav", "s/x/y/b.wav"]),
        ("s/**/y/*", ["s/x/y/b.wav"]),
        ("**/x/**/*.wav", ["s/x/y/b.wav"]),
        ("s/*", ["s/a.wav", "s/d.mp3"]),
        ("s/*.txt", ["s/n.txt"]),
        ("s/?.wav", ["s/a.wav"]),
        ("s/[xm]*", ["s/more/c.wav", "s/x/y/b.wav"]),  # folders only: walked
        ("s/*.nothing", []),
        ("Live [2019]/*.wav", ["Live [2019]/e.wav"]),
        ("Live [2019]/**/*.wav", ["Live [2019]/e.wav"]),
    ],
)
def test_patterns(pattern: str, expected: list[str]) -> None:
    make("s/a.wav", "s/d.mp3", "s/x/y/b.wav", "s/n.txt", "other/c.wav", "Live [2019]/e.wav")
    os.symlink("../other", "s/more")
    assert [p.as_posix() for p in expand(pattern).files] == expected
    here = Path.cwd()
    assert [p.relative_to(here).as_posix() for p in expand(f"{here}/{pattern}").files] == expected


def test_a_pattern_gives_what_the_folder_gives() -> None:
    make("s/a.wav", "s/x/b.wav", "t/c.wav", "s/.h/d.wav", "s/e.m4a")
    os.symlink("../t", "s/t")
    os.symlink("a.wav", "s/z.wav")
    assert expand("s/**/*.wav") == Walk(walk("s").files)
    assert expand("s/**/*") == walk("s")
    assert expand("s/*/../**/*.wav").files  # whatever the pattern, it ends


def test_walking_needs_no_torch() -> None:
    program = "import sys, duotone.audio.walk; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
