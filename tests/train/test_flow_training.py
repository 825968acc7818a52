"""Training of flow models: identities of the objective first, then statistics, data, resuming, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import duotone.flow as flow
from duotone.config import FlowConfig
from duotone.errors import ConfigError, FormatError
from duotone.flow import FlowCache
from duotone.flow.path import interpolate, velocity
from duotone.train import checkpoint
from duotone.train.draws import Draws
from duotone.train.flow import FlowObjectiveSection
from duotone.train.flow_objective import NOISY_PAST, FlowObjective, prefix_length
from duotone.train.optimizers import make_optimizers
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from duotone.train.settings import OptimSection
from flow_toys import SPANS, TOY, UNLIMITED, stirred
from latent_toys import DEVIATION, MEAN, SPEC, make_store
from toy_task import curve

B, K, N = 3, 2, 5


def objective(config: FlowConfig = TOY, **fields: Any) -> FlowObjective:
    made = FlowObjective(config, FlowObjectiveSection(**fields))
    made.model.load_state_dict(stirred(config).state_dict())
    return made


def latents(b: int = B, n: int = N) -> Tensor:
    return torch.randn(b, n, TOY.tokens, TOY.channels, generator=torch.Generator().manual_seed(3))


def mixed(share: float) -> tuple[Draws, Tensor]:
    """The first draws in which some examples lose their past and some keep it, and which lose it."""
    for seed in range(100):
        draws = Draws.whole(B, seed)
        drop = draws.chosen("drop context", share)
        if drop.any() and not drop.all():
            return draws, drop
    raise AssertionError("no such seed")


def recipe(**sections: dict[str, Any]) -> TrainRecipe:
    values: dict[str, dict[str, Any]] = {
        "model": {"kind": "flow", "preset": "flow-tiny", "replace": TOY.to_dict()},
        "objective": {"kind": "flow", "rollout_chunks": 2},
        "data": {"kind": "latents", "chunks": 6, "validation_share": 0.2},
        "optim": {"name": "adamw", "rate": 4e-3, "warmup_steps": 2, "ema_decay": 0.9},
        "train": {
            "steps": 6, "batch_size": 4, "checkpoint_every": 2, "validate_every": 3, "validation_batches": 1,
            "precision": "float32", "device": "cpu",
        },
    }  # fmt: skip
    return TrainRecipe.parse({name: {**values[name], **sections.get(name, {})} for name in values})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "s"
    make_store(folder, {"a": 40, "b": 30, "short": 3})
    return folder


# Identities.


@pytest.mark.parametrize("config", [TOY, UNLIMITED])
def test_loss_and_gradient_of_streams_are_those_of_one_chunk_after_another(config: FlowConfig) -> None:
    """Straightforward: for each example, copy and chunk a full pass over the noised past and the noisy chunk, and its last velocity."""
    made, (draws, drop) = objective(config, draws=K, context_drop=0.4), mixed(0.4)
    x = made.model.normalize(latents())
    loss, values = made.streams(x, 0.0, draws)
    loss.backward()
    found = {name: p.grad.clone() for name, p in made.model.named_parameters() if p.grad is not None}
    made.zero_grad()

    s = made.context_levels(N, draws)
    assert (s > 0).any() and (s == 0).any()
    eps, past_eps = (
        draws.noise("noise", (K, *x.shape[1:]), x.device),
        draws.noise("context", tuple(x.shape[1:]), x.device),
    )
    t = values["t"].view(B, K, N)
    total = torch.zeros(())
    for b in range(B):
        for k in range(K):
            for n in range(N):
                noisy = interpolate(x[b, n], eps[b, k, n], t[b, k, n])
                first = n if drop[b] else 0
                past = interpolate(x[b, first:n], past_eps[b, first:n], s[b, first:n, None, None])
                run, times = torch.cat([past, noisy[None]])[None], torch.cat([s[b, first:n], t[b, k, n][None]])[None]
                error = (made.model(run, times, first)[0, -1] - velocity(x[b, n], eps[b, k, n])).square().mean()
                assert values["error"].view(B, K, N)[b, k, n] == pytest.approx(float(error.detach()), rel=1e-4)
                total = total + error / (B * K * N)
    total.backward()
    assert float(loss.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    for name, p in made.model.named_parameters():
        assert p.grad is not None
        torch.testing.assert_close(found[name], p.grad, atol=2e-5, rtol=1e-3)


@torch.no_grad()
def test_the_loss_of_streams_is_that_of_the_cache() -> None:
    made, draws = objective(draws=1, context_drop=0.0), Draws.whole(B, seed=1)
    x = made.model.normalize(latents())
    _, values = made.streams(x, 0.0, draws)
    s, t = made.context_levels(N, draws), values["t"].view(B, N)
    eps, past_eps = (draws.noise(n, (*k, *x.shape[1:]), x.device) for n, k in (("noise", (1,)), ("context", ())))
    for b in range(B):
        cache = FlowCache(made.model)
        for n in range(N):
            noisy = interpolate(x[b, n], eps[b, 0, n], t[b, n])
            error = (cache.velocity(noisy[None], float(t[b, n]))[0] - velocity(x[b, n], eps[b, 0, n])).square().mean()
            assert values["error"].view(B, N)[b, n] == pytest.approx(float(error), rel=1e-4)
            cache.append(x[b : b + 1, n : n + 1], float(s[b, n]), past_eps[b : b + 1, n : n + 1])


@torch.no_grad()
def test_the_loss_does_not_depend_on_how_a_batch_is_divided() -> None:
    made, x = objective(resample_from=0.0), latents(4)
    whole, _ = made({"latents": x}, 0.5, Draws.whole(4, 2, 7))
    parts = [made({"latents": x[i : i + 2]}, 0.5, Draws(2, 7, i, 2, 4))[0] for i in (0, 2)]
    assert float(whole) == pytest.approx(float(sum(parts) / 2), rel=1e-5)


# The prefix regime.


def test_the_prefix_is_as_long_as_the_reference_says() -> None:
    found = [prefix_length((i + 0.5) / 2000, 64, 0.1, (0.05, 0.75)) for i in range(2000)]
    assert found.count(0) == 200 and max(found) == 48 and min(length for length in found if length) == 3
    assert sum(found) / 2000 == pytest.approx(0.9 * 64 * 0.4, rel=0.02)
    assert [prefix_length(u, 1, 0.1, (0.05, 0.75)) for u in (0.0, 0.99)] == [0, 0]
    assert prefix_length(0.999, 2, 0.1, (0.05, 0.75)) == 1  # there is always something to train on


def test_prefix_one_length_a_batch_one_time_an_example_and_no_loss_on_the_prefix() -> None:
    made = objective(regime="prefix", context_noise=0.0)
    x = latents(b=4, n=8)
    lengths = set()
    for step in range(12):
        draws = Draws.whole(4, step=step)
        length = prefix_length(draws.shared("prefix"), 8, 0.1, (0.05, 0.75))
        lengths.add(length)
        _, values = made({"latents": x}, 0.0, draws)
        t, context = (values[name].view(4, 8 - length) for name in ("t", "context"))
        assert (t == t[:, :1]).all() and len(t[:, 0].unique()) == 4
        assert (context[:, 0] == length).all() and (context[:, 1:] == NOISY_PAST).all()
        alone = made({"latents": x[2:]}, 0.0, Draws(0, step, 2, 2, 4))[1]["t"].view(2, -1)
        assert torch.equal(alone, t[2:])  # another part of the same batch has the same length
    assert len(lengths) > 3


def test_prefix_loss_is_that_of_the_full_pass() -> None:
    made, draws = objective(regime="prefix", context_noise=0.0), Draws.whole(B, step=3)
    x = made.model.normalize(latents(n=8))
    length = prefix_length(draws.shared("prefix"), 8, 0.1, (0.05, 0.75))
    assert length
    loss, values = made.prefix(x, draws)
    eps, t = draws.noise("noise", tuple(x.shape[1:]), x.device), values["t"].view(B, -1)[:, :1]
    noisy = torch.cat([x[:, :length], interpolate(x[:, length:], eps[:, length:], t[..., None, None])], 1)
    times = torch.cat([torch.zeros(B, length), t.expand(B, 8 - length)], 1)
    error = (made.model(noisy, times) - velocity(x, eps))[:, length:].square().mean()
    assert float(loss.detach()) == pytest.approx(float(error.detach()), rel=1e-5)


# Noise on the context, dropped contexts, resampled ones, averages.


def test_half_of_the_context_is_clean_and_the_rest_up_to_the_highest_level() -> None:
    s = objective().context_levels(64, Draws.whole(64))
    assert float((s == 0).float().mean()) == pytest.approx(0.5, abs=0.03)
    assert 0.48 < float(s.max()) < 0.5 and float(s[s > 0].mean()) == pytest.approx(0.25, abs=0.01)
    assert not objective(context_noise=0.0).context_levels(9, Draws.whole(4)).any()


def test_dropped_examples_have_no_past() -> None:
    made, (draws, drop) = objective(context_drop=0.5), mixed(0.5)
    x = latents()
    context = made({"latents": x}, 0.0, draws)[1]["context"].view(B, 2, N)
    assert (context[drop] == 0).all() and (context[~drop] == torch.arange(N)).all()


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2])
def test_a_perfect_model_resamples_what_was_there(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the true velocity of each chunk, one step or two lead back to the data, whatever the level."""
    made, draws = objective(resample_from=0.0, resample_steps=steps, resample_share=0.7), Draws.whole(B, seed=4)
    x = made.model.normalize(latents())
    eps = draws.noise("resampled", (1, *x.shape[1:]), x.device)
    pasts: list[Tensor] = []

    def perfect(past: Tensor, s: Tensor, noisy: Tensor, t: Tensor, **_: Any) -> Tensor:
        pasts.append(past)
        torch.testing.assert_close(noisy, interpolate(x[:, None], eps, t[..., None, None]))
        assert 0.2 / steps <= float(t.min()) <= float(t.max()) <= 0.8
        return velocity(x[:, None], eps)

    monkeypatch.setattr(made.model, "streams", perfect)
    keep = torch.ones(B, dtype=torch.bool)
    torch.testing.assert_close(made.resampled(x, keep, draws), x)
    assert len(pasts) == steps


def test_a_resampled_past_gets_no_gradient_and_changes_the_loss() -> None:
    x = latents()
    made, plain = objective(resample_from=0.5, resample_share=1.0), objective()
    early, late = (made({"latents": x}, progress, Draws.whole(B))[0] for progress in (0.4, 0.5))
    assert (
        float(early.detach()) == float(plain({"latents": x}, 0.9, Draws.whole(B))[0].detach()) != float(late.detach())
    )
    past = made.resampled(made.model.normalize(x), torch.ones(B, dtype=torch.bool), Draws.whole(B))
    assert not past.requires_grad and not torch.equal(past, made.model.normalize(x))


@torch.no_grad()
def test_averages_of_straight_paths_are_the_velocity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the model's average is the constant true velocity, so is the target that it makes for itself."""
    made, draws = objective(SPANS, draws=3, averaged_draws=2), Draws.whole(B)
    x = made.model.normalize(latents())
    eps = draws.noise("noise", (3, *x.shape[1:]), x.device)
    seen: list[tuple[Tensor, Tensor]] = []

    def straight(clean: Tensor, s: Tensor, noisy: Tensor, t: Tensor, keep: Tensor, span: Tensor) -> Tensor:
        copies = noisy.shape[1]
        torch.testing.assert_close(noisy, interpolate(x[:, None], eps[:, :copies], t[..., None, None]))
        assert (span <= t + 1e-6).all()
        seen.append((t, span))
        return velocity(x[:, None], eps[:, :copies])

    monkeypatch.setattr(made.model, "streams", straight)
    loss, _ = made.streams(x, 0.0, draws)
    assert float(loss) < 1e-10
    (t1, first), (t2, second), (_, span) = seen
    torch.testing.assert_close(t1 - first, t2)  # the parts meet, and together are the whole
    torch.testing.assert_close(first + second, span[:, :2])
    assert (span[:, :2] > 0).all() and (span[:, 2] == 0).all()


# Runs.


def test_muon_takes_the_matrices_of_attention_and_mlp() -> None:
    module = objective()
    muon, _ = make_optimizers(OptimSection(name="muon"), module)
    taken = {id(p) for group in muon.param_groups for p in group["params"]}
    names = {name for name, p in module.named_parameters() if id(p) in taken}
    blocks = len(module.model.blocks)
    parts = ("attn.qkv", "attn.out", "mlp.w1", "mlp.w2")
    assert names == {f"model.blocks.{i}.{part}.weight" for i in range(blocks) for part in parts}


def test_a_run_leaves_a_flow_that_loads(store: Path, tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    target = train(recipe(), store, tmp_path / "run", watchers=[seen.append])
    assert target == tmp_path / "run" / "flow"
    model = flow.load(target)
    assert model.config.codec == SPEC.space and model.config.trained_chunks == 6
    assert model.config.context_chunks == TOY.context_chunks
    assert torch.allclose(model.lat_mean, torch.full((6,), MEAN), atol=1.0) and torch.allclose(
        model.lat_std, torch.full((6,), DEVIATION), rtol=0.4
    )
    about = model.provenance
    assert about["steps"] == 6 and about["codec"]["space"] == SPEC.space
    ends = [r for r in seen if "validation_loss" in r]
    assert [r["step"] for r in ends] == [0, 2, 5]
    assert {"validation_t_0.5", "validation_context_0", "validation_context_4_to_5", "validation_generated_past",
            "rollout_deviation", "rollout_mean"} <= ends[0].keys()  # fmt: skip
    assert any("loss_context_1_to_3" in r for r in seen) and any("loss_t_from_0.75" in r for r in seen)
    assert "short: 3 chunks" in (tmp_path / "run" / "skipped.txt").read_text()
    assert json.loads((tmp_path / "run" / "data.json").read_text())["chunks"] == 6


@pytest.mark.parametrize("fields", [{"resample_from": 0.5}, {"regime": "prefix"}], ids=["streams, resampled", "prefix"])
def test_resuming_is_exact(fields: dict[str, Any], store: Path, tmp_path: Path) -> None:
    settings = recipe(objective=fields)
    train(settings, store, tmp_path / "whole")
    for at in (1, 3):
        assert train_until_step(at, settings, store, tmp_path / "parts") == at
    train(settings, store, tmp_path / "parts")
    assert curve(tmp_path / "parts") == curve(tmp_path / "whole")
    for kind in ("model", "ema"):
        a, b = (
            load_file(checkpoint.folder(tmp_path / r) / "step-000000006" / f"{kind}.safetensors")
            for r in ("whole", "parts")
        )
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def train_until_step(step: int, settings: TrainRecipe, store: Path, run: Path) -> int:
    seen: list[int] = []
    train(settings, store, run, watchers=[lambda r: seen.append(r["step"])], stop=lambda: seen[-1] >= step)
    return seen[-1]


def test_one_recording_of_a_few_chunks_is_enough(tmp_path: Path) -> None:
    make_store(tmp_path / "s", {"only": 3})
    target = train(recipe(train={"steps": 2}), tmp_path / "s", tmp_path / "run")
    assert flow.load(target).config.trained_chunks == 3
    assert "validation_loss" not in (tmp_path / "run" / "log.jsonl").read_text()
    make_store(tmp_path / "t", {"only": 4})
    train(recipe(train={"steps": 2}), tmp_path / "t", tmp_path / "run2")
    assert "validation_loss" in (tmp_path / "run2" / "log.jsonl").read_text()


def test_fine_tuning_keeps_statistics_or_takes_new_ones(store: Path, tmp_path: Path) -> None:
    first = train(recipe(), store, tmp_path / "first")
    make_store(tmp_path / "s", {"c": 40}, rho=0.0)
    nothing = {"optim": {"rate": 1e-12, "ema_decay": 0.0}, "train": {"steps": 1}}
    models = {
        new: flow.load(
            train(recipe(model={"start_from": str(first), "new_statistics": new}, **nothing), tmp_path / "s", tmp_path / str(new))
        )
        for new in (False, True)
    }  # fmt: skip
    before = flow.load(first)
    assert models[True].provenance["began_from"] == {
        "fingerprint": flow.fingerprint(before),
        "provenance": before.provenance,
    }
    assert torch.equal(models[False].lat_mean, before.lat_mean) and torch.equal(models[False].lat_std, before.lat_std)
    expected = torch.from_numpy(make_store(tmp_path / "again", {"c": 40}, rho=0.0).mean)
    assert torch.equal(models[True].lat_mean, expected) and not torch.equal(expected, before.lat_mean)
    for model in models.values():
        for name, p in model.named_parameters():
            torch.testing.assert_close(p, before.get_parameter(name), atol=1e-3, rtol=1e-2)  # bfloat16 twice


def test_a_model_without_spans_is_a_start_for_one_with_them(store: Path, tmp_path: Path) -> None:
    first = train(recipe(), store, tmp_path / "first")
    model = {"replace": SPANS.to_dict(), "start_from": str(first)}
    target = train(recipe(model=model, objective={"averaged_draws": 1}), store, tmp_path / "second")
    assert flow.load(target).config.spans


def test_what_does_not_fit_is_refused(store: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    flow.save(stirred(TOY.model_copy(update={"codec": "s2"})), other)
    wide = tmp_path / "wide"
    flow.save(stirred(TOY.model_copy(update={"dim": 48, "heads": 3})), wide)
    sized = {**TOY.to_dict(), "tokens": 8, "channels": 64}
    for model, hint in (
        ({"start_from": str(other)}, "the codec space s2, the store holds s1"),
        ({"start_from": str(wide)}, "dim 48 there, 32 here, heads 3 there, 2 here"),
        ({"replace": sized}, "a chunk of the store has 4 of 6"),
        ({"preset": "flow-huge"}, "No flow preset"),
    ):
        with pytest.raises(ConfigError, match=hint):
            train(recipe(model=model), store, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"model\.replace\.spans=true"):
        train(recipe(objective={"averaged_draws": 1}), store, tmp_path / "run")
    with pytest.raises(FormatError, match="is no store"):
        train(recipe(), tmp_path / "nowhere", tmp_path / "run")
    with pytest.raises(ConfigError, match="kind latents; the recipe has flow and sound"):
        train(TrainRecipe.parse({"model": {"kind": "flow"}, "objective": {"kind": "flow"}}), store, tmp_path / "run")


def test_a_run_goes_on_with_the_same_store_only(store: Path, tmp_path: Path) -> None:
    train(recipe(train={"steps": 2}), store, tmp_path / "run")
    make_store(tmp_path / "s", {"c": 40})
    with pytest.raises(ConfigError, match="other data"):
        train(recipe(train={"steps": 4}), tmp_path / "s", tmp_path / "run")


@pytest.mark.long
def test_training_learns_a_process_and_plays_it(tmp_path: Path) -> None:
    """AR(1), x_n = 0.9 x_{n-1} + e: the loss given the past falls below that without, and rollouts have its deviation and memory."""
    make_store(tmp_path / "s", {f"r{i}": 400 for i in range(4)})
    seen: list[dict[str, Any]] = []
    settings = recipe(
        objective={"context_noise": 0.2, "rollout_chunks": 64},
        data={"chunks": 16},
        optim={"ema_decay": 0.98, "warmup_steps": 20},
        train={"steps": 600, "batch_size": 8, "validate_every": 600, "validation_batches": 4, "checkpoint_every": 600},
    )
    model = flow.load(train(settings, tmp_path / "s", tmp_path / "run", watchers=[seen.append]))
    before, after = seen[0], seen[-1]
    assert after["validation_loss"] < 0.5 * before["validation_loss"]
    assert after["validation_loss"] < 0.6 * after["validation_context_0"]
    sampler = flow.Sampler(model, range(24))
    x = model.normalize(torch.stack([sampler.next().latents for _ in range(48)], 1))[:, 16:]
    assert float(x.std()) == pytest.approx(1.0, abs=0.2)
    centred = x - x.mean()
    memory = float((centred[:, 1:] * centred[:, :-1]).mean() / centred.square().mean())
    assert memory == pytest.approx(0.9, abs=0.1)
