"""Validation of flow models: losses are those of the cache, a generated past is the model's own, runs are reproducible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.flow import FlowCache
from duotone.flow.path import interpolate, velocity
from duotone.store.split import Crops, Region
from duotone.train.draws import Draws
from duotone.train.flow import FlowObjectiveSection
from duotone.train.flow_objective import FlowObjective
from duotone.train.flow_validation import (
    REGENERATED,
    TIMES,
    FlowValidation,
    continued,
    next_chunk_losses,
    next_chunk_metrics,
    regenerated,
    rollout_statistics,
)
from duotone.train.latents import LatentCrops, StoredLatents
from flow_toys import TOY, stirred
from latent_toys import make_store


def crops(b: int = 5, n: int = 6) -> Tensor:
    return torch.randn(b, n, TOY.tokens, TOY.channels, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
@pytest.mark.parametrize("level", [0.0, 0.1])
def test_next_chunk_losses_are_those_of_the_cache(level: float) -> None:
    config = TOY.model_copy(update={"sampling": TOY.sampling.model_copy(update={"context_noise": level})})
    model, x, past = stirred(config), crops(), crops().flip(0)
    found = next_chunk_losses(model, x, past)
    draws = Draws.whole(5)
    eps, noise = (draws.noise(name, tuple(x.shape[1:]), x.device) for name in ("validation", "validation context"))
    cache = FlowCache(model, 5)
    for n in range(6):
        for i, t in enumerate(TIMES):
            v = cache.velocity(interpolate(x[:, n], eps[:, n], t), t)
            assert found[i, n] == pytest.approx(float((v - velocity(x[:, n], eps[:, n])).square().mean()), rel=1e-4)
        cache.append(past[:, n : n + 1], level, noise[:, n : n + 1])


@torch.no_grad()
def test_a_generated_past_is_finished_after_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = stirred(), crops()
    found = regenerated(model, x)
    assert found.shape == x.shape and float((found - x).square().mean()) > 0.1
    assert torch.equal(found, regenerated(model, x)) and not torch.equal(found, regenerated(model, x, seed=1))
    changed = x.clone()
    changed[:, 2] += 1
    other = regenerated(model, changed)
    assert torch.equal(other[:, :2], found[:, :2])  # causal
    assert all(
        not torch.equal(other[:, n], found[:, n]) for n in range(2, 5)
    )  # heard by those after it, within the reach

    def perfect(self: FlowCache, noisy: Tensor, t: float, *_: Any) -> Tensor:
        assert t <= REGENERATED
        return (noisy - x[:, self.index]) / t

    monkeypatch.setattr(FlowCache, "velocity", perfect)
    torch.testing.assert_close(regenerated(model, x), x)


def test_metrics_by_time_and_by_context_are_means_of_the_same_losses() -> None:
    model, x = stirred(), crops(n=6)
    metrics, losses = next_chunk_metrics(model, x), next_chunk_losses(model, x, x)
    contexts = {name for name in metrics if name.startswith("context")}
    assert contexts == {"context_0", "context_1", "context_2_to_3", "context_4_to_5"}
    assert metrics["clean_past"] == pytest.approx(float(losses[:, 3:].mean()))
    assert metrics["clean_past"] == pytest.approx(sum(metrics[f"t_{t}"] for t in TIMES) / len(TIMES), rel=1e-5)
    assert metrics["context_4_to_5"] == pytest.approx(float(losses[:, 4:].mean()))


def test_rollout_statistics_are_zero_and_one_for_the_data_themselves() -> None:
    x = crops(64, 40)
    same = rollout_statistics(x, x)
    assert same["rollout_deviation"] == pytest.approx(1.0, abs=0.01) and same["rollout_mean"] < 0.02
    faded = rollout_statistics(0.5 * x + 0.3, x)
    assert faded["rollout_deviation"] == pytest.approx(0.5, abs=0.01)
    assert faded["rollout_mean"] == pytest.approx(0.3, abs=0.02)


def test_a_validation_is_reproducible_and_listens(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", {"a": 30})
    objective = FlowObjective(TOY, FlowObjectiveSection())
    objective.model.load_state_dict(stirred().state_dict())
    weights = {name: p.detach() for name, p in objective.named_parameters()}
    latents = StoredLatents([store])
    held = LatentCrops(latents, Crops([Region(0, 10, 20)], 6), 0)
    heard: list[int] = []

    def decode(x: Tensor) -> Waveform:
        assert x.shape[1:] == (4, 6) and x.device.type == "cpu"
        heard.append(len(x))
        return Waveform(x.reshape(1, -1).clamp(-1, 1).contiguous(), 8_000)

    validation = FlowValidation(objective, held, tmp_path, 1, 5, 4, 2, decode, lambda wave: b"png")
    first = validation(3, weights)
    assert not heard and first == validation(2, weights)
    assert validation(4, weights) == first and sorted(heard) == [5, 5, 6, 6, 8, 8]
    folder = tmp_path / "samples" / "step-000000004"
    rows = json.loads((folder / "metrics.json").read_text())
    assert [row["kind"] for row in rows] == ["original", "continued", "from-nothing"] * 2
    for row in rows:
        assert (folder / f"clip-{row['clip']}-{row['kind']}.wav").is_file() and (
            folder / f"clip-{row['clip']}-{row['kind']}.png"
        ).is_file()
    quiet = FlowValidation(objective, held, tmp_path, 1, 0)(4, weights)
    assert "rollout_deviation" not in quiet and quiet["validation_loss"] == first["validation_loss"]


def test_a_continuation_begins_with_its_prompt_or_with_nothing() -> None:
    model, prompt = stirred(), crops(2, 3)
    whole = continued(model, prompt, 4)
    assert whole.shape == (2, 4, 4, 6)
    torch.testing.assert_close(continued(model, torch.cat([prompt, whole[:, :1]], 1), 3), whole[:, 1:])
    nothing = continued(model, prompt[:, :0], 4)
    assert nothing.shape == whole.shape and not torch.equal(nothing, whole)
