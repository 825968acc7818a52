"""The folder of fetched recordings: everything in it is named, nothing hostile reaches it, and a stopped run is taken up again."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from debs import Mirror, recordings, served, sound
from duotone.audio import recordings as module
from duotone.audio.catalogue import Split
from duotone.audio.files import read
from duotone.audio.recordings import Fetched, fetch_recordings
from duotone.errors import AudioError, DownloadError, UsageError

SPLIT_OF: dict[str, Split] = {"tunes": "train", "words": "heldout"}


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    """Two packages: music of two authors, with an effect that no entry names; and short clips of speech."""
    made = Mirror(tmp_path / "mirror")
    tunes: dict[str, Any] = {
        "./usr/share/games/t/music/one.wav": sound(1.0, 1, 48_000, 2),
        "./usr/share/games/t/music/two.flac": sound(0.7, 2, 16_000, 1, "flac"),
        "./usr/share/games/t/effects/bang.wav": sound(1.0, 3),
        "./usr/share/doc/t/copyright": b"...",
    }
    by = recordings("music", "*/music/two*", author="B", licence="CC-BY-SA-3.0", title="Two")
    made.add("tunes", tunes, [by, recordings("music", "*/music/*", author="A", title="One")])
    words: dict[str, Any] = {f"./usr/share/w/{i:02d}.wav": sound(3.0, i) for i in range(9)}
    words |= {"./usr/share/w/click.wav": sound(0.2), "./usr/share/w/long.wav": sound(13.0)}
    words |= {"./usr/share/w/broken.wav": b"RIFF"}
    made.add("words", words, [recordings("speech", "*/w/*", languages=["cs"])])
    return made


def fetch(mirror: Mirror, out: Path, **how: Any) -> Fetched:
    return fetch_recordings(out, known=mirror.catalogue(), split_of=SPLIT_OF, **how)


def listing(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}


def test_members_become_48_khz_stereo(mirror: Mirror, tmp_path: Path) -> None:
    fetched = fetch(mirror, tmp_path / "out")
    place = tmp_path / "out/train/music/tunes"
    assert sorted(p.name for p in place.iterdir()) == ["games_t_music_one.flac", "games_t_music_two.flac"]
    one, two = (read(place / f"games_t_music_{n}.flac") for n in ("one", "two"))
    assert (one.rate, one.channels, one.seconds) == (two.rate, two.channels, 1.0) == (48_000, 2, 1.0)
    assert abs(two.seconds - 0.7) < 1e-4
    path = tmp_path / "original.wav"
    path.write_bytes(sound(1.0, 1, 48_000, 2))
    assert (one.samples - read(path).samples).abs().max() <= 2**-15
    assert fetched.hours().keys() == {"music", "speech"}
    assert abs(fetched.hours()["music"] - 1.7 / 3600) < 1e-6


def test_short_speech_is_joined_with_pauses(mirror: Mirror, tmp_path: Path) -> None:
    fetch(mirror, tmp_path / "out", only=["words"])
    place = tmp_path / "out/heldout/speech/words"
    assert sorted(p.name for p in place.iterdir()) == ["group-0000.flac", "group-0001.flac", "w_long.flac"]
    group = read(place / "group-0000.flac")
    assert group.length == 7 * 3 * 48_000 + 6 * 4800  # at least 20 s
    assert group.samples[:, 3 * 48_000 : 3 * 48_000 + 4800].abs().max() == 0
    assert group.samples[:, 3 * 48_000 + 4800 : 3 * 48_000 + 9600].abs().max() > 0.1
    assert read(place / "group-0001.flac").length == 2 * 3 * 48_000 + 4800


def test_the_manifest_names_every_file(mirror: Mirror, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetched = fetch(mirror, out)
    notes = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert notes == fetched.files
    assert sorted(note["file"] for note in notes) == sorted(p.relative_to(out).as_posix() for p in out.rglob("*.flac"))
    for note in notes:
        assert note["author"] and note["title"] and note["licence"] and note["source"] and note["version"] == "1.0-1"
        assert note["sha256"] == module._digest(out / note["file"])
        assert abs(note["seconds"] - read(out / note["file"]).seconds) < 1e-3
    assert {n["file"][-8:]: (n["author"], n["licence"]) for n in notes if n["package"] == "tunes"} == {
        "one.flac": ("A", "MIT"), "two.flac": ("B", "CC-BY-SA-3.0"),
    }  # fmt: skip
    table = (out / "LICENCES.md").read_text()
    assert "[Two](https://example.org/tunes) | music | B | [CC-BY-SA-3.0]" in table and "speech (cs)" in table
    assert sorted(p.name for p in out.iterdir() if p.name[0] != ".") == [
        "LICENCES.md", "heldout", "manifest.jsonl", "packages", "train",
    ]  # fmt: skip


def test_what_has_no_licence_is_not_written(mirror: Mirror, tmp_path: Path) -> None:
    left = {one["member"].rpartition("/")[2]: one["reason"] for one in fetch(mirror, tmp_path / "out").left_out}
    assert left.keys() == {"bang.wav", "click.wav", "broken.wav"}
    assert "no author and licence" in left["bang.wav"] and "shorter" in left["click.wav"]
    assert "cannot be read" in left["broken.wav"] and ".part" not in left["broken.wav"]


def test_hostile_members_stay_outside(tmp_path: Path) -> None:
    link = tarfile.TarInfo("./link.wav")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    hard = tarfile.TarInfo("./hard.wav")
    hard.type, hard.linkname = tarfile.LNKTYPE, "good.wav"
    members: dict[str, Any] = {"./good.wav": sound(1.0), "link": link, "hard": hard}
    members |= {name: sound(1.0) for name in ("../up.wav", "/tmp/root.wav", "a/../../b.wav", "./-rf \n;.wav")}
    mirror = Mirror(tmp_path / "mirror")
    mirror.add("tunes", members, [recordings("music", "*")])
    before = set(tmp_path.iterdir())
    fetched = fetch(mirror, tmp_path / "out")
    assert [note["file"] for note in fetched.files] == [
        "train/music/tunes/-rf __.flac", "train/music/tunes/good.flac",
    ]  # fmt: skip
    assert {one["member"] for one in fetched.left_out} == {
        "link.wav", "hard.wav", "../up.wav", "/tmp/root.wav", "a/../../b.wav",
    }  # fmt: skip
    assert set(tmp_path.iterdir()) - before == {tmp_path / "out"} and not Path("/tmp/root.wav").exists()


def test_names_that_would_be_one_are_told_apart(tmp_path: Path) -> None:
    mirror = Mirror(tmp_path / "mirror")
    long = "x" * 300
    names = ["a/b.wav", "a_b.wav", "A/B.wav", f"{long}1.wav", f"{long}2.wav"]
    mirror.add("tunes", {name: sound(0.6, i) for i, name in enumerate(names)}, [recordings("music", "*")])
    files = [note["file"].lower() for note in fetch(mirror, tmp_path / "out").files]
    assert len(set(files)) == 5 and all(len(Path(f).name) < 200 for f in files)


def test_a_stopped_run_is_taken_up_again(mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    fetch(mirror, whole)

    def stop(what: str, done: int, of: int) -> None:
        if what == "decoding words" and done == 8:
            raise KeyboardInterrupt

    with served(mirror) as address:
        with pytest.raises(KeyboardInterrupt):
            fetch(mirror, out, mirrors=[address], progress=stop)
        assert list(out.glob("heldout/speech/words/*.flac"))  # half of a package, which the manifest does not name
        assert "words" not in (out / "manifest.jsonl").read_text()
        fetch(mirror, out, mirrors=[address])
        assert [name for name, _ in mirror.requests] == ["tunes_1.0-1_all.deb", "words_1.0-1_all.deb"]
        assert {k: v for k, v in listing(out).items() if "lock" not in k} == {
            k: v for k, v in listing(whole).items() if "lock" not in k
        }
        before = {p: p.stat().st_mtime_ns for p in out.rglob("*.flac")}
        fetch(mirror, out, mirrors=[address])
        assert len(mirror.requests) == 2 and before == {p: p.stat().st_mtime_ns for p in out.rglob("*.flac")}


def test_damaged_and_missing_files_are_made_again(mirror: Mirror, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(mirror, out)
    before = listing(out)
    (out / "train/music/tunes/games_t_music_one.flac").write_bytes(b"fLaC")
    (out / "heldout/speech/words/w_long.flac").unlink()
    fetch(mirror, out)
    assert listing(out) == before


def test_a_newer_entry_replaces_what_is_there(mirror: Mirror, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(mirror, out)
    mirror.packages[0]["sounds"] = [recordings("music", "*/music/one*", author="C")]
    fetch(mirror, out)
    assert [p.name for p in (out / "train/music/tunes").iterdir()] == ["games_t_music_one.flac"]
    assert '"C"' in (out / "manifest.jsonl").read_text() and '"B"' not in (out / "manifest.jsonl").read_text()


def test_files_of_others_are_kept(mirror: Mirror, tmp_path: Path) -> None:
    mine = tmp_path / "out/train/music/tunes/mine.wav"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UsageError, match="--force"):
        fetch(mirror, tmp_path / "out")
    assert mine.read_text() == "mine"
    fetch(mirror, tmp_path / "out", force=True)
    assert not mine.exists()


def test_splits_and_names(mirror: Mirror, tmp_path: Path) -> None:
    assert {n["package"] for n in fetch(mirror, tmp_path / "a", split="train").files} == {"tunes"}
    assert {n["package"] for n in fetch(mirror, tmp_path / "b", only=["words"]).files} == {"words"}
    assert "tunes" not in (tmp_path / "b" / "manifest.jsonl").read_text()
    for how, words in (
        ({"split": "test"}, "no split 'test'"),
        ({"only": ["tune"]}, "no package 'tune'.*tunes, words"),
        ({"only": ["words"], "split": "train"}, "belongs to train"),
    ):
        with pytest.raises(UsageError, match=words):
            fetch(mirror, tmp_path / "c", **how)
    with pytest.raises(UsageError, match="has no split"):
        fetch_recordings(tmp_path / "c", known=mirror.catalogue(), split_of={"tunes": "train"})
    assert not (tmp_path / "c").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        fetch(mirror, tmp_path / "file")


def test_a_package_without_sound_or_that_is_gone_is_told(mirror: Mirror, tmp_path: Path) -> None:
    mirror.packages[0]["sounds"] = [recordings("music", "*.xm")]
    with pytest.raises(AudioError, match="gave no sound"):
        fetch(mirror, tmp_path / "out", only=["tunes"])
    (mirror.folder / mirror.packages[1]["pool"]).unlink()
    with pytest.raises(DownloadError, match="is not there"):
        fetch(mirror, tmp_path / "out", only=["words"])
