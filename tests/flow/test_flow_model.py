"""The network: sizes, causality, the band, the two-stream pass, and what devices without float64 compute."""

from __future__ import annotations

import pytest
import torch

from duotone.config import FLOW_PRESETS, FlowConfig, flow_preset
from duotone.errors import ConfigError, UsageError
from duotone.flow import FlowCache, FlowModel, Sampler
from duotone.flow.model import time_features
from duotone.flow.path import interpolate
from duotone.flow.rotary import rotation
from duotone.nn.rotary import rotate
from flow_toys import LOW_RANK, SPANS, TOY, UNLIMITED, chunks, stirred
from guards import like_mps, moved

CLOSE = {"rtol": 0.0, "atol": 1e-5}


def parameters(name: str) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in FlowModel(flow_preset(name)).parameters())


def test_presets_have_the_published_sizes() -> None:
    assert parameters("flow-base") == 96_879_424
    assert parameters("flow-small") == 19_533_760
    for name in ("flow-tiny", "flow-few"):
        assert 2 * parameters(name) < 16 * 2**20 - 2**16  # in bfloat16, with the file's header and statistics
    assert [FLOW_PRESETS[f"flow-{size}"].context_chunks for size in ("tiny", "small", "base")] == [8, 8, 12]
    with pytest.raises(ConfigError, match="flow-tiny"):
        flow_preset("tiny")


def test_a_new_model_predicts_nothing_and_its_other_weights_are_random() -> None:
    model = FlowModel(TOY)
    assert not model(chunks(1, 3), torch.rand(1, 3)).any()
    for name, parameter in model.named_parameters():
        assert bool(parameter.any()) != (".mod." in name or name.startswith(("mod_out", "proj_out"))), name


@pytest.mark.parametrize("config", [TOY, UNLIMITED], ids=["band", "unlimited"])
@pytest.mark.parametrize("n", [3, 9])
def test_no_gradient_reaches_the_future_or_what_left_the_band(config: FlowConfig, n: int) -> None:
    model = stirred(config)
    for i in range(n):
        x = chunks(1, n).requires_grad_()
        t = torch.rand(1, n, generator=torch.Generator().manual_seed(1)).requires_grad_()
        model(x, t)[0, i].square().sum().backward()
        assert x.grad is not None and t.grad is not None
        reached = x.grad[0].abs().amax((1, 2)) > 0
        first = 0 if config.reach is None else max(0, i - config.reach)
        assert reached.tolist() == [first <= j <= i for j in range(n)]
        assert (t.grad[0] != 0).tolist() == reached.tolist()


@pytest.mark.parametrize("config", [TOY, UNLIMITED], ids=["band", "unlimited"])
def test_no_gradient_reaches_the_clean_copy_of_the_same_chunk_or_other_copies(config: FlowConfig) -> None:
    model, n = stirred(config), 9
    for i in (0, 1, 5, 8):
        clean, noisy = chunks(1, n).requires_grad_(), chunks(1, 3, n, seed=2).requires_grad_()
        out = model.streams(clean, torch.rand(1, n), noisy, torch.rand(1, 3, n))
        out[0, 1, i].square().sum().backward()
        assert clean.grad is not None and noisy.grad is not None
        first = 0 if config.reach is None else max(0, i - config.reach)
        assert (clean.grad[0].abs().amax((1, 2)) > 0).tolist() == [first <= j < i for j in range(n)]
        wanted = torch.zeros(3, n, dtype=torch.bool)
        wanted[1, i] = True
        assert torch.equal(noisy.grad[0].abs().amax((2, 3)) > 0, wanted)


@pytest.mark.parametrize(
    "config", [TOY, UNLIMITED, LOW_RANK, TOY.model_copy(update={"context_chunks": 20})], ids=["2", "none", "rank", "20"]
)
def test_two_streams_are_the_cached_evaluation_of_each_chunk(config: FlowConfig) -> None:
    model, b, k, n = stirred(config), 2, 3, 8
    generator = torch.Generator().manual_seed(7)
    clean, noisy = chunks(b, n), chunks(b, k, n, seed=2)
    s, t = torch.rand(b, n, generator=generator) / 2, torch.rand(b, k, n, generator=generator)
    keep = torch.tensor([True, False])
    out = model.streams(interpolate(clean, chunks(b, n, seed=3), s[..., None, None]), s, noisy, t, 5, keep)
    for row in range(b):
        cache = FlowCache(model, context=20 if config.context_chunks is None else None)
        cache.clear(5)
        cache.see(None if keep[row] else 0)
        for i in range(n):
            for copy in range(k):
                alone = cache.velocity(noisy[row : row + 1, copy, i], float(t[row, copy, i]))
                torch.testing.assert_close(out[row, copy, i], alone[0], **CLOSE)
            eps = chunks(b, n, seed=3)[row : row + 1, i : i + 1]
            cache.append(clean[row : row + 1, i : i + 1], float(s[row, i]), eps)


def test_short_sequences_use_masks_and_long_ones_bands_with_one_result() -> None:
    banded, masked = (stirred(TOY.model_copy(update={"context_chunks": w})) for w in (2, 3))
    x, t = chunks(2, 4), torch.rand(2, 4)
    y = banded(x, t)  # 4 chunks > window + 1
    torch.testing.assert_close(y[:, :3], banded(x[:, :3], t[:, :3]), **CLOSE)
    torch.testing.assert_close(y[:, :3], masked(x, t)[:, :3], **CLOSE)
    assert (y - masked(x, t))[:, 3].abs().max() > 1e-4


def test_spans_are_told_to_models_that_take_them_and_start_without_effect() -> None:
    model = FlowModel(SPANS)
    assert not any(p.any() for p in model.span_mlp[2].parameters())  # type: ignore[index,union-attr]
    model = stirred(SPANS)
    clean, noisy = chunks(1, 4), chunks(1, 2, 4, seed=2)
    s, t, span = torch.zeros(1, 4), torch.full((1, 2, 4), 0.8), torch.full((1, 2, 4), 0.3)
    none, some = model.streams(clean, s, noisy, t), model.streams(clean, s, noisy, t, span=span)
    assert torch.equal(none, model.streams(clean, s, noisy, t, span=0 * span))
    assert (none - some).abs().max() > 1e-3
    cache = FlowCache(model)
    cache.append(clean[:, :3])
    torch.testing.assert_close(cache.velocity(noisy[:, 1, 3], 0.8, 0.3)[0], some[0, 1, 3], **CLOSE)
    with pytest.raises(UsageError, match="one with spans"):
        stirred()(clean, s, span=s + 0.1)
    with pytest.raises(ConfigError, match="needs a model with spans"):
        FlowConfig.parse({"sampling": {"solver": "average"}})


def test_checkpointing_changes_nothing() -> None:
    model = stirred().train()
    x, t, grads = chunks(2, 5), torch.rand(2, 5), []
    for on in (False, True):
        model.checkpointing = on
        model.zero_grad()
        model(x, t).square().mean().backward()
        grads.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(grads[0]) == len(list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_only_differences_of_chunk_indices_matter() -> None:
    model = stirred()
    x, t = chunks(1, 6), torch.rand(1, 6)
    torch.testing.assert_close(model(x, t, first=1_000_000), model(x, t), **CLOSE)


def test_rotation_turns_pairs_and_keeps_lengths() -> None:
    cos, sin = rotation(3, 2, 4, 16)
    assert cos.shape == sin.shape == (2, 4, 16)
    x = torch.randn(2, 4, 16)
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * torch.complex(cos[..., ::2], sin[..., 1::2])).flatten(-2)
    torch.testing.assert_close(rotate(x, cos, sin), turned)
    frequencies = 1e4 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(cos[1, 3, :8:2], (3 * frequencies).cos())
    torch.testing.assert_close(sin[1, 3, 9::2], (4 * frequencies).sin())


def test_time_features() -> None:
    features = time_features(torch.tensor([0.0, 0.25]), 8)
    assert features[0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    angles = 250 * 1e4 ** (-torch.arange(4) / 3)
    torch.testing.assert_close(features[1], torch.cat([angles.cos(), angles.sin()]), rtol=0, atol=2e-5)


def test_statistics_normalize_and_back() -> None:
    model = stirred()
    latents = 3 * chunks(2, 5) + 1
    torch.testing.assert_close(model.denormalize(model.normalize(latents)), latents)
    model.set_statistics(latents.mean((0, 1, 2)), latents.std((0, 1, 2)))
    torch.testing.assert_close(model.normalize(latents).std((0, 1, 2)), torch.ones(6))
    with pytest.raises(UsageError, match="positive"):
        model.set_statistics(torch.zeros(6), torch.zeros(6))
    with pytest.raises(UsageError, match=r"\[5\]"):
        model.set_statistics(torch.zeros(5), torch.ones(6))


def test_wrong_shapes_are_refused() -> None:
    model = stirred()
    for x, t in (
        (chunks(2, 3), torch.rand(2)),
        (chunks(2, 0), torch.rand(2, 0)),
        (torch.zeros(1, 2, 4, 5), torch.rand(1, 2)),
    ):
        with pytest.raises(UsageError, match=r"expected \[\.\.\., N, 4, 6\]"):
            model(x, t)
    with pytest.raises(UsageError, match="noisy copies"):
        model.streams(chunks(2, 3), torch.rand(2, 3), chunks(2, 1, 4), torch.rand(2, 1, 4))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dim": 100}, "must be heads"),
        ({"dim": 84, "heads": 14, "head": 6}, "multiple of 4"),
        ({"condition": 7}, "even"),
        ({"context_chunks": 0}, "greater than or equal to 1"),
        ({"sampling": {"guidance_interval": [0.5, 0.2]}}, "low <= high"),
        ({"sampling": {"solver": "rk5"}}, "euler"),
        ({"sampling": {"t_min": 0}}, "greater than 0"),
        ({"windows": 3}, "Known keys"),
    ],
)
def test_configurations_that_cannot_be_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FlowConfig.parse(values)


def test_devices_without_double_and_complex_numbers_compute_all_of_it() -> None:
    with like_mps() as device:
        model = moved(stirred(), device)
        assert isinstance(model, FlowModel)
        x, t = chunks(1, 5).to(device).requires_grad_(), torch.rand(1, 5).to(device)
        model(x, t).square().mean().backward()
        model.streams(x, t, x[:, None], t[:, None]).square().mean().backward()
        sampler = Sampler(
            model,
            [1, 2],
            TOY.sampling.model_copy(update={"guidance": 1.5, "guidance_branch": "noisy", "context_noise": 0.1}),
        )
        sampler.push(chunks(2, 4))
        assert sampler.next().latents.shape == (2, 4, 6)


def test_bfloat16_weights_give_float32_velocities_near_those_of_float32() -> None:
    model, x, t = stirred(), chunks(1, 5), torch.rand(1, 5)
    wanted = model(x, t)
    mean = model.lat_mean.clone()
    found = model.bfloat16()(x, t)
    assert torch.equal(model.lat_mean, mean) and model.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert (found - wanted).abs().mean() < 0.05 * wanted.abs().mean()
    cache = FlowCache(model)
    cache.append(x)
    assert torch.isfinite(cache.velocity(chunks(1), 0.5)).all()
