"""The arithmetic of the load benchmark: when a listener waits, who is of which sort, and the page of its results."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("websockets", reason="the service needs the extra serve")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench_serve
import machine
from listeners import Outcome, Playback


def test_a_listener_waits_for_what_comes_late_and_hears_the_rest_later() -> None:
    playback = Playback(rate=100)
    assert playback.played(5.0) == 0
    playback.arrive(0, 100, 10.0)  # heard from 10 s to 11 s
    playback.arrive(100, 100, 10.4)
    assert playback.played(10.5) == 50 and playback.slacks == pytest.approx([0.6])
    assert playback.played(99.0) == 200  # no more than came
    playback.arrive(200, 100, 12.5)  # was due at 12 s
    assert playback.slacks[-1] == pytest.approx(-0.5)
    playback.arrive(300, 100, 12.6)  # due at 13.5 s now
    assert playback.slacks[-1] == pytest.approx(0.9) and playback.played(13.0) == 250


def test_from_four_listeners_on_every_second_one_is_of_another_sort() -> None:
    assert bench_serve.sorts(2) == ["steady", "steady"]
    found = bench_serve.sorts(16)
    assert found.count("steady") == 8 and {found.count(sort) for sort in bench_serve.SORTS} == {2, 3}


def test_slack_is_that_of_steady_listeners() -> None:
    found = bench_serve._summary(
        [
            Outcome("steady", [1.0, 0.5, -0.25, 1.0], sessions=1), Outcome("slow", [-5.0], sessions=1),
            Outcome("steady", refused=True), Outcome("vanishing", [-1.0], sessions=3, lost=["gone"]),
        ]
    )  # fmt: skip
    assert (found["worst_underrun"], found["in_time"], found["refused"], found["sessions"]) == (0.25, 0.75, 1, 5)
    assert found["others"] == {"slow": 1, "vanishing": 1, "reconnecting": 0} and found["lost"] == ["gone"]
    with pytest.raises(RuntimeError, match="heard"):
        bench_serve._summary([Outcome("steady", refused=True)])


def test_the_page_shows_the_parts_that_are_there() -> None:
    rows = [{"what": "chunk to decode", "ms": {"1": 10.0, "2": 15.0, "4": 24.0, "8": 40.0}}]
    part = {
        "machine": machine.describe(),
        "command": "python benchmarks/bench_serve.py",
        "load": [0.5, 1.0],
        "rows": rows,
    }
    text = bench_serve.page({"costs": part})
    assert "| chunk to decode | 10.0 | 15.0 | 24.0 | 40.0 | 2.00 |" in text and "One jam" not in text
    assert set(bench_serve.PARTS) == {"batching", "costs", "load", "held", "studio"}
    jam = {"seconds": 30.2, "underruns": 1, "lost": 0, "least": 0.41, "late": 2, "processor": 0.3, "browser": "140.0"}
    text = bench_serve.page({"studio": {**part, "rows": [jam]}})
    assert "30 s in Chromium 140.0" in text and "1 underruns of the page's player and 2 that" in text


def test_the_committed_page_is_that_of_the_committed_figures() -> None:
    document = machine.read("serve")
    assert set(document) <= set(bench_serve.PARTS) and "batching" in document
    assert (machine.RESULTS / "serve.md").read_text(encoding="utf-8") == bench_serve.page(document)
