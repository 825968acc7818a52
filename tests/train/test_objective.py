"""The objective against closed forms, and its identities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.codec import consistency
from duotone.config import CoDiCodecConfig
from duotone.represent.stft import to_spectrum
from duotone.train.bottleneck import BottleneckNorm
from duotone.train.objective import CodecObjective, Pair, consistency_loss, draw_pair, step_size
from duotone.train.recipe import ObjectiveSection
from small import SMALL


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objective(**settings: object) -> CodecObjective:
    torch.manual_seed(0)
    return CodecObjective(SMALL, ObjectiveSection(**settings))  # type: ignore[arg-type]


def samples(count: int = 3, seed: int = 1) -> torch.Tensor:
    return 0.3 * torch.randn(count, 2, 2 * SMALL.chunk_samples + SMALL.hop, generator=generator(seed))


@settings(max_examples=50, deadline=None)
@given(st.one_of(st.none(), st.floats(0.001, 0.5)), st.integers(0, 10_000))
def test_noise_levels_are_ordered_and_in_range(dt: float | None, seed: int) -> None:
    pair = draw_pair(64, dt, SMALL.noise, ObjectiveSection(), generator(seed))
    assert (pair.low < pair.high).all()
    assert (pair.low >= SMALL.noise.sigma_min * 0.999).all() and (pair.high <= SMALL.noise.sigma_max * 1.001).all()
    if dt is None:
        assert torch.allclose(pair.low, torch.full((64,), SMALL.noise.sigma_min))
    else:
        u_high, u_low = (consistency.position(s, SMALL.noise) for s in (pair.high, pair.low))
        assert torch.allclose(u_low, (u_high - dt).clamp_min(0), atol=1e-4)


def test_levels_are_log_normal() -> None:
    section = ObjectiveSection(log_sigma_mean=-0.5, log_sigma_deviation=0.7)
    logs = draw_pair(20_000, 0.1, SMALL.noise, section, generator()).high.log()
    assert logs.mean() == pytest.approx(-0.5, abs=0.03) and logs.std() == pytest.approx(0.7, abs=0.03)


def test_step_size_schedule() -> None:
    section = ObjectiveSection(denoising_share=0.25, dt_exponent_start=1, dt_exponent_end=3)
    assert step_size(0.2, section) is None
    assert step_size(0.25, section) == pytest.approx(0.1)
    assert step_size(0.625, section) == pytest.approx(0.01)
    assert step_size(1.0, section) == pytest.approx(0.001)


def test_a_perfect_consistency_function_has_no_loss() -> None:
    estimate = torch.randn(4, 4, 8, 8, generator=generator())
    pair = Pair(torch.tensor([1.0, 2, 3, 4]), torch.tensor([0.5, 1, 1, 1]))
    assert consistency_loss(estimate, estimate, pair, 1.0) == 0


def test_the_loss_by_hand() -> None:
    student, teacher = torch.zeros(2, 4), torch.tensor([[3.0, 4, 0, 0], [0, 0, 0, 1]])
    c = 0.00054 * 2
    each = [(25 + c * c) ** 0.5 - c, (1 + c * c) ** 0.5 - c]
    pair = Pair(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.5]))
    assert float(consistency_loss(student, teacher, pair, 1.0)) == pytest.approx((each[0] / 2 + each[1] / 0.5) / 2)
    assert float(consistency_loss(student, teacher, pair, 0.0)) == pytest.approx(sum(each) / 2)


def test_the_teacher_is_the_student_without_gradient() -> None:
    """The loss's gradient equals that of a student against a constant made beforehand."""
    model = objective(denoising_share=0.0, continuous_share=1.0, bottleneck_norm=False)
    seen: list[bool] = []
    original = model._denoise

    def spy(*arguments: torch.Tensor) -> torch.Tensor:
        out = original(*arguments)  # type: ignore[arg-type]
        seen.append(out.requires_grad)
        return out

    model._denoise = spy  # type: ignore[method-assign, assignment]
    model(samples(), 0.0, generator(3)).backward()
    assert seen == [True, False]
    reached = {n.split(".")[1] for n, p in model.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached >= {"denoiser"}


def test_the_denoising_stage_runs_no_teacher() -> None:
    model = objective(denoising_share=1.0)
    calls = 0
    original = model.network.denoise_pair

    def count(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        return original(*arguments)  # type: ignore[arg-type]

    model.network.denoise_pair = count  # type: ignore[method-assign, assignment]
    model(samples(), 0.5, generator())
    assert calls == 1


def test_every_parameter_that_works_learns() -> None:
    from duotone.codec.network import initialise_dead_ends

    model = objective()
    initialise_dead_ends(model.network)
    model(samples(), 0.0, generator()).backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []


def test_rounding_is_per_example() -> None:
    model = objective(bottleneck_norm=False)
    pre = torch.randn(4, SMALL.latents, 4, generator=generator())
    out = model.bottleneck(pre, torch.tensor([True, False, True, False]))
    bounded = model.fsq.bound(pre)
    assert torch.equal(out[[0, 2]], bounded[[0, 2]])
    assert torch.allclose(out[[1, 3]], model.fsq.round(bounded[[1, 3]]))


def test_the_loss_is_a_function_of_the_generator_alone() -> None:
    model = objective()
    first, again, other = (float(model(samples(), 0.1, generator(s))) for s in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("anchored", [False, True])
def test_folding_the_bottleneck_norm_changes_nothing(anchored: bool) -> None:
    config = CoDiCodecConfig.parse(SMALL.to_dict() | ({"anchored": True, "latents": 4} if anchored else {}))
    model = CodecObjective(config, ObjectiveSection())
    for seed in range(20):  # let the running statistics settle
        with torch.no_grad():
            model(samples(seed=seed), 0.0, generator(seed))
    model.eval()
    clean = torch.cat(torch.split(to_spectrum(samples(), SMALL), SMALL.frames, dim=-1))
    with torch.no_grad():
        inside = model.bottleneck(model.network.encode_pre(clean), torch.ones(len(clean), dtype=torch.bool))
    exported = model.export({"note": "test"})
    assert torch.allclose(exported.encode_spectrum(clean), inside, atol=1e-4)
    assert exported.provenance == {"note": "test"}


@pytest.mark.parametrize("latents", [None, 3])
def test_the_bottleneck_norm_computes_in_training_what_it_exports(latents: int | None) -> None:
    norm = BottleneckNorm(2, latents)
    g = generator()
    mean, deviation = torch.randn(3, 2, generator=g), 1 + torch.rand(3, 2, generator=g)
    for _ in range(300):
        out = norm(mean + deviation * torch.randn(8, 3, 2, generator=g))
    x = mean + deviation * torch.randn(512, 3, 2, generator=g)
    over = (0, 1) if latents is None else 0
    settled = norm.eval()(x)
    assert settled.mean(over).abs().max() < 0.25 and (settled.std(over) - 1).abs().max() < 0.25
    before = norm.mean.clone()
    small = x[:6]  # few examples, whose own statistics differ much
    out = norm.train()(small)
    assert not torch.equal(norm.mean, before)
    assert torch.allclose(out, norm.eval()(small), atol=1e-4)


def test_health_figures() -> None:
    figures = objective().health(samples())
    assert 0 <= figures["saturated_share"] <= 1 and 0 <= figures["level_entropy"] <= 1
    assert figures["codebook_perplexity"] >= 1
    # the output layer starts at zero, so the estimate is c_skip * noisy: at sigma 80 next to nothing of it
    assert figures["error_continuous_80"] == pytest.approx(1, abs=0.05)


def test_fresh_codes_of_a_uniform_bottleneck_fill_the_codebook() -> None:
    from duotone.quant.fsq import FSQ
    from duotone.train.objective import _code_use

    fsq = FSQ((3, 5))
    every = fsq.index_to_bounded(torch.arange(15))
    use = _code_use(fsq, every[None])
    assert use["level_entropy"] == pytest.approx(1, abs=1e-5) and use["codebook_perplexity"] == pytest.approx(
        15, rel=1e-4
    )


def test_the_objective_can_be_learned() -> None:
    """On one batch and one draw of noise the loss falls, through the encoder as well as the denoiser."""
    model = objective(denoising_share=1.0, log_sigma_mean=1.0, log_sigma_deviation=0.5)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    losses = []
    for _ in range(60):
        loss = model(samples(2), 0.0, generator())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.9 * losses[0]
