"""Which files the names of sound data stand for."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from duotone.errors import AudioError
from duotone.train.sources import Place, find


def names(places: list[Place]) -> list[str]:
    return [Path(p.member or p.path).name for p in places]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_lists_of_any_encoding_and_line_end(tmp_path: Path, encoding: str, end: str) -> None:
    for name in ("a.wav", "#1.wav", "caf\u00e9.wav", "two\u2028lines.wav", "more/b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    lines = [
        "a.wav",
        "# a comment",
        "",
        "  caf\u00e9.wav ",
        "#1.wav",
        "./a.wav",
        "two\u2028lines.wav",
        "gone.wav",
        "more",
    ]
    (tmp_path / "files.m3u8").write_bytes(end.join(lines).encode(encoding))
    places, problems = find(tmp_path / "files.m3u8")
    assert names(places) == ["#1.wav", "a.wav", "caf\u00e9.wav", "b.wav", "two\u2028lines.wav"]
    assert len(problems) == 1 and "gone.wav: there is no such file" in problems[0]


def test_a_list_may_name_files_of_any_bytes(tmp_path: Path) -> None:
    (tmp_path / "caf\udce9.wav").touch()
    (tmp_path / "files.txt").write_bytes(b"caf\xe9.wav\n")
    places, problems = find(tmp_path / "files.txt")
    assert names(places) == ["caf\udce9.wav"] and not problems


def test_a_folder_and_its_pattern_give_the_same_files(tmp_path: Path) -> None:
    for name in ("real/b.wav", "data/a.wav", "data/.duotone-x.wav", "data/._a.wav", "data/c.m4a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "data" / "more").symlink_to("../real")
    (tmp_path / "data" / "more" / "back").symlink_to("../data")
    whole, problems = find(tmp_path / "data")
    assert names(whole) == ["a.wav", "b.wav"]
    assert find(f"{tmp_path}/data/**/*.wav") == (whole, [])
    assert problems == [f"{tmp_path}/data/c.m4a: sound of a format that cannot be read"]
    listing = tmp_path / "list.txt"
    listing.write_text("data/a.wav\nreal/b.wav\n")
    assert len(find([tmp_path / "data", f"{tmp_path}/data/*.wav", tmp_path / "real", listing])[0]) == 2


def test_an_empty_name_is_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for data in ("", ["a", ""], []):
        with pytest.raises(AudioError, match="No data was given"):
            find(data)


def test_shards_are_searched_as_folders_are(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(b"sound")
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for name in ("./a.wav", "x/._a.wav", ".git/a.wav", "x/b.FLAC", "x/c.m4a", "notes.txt", "caf\udce9.wav"):
            tar.add(tmp_path / "a.wav", arcname=name)
    (tmp_path / "link.tar").symlink_to("0.tar")
    places, problems = find(f"{tmp_path}/*.tar")
    assert names(places) == ["a.wav", "caf\udce9.wav", "b.FLAC"]
    assert problems == [f"{tmp_path}/0.tar::x/c.m4a: sound of a format that cannot be read"]
    with pytest.raises(AudioError, match=r"0\.tar::\./a\.wav is not a sound file"), places[0].blocks():
        pass


def test_clips_of_a_run_inside_the_data_are_no_data(tmp_path: Path) -> None:
    for name in ("a.wav", "run/samples/step-000000001/clip-1.wav", "songs/samples/step-1/kick.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "run" / "recipe.json").touch()
    places, problems = find(tmp_path)
    assert names(places) == ["a.wav", "kick.wav"]
    assert problems == [f"{tmp_path}/run/samples: clips that a training run wrote"]
