"""Which file becomes which."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
import typer

from duotone.cli.files import Job, Plan, named_path, plan
from duotone.errors import UsageError

TAKES = (".wav", ".flac")


def _plan(*inputs: str, out: str, force: bool = False) -> list[tuple[str, str]]:
    jobs = plan(inputs, out, takes=TAKES, makes=(".duo",), suffix=".duo", force=force).jobs
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
    assert plan(["-"], "-", takes=TAKES, makes=(".duo",), suffix=".duo", force=False).jobs == [Job("-", "-")]


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
        ([""], "o", "name is empty"),
        (["x", ""], "o", "name is empty"),
        (["c.wav"], "", "name is empty"),
        (["c.wav"], "song.dou", "expected .duo"),
        (["x/notes.txt"], "x/notes.txt", "is a file, expected a folder"),
        (["c.wav"], "dir.duo/", "would become a file of that name"),
    ],
)
def test_what_does_not_go_together_is_refused(inputs: list[str], out: str, says: str) -> None:
    Path("empty").mkdir()
    Path("dir.duo/c.duo").mkdir(parents=True)
    with pytest.raises(UsageError, match=says):
        _plan(*inputs, out=out)


def test_existing_outputs_are_refused_before_any_work() -> None:
    Path("o").mkdir()
    Path("o/a.duo").touch()
    with pytest.raises(UsageError, match=r"a\.duo exists already.*--skip-existing.*--force"):
        _plan("x", out="o")
    assert len(_plan("x", out="o", force=True)) == 2


def _decoding(*inputs: str, out: str = "o") -> dict[str, str]:
    jobs = plan(inputs, out, takes=(".duo",), makes=(".wav",), suffix=".wav", force=False).jobs
    return {job.source: Path(job.target).as_posix() for job in jobs}


def _touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def test_what_exists_is_kept_and_counted_where_asked() -> None:
    _touch("o/a.duo", "d.duo")

    def skipping(*inputs: str, out: str) -> Plan:
        return plan(inputs, out, takes=TAKES, makes=(".duo",), suffix=".duo", force=False, skip_existing=True)

    found = skipping("x", out="o")
    assert found.jobs == [Job("x/deep/b.FLAC", "o/deep/b.duo")] and found.skipped == [Job("x/a.wav", "o/a.duo")]
    assert found.notes() == ["1 of 2 outputs exist already and are kept."]
    alone = skipping("c.wav", out="d.duo")
    assert not alone.jobs and alone.skipped == [Job("c.wav", "d.duo")]
    assert skipping("c.wav", out="-").jobs == [Job("c.wav", "-")] and not skipping("y", out="p").notes()
    with pytest.raises(UsageError, match="Choose one"):
        plan(["x"], "o", makes=(".duo",), suffix=".duo", force=True, skip_existing=True)


def test_dots_inside_names_are_no_endings() -> None:
    _touch("Op. 5 live", "z/Op. 5 live.wav", "take.one", "v1.2")
    assert _plan("Op. 5 live", "z/Op. 5 live.wav", "take.one", "v1.2", out="o") == [
        ("Op. 5 live", "o/Op. 5 live.duo"), ("z/Op. 5 live.wav", "o/Op. 5 live.wav.duo"),
        ("take.one", "o/take.one.duo"), ("v1.2", "o/v1.2.duo"),
    ]  # fmt: skip
    assert _plan("c.wav", out="Op. 6 live") == [("c.wav", "Op. 6 live/c.duo")]
    assert _plan("c.wav", out="v1.3") == [("c.wav", "v1.3/c.duo")]


def test_names_with_two_endings_go_back_and_forth() -> None:
    _touch("e/a.wav.duo", "e/a.flac.duo", "e/b.duo", "f/c.wav.duo", "f/c.duo", "g/.wav.duo")
    assert _decoding("e") == {"e/a.wav.duo": "o/a.wav", "e/a.flac.duo": "o/a.flac.wav", "e/b.duo": "o/b.wav"}
    assert _decoding("f") == {"f/c.wav.duo": "o/c.wav.duo.wav", "f/c.duo": "o/c.duo.wav"}
    assert _decoding("g/.wav.duo") == {"g/.wav.duo": "o/.wav.wav"}


def test_names_that_are_too_long_are_shortened_and_stay_apart() -> None:
    stems = ["x" * 250 + end for end in ("a", "b")]
    accents = "é" * 125 + "a"  # 251 bytes
    _touch(*(f"l/{stem}.duo" for stem in (*stems, accents)))
    made = _decoding("l")  # .wav is as long as .duo
    assert made == {f"l/{stem}.duo": f"o/{stem}.wav" for stem in (*stems, accents)}
    jobs = plan(["l"], "o", takes=(".duo",), makes=(), suffix=".codes", force=False, spare=40).jobs
    targets = [Path(job.target).name for job in jobs]
    assert len(set(targets)) == 3 and all(len(os.fsencode(t)) <= 215 and t.endswith(".codes") for t in targets)
    assert all(os.fsencode(t).decode("utf-8") for t in targets)  # cut between characters
    assert {t[:190] for t in targets if t[0] == "x"} == {"x" * 190}
    same = plan(["l"], "o", takes=(".duo",), makes=(), suffix=".codes", force=False, spare=40).jobs
    assert same == jobs


def test_names_of_any_kind_keep_to_themselves() -> None:
    names = ["-x", "a[1]", "caf\udce9", "Song", "song", "A\u0308", "\u00c4", "b\nc"]
    _touch(*(f"n/{name}.wav" for name in names))
    made = dict(_plan("n", out="o"))
    there = os.listdir("n")  # some file systems cannot hold all of them
    assert set(made) == {f"n/{name}" for name in there}
    assert made["n/-x.wav"] == "o/-x.duo" and made["n/a[1].wav"] == "o/a[1].duo"
    assert made["n/caf\udce9.wav"] == "o/caf\udce9.duo"
    assert len({unicodedata.normalize("NFC", t).casefold() for t in made.values()}) == len(there)
    if {"Song.wav", "song.wav"} <= set(there):
        assert made["n/Song.wav"] == "o/Song.wav.duo"
        assert made["n/song.wav"].startswith("o/song.wav~") and made["n/song.wav"].endswith(".duo")


def test_only_one_place_for_two_files_is_refused() -> None:
    _touch("p/same/a.wav", "q/same/a.wav")
    with pytest.raises(UsageError, match=r"would both become same/a\.duo"):
        _plan("p/same", "q/same", out="o")


def test_links_are_followed_once_and_what_cannot_be_read_is_told_of() -> None:
    _touch("real/b.wav", "data/a.wav", "data/c.m4a", "data/.duotone-1.wav")
    os.symlink("../real", "data/more")
    os.symlink("..", "data/more/up")
    found = plan(["data"], "o", makes=(".duo",), suffix=".duo", force=False)
    assert [job.target for job in found.jobs] == ["o/a.duo", "o/more/b.duo"]
    assert "data/c.m4a" in found.notes()[0] and "1 sound file cannot be read" in found.notes()[-1]
    os.symlink("data", "linked")
    assert _plan("linked", "real", out="o")[0] == ("linked/a.wav", "o/linked/a.duo")  # under the name that was given
    _touch("only/x.m4a")
    with pytest.raises(UsageError, match=r"(?s)holds no readable audio file.*x\.m4a.*ffmpeg"):
        plan(["only"], "o", makes=(".duo",), suffix=".duo", force=False)


def test_pipes_and_devices_are_written_to() -> None:
    os.mkfifo("pipe")
    os.mkfifo("pipe.duo")
    for stream in ("pipe", "pipe.duo", "/dev/null"):
        assert _plan("c.wav", out=stream) == [("c.wav", stream)]
    with pytest.raises(UsageError, match="cannot all go into /dev/null"):
        _plan("x", out="/dev/null")


def test_an_input_is_never_replaced_by_its_output() -> None:
    os.symlink("c.wav", "link.duo")
    for force in (False, True):
        with pytest.raises(UsageError, match="is an input and would be replaced"):
            _plan("c.wav", out="link.duo", force=force)


def test_an_option_that_names_a_folder_is_not_empty() -> None:
    assert named_path("a/b") == Path("a/b")
    with pytest.raises(typer.BadParameter, match="name is empty"):
        named_path("")
