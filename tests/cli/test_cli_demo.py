"""The demo: a page of sound HTML in one file, written for any files, and bundled clips that nothing was trained on."""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.audio.compose import PROGRAMS
from duotone.audio.files import read, write
from duotone.audio.split import section
from duotone.audio.waveform import Waveform
from duotone.cli import demo
from duotone.evaluate import opus
from duotone.evaluate.listening_page import MARK


def test_demo_writes_a_page_and_can_write_it_again(here: Path, duotone: Any) -> None:
    write("b.wav", Waveform(torch.rand(1, 3_000) - 0.5, 16_000))
    result = duotone("demo", "a.wav", "b.wav", "-o", "new/out.html", "--seconds", "0.04")
    assert result.exit_code == 0 and "a.wav goes on after 0.04 s" in result.stderr
    assert all(len(line) <= 80 for line in result.stdout.splitlines()) and "Listen: new/out.html" in result.stdout
    text = Path("new/out.html").read_text(encoding="utf-8")
    assert MARK in text and "a.wav" in text and "b.wav" in text
    told = json.loads(duotone("demo", "a.wav", "-o", "new/out.html", "--json").stdout)
    assert told["bytes"] == Path("new/out.html").stat().st_size
    (clip,) = told["clips"]
    keys = [version["key"] for version in clip["versions"]]
    assert keys[:3] == ["original", "discrete", "continuous"]
    assert keys[3:] == ([] if opus.missing_programs() else ["opus-nearest", "opus-12k"])
    assert clip["versions"][0]["bytes"] == 2_400 * 2 * 2
    assert all(version["bytes"] > 0 and version["metrics"]["log_mel"] > 0 for version in clip["versions"][1:])


def test_a_part_of_a_file(here: Path, duotone: Any) -> None:
    told = json.loads(duotone("demo", "a.wav", "--start", "0.02", "--seconds", "0.01", "--json").stdout)
    assert told["clips"][0]["seconds"] == pytest.approx(0.01) and Path("duotone-demo.html").is_file()
    wave, _ = demo._of_file("a.wav", 0.02, 0.01)
    assert torch.equal(wave.samples, read("a.wav").samples[:, 960:1_440])
    late = duotone("demo", "a.wav", "--start", "5")
    assert late.exit_code == 3 and "nothing is left from 5 s on" in late.stderr
    for option in ("--start=-1", "--start=nan", "--seconds=0", "--seconds=inf"):
        assert duotone("demo", "a.wav", option).exit_code == 2


def test_demo_leaves_other_files_alone(here: Path, duotone: Any) -> None:
    Path("mine.html").write_text("<p>mine</p>")
    result = duotone("demo", "a.wav", "-o", "mine.html")
    assert result.exit_code == 2 and "--force" in result.stderr and Path("mine.html").read_text() == "<p>mine</p>"
    assert duotone("demo", "a.wav", "-o", "mine.html", "--force").exit_code == 0
    assert duotone("demo", "a.wav", "-o", str(here)).exit_code == 2
    assert duotone("demo", "absent.wav", "-o", "new.html").exit_code == 3 and not Path("new.html").exists()


def test_without_opus_the_page_and_the_command_say_so(
    here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opus.shutil, "which", lambda name: None)
    result = duotone("demo", "a.wav", "-o", "out.html")
    assert result.exit_code == 0 and "Opus is left out" in result.stderr and "Opus, 12" not in result.stdout
    assert "Opus is missing on this page" in Path("out.html").read_text(encoding="utf-8")


def test_silence_and_one_sample_pass(here: Path, duotone: Any) -> None:
    write("silence.wav", Waveform(torch.zeros(1, 600), 44_100))
    write("tick.wav", Waveform(torch.full((1, 1), 0.5), 48_000))
    for name in ("silence", "tick"):
        assert duotone("demo", f"{name}.wav", "-o", f"{name}.html").exit_code == 0


def test_demo_without_bundled_clips_says_so(here: Path, duotone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "files", lambda package: here)
    result = duotone("demo", "-o", "new.html")
    assert result.exit_code == 3 and "duotone demo FILE" in result.stderr


def test_the_bundled_clips_are_small_free_and_held_out() -> None:
    folder = Path(str(files("duotone") / "assets"))
    listed = {clip["kind"]: clip for clip in json.loads((folder / "clips.json").read_text(encoding="utf-8"))}
    assert set(listed) == {"recorded", "generated", "voice"}
    assert {clip["file"] for clip in listed.values()} == {path.name for path in folder.glob("*.flac")}
    assert sum((folder / clip["file"]).stat().st_size for clip in listed.values()) <= 1_000_000
    for clip in listed.values():
        data = (folder / clip["file"]).read_bytes()
        assert hashlib.sha256(data).hexdigest() == clip["sha256"] and clip["licence"] in ("CC0-1.0", "Apache-2.0")
        wave = read(folder / clip["file"])
        assert (wave.rate, wave.channels) == (clip["rate"], clip["channels"])
        assert wave.seconds == pytest.approx(clip["seconds"], abs=1e-3)
    piece = listed["generated"]
    assert piece["split"] == "heldout"
    assert set(piece["programs"]) <= {program for role in PROGRAMS["heldout"].values() for program in role}
    packages = section("packages")
    assert any(name in listed["recorded"]["source"] for name in section("demo_packages"))
    assert not set(section("demo_packages")) & set(packages["train"])
    voices = section("voices")
    assert "flite:rms" in [v for group in voices["heldout"] for v in group] and "rms" in listed["voice"]["source"]
    assert "flite:rms" not in [v for group in voices["train"] for v in group]
