"""The log of a run: what is damaged is told of and passed over; what is written, every reader of JSON takes."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from duotone.train.log import as_line, read_log, writing_log


def test_damaged_lines_are_passed_over_and_told_of(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    good = b'{"step": 0, "loss": 1.0}\n'
    path.write_bytes(
        good + b"\x80\xff\x00\n" + b"[1, 2]\n" + b'{"loss": 3}\n' + b'{"step": "2"}\n\n' + b'{"step": 3}\n{"ste'
    )
    records, problems = read_log(path)
    assert records == [{"step": 0, "loss": 1.0}, {"step": 3}]
    assert [problem.split(" of ")[0] for problem in problems] == ["Line 2", "Line 3", "Line 4", "Line 5", "Line 8"]
    assert read_log(tmp_path / "none.jsonl") == ([], [])


def test_numbers_that_are_not_finite_are_null() -> None:
    def refuse(constant: str) -> float:
        pytest.fail(f"{constant} is not JSON")

    line = as_line({"step": 1, "loss": math.nan, "grad_norm": math.inf, "rate": 0.5})
    assert json.loads(line, parse_constant=refuse) == {"step": 1, "loss": None, "grad_norm": None, "rate": 0.5}


def test_a_log_is_cut_back_to_where_the_run_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1}\n\xff\n{"step": 2}\n')
    with writing_log(path, 2) as write:
        write({"step": 2, "loss": 0.5})
    assert read_log(path) == ([{"step": 0}, {"step": 1}, {"step": 2, "loss": 0.5}], [])
