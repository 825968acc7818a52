"""`fetch-sounds` as typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from debs import Mirror, recordings, sound
from duotone.audio import recordings as module


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mirror:
    """A mirror of one package, and the catalogue of it."""
    made = Mirror(tmp_path / "mirror")
    made.add("tunes", {"./a.wav": sound(1.0), "./b.flac": b"?"}, [recordings("music", "*.wav")])
    monkeypatch.setattr(module, "catalogue", made.catalogue)
    monkeypatch.setattr(module, "splits", lambda: {"tunes": "train"})
    monkeypatch.chdir(tmp_path)
    return made


def test_sounds_are_fetched_and_counted(mirror: Mirror, duotone: Any) -> None:
    result = duotone("fetch-sounds", "out", "--split", "train", "--mirror", str(mirror.folder))
    assert result.exit_code == 0 and result.stdout == "out\n"
    assert "h of music" in result.stderr and "Left out 1 members: the catalogue names no author" in result.stderr
    assert Path("out/train/music/tunes/a.flac").is_file()
    result = duotone("fetch-sounds", "out", "--quiet")
    assert result.exit_code == 0 and result.stderr == ""


def test_errors_are_told(mirror: Mirror, duotone: Any) -> None:
    for words, code, text in (
        ((), 2, "DIR is missing"),
        (("out", "--split", "test"), 2, "expected one of: train, heldout"),
        (("out", "--only", "nothing"), 2, "no package 'nothing'"),
        (("out", "--mirror", "nowhere"), 1, "is not there"),
    ):
        result = duotone("fetch-sounds", *words)
        assert result.exit_code == code and text in result.stderr


def test_the_licences_are_printed_without_network(
    duotone: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = duotone("fetch-sounds", "--licences", "--split", "heldout")
    assert result.exit_code == 0 and "klettres-data" in result.stdout and "tuxpaint" not in result.stdout
    assert result.stdout.startswith("| Recordings |") and not list(tmp_path.iterdir())
