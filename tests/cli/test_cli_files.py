"""Which file becomes which."""

from __future__ import annotations

from pathlib import Path

import pytest

from duotone.cli.files import Job, plan
from duotone.errors import UsageError

TAKES = (".wav", ".flac")


def _plan(*inputs: str, out: str, force: bool = False) -> list[tuple[str, str]]:
    jobs = plan(inputs, out, takes=TAKES, makes=(".duo",), suffix=".duo", force=force)
    return [(job.source, Path(job.target).as_posix()) for job in jobs]


@pytest.fixture(autouse=True)
def _tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in (
        "x/a.wav",
        "x/deep/b.FLAC",
        "x/notes.txt",
        "y/a.wav",
        "both/a.wav",
        "both/a.flac",
        "both/A.wav.flac",
        "c.wav",
    ):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_one_file_to_a_name_a_folder_or_a_pipe() -> None:
    assert _plan("c.wav", out="d.duo") == [("c.wav", "d.duo")]
    assert _plan("c.wav", out="new") == [("c.wav", "new/c.duo")]
    assert _plan("c.wav", out="new.things/") == [("c.wav", "new.things/c.duo")]
    assert _plan("c.wav", out="-") == [("c.wav", "-")]
    assert _plan("-", out="d.duo") == [("-", "d.duo")]
    assert plan(["-"], "-", takes=TAKES, makes=(".duo",), suffix=".duo", force=False) == [Job("-", "-")]


def test_a_folder_is_mirrored() -> None:
    assert _plan("x", out="o") == [("x/a.wav", "o/a.duo"), ("x/deep/b.FLAC", "o/deep/b.duo")]


def test_several_folders_keep_their_names() -> None:
    assert _plan("x", "y/", "c.wav", out="o") == [
        ("x/a.wav", "o/x/a.duo"), ("x/deep/b.FLAC", "o/x/deep/b.duo"), ("y/a.wav", "o/y/a.duo"), ("c.wav", "o/c.duo"),
    ]  # fmt: skip


def test_names_never_collide() -> None:
    made = dict(_plan("both", out="o"))
    assert made["both/a.wav"] == "o/a.wav.duo" and made["both/a.flac"] == "o/a.flac.duo"
    # A.wav.flac would become A.wav.duo, which some file systems cannot tell from a.wav.duo
    assert made["both/A.wav.flac"] == "o/A.wav.flac.duo"


def test_a_file_named_twice_is_done_once() -> None:
    assert _plan("c.wav", "./c.wav", out="o") == [("c.wav", "o/c.duo")]


def test_names_that_cannot_be_told_apart_are_refused() -> None:
    with pytest.raises(UsageError, match=r"x/a.wav and y/a.wav would both become"):
        _plan("x/a.wav", "y/a.wav", out="o")


@pytest.mark.parametrize(
    ("inputs", "out", "says"),
    [
        (["x"], "one.duo", "Name a folder"),
        (["x", "c.wav"], "-", "Name a folder"),
        (["c.wav"], "c.ogg", "expected .duo"),
        (["x"], "c.wav", "is a file, expected a folder"),
        (["empty"], "o", "holds no file"),
    ],
)
def test_what_does_not_go_together_is_refused(inputs: list[str], out: str, says: str) -> None:
    Path("empty").mkdir()
    with pytest.raises(UsageError, match=says):
        _plan(*inputs, out=out)


def test_existing_outputs_are_refused_before_any_work() -> None:
    Path("o").mkdir()
    Path("o/a.duo").touch()
    with pytest.raises(UsageError, match=r"a\.duo exists already.*--force"):
        _plan("x", out="o")
    assert len(_plan("x", out="o", force=True)) == 2
