"""The learning curve of a bundled codec: points of evaluations, by hours."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from duotone.evaluate.report import Report, Row

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def curve() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        return importlib.import_module("learning_curve")


def report(fingerprint: str, log_mel: float, system: str = "discrete") -> Report:
    figures = {"music-generated": {"log_mel": log_mel}, "speech-generated": {"log_mel": log_mel - 1, "stoi": 0.9}}
    rows = tuple(
        Row(f"{kind}/{i}.flac", name, 10.0, 3_000, {k: v + i for k, v in found.items()}, 1.0, 1.0)
        for name in ("continuous", system, "opus:12k")
        for kind, found in figures.items()
        for i in range(2)
    )
    return Report({"name": "tiny", "fingerprint": fingerprint}, {"seed": 0, "against": ["opus:12k"]}, rows)


def test_points_are_means_in_order_of_hours_and_weights_have_one(
    curve: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = tmp_path / "heldout_tiny.json"
    for fingerprint, log_mel, hours, system in (
        ("bb", 4.0, "3", "discrete, parallel"), ("aa", 5.0, "1", "discrete"), ("bb", 3.5, "2.5", "discrete"),
    ):  # fmt: skip
        at.write_text(report(fingerprint, log_mel, system).to_json())
        assert curve.main([hours, "estimate", "--results", str(tmp_path)]) == 0
    points = json.loads((tmp_path / "learning_tiny.json").read_text())["points"]
    assert [(p["hours"], p["fingerprint"]) for p in points] == [(1, "aa"), (2.5, "bb")]
    assert points[1]["kinds"]["music-generated"]["ours"] == {"log_mel": 4.0}  # the mean of two files
    assert points[1]["kinds"]["speech-generated"]["ours"] == {"log_mel": 3.0, "stoi": 1.4}
    page = (tmp_path / "learning_tiny.md").read_text()
    assert page.index("`aa`") < page.index("`bb`") < page.index("Opus 12k") and "## Speech, generated" in page
    assert str(tmp_path) in capsys.readouterr().out


def test_a_figure_that_no_file_has_is_left_out(curve: ModuleType) -> None:
    nothing = replace(
        report("aa", 4.0), rows=tuple(replace(r, metrics={"log_mel": float("nan")}) for r in report("aa", 4.0).rows)
    )
    assert curve.point(nothing, 1.0, "estimate")["kinds"]["music-generated"]["ours"] == {}
