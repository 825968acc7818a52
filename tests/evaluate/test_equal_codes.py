"""The benchmark of equal codes: what it compares, and that README's table is that of the committed results."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.codicodec import CoDiCodec
from duotone.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("bench_equal_codes")


def test_blocks_make_no_difference_at_one_batch_shape(bench: ModuleType, codec: CoDiCodec, tmp_path: Path) -> None:
    sounds = [tmp_path / f"{i}.wav" for i in range(2)]
    for i, path in enumerate(sounds):
        write(path, synthesize(i, 0.3 + 0.1 * i))
    whole = bench.encode(bench.REFERENCE, codec, sounds)
    assert len(whole[0]) == len(whole[1]) and whole[1].shape[1] == 4
    for block in (0.013, 0.1, 1.0):
        found = bench.encode(replace(bench.REFERENCE, block=block), codec, sounds)
        assert bench.compare(whole, found, codec.spec.levels) == {
            "different": 0,
            "largest_difference": 0.0,
            "edge": 0.0,
        }


def test_differences_are_counted_and_explained(bench: ModuleType) -> None:
    codes = np.array([5, 6, 7])
    latents = np.array(
        [[0.0, 0.099], [0.4, 0.4], [-0.5, 0.2]], np.float32
    )  # of 11 levels: rounding edges at 0.1 (2 i + 1)
    moved = latents.copy()
    moved[0, 1] = 0.101
    found = bench.compare((codes, latents), (np.array([5, 6, 8]), moved), (11, 11))
    assert found["different"] == 1
    assert found["largest_difference"] == pytest.approx(5 * 0.002, rel=1e-3)
    assert found["edge"] == pytest.approx(5 * 0.001, rel=1e-3)


def test_a_share_is_never_rounded_up(bench: ModuleType) -> None:
    for different, codes, shown in ((0, 10**6, "100%"), (1, 10**9, "99.9999%"), (199, 1_000, "80.1%")):
        assert bench.share({"different": different, "codes": codes}) == shown


def test_the_table_goes_between_its_markers(bench: ModuleType) -> None:
    row = {"name": "batch 8", "least": 0.9999, "different": 3, "codes": 1_000_000}
    document = {"rows": [row], "codes": 1_000_000, "minutes": 60.0}
    text = bench.with_table(f"before\n{bench.BEGIN}\nold\n{bench.END}\nafter\n", document)
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| batch 8 | 1,000,000 | 99.9997% | 99.99% |" in text
    assert bench.missed({**document, "rows": [row, {**row, "name": "bad", "different": 200}]}) == ["bad"]
    with pytest.raises(UsageError, match="markers"):
        bench.with_table("no table here", document)


def test_the_readme_has_the_committed_results(bench: ModuleType) -> None:
    document = json.loads((ROOT / "benchmarks" / "results" / "equal_codes.json").read_text(encoding="utf-8"))
    assert bench.missed(document) == [] and document["minutes"] >= 60
    assert bench.table(document) in (ROOT / "README.md").read_text(encoding="utf-8")


def test_kernels_of_another_processor_are_compiled_for_it(
    bench: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    echo = tmp_path / "echo-cc"
    echo.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    echo.chmod(0o755)
    monkeypatch.setenv("CC", str(echo))
    setting = next(s for s in bench.SETTINGS if s.capability == "avx2" and s.kernels)
    environment = setting.environment(tmp_path)
    done = subprocess.run(
        [environment["CC"], "-O3", "-march=native", "a b.c"], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["-O3", "-march=x86-64-v3", "a b.c"]
    assert environment["DUOTONE_CACHE"] != os.environ["DUOTONE_CACHE"]
