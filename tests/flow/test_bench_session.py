"""The benchmark of a session: slack of a player whose times are known, and rows that are written beside others."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from duotone import hub
from duotone.flow import weights
from flow_toys import PAIRED, stirred
from small_bands import random_bands

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("bench_session")


def test_slack_of_known_times(bench: ModuleType) -> None:
    # chunks of 1 s, made in 0.25 s: with a look-ahead of 1 each is begun when the one before it starts to be heard
    assert bench.slacks([0.25] * 4, 1.0, 1) == pytest.approx([0.75] * 3)
    # with 2 the second is begun at once, the third when the first has been heard... and is 1.75 s early
    assert bench.slacks([0.25] * 4, 1.0, 2) == pytest.approx([0.75, 1.5, 1.75])
    late = bench.slacks([0.25, 1.5, 0.25], 1.0, 1)  # the player waits half a second, then goes on later
    assert late == pytest.approx([-0.5, 0.75])


def test_a_row_says_whose_weights_it_measured(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.save(random_bands(), tmp_path / "shelf" / "small")
    weights.save(stirred(PAIRED), tmp_path / "shelf" / "flow-tiny")
    short = [
        "--codec",
        str(tmp_path / "shelf" / "small"),
        "--minutes",
        "0.001",
        "--threads",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert bench.chosen(str(tmp_path / "shelf" / "flow-tiny"))[1] == "trained"
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "empty")
    assert bench.chosen("flow-tiny")[1] == "drawn"
    monkeypatch.setattr(hub, "WEIGHTS", tmp_path / "shelf")
    assert bench.main(short) == 0 and bench.main([*short, "--lookahead", "1"]) == 0
    text, page = ((tmp_path / f"session.{end}").read_text(encoding="utf-8") for end in ("json", "md"))
    assert str(tmp_path) not in text + page
    document = json.loads(text)
    assert [row["lookahead"] for row in document["rows"]] == [1, 2] and len(document["commands"]) == 2
    assert all(row["weights"] == "bundled" and row["speed"] > 0 for row in document["rows"])
    assert page.count("times real time") == 2 and "times real time" in capsys.readouterr().out
    row = {**document["rows"][0], "speed": 1.5, "waits": 3}
    assert "missed: 1.50" in bench.verdict(row) and "missed 3 times" in bench.verdict(row)
    assert "reached" in bench.verdict({**row, "speed": 2.0, "waits": 0})
