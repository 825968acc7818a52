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
from duotone.codec.lycodec.codec import Lycodec
from duotone.codec.lycodec.weights import save_lycodec
from duotone.config import LycodecConfig
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
    folder = str(tmp_path / "run" / "codec")
    out = ["--out", str(tmp_path / "out"), "--parts", str(tmp_path / "parts"), "--name", "pocket"]
    arguments = ["--codec", folder, *out, "--card", str(tmp_path / "run"), "--predicted", predicted(codec, tmp_path)]
    assert command.main([*arguments, "--heldout", str(tmp_path / "held")]) == 0
    found: dict[str, Any] = json.loads((tmp_path / "out" / "heldout_lycodec.json").read_text())
    page = (tmp_path / "out" / "heldout_lycodec.md").read_text()
    assert "| music, recorded | log-mel, dB |" in page and "| speech, generated | STOI |" in page
    half = f"{codec.spec.bit_rate / 2000:.2f} kbit/s, tokens"
    table = page.partition("Rate and distance")[2].partition("##")[0].splitlines()[4:]
    assert [line.split(" | ")[0].removeprefix("| ") for line in table if line.startswith("|")] == [
        "all groups, latents", "all groups, tokens", "all groups, tokens with a predicted residual", "Opus, same bytes", half, "Opus, same bytes",
        "tiny, tokens", "tiny, latents",
    ]  # fmt: skip
    systems = [*found["own"]["summary"], *found["ladder"]["summary"]]
    assert len(systems) - len(set(systems)) == 1  # silence alone is in both: nothing is measured twice
    gained = page.partition("predicted residual\n")[2].partition("##")[0]
    assert "| latents | " in gained and "| tokens with a predicted residual | " in gained
    assert page.count("| yes |") + page.count("| no |") == 4
    card = (tmp_path / "model_cards" / "pocket.md").read_text()
    assert heldout.BEGIN in card and codec.fingerprint in card and "### Aims" in card
    assert "mel distance of one step from sigma_max in dB, rounded" not in card and "| 5.25 |" in card
    assert str(tmp_path) not in json.dumps(found) + page + card
    capsys.readouterr()
    assert command.main([*arguments, "--last"]) == 0 and "Written: pocket.md" in capsys.readouterr().out
    assert command.main(["--codec", "tiny", "--heldout", str(tmp_path)]) == 2
    assert "Name a Lycodec" in capsys.readouterr().err


def predicted(codec: Lycodec, folder: Path) -> str:
    """The codec with a predictor of the residual, saved."""
    config = LycodecConfig.parse({**codec.config.to_dict(), "predictor_units": 4})
    network = Lycodec.random(config).network
    network.load_state_dict({**network.state_dict(), **codec.network.state_dict()})
    save_lycodec(Lycodec(network), folder / "predicted")
    return str(folder / "predicted")


def test_a_run_that_was_stopped_goes_on(
    command: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each kind is measured in two parts, once: a second run measures what the first did not come to, and no more."""
    save_lycodec(random_lycodec(), tmp_path / "codec")
    for kind in ("music-recorded", "speech-generated"):
        (tmp_path / "held" / kind).mkdir(parents=True)
        write(tmp_path / "held" / kind / "a.wav", Waveform(0.1 * torch.rand(1, 12_000), 48_000))
    arguments = [
        "--codec",
        str(tmp_path / "codec"),
        "--heldout",
        str(tmp_path / "held"),
        "--parts",
        str(tmp_path / "parts"),
    ]
    arguments += ["--out", str(tmp_path / "out")]
    measured, real = [], command.evaluate_folder

    def stopped(codecs: Any, folders: dict[str, Path], *others: Any, **options: Any) -> Any:
        measured.append((len(codecs), *folders))
        if len(measured) == 3:
            raise KeyboardInterrupt
        return real(codecs, folders, *others, **options)

    monkeypatch.setattr(command, "evaluate_folder", stopped)
    with pytest.raises(KeyboardInterrupt):
        command.main(arguments)
    assert command.main(arguments) == 0
    assert measured[:2] == [(1, "music-recorded"), (2, "music-recorded")]
    assert measured[2:] == [(1, "speech-generated"), (1, "speech-generated"), (2, "speech-generated")]
    assert "measured before" in capsys.readouterr().err
    assert "No codec with a predictor was measured" in (tmp_path / "out" / "heldout_lycodec.md").read_text()
    assert command.main([*arguments, "--seed", "1"]) == 0 and len(measured) == 9  # another setting


def test_a_predictor_of_another_codec_is_refused(
    command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_lycodec(random_lycodec(), tmp_path / "codec")
    (tmp_path / "music-recorded").mkdir()
    arguments = ["--codec", str(tmp_path / "codec"), "--heldout", str(tmp_path), "--parts", str(tmp_path / "parts")]
    for name, told in (
        (str(tmp_path / "codec"), "has no predictor"),
        (predicted(random_lycodec(2), tmp_path), "is not that of --codec"),
    ):
        assert command.main([*arguments, "--predicted", name]) == 2
        assert told in capsys.readouterr().err


def test_an_aim_is_missed_by_a_margin(command: ModuleType) -> None:
    assert command.reached(0.0) == "reached" and command.reached(-0.25) == "**missed by 0.25**"
