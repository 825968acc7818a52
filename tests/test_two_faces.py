"""The page that compares both faces, and its benchmark, run in miniature."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest
import torch

from duotone import lm
from duotone.audio.files import read, write
from duotone.audio.synth import synthesize
from duotone.config import FlowConfig, LMConfig, SamplingConfig
from duotone.errors import UsageError
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


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("compare_faces")


def test_the_comparison_runs(benchmark: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    codec = random_bands()
    save(codec, tmp_path / "codec")
    sizes = FlowConfig(
        dim=32, layers=2, heads=2, head=16, condition=16, tokens=1, channels=64, context_chunks=3, codec=codec.spec.space,
        sampling=SamplingConfig(steps=2),
    )  # fmt: skip
    save_flow(stirred(sizes), tmp_path / "flow")
    small = LMConfig(dim=16, layers=1, heads=2, context_chunks=3)
    lm.save(lm.random(small, codec.spec), tmp_path / "lm", provenance={"minutes": 2.0})
    folder = tmp_path / "heldout" / "music-generated"
    folder.mkdir(parents=True)
    for i in range(2):
        write(folder / f"{i}.wav", synthesize(i, 0.4))
    names = [f"--{name}={tmp_path / name}" for name in ("flow", "lm", "codec", "heldout", "out")]
    words = "--kinds music-generated --rollouts 4 --prompts 4 --prompt 2 --continuation 3 --window 4 --positions 3 6 --batch 3 --parts distances"
    (tmp_path / "page.md").write_text("before\n<!-- faces -->\nnothing yet\n<!-- /faces -->\nafter\n")
    publish = ["--publish", "--cards", str(tmp_path / "cards"), "--docs", str(tmp_path / "page.md")]
    assert benchmark.main([*names, *words.split(), *publish]) == 0
    shown = "| Fréchet distance of chunks, around chunk 6 |"
    told = (tmp_path / "page.md").read_text()
    assert told.startswith("before") and told.endswith("after\n") and shown in told and "nothing yet" not in told
    card = (tmp_path / "cards" / "lm.md").read_text()
    assert "An unknown amount of sound, as codes of the codec." in card and shown in card and "0.03 hours" in card
    text = (tmp_path / "out" / "compare_faces.md").read_text()
    assert str(tmp_path) not in text and "## The language model" in text and "### Distances of latents" in text
    found = json.loads((tmp_path / "out" / "compare_faces.json").read_text())
    assert found["faces"]["language model"]["minutes"] == 2.0 and found["faces"]["flow"]["minutes"] is None
    assert found["rounding"] > 0
    for face in found["faces"].values():
        rows = {(row["name"], row["position"]): row for row in face["figures"]["distances"]}
        assert {("generated", 3), ("generated", 6), ("real", None), ("shuffled", None)} <= set(rows)
        assert rows["shuffled", None]["frechet"] > rows["real", None]["frechet"] and face["seconds_a_chunk"] > 0
    real = [[r for r in face["figures"]["distances"] if r["name"] == "real"] for face in found["faces"].values()]
    assert real[0] == real[1]  # both are compared with the same
    assert benchmark.main([names[0], f"--lm={tmp_path / 'flow'}", *names[2:], *words.split()]) == UsageError.exit_code
    assert "expected --flow and --lm" in capsys.readouterr().err


def test_scales_are_inverse_and_rounding_is_that_of_the_codec(benchmark: ModuleType) -> None:
    codec = random_bands()
    value = codec.encode(synthesize(0, 0.1))
    x = value.channels(64)
    torch.testing.assert_close(benchmark.bounded(x, codec).flatten(), value.values.flatten(), atol=1e-6, rtol=0)
    torch.testing.assert_close(benchmark.unit(benchmark.bounded(x, codec), codec), x)
    levels = benchmark.rounded(benchmark.bounded(x, codec), codec)
    assert torch.equal(levels.flatten(), value.codes().latents().values.flatten())
    source = benchmark.in_bounds(lambda prompts, chunks, seeds: prompts[:, :chunks], codec)
    torch.testing.assert_close(source(levels[None], 2, [0])[0], levels[:2], atol=1e-5, rtol=0)
