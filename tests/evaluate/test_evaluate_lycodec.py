"""The benchmark command of Lycodec: its two comparisons, what it says of aims and claims, and the card."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.codec.lycodec.weights import save_lycodec
from duotone.evaluate import heldout, opus
from small_lycodec import random_lycodec

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(bool(opus.missing_programs()), reason="needs the Debian package opus-tools")


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("evaluate_lycodec")


def test_rungs_aims_claims_and_the_card(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = random_lycodec()
    codec.provenance = {"steps": 9, "examples": 72, "recipe": {"objective": {"chunks": 1}}}
    save_lycodec(codec, tmp_path / "run" / "codec")
    (tmp_path / "run" / "log.jsonl").write_text(json.dumps({"step": 8, "validation_mel_rounded": 5.25}) + "\n")
    for index, kind in enumerate(("music-recorded", "speech-generated")):
        tone = 0.1 * torch.sin(torch.arange(24_000) * (2 * math.pi * 220 * (index + 1) / 48_000))
        (tmp_path / "held" / kind).mkdir(parents=True)
        write(tmp_path / "held" / kind / "a.wav", Waveform(tone[None], 48_000))
    monkeypatch.setattr(command, "ROOT", tmp_path)
    (tmp_path / "model_cards").mkdir()
    folder, out = str(tmp_path / "run" / "codec"), ["--out", str(tmp_path / "out"), "--name", "pocket"]
    arguments = ["--codec", folder, *out, "--card", str(tmp_path / "run")]
    assert command.main([*arguments, "--heldout", str(tmp_path / "held")]) == 0
    found: dict[str, Any] = json.loads((tmp_path / "out" / "heldout_lycodec.json").read_text())
    page = (tmp_path / "out" / "heldout_lycodec.md").read_text()
    assert "| music, recorded | log-mel, dB |" in page and "| speech, generated | STOI |" in page
    full, half = (f"{codec.spec.bit_rate * share / 1000:.2f} kbit/s" for share in (1, 0.5))
    table = page.partition("Rate and distance")[2].partition("##")[0].splitlines()[4:]
    assert [line.split(" | ")[0] for line in table if line.startswith("|")] == [f"| {full}", f"| {half}", "| tiny"]
    assert page.count("| yes |") + page.count("| no |") == 4
    card = (tmp_path / "model_cards" / "pocket.md").read_text()
    assert heldout.BEGIN in card and codec.fingerprint in card and "### Aims" in card
    assert "mel distance of one step from sigma_max in dB, rounded" not in card and "| 5.25 |" in card
    assert str(tmp_path) not in json.dumps(found) + page + card
    capsys.readouterr()
    assert command.main([*arguments, "--last"]) == 0 and "Written: pocket.md" in capsys.readouterr().out
    assert command.main(["--codec", "tiny", "--heldout", str(tmp_path)]) == 2
    assert "Name a Lycodec" in capsys.readouterr().err


def test_an_aim_is_missed_by_a_margin(command: ModuleType) -> None:
    assert command.reached(0.0) == "reached" and command.reached(-0.25) == "**missed by 0.25**"
