"""`make-sounds` as typed: nothing of the user's is replaced or removed without --force."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from duotone.audio import collection
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform


@pytest.fixture(autouse=True)
def _short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of a tenth of a second, in an empty folder."""

    def piece(seed: int, split: Any, kind: Any, **_: Any) -> tuple[Waveform, dict[str, Any]]:
        return synthesize(seed, 0.1), {}

    monkeypatch.setattr(collection, "make_piece", piece)
    monkeypatch.chdir(tmp_path)


def test_a_foreign_manifest_is_refused_and_replaced_by_force(duotone: Any) -> None:
    Path("s").mkdir()
    for name in ("s/00000-interview.wav", "s/00000-notes.txt", "s/manifest.json"):
        Path(name).write_text("mine")
    words = ("make-sounds", "s", "--minutes", "0.3", "--kinds", "synth")
    result = duotone(*words)
    assert result.exit_code == 2 and "manifest.json is not one" in result.stderr and "--force" in result.stderr
    assert {p.read_text() for p in Path("s").iterdir()} == {"mine"} and len(list(Path("s").iterdir())) == 3
    assert duotone(*words, "--force").exit_code == 0
    assert Path("s/00000-interview.wav").read_text() == Path("s/00000-notes.txt").read_text() == "mine"
    assert Path("s/00000-synth.flac").is_file() and "pieces" in Path("s/manifest.json").read_text()
    assert duotone(*words).exit_code == 0  # what is there is its own now


def test_an_empty_name_is_refused(duotone: Any) -> None:
    result = duotone("make-sounds", "", "--kinds", "synth")
    assert result.exit_code == 2 and "empty name" in result.stderr and not list(Path().iterdir())


def test_workers_and_plain_reach_the_collection(duotone: Any) -> None:
    assert (
        duotone("make-sounds", "s", "--minutes", "0.3", "--kinds", "synth", "--workers", "1", "--plain").exit_code == 0
    )
    assert '"plain": true' in Path("s/manifest.json").read_text()
    refused = duotone("make-sounds", "t", "--kinds", "synth", "--workers", "0")
    assert refused.exit_code == 2 and "at least 1" in refused.stderr and not Path("t").exists()


def test_what_could_be_added_is_said(duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "missing_packages", lambda split, kinds: ["flite", "festival"])
    words = ("make-sounds", "s", "--minutes", "0.3", "--kinds", "synth")
    assert "apt install flite festival" in duotone(*words).stderr
    assert "apt install" not in duotone(*words, "--quiet").stderr
