"""`train`, `report`, `make-sounds` and `evaluate` as typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from duotone.audio import collection
from duotone.audio.files import write
from duotone.audio.synth import synthesize
from small import SMALL


@pytest.fixture
def sounds(here: Path) -> Path:
    (here / "sounds").mkdir()
    for i in range(2):
        write(here / "sounds" / f"{i}.wav", synthesize(i, 0.3))
    (here / "r.yaml").write_text(
        json.dumps({"model": {"preset": "base", "replace": SMALL.to_dict()}, "train": {"batch_size": 2, "device": "cpu", "steps": 3,
                                                                     "validate_every": 2, "validation_batches": 1}})
    )  # fmt: skip
    return here


def test_train_prints_the_codec_and_report_the_page(duotone: Any, sounds: Path) -> None:
    result = duotone("train", "r.yaml", "--data", "sounds", "--out", "run", "train.listen_every=2", "train.clips=1")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == "run/codec" and "step 3/3" in result.stderr
    result = duotone("report", "run")
    assert result.exit_code == 0 and (sounds / "run" / "report.html").read_text().count("<audio") == 5


def test_json_gives_a_line_a_step(duotone: Any, sounds: Path) -> None:
    result = duotone("train", "r.yaml", "--data", "sounds", "--out", "run", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2] and all("loss" in line for line in lines)
    logged = [json.loads(line) for line in (sounds / "run" / "log.jsonl").read_text().splitlines()]
    assert logged == lines


@pytest.mark.parametrize(
    ("arguments", "code", "hint"),
    [
        (["train", "none.yaml", "--data", "sounds", "--out", "run"], 2, "none.yaml"),
        (
            ["train", "tiny-dem", "--data", "sounds", "--out", "run"],
            2,
            "one of: base, fine-tune-published, flow-base",
        ),
        (["train", "r.yaml", "--data", "sounds", "--out", "run", "data.validation=nowhere"], 3, "nowhere"),
        (
            ["train", "r.yaml", "--data", "sounds", "--out", "run", "objective.kind=magic"],
            2,
            "objective.kind got 'magic'",
        ),
        (["train", "r.yaml", "--data", "nowhere", "--out", "run"], 3, "nowhere"),
        (["train", "r.yaml", "--data", "sounds", "--out", "run", "train.stepz=3"], 2, "stepz"),
        (["train", "r.yaml", "--data", "sounds", "--out", "run", "train.accumulation=3"], 2, "multiple of 3"),
        (["train", "r.yaml", "--data", "sounds", "--out", "r.yaml"], 2, "a file"),
        (["train", "r.yaml", "--data", "sounds", "--out", "run", "train.device=cuda"], 2, "train.device=auto"),
        (["train", "r.yaml", "--data", "sounds", "--out", "run", "model.start_from=nobody"], 6, "nobody"),
        (["report", "sounds"], 2, "log.jsonl"),
        (["make-sounds", "out", "--kinds", "noise"], 2, "music,speech,synth"),
        (["make-sounds", "out", "--split", "half"], 2, "heldout"),
        (["make-sounds", "out", "--kinds", "synth", "--minutes", "-1"], 2, "length above 0"),
        (["evaluate", "tiny", "--data", "sounds", "--frechet", "vggish"], 2, "logmel"),
        (["evaluate", "tiny", "--data", "sounds", "--against", "nobody"], 6, "nobody"),
    ],
)
def test_mistakes_are_explained(
    duotone: Any, sounds: Path, arguments: list[str], code: int, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "train.device=cuda" in arguments:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = duotone(*arguments)
    assert result.exit_code == code, result.stderr
    assert hint in " ".join(result.stderr.split()) and "Traceback" not in result.stderr


def test_make_sounds(duotone: Any, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "PIECE_SECONDS", 0.5)
    result = duotone("make-sounds", "out", "--minutes", "0.02", "--kinds", "synth")
    assert result.exit_code == 0 and result.stdout.strip() == "out"
    assert len(list((here / "out").glob("*.flac"))) == 2
    monkeypatch.setattr("shutil.which", lambda name: None)
    result = duotone("make-sounds", "other", "--minutes", "0.02")
    assert result.exit_code == 0 and "no music" in result.stderr and "no speech" in result.stderr
