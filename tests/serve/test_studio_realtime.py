"""A jam of the bundled pair in a browser by the clock: nobody waits for sound. The service has one core, the browser another."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the service needs the extra serve")
pytest.importorskip("playwright.sync_api", reason="needs the Python package playwright")

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import bench_serve
from studio_page import CHROMIUM

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CHROMIUM is None, reason="needs a browser (Debian: apt install chromium)"),
    pytest.mark.skipif(CORES < 2, reason="needs two cores, one for the service and one for the browser (Linux)"),
]


def test_half_a_minute_of_jam_has_no_underrun() -> None:
    """Real time by its nature: it needs a machine that does nothing else. DUOTONE_JAM_SECONDS sets another length."""
    seconds = float(os.environ.get("DUOTONE_JAM_SECONDS", "30"))
    found = bench_serve.studio(argparse.Namespace(threads=1, held=seconds))
    assert found["seconds"] >= seconds
    assert (found["underruns"], found["late"], found["lost"]) == (0, 0, 0), found
