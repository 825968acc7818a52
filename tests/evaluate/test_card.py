"""The model card says what the run and the report say, and refuses to mix two codecs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.weights import load_codec, save_codec
from duotone.config import CoDiCodecConfig
from duotone.errors import UsageError, WeightsError
from duotone.evaluate import card as cards
from duotone.evaluate.card_data import TrainingSound
from duotone.evaluate.report import Report, Row
from small_bands import random_bands

CONFIG = CoDiCodecConfig(
    hop=64, frames=8, stem=(2, 1), channels=(16, 32), blocks=(1, 0), factors=((4, 2),), heads=2, encoder_layers=1,
    upsampler_layers=1, denoiser_layers=1, latents=16,
)  # fmt: skip
PROVENANCE = {
    "recipe": {
        "objective": {"continuous_share": 0.6},
        "optim": {"name": "radam", "rate": 8e-4, "schedule": "cooldown", "ema_decay": 0.995},
        "train": {"batch_size": 8, "seed": 7, "precision": "bfloat16", "log_every": 2},
    },
    "steps": 400,
    "examples": 3_200,
    "hours_of_sound": 1.5,
    "machine": "abacus, 2 cores",
}
MANIFEST: dict[str, Any] = {
    "split": "train",
    "seed": 0,
    "minutes": 1.0,
    "pieces": [
        {"kind": "music", "programs": [1, 2], "font": "Organ.sf2", "font_licence": "CC-BY-SA-4.0"},
        {"kind": "music", "programs": [2, 3], "font": "Organ.sf2", "font_licence": "CC-BY-SA-4.0"},
        {"kind": "speech", "voice": "eo+f1", "voice_licence": "GPL-3.0-or-later"},
    ],
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    codec = CoDiCodec.random(CONFIG)
    codec.provenance = PROVENANCE
    save_codec(codec, folder / "codec", torch.bfloat16)
    lines: list[dict[str, Any]] = [{"step": s, "loss": 1.0, "bad_steps": 3, "seconds": 9.0} for s in range(1, 400, 2)]
    lines[-1] |= {"saturated_share": 0.0125, "codebook_perplexity": 321.5}
    (folder / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def evaluation(run: Path) -> Report:
    """Ours beats the rival in log-mel, loses in SI-SDR, and MR-STFT is a draw."""
    rows = []
    for index in range(6):
        ours = {"si_sdr": -3.0 - index, "log_mel": 5.0, "mr_stft": 1 + 0.1 * (-1) ** index, "log_spectral": 9.0 + index}
        theirs = {"si_sdr": 2.0, "log_mel": 8.0 + index, "mr_stft": 1.0, "log_spectral": 8.0}
        silent = {"si_sdr": math.nan, "log_mel": 30.0, "mr_stft": 3.0, "log_spectral": 20.0}
        file = f"{index}-{'music' if index % 2 else 'speech'}.flac"
        rows += [
            Row(file, "discrete, parallel", 8.0, 3_000, ours, 1.0, 2.0),
            Row(file, "opus:6k", 8.0, 7_000, theirs, 0.1, 0.1),
            Row(file, "silence", 8.0, 0, silent),
        ]
    about = {"name": "pocket", "fingerprint": load_codec(run / "codec").fingerprint, "rate": 48_000}
    return Report(about, {"against": ["opus:6k"], "seed": 0, "limit": None, "seconds": None}, tuple(rows))


def test_the_card_tells_data_steps_compute_figures_and_limits(run: Path) -> None:
    about = {
        "command": "python evaluate",
        "machine": {"cpu": "Abacus", "cores": 2, "torch": "9.9"},
        "data": {"seed": 4},
    }
    text = cards.card(run, evaluation(run), sound=TrainingSound((MANIFEST,)), about=about)
    parameters = sum(p.numel() for p in load_codec(run / "codec").network.parameters())
    for words in (
        "# pocket\n",
        f"{parameters / 1e6:.2f}M parameters",
        "1.50 hours of sound",
        "2 music, 1 speech pieces, 0.02 hours",
        "3 instruments (General MIDI) of 1 soundfont; 1 synthetic voice.",
        "| soundfont Organ.sf2 | 2 | CC-BY-SA-4.0 |",
        "| espeak-ng, 1 voice: eo+f1 | 1 | GPL-3.0-or-later |",
        "; architecture of arXiv 2509.09836, weights trained from scratch",
        "Its data are generated",
        "400 steps, 3200 examples",
        "1.00 hours of steps on abacus, 2 cores",  # 200 logged steps x 9 s x every 2nd logged
        "3 steps skipped",
        "| share of values beyond 0.97 | 0.0125 |",
        "| perplexity of the codebook on that batch | 321.5 |",
        "at step 400",
        "By `python evaluate`",
        "Speeds on Abacus",
        "| opus:6k | 7.00 |",
        "### Music",
        "0.01% of the examples",
        "better in log-mel; worse in SI-SDR, log-spectral; not surely different in MR-STFT.",
    ):
        assert words in text, f"{words!r} is not in the card:\n{text}"
    assert str(run) not in text


def test_the_bands_frontend_is_told_to_be_our_own(run: Path) -> None:
    codec = random_bands()
    codec.provenance = PROVENANCE
    shutil.rmtree(run / "codec")
    save_codec(codec, run / "codec", torch.bfloat16)
    text = cards.card(run, evaluation(run), sound=TrainingSound((MANIFEST,), recordings=True))
    assert "; latents and tokens as in arXiv 2509.09836, bands frontend of Duotone's own (docs/index.md), " in text
    assert "architecture of arXiv" not in text
    assert "Its data are generated" not in text  # it heard recordings, too


def test_the_card_names_the_trainings_before(run: Path) -> None:
    codec = load_codec(run / "codec")
    first = {"weights": "imported from published.pt"}
    second = {**PROVENANCE, "minutes": 90.0, "began_from": {"fingerprint": "1111", "provenance": first}}
    codec.provenance = {**PROVENANCE, "began_from": {"fingerprint": "2222", "provenance": second}}
    save_codec(codec, run / "codec", torch.bfloat16)
    text = cards.card(run, evaluation(run))
    assert "trained from scratch" not in text and "trained further from other ones" in text
    assert "Began from `2222`: 400 steps, 3200 examples" in text and "in 1.50 hours on abacus" in text
    assert "Began from `1111` (imported from published.pt)" in text
    assert "0.02% of the examples" in text


def test_a_report_about_another_codec_is_refused(run: Path) -> None:
    report = evaluation(run)
    report.codec["fingerprint"] = "feedfeedfeedfeed"
    with pytest.raises(UsageError, match="feedfeedfeedfeed"):
        cards.card(run, report)


def test_missing_and_broken_parts_are_named(run: Path, tmp_path: Path) -> None:
    report = evaluation(run)
    with pytest.raises(WeightsError, match=r"config\.json"):
        cards.card(tmp_path, report)
    log = run / "log.jsonl"
    log.write_text('{"step": 1}\n{"ste')
    assert "0 steps skipped" in cards.card(run, report)  # a line that was cut off is passed over
    log.write_text("")
    with pytest.raises(UsageError, match="no step"):
        cards.card(run, report)
    log.unlink()
    with pytest.raises(UsageError, match="no step"):
        cards.card(run, report)


def test_the_command_writes_the_card(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, manifest, out = tmp_path / "report.json", tmp_path / "manifest.json", tmp_path / "cards" / "pocket.md"
    recorded = tmp_path / "manifest.jsonl"
    recorded.write_text('{"kind": "music", "split": "train", "seconds": 7200, "package": "flare-game"}\n')
    file.write_text(evaluation(run).to_json())
    manifest.write_text(json.dumps(MANIFEST))
    command = [str(run), str(file), "--manifest", str(manifest), "--name", "Pocket codec", "-o", str(out)]
    assert cards.main(command) == 0
    assert out.read_text().startswith("# Pocket codec\n") and "Organ.sf2" in out.read_text()
    assert cards.main([*command, "--manifest", str(manifest), "--recordings", str(recorded)]) == 0
    text = out.read_text()
    assert text.count("2 music, 1 speech pieces") == 2 and "| music, recorded | 2.00 | 1 |" in text
    assert cards.main([*command, "--recordings"]) == 0 and "[Flare: music]" in out.read_text()
    assert cards.main([str(run), str(tmp_path / "none.json"), "-o", str(out)]) == UsageError.exit_code
    assert "none.json" in capsys.readouterr().err
