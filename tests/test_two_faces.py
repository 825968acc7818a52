"""The page that compares both faces, and its benchmark, run in miniature."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from duotone import lm
from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.config import FlowConfig, LMConfig, SamplingConfig
from duotone.errors import AudioError, UsageError
from duotone.flow.weights import save as save_flow
from duotone.hub import save
from flow_toys import stirred
from pages import ROOT, code_of, commands_of, page
from small_bands import random_bands

PAGE = page("docs/two-faces.md")
MINIATURE = {
    "prepare": ["--workers", "0"],
    "train": [
        "train.steps=2", "train.batch_size=1", "train.validation_batches=1", "train.precision=float32", "data.chunks=2",
        "objective.rollout_chunks=1", "model.replace.dim=16", "model.replace.layers=1", "model.replace.heads=2",
    ],
    "generate": ["--seconds", "0.7"],
}  # fmt: skip


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    write("song.wav", synthesize(1, 1.5))
    (tmp_path / "music").mkdir()
    for i in range(2):
        write(tmp_path / "music" / f"{i}.wav", synthesize(i, 4.0))
    commands_of(PAGE, 5, MINIATURE)
    assert read("tokens.wav").length == read("take-2.wav").length == round(0.7 * 48_000)
    capsys.readouterr()
    code_of(PAGE)
    assert capsys.readouterr().out.splitlines()[-1].startswith("Latents([2, 128, 4]")


@pytest.fixture(scope="module")
def benchmark() -> dict[str, Any]:
    before = [*sys.path]
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        return runpy.run_path(str(ROOT / "benchmarks" / "compare_faces.py"))
    finally:
        sys.path[:] = before


def test_the_comparison_runs(benchmark: dict[str, Any], tmp_path: Path) -> None:
    codec = random_bands()
    save(codec, tmp_path / "codec")
    sizes = FlowConfig(
        dim=32, layers=2, heads=2, head=16, condition=16, tokens=1, channels=64, context_chunks=3, codec=codec.spec.space,
        sampling=SamplingConfig(steps=2),
    )  # fmt: skip
    save_flow(stirred(sizes), tmp_path / "flow")
    lm.save(
        lm.random(LMConfig(dim=16, layers=1, heads=2, context_chunks=3), codec.spec),
        tmp_path / "lm",
        provenance={"minutes": 2.0},
    )
    (tmp_path / "heldout").mkdir()
    for i in range(2):
        write(tmp_path / "heldout" / f"{i}.wav", synthesize(i, 0.3))
    names = [f"--{name}={tmp_path / name}" for name in ("flow", "lm", "codec", "heldout")]
    small = ["--rollouts", "4", "--prompt", "2", "--window", "4", "--positions", "3", "6", "--batch", "3"]
    found = benchmark["main"]([*names, *small, "--out", str(tmp_path)])
    text = (tmp_path / "compare_faces.md").read_text()
    assert str(tmp_path) not in text and "| language model | 3 |" in text and "| flow | 6 |" in text
    assert found["faces"]["language model"]["minutes"] == 2.0 and found["faces"]["flow"]["minutes"] is None
    for face in found["faces"].values():
        rows = {(row["name"], row["position"]): row for row in face["rows"]}
        assert set(rows) == {("generated", 3), ("generated", 6), ("real", None), ("shuffled", None)}
        assert rows["shuffled", None]["frechet"] > rows["real", None]["frechet"] and face["seconds_a_chunk"] > 0
    with pytest.raises(UsageError, match="expected a flow and a language model"):
        benchmark["main"]([names[0], f"--lm={tmp_path / 'flow'}", *names[2:], *small])
    with pytest.raises(AudioError, match="expected 99"):
        benchmark["main"]([*names, *small, "--window", "99"])


def test_its_figures_are_right_for_what_is_known(benchmark: dict[str, Any]) -> None:
    g = torch.Generator().manual_seed(0)
    prompts = torch.randn(6, 3, 2, 4, generator=g)
    own, others = benchmark["nearness"](prompts + 0.01, prompts)
    assert own > 0.99 and abs(others + 0.2) < 0.2
    x = torch.randn(5, 4, 2, 4, generator=g)
    assert benchmark["repeated"](x) == 0
    x[:, 3] = x[:, 0]
    assert benchmark["repeated"](x) == pytest.approx(1 / 3)
    codec = random_bands()
    codes = codec.encode(synthesize(0, 0.1)).codes()
    exact = codes.latents()
    assert torch.equal(benchmark["rounded"](exact.channels(64)[None], codec.spec).flatten(), exact.values.flatten())
    parts = benchmark["windows"]([codes], 3, 5, 0)
    assert all(any(np.array_equal(p.numpy(), codes[i : i + 3].numpy()) for i in range(len(codes) - 2)) for p in parts)
