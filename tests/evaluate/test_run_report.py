"""The page of a run: damaged parts are named and left out, the others are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.errors import UsageError
from duotone.evaluate.run_report import report_page, write_report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    lines = [{"step": step, "loss": 2.0 - step, "bad_steps": 0} for step in range(3)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    folder = tmp_path / "samples" / "step-000000003"
    folder.mkdir(parents=True)
    write(folder / "clip-0-original.wav", synthesize(1, 0.1))
    (folder / "metrics.json").write_text(json.dumps([{"clip": 0, "log_mel": 1.5}, {"clip": 1, "si_sdr": None}]))
    return tmp_path


def test_a_whole_run_has_no_problems(run: Path) -> None:
    page, problems = report_page(run)
    assert not problems and "Damaged" not in page
    assert page.count("<audio") == 1 and "1.500" in page and "<th>si_sdr" in page and "3 steps" in page


@pytest.mark.parametrize(
    ("name", "content", "problem", "stays"),
    [
        ("log.jsonl", b'{"step": 0, "loss": 1.0}\n\x80\xff\x00\n', "Line 2", "<audio"),
        ("log.jsonl", b'{"step": 0, "loss": 1.0}\n{"step": 1}\n{"step": 2, "loss": null}\n', "", "loss 1 at first"),
        ("samples/step-000000003/metrics.json", b"", "metrics.json", "<audio"),
        ("samples/step-000000003/metrics.json", b'{"clip": 1}', "not a list", "<audio"),
        ("samples/step-000000003/metrics.json", b"\xff", "metrics.json", "<audio"),
        ("samples/step-000000003/clip-1-x.wav", b"junk", "clip-1-x.wav", "clip-0-original"),
        ("recipe.json", b"\xff{", "", "<audio"),
    ],
)
def test_damage_is_told_of_and_the_rest_is_shown(
    run: Path, name: str, content: bytes, problem: str, stays: str
) -> None:
    (run / name).write_bytes(content)
    target, problems = write_report(run, run / "page.html")
    page = target.read_text(encoding="utf-8")
    assert stays in page
    assert len(problems) == bool(problem) and all(problem in text for text in problems)
    assert ("Damaged, not shown" in page) == bool(problem)


def test_a_log_of_damage_alone_is_no_run(run: Path) -> None:
    (run / "log.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(UsageError, match=r"no steps yet.*Line 1"):
        report_page(run)


def test_changes_of_the_recipe_are_shown(run: Path) -> None:
    (run / "changes.jsonl").write_text('{"step": 2, "changed": {"train.steps": [3, 4]}}\n')
    assert "Changes of the recipe" in report_page(run)[0]


def test_metrics_of_any_objective_have_a_chart(run: Path) -> None:
    lines = [{"step": s, "loss": 1.0, "hinge": s * 0.1, "constant": 3, "listen_pesq": s} for s in range(3)]
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page, _ = report_page(run)
    charts = [part.partition("<")[0] for part in page.split("<figcaption>")[1:]]
    assert charts == ["Loss", "hinge"] and page.count("<polyline") == 2
