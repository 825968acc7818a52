"""The objective against closed forms, and its identities."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duotone.codec import consistency
from duotone.codec.codicodec.network import initialise_dead_ends
from duotone.config import CoDiCodecConfig
from duotone.errors import ConfigError
from duotone.train.bottleneck import spread_loss
from duotone.train.consistency import (
    ConsistencyObjective,
    ConsistencySection,
    Pair,
    consistency_loss,
    draw_pair,
    step_size,
)
from duotone.train.draws import Draws
from duotone.train.envelope import FLOOR, Envelope
from small import SMALL


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objective(**settings: object) -> ConsistencyObjective:
    torch.manual_seed(0)
    return ConsistencyObjective(SMALL, ConsistencySection(**settings))  # type: ignore[arg-type]


def samples(count: int = 3, seed: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(count, 2, 2 * SMALL.chunk_samples + SMALL.hop, generator=generator(seed))


def batch(count: int = 3, seed: int = 1) -> dict[str, torch.Tensor]:
    return {"samples": samples(count, seed)}


@pytest.fixture
def in_double(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is computed in single precision, whatever the weights are, is computed in double."""
    monkeypatch.setattr(Tensor, "float", Tensor.double)


def slopes(cost: Callable[[], Tensor], parts: dict[str, list[Tensor]]) -> dict[str, tuple[float, float]]:
    """For each part, which is some tensors, the slope of the cost in a random direction: by gradients, and by a finite difference."""
    draws, out = generator(5), {}
    every = iter(torch.autograd.grad(cost(), [point for points in parts.values() for point in points]))
    for name, points in parts.items():
        directions = [torch.randn(p.shape, generator=draws, dtype=torch.float64) for p in points]
        slope = sum(float((next(every) * direction).sum()) for direction in directions)
        values = []
        with torch.no_grad():
            for step in (1e-6, -1e-6):
                torch._foreach_add_(points, directions, alpha=step)
                values.append(float(cost()))
                torch._foreach_sub_(points, directions, alpha=step)
        out[name] = (slope, (values[0] - values[1]) / 2e-6)
    return out


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.none(), st.floats(0.001, 0.5)), st.integers(0, 10_000))
def test_noise_levels_are_ordered_and_in_range(dt: float | None, seed: int) -> None:
    pair = draw_pair("left", dt, SMALL.noise, ConsistencySection(), Draws.whole(64, seed))
    assert (pair.low < pair.high).all()
    assert (pair.low >= SMALL.noise.sigma_min * 0.999).all() and (pair.high <= SMALL.noise.sigma_max * 1.001).all()
    if dt is None:
        assert torch.allclose(pair.low, torch.full((64,), SMALL.noise.sigma_min))
    else:
        u_high, u_low = (consistency.position(s, SMALL.noise) for s in (pair.high, pair.low))
        assert torch.allclose(u_low, (u_high - dt).clamp_min(0), atol=1e-4)


def test_levels_are_log_normal() -> None:
    section = ConsistencySection(log_sigma_mean=-0.5, log_sigma_deviation=0.7)
    logs = draw_pair("left", 0.1, SMALL.noise, section, Draws.whole(20_000)).high.log()
    assert logs.mean() == pytest.approx(-0.5, abs=0.03) and logs.std() == pytest.approx(0.7, abs=0.03)


def test_step_size_schedule() -> None:
    section = ConsistencySection(denoising_share=0.25, dt_exponent_start=1, dt_exponent_end=3)
    assert step_size(0.2, section) is None
    assert step_size(0.25, section) == pytest.approx(0.1)
    assert step_size(0.625, section) == pytest.approx(0.01)
    assert step_size(1.0, section) == pytest.approx(0.001)


def test_a_perfect_consistency_function_has_no_loss() -> None:
    estimate = torch.randn(4, 4, 8, 8, generator=generator())
    pair = Pair(torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.5, 1, 1, 1]))
    assert consistency_loss(estimate, estimate, pair, 1.0)[0] == 0


def test_the_loss_by_hand() -> None:
    student, teacher = torch.zeros(2, 4), torch.tensor([[3.0, 4, 0, 0], [0, 0, 0, 1]])
    c = 0.00054 * 2
    each = [(25 + c * c) ** 0.5 - c, (1 + c * c) ** 0.5 - c]
    pair = Pair(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.5]))
    loss, error = consistency_loss(student, teacher, pair, 1.0)
    assert error.tolist() == pytest.approx(each)
    assert float(loss) == pytest.approx((each[0] / 2 + each[1] / 0.5) / 2)
    assert float(consistency_loss(student, teacher, pair, 0.0)[0]) == pytest.approx(sum(each) / 2)


def test_the_teacher_is_the_student_without_gradient() -> None:
    """The loss's gradient equals that of a student against a constant made beforehand."""
    model = objective(denoising_share=0.0, continuous_share=1.0)
    seen: list[bool] = []
    original = model.denoise

    def spy(*arguments: torch.Tensor) -> torch.Tensor:
        out = original(*arguments)  # type: ignore[arg-type]
        seen.append(out.requires_grad)
        return out

    model.denoise = spy  # type: ignore[method-assign, assignment]
    model(batch(), 0.0, Draws.whole(3, 3))[0].backward()
    assert seen == [True, False]
    reached = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached >= {"denoiser"}


@pytest.mark.parametrize("progress", [0.0, 0.6], ids=["denoising", "consistency"])
def test_gradients_equal_finite_differences(progress: float, in_double: None) -> None:
    """Of all three networks and the envelope's head, through latents that are not rounded; all terms of the loss count."""
    model = objective(denoising_share=0.5, continuous_share=1.0, spread_weight=1.0, envelope_weight=1.0).double()
    initialise_dead_ends(model.network, 0.1)
    torch.nn.init.normal_(model.envelope.weight.weight, std=0.1, generator=generator())
    denoise, held = model.denoise, []

    def with_one_teacher(*arguments: Tensor) -> Tensor:
        """The student first, then the teacher, whose answer finite differences of the student do not move."""
        calls[0] += 1
        if calls[0] == 1:
            return denoise(*arguments)  # type: ignore[arg-type]
        held[:] = held or [denoise(*arguments)]  # type: ignore[arg-type]
        return held[0]

    model.denoise = with_one_teacher  # type: ignore[method-assign, assignment]

    def cost() -> Tensor:
        calls[0] = 0
        loss, _ = model(batch(2), progress, Draws.whole(2))
        return loss

    calls = [0]
    parts: dict[str, list[Tensor]] = {}
    for name, p in model.named_parameters():
        parts.setdefault(".".join(name.split(".")[:3]), []).append(p)
    found = slopes(cost, parts)
    assert calls[0] == (2 if progress > 0.5 else 1) and {"network.encoder.gain", "envelope.mean"} <= found.keys()
    for part, (slope, numeric) in found.items():
        assert abs(numeric) > 1e-5 and slope == pytest.approx(numeric, rel=1e-4), part


def test_the_denoising_stage_runs_no_teacher() -> None:
    model = objective(denoising_share=1.0)
    calls = 0
    original = model.network.denoise_pair

    def count(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        return original(*arguments)  # type: ignore[arg-type]

    model.network.denoise_pair = count  # type: ignore[method-assign, assignment]
    model(batch(), 0.5, Draws.whole(3))
    assert calls == 1


def test_every_parameter_that_works_learns() -> None:
    model = objective()
    initialise_dead_ends(model.network)
    model(batch(), 0.0, Draws.whole(3))[0].backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_rounding_is_per_example() -> None:
    model = objective()
    pre = torch.randn(4, SMALL.latents, 4, generator=generator())
    out = model.bottleneck(pre, torch.tensor([True, False, True, False]))
    bounded = model.fsq.bound(pre)
    assert torch.equal(out[[0, 2]], bounded[[0, 2]])
    assert torch.allclose(out[[1, 3]], model.fsq.round(bounded[[1, 3]]))


def test_the_loss_is_a_function_of_the_draws_alone() -> None:
    model = objective()
    first, again, other = (float(model(batch(), 0.1, Draws.whole(3, s))[0].detach()) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("anchored", [False, True])
def test_calibration_brings_latents_to_life(anchored: bool) -> None:
    config = CoDiCodecConfig.parse(SMALL.to_dict() | ({"anchored": True, "latents": 4} if anchored else {}))
    model = ConsistencyObjective(config, ConsistencySection())
    some = samples(12)
    with torch.no_grad():
        before = model.network.encode_pre(model.clean(some))
        model.calibrate(some)
        after = model.network.encode_pre(model.clean(some))
    over = 0 if anchored else (0, 1)
    assert torch.allclose(after.mean(over), torch.zeros(()), atol=1e-4)
    assert torch.allclose(after.std(over), torch.tensor(0.9), atol=1e-3)
    if not anchored:
        assert torch.allclose((before - before.mean(over)) / before.std(over) * 0.9, after, atol=1e-3)
    assert torch.allclose(model.export({"note": "x"}).network.encode_pre(model.clean(some)), after, atol=1e-5)


def test_the_spread_term_by_hand() -> None:
    pre = torch.tensor([[[1.0, 0.0]], [[3.0, 0.0]]])  # two chunks, one latent: means 2 and 0, deviations sqrt(2) and 0
    want = (4 + (2**0.5 - 0.9) ** 2 + (0 - 0.9) ** 2) / 2
    assert float(spread_loss(pre, 0.9)) == pytest.approx(want, abs=3e-3)


def test_the_spread_term_holds_latents_that_nothing_else_moves() -> None:
    pre = torch.nn.Parameter(3 + 0.01 * torch.randn(8, 5, 4, generator=generator()))
    optimizer = torch.optim.Adam([pre], lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        spread_loss(pre, 0.9).backward()
        optimizer.step()
    assert torch.allclose(pre.mean(0), torch.zeros(5, 4), atol=0.02)
    assert torch.allclose(pre.std(0), torch.full((5, 4), 0.9), atol=0.02)


@pytest.mark.parametrize("stem", [(1, 1), (2, 2)])
def test_the_envelope_knows_log_magnitudes(stem: tuple[int, int]) -> None:
    config = CoDiCodecConfig.parse(SMALL.to_dict() | {"stem": stem, "factors": [[2, 2], [2, 1]][: len(SMALL.factors)]})
    envelope = Envelope(config)
    x = torch.randn(3, 4, config.bins, config.frames, generator=generator())
    target = envelope.target(x)
    f, t = stem
    assert target.shape == (3, 2 * f * t, *config.stem_grid)
    right = torch.log(torch.hypot(x[1, 2], x[1, 3]) + FLOOR)  # of the second channel
    assert torch.allclose(target[1, f * t], right[::f, ::t], atol=1e-5)  # the first place of every patch
    assert torch.allclose(target[1, 2 * f * t - 1], right[f - 1 :: f, t - 1 :: t], atol=1e-5)  # the last
    envelope.calibrate(x)
    with torch.no_grad():
        error = envelope(torch.zeros(3, config.channels[0], *config.stem_grid), x)
    want = (target - target.mean((0, 3), keepdim=True)).square().mean()
    assert float(error) == pytest.approx(float(want), rel=1e-5)


@pytest.mark.parametrize("part", ["feature map", "weight", "mean"])
def test_the_gradient_of_the_envelope_equals_finite_differences(part: str, in_double: None) -> None:
    envelope = Envelope(SMALL).double()
    torch.nn.init.normal_(envelope.weight.weight, generator=generator())
    spectrum, feature_map = (
        torch.randn(2, *shape, generator=generator(i)).double()
        for i, shape in enumerate([(4, SMALL.bins, SMALL.frames), (SMALL.channels[0], *SMALL.stem_grid)])
    )
    point = {"feature map": feature_map, "weight": envelope.weight.weight, "mean": envelope.mean}[part].requires_grad_()
    slope, numeric = slopes(lambda: envelope(feature_map, spectrum), {part: [point]})[part]
    assert abs(numeric) > 1e-3 and slope == pytest.approx(numeric, rel=1e-6)


def test_the_envelope_teaches_encoder_and_upsampler_and_is_not_exported() -> None:
    model = ConsistencyObjective(SMALL, ConsistencySection(envelope_weight=3.0))
    initialise_dead_ends(model.network)
    torch.nn.init.normal_(model.envelope.weight.weight, std=0.1, generator=generator())
    loss, figures = model(batch(), 0.3, Draws.whole(3))
    plain = ConsistencyObjective(SMALL, ConsistencySection())
    plain.network.load_state_dict(model.network.state_dict())
    without, _ = plain(batch(), 0.3, Draws.whole(3))
    assert float((loss - without).detach()) == pytest.approx(3 * float(figures["envelope"]), rel=1e-3)
    assert model.summarise(figures)["envelope_error"] == pytest.approx(float(figures["envelope"]))
    assert model.export({}).network.state_dict().keys() == plain.export({}).network.state_dict().keys()


def test_health_figures() -> None:
    figures = objective().health(batch())
    assert 0 <= figures["saturated_share"] <= 1 and 0 <= figures["level_entropy"] <= 1
    assert figures["codebook_perplexity"] >= 1
    assert figures["pre_tanh_deviation"] >= 0  # untrained, latents do not depend on the sound


def test_one_step_errors_of_an_untrained_network() -> None:
    errors = objective().eval().errors(batch())
    # the output layer starts at zero, so the estimate is c_skip * noisy: at sigma 80 next to nothing of it
    assert errors["error_continuous_80"] == pytest.approx(1, abs=0.05)
    assert set(errors) == {f"error_{face}_{s}" for face in ("continuous", "rounded") for s in ("1", "10", "80")}


def test_bands_split_the_noise_levels() -> None:
    figures = {"sigma": torch.tensor([0.05, 0.5, 0.7, 20.0]), "error": torch.tensor([1.0, 2.0, 4.0, 9.0])}
    assert objective().summarise(figures) == {"error_below_0.1": 1, "error_0.1_to_1": 3, "error_from_10": 9}


def test_a_batch_in_parts_has_the_draws_of_the_whole() -> None:
    whole = Draws.whole(6, 3, 9)
    parts = [Draws(3, 9, first, 2, 6) for first in (0, 2, 4)]
    assert torch.equal(whole.chosen("a", 0.5), torch.cat([p.chosen("a", 0.5) for p in parts]))
    assert torch.equal(whole.stratified_normal("a"), torch.cat([p.stratified_normal("a") for p in parts]))
    cpu = torch.device("cpu")
    assert torch.equal(whole.noise("n", (2, 3), cpu), torch.cat([p.noise("n", (2, 3), cpu) for p in parts]))
    assert not torch.equal(whole.noise("n", (2, 3), cpu), whole.noise("m", (2, 3), cpu))
    ranks = torch.special.ndtr(whole.stratified_normal("a").double()).mul(6).floor().sort().values
    assert ranks.tolist() == [0, 1, 2, 3, 4, 5]


def test_starting_from_a_codec_computes_what_it_computes() -> None:
    trained = objective()
    initialise_dead_ends(trained.network)
    codec = trained.export({})
    fresh = ConsistencyObjective(SMALL, ConsistencySection())
    fresh.begin_from(codec)
    clean = fresh.clean(samples())
    keep = torch.ones(len(clean), dtype=torch.bool)
    with torch.no_grad():
        inside = fresh.bottleneck(fresh.network.encode_pre(clean), keep)
    assert torch.allclose(inside, codec.encode_spectrum(clean), atol=1e-5)
    other = ConsistencyObjective(CoDiCodecConfig.parse(SMALL.to_dict() | {"registers": 3}), ConsistencySection())
    with pytest.raises(ConfigError, match="registers 2 there, 3 here"):
        other.begin_from(codec)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for saving in (False, True):
        model = objective()
        initialise_dead_ends(model.network)
        if saving:
            model.save_memory()
        model(batch(), 0.0, Draws.whole(3))[0].backward()
        gradients.append({n: p.grad for n, p in model.named_parameters()})
    assert all(torch.allclose(g, gradients[1][n], atol=1e-6) for n, g in gradients[0].items())  # type: ignore[arg-type]


def test_fresh_codes_of_a_uniform_bottleneck_fill_the_codebook() -> None:
    from duotone.quant.fsq import FSQ
    from duotone.train.code_use import code_use

    fsq = FSQ((3, 5))
    every = fsq.index_to_bounded(torch.arange(15))
    use = code_use(fsq, every[None])
    assert use["level_entropy"] == pytest.approx(1, abs=1e-5) and use["codebook_perplexity"] == pytest.approx(
        15, rel=1e-4
    )


def test_the_objective_can_be_learned() -> None:
    """On one batch and one draw of noise the loss falls, through the encoder as well as the denoiser."""
    model = objective(denoising_share=1.0, log_sigma_mean=1.0, log_sigma_deviation=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    losses = []
    for _ in range(60):
        loss, _ = model(batch(2), 0.0, Draws.whole(2))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
