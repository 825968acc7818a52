"""The benchmark command: its files, and what they say of the machine (and what they must not)."""

from __future__ import annotations

import importlib
import json
import math
from pathlib import Path
from types import ModuleType

import pytest
import torch

from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.weights import save_codec
from duotone.config import CoDiCodecConfig
from duotone.evaluate import heldout, opus
from duotone.evaluate.report import Report
from duotone.evaluate.tables import markdown

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
CONFIG = CoDiCodecConfig(
    hop=64, frames=8, stem=(2, 1), channels=(16, 32), blocks=(1, 0), factors=((4, 2),), heads=2, encoder_layers=1,
    upsampler_layers=1, denoiser_layers=1, latents=16,
)  # fmt: skip


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("evaluate_bundled")


def test_results_are_written_with_command_and_machine_but_no_paths(
    command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_codec(CoDiCodec.random(CONFIG), tmp_path / "pocket")
    time = torch.arange(3_000) / 48_000
    (tmp_path / "sound").mkdir()
    for index, kind in enumerate(("music", "speech", "music")):
        tone = 0.1 * torch.sin(2 * math.pi * 220 * (index + 1) * time)
        write(tmp_path / "sound" / f"{index}-{kind}.wav", Waveform(tone[None], 48_000))
    baselines = [] if opus.missing_programs() else ["opus:6k"]
    arguments = ["--codec", str(tmp_path / "pocket"), f"--folder={tmp_path / 'sound'}", "--out", str(tmp_path / "out")]
    assert command.main([*arguments, "--against", *baselines]) == 0
    text, page = ((tmp_path / "out" / f"evaluate_pocket.{end}").read_text() for end in ("json", "md"))
    assert str(tmp_path) not in text + page
    values = json.loads(text)
    assert values["command"].startswith("python benchmarks/evaluate_bundled.py --codec pocket --folder=sound --out out")
    assert values["machine"]["torch"] == torch.__version__ and values["data"] == {"folder": "sound"}
    report = Report.from_dict(values)
    assert markdown(report) in page and "## Music" in page and "## Speech" in page
    assert ("What Opus really made" in page) == bool(baselines)
    assert "silence" in capsys.readouterr().out


def test_the_committed_page_is_that_of_the_committed_results(command: ModuleType) -> None:
    results = BENCHMARKS / "results"
    document = json.loads((results / "evaluate_convolutions.json").read_text(encoding="utf-8"))
    report = Report.from_dict(document)
    assert command.page(report, document) == (results / "evaluate_convolutions.md").read_text(encoding="utf-8")


def test_each_kind_is_evaluated_judged_and_published(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    codec = CoDiCodec.random(CONFIG)
    save_codec(codec, tmp_path / "pocket")
    time = torch.arange(8_000) / 48_000
    for index, kind in enumerate(("music-recorded", "speech-generated")):
        tone = 0.1 * torch.sin(2 * math.pi * 220 * (index + 1) * time)
        (tmp_path / "held" / kind).mkdir(parents=True)
        write(tmp_path / "held" / kind / "a.wav", Waveform(tone[None], 48_000))
    (tmp_path / "model_cards").mkdir()
    pages = [tmp_path / "README.md", tmp_path / "model_cards" / "pocket.md"]
    for page in pages:
        page.write_text(f"mine\n{heldout.BEGIN}\n{heldout.END}\nmine too\n")
    speeds = {"fingerprint": codec.fingerprint, "speeds": {"encode": 170.0, "encode_ratio": 4.0}}
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "against_encodec.json").write_text(json.dumps(speeds))
    monkeypatch.setattr(command, "ROOT", tmp_path)
    arguments = ["--codec", str(tmp_path / "pocket"), f"--heldout={tmp_path / 'held'}", "--out", str(tmp_path / "out")]
    assert command.main([*arguments, "--against", "--steps", "1", "--seconds", "0.1", "--publish"]) == 0
    values = json.loads((tmp_path / "out" / "heldout_pocket.json").read_text())
    assert str(tmp_path) not in json.dumps(values) and values["data"]["kinds"] == ["music-recorded", "speech-generated"]
    assert {row["seconds"] for row in values["rows"]} == {0.1}
    assert "discrete, parallel, 1 step" in values["summary"] and values["codes"]["kinds"].keys() == {
        "music-recorded",
        "speech-generated",
    }
    assert 0 <= values["codes"]["entropy_least"] <= 1 and values["codes"]["decoded_equal"]["count"] == 2
    encode = {bar["key"]: bar for bar in values["bars"] if bar["kind"] == "all"}
    assert (
        encode["encode"]["least_gap"] == 0
        and encode["encode"]["aim_gap"] == 130
        and encode["encode_ratio"]["least_gap"] == 1
    )
    shown = [page.read_text() for page in pages]
    assert all(text.startswith("mine\n") and text.endswith("mine too\n") and "reached" in text for text in shown)
    assert "### Music, recorded" in shown[1] and "### Codes" in shown[1] and "### Codes" not in shown[0]
    assert "| music, recorded | log-mel, dB |" in capsys.readouterr().out
    again = ["--codec", str(tmp_path / "pocket"), "--out", str(tmp_path / "out"), "--last", "--publish"]
    assert command.main(again) == 0
    assert json.loads((tmp_path / "out" / "heldout_pocket.json").read_text()) == values
    assert [page.read_text() for page in pages] == shown
    (tmp_path / "out" / "heldout_pocket.json").unlink()
    assert command.main(again) == 2 and "no results of codec" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "hint"), [(["--publish"], "--heldout"), (["--heldout", "/nowhere/at/all"], "music-recorded")]
)
def test_wrong_ways_to_ask_for_kinds_are_told_of(
    command: ModuleType, arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(arguments) == 2
    assert hint in capsys.readouterr().err


def test_errors_come_without_a_traceback(
    command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--codec", str(tmp_path / "nothing"), "--folder", str(tmp_path)]) != 0
    assert capsys.readouterr().err.startswith("error: ")


def test_the_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    machine = importlib.import_module("machine")
    values = machine.describe()
    json.dumps(values)
    assert values["cores"] >= 1 and values["cpu"] and values["torch"] == torch.__version__
    line = machine.markdown({**values, "flags": ["amx_bf16"], "gpu": "Abacus 9", "cuda": "99"})
    assert "(amx_bf16)" in line and "GPU Abacus 9 (CUDA 99)" in line and values["cpu"] in line
