"""The comparisons of flow trainings, in small: equal numbers of operations, and rows of few evaluations beside those of many."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from duotone.errors import UsageError
from duotone.flow import weights
from flow_toys import SPANS, TOY, stirred
from latent_toys import make_store

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = ("data.chunks=6", "data.listen_with=null", "train.batch_size=2", f"model.replace={json.dumps(TOY.to_dict())}")


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module(name)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path / "store", {"a": 10, "b": 12, "c": 12})
    return tmp_path / "store"


def run(main: ModuleType, arguments: list[Any], monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr("sys.argv", ["script", *map(str, arguments)])
    status: int = main.main()
    return status


@pytest.mark.long
def test_regimes_are_given_equal_operations(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    regimes = script("compare_flow_regimes", monkeypatch)
    arguments = ["--data", store, "--runs", tmp_path / "runs", "--steps", 24, "--rows", "streams", "four draws"]
    arguments += ["--rollouts", 4, "--positions", 2, "--crops", 4, "--set", *SMALL, "--out", tmp_path]
    assert run(regimes, arguments, monkeypatch) == 0
    plain, dear = json.loads((tmp_path / "compare_flow_regimes.json").read_text())["rows"]
    plans = [json.loads((tmp_path / "runs" / f"{name}.json").read_text()) for name in ("streams", "four-draws")]
    total, other = (plan["steps"] * plan["operations"] for plan in plans)
    assert plain["steps"] == 24 > dear["steps"] and other == pytest.approx(total, rel=0.5 / dear["steps"])
    assert all(row["losses"]["clean_past"] > 0 for row in (plain, dear))
    assert "as many arithmetic operations" in (tmp_path / "compare_flow_regimes.md").read_text()


def test_few_steps_beside_many(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = script("compare_few_steps", monkeypatch)
    weights.save(stirred(SPANS), tmp_path / "few" / "flow")
    weights.save(stirred(TOY), tmp_path / "plain")
    arguments = ["--few", tmp_path / "few" / "flow", "--flow", tmp_path / "plain", "--data", store]
    arguments += ["--rollouts", 4, "--positions", 2, "--out", tmp_path]
    assert run(few, arguments, monkeypatch) == 0
    document = json.loads((tmp_path / "few_steps.json").read_text())
    made = [(row["which"], row["solver"], row["steps"]) for row in document["rows"] if "steps" in row]
    assert made == list(few.ROWS)
    assert "+0.0%" in (tmp_path / "few_steps.md").read_text()
    with pytest.raises(UsageError, match="without spans"):
        run(few, [*arguments[:1], tmp_path / "plain", *arguments[2:]], monkeypatch)
