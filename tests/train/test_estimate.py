"""The objective of the estimate: its terms, gradients, frozen encoder, and training through the loop."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.features import Analysis, Features
from duotone.codec.codicodec.bands.network import Maps
from duotone.codec.codicodec.weights import load_codec
from duotone.config import BandsConfig
from duotone.errors import ConfigError
from duotone.train.bottleneck import spread_loss
from duotone.train.draws import Draws
from duotone.train.estimate import EstimateObjective, EstimateSection
from duotone.train.estimate_losses import CHANNELS, EstimateLosses, exponential_likelihood
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from small_bands import SMALL_BANDS, random_bands

LOSSES = EstimateLosses(SMALL_BANDS)


def features(seed: int = 0, chunks: int = 2) -> Features:
    generator = torch.Generator().manual_seed(seed)
    samples = 0.2 * torch.randn(1, 2, chunks * 512 + SMALL_BANDS.spare, generator=generator)
    return Analysis(SMALL_BANDS)(samples).chunks(SMALL_BANDS)


def exact_maps(found: Features) -> Maps:
    """Magnitudes of mid as they are; level and correlation of side those of uncorrelated channels of equal level."""
    shape = (*found.mid.shape[:2], SMALL_BANDS.stereo_bands)
    return Maps(found.mid.clone(), torch.zeros(shape), torch.zeros(shape))


def test_exact_magnitudes_cost_nothing() -> None:
    found = features()
    terms, distances = LOSSES(exact_maps(found), found)
    assert all(float(terms[name]) < 1e-4 for name in ("likelihood", "absolute", "convergence", "local"))
    assert float(distances[CHANNELS.index("mid")]) < 1e-5


def test_the_likelihood_is_least_where_the_estimate_is_the_mean() -> None:
    """Of magnitudes drawn from an exponential distribution the best constant estimate is their mean."""
    magnitudes = torch.empty(200_000).exponential_(generator=torch.Generator().manual_seed(0)) * 3.0
    guesses = torch.linspace(0.5, 2.0, 61)
    costs = torch.stack([exponential_likelihood(magnitudes.log() - guess).mean() for guess in guesses])
    assert float(guesses[costs.argmin()].exp()) == pytest.approx(3.0, rel=0.06)
    assert float(exponential_likelihood(torch.tensor(0.0))) == 0
    joint = exponential_likelihood(torch.tensor([2.0 - 1e-4, 2.0 + 1e-4]))
    assert float(joint[1] - joint[0]) == pytest.approx(2e-4 * (torch.e**2 - 1), rel=0.05)  # its slope is continuous


def test_left_and_right_follow_from_mid_side_and_their_correlation() -> None:
    """Fully correlated side of half the level: left is 1.5, right 0.5 times mid."""
    config = BandsConfig()  # in a small one some mel bands have no bin
    mid = 0.3 * torch.randn(config.chunk_samples + config.spare, generator=torch.Generator().manual_seed(1))
    found = Analysis(config)(torch.stack([1.5 * mid, 0.5 * mid])[None]).chunks(config)
    shape = (*found.mid.shape[:2], config.stereo_bands)
    maps = Maps(found.mid, torch.full(shape, 0.5).log(), torch.ones(shape))
    _, distances = EstimateLosses(config)(maps, found)
    assert float(distances.max()) < 0.02


@pytest.mark.parametrize("name", ["likelihood", "absolute", "mel", "convergence", "local", "stereo"])
def test_gradients_equal_finite_differences(name: str) -> None:
    found = features(3, 1)
    generator = torch.Generator().manual_seed(5)
    start = exact_maps(found)
    point = [t + 0.3 * torch.randn(t.shape, generator=generator) for t in (start.mid, start.ratio, start.share)]
    point[2] = point[2].clamp(-0.8, 0.8)
    losses = EstimateLosses(SMALL_BANDS).double()
    found = Features(found.mid.double(), found.mels.double(), found.low.double())
    values = [p.double().requires_grad_() for p in point]

    def cost(parts: list[Tensor]) -> Tensor:
        terms, _ = losses(Maps(*parts), found)
        return terms[name]

    gradients = torch.autograd.grad(cost(values), values, allow_unused=True)
    for i, gradient in enumerate(gradients):
        direction = torch.randn(values[i].shape, generator=generator, dtype=torch.float64)
        slope = torch.zeros(()) if gradient is None else (gradient * direction).sum()
        with torch.no_grad():
            moved = [[v + sign * 1e-5 * direction if k == i else v for k, v in enumerate(values)] for sign in (1, -1)]
            numeric = (cost(moved[0]) - cost(moved[1])) / 2e-5
        assert float(slope) == pytest.approx(float(numeric), rel=2e-3, abs=1e-6)


def test_the_gradient_of_the_spread_term_equals_finite_differences() -> None:
    generator = torch.Generator().manual_seed(4)
    pre, direction = torch.randn(2, 5, 3, 2, generator=generator, dtype=torch.float64).unbind()
    pre.requires_grad_()
    (gradient,) = torch.autograd.grad(spread_loss(pre, 0.8), [pre])
    with torch.no_grad():
        numeric = (spread_loss(pre + 1e-6 * direction, 0.8) - spread_loss(pre - 1e-6 * direction, 0.8)) / 2e-6
    assert float((gradient * direction).sum()) == pytest.approx(float(numeric), rel=1e-5)


def objective(**fields: object) -> EstimateObjective:
    torch.manual_seed(0)
    made = EstimateObjective(SMALL_BANDS, EstimateSection.parse(dict(fields)))
    made.calibrate(samples(24))
    return made


def samples(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(count, 2, 3 * 512 + SMALL_BANDS.spare, generator=generator)


def test_calibration_sets_the_spread_of_latents() -> None:
    made = objective()
    pre = made.network.encoder(made.features(samples(24)))
    assert (
        float(pre.detach().std(0).mean()) == pytest.approx(0.8, abs=0.02)
        and float(pre.detach().mean(0).abs().max()) < 0.02
    )


def test_rounded_and_unrounded_examples_are_mixed_by_their_share() -> None:
    made = objective()
    pre = made.network.encoder(made.features(samples(2)))
    latents = made.bottleneck(pre, torch.tensor([True, False] * 3))
    on_levels = (latents * 5 - (latents * 5).round()).abs().amax((1, 2)) < 1e-4
    assert on_levels.tolist() == [False, True] * 3


def test_a_frozen_encoder_keeps_its_codes_while_the_rest_learns() -> None:
    made = objective(freeze_encoder=True)
    before = made.export({})
    wave = synthesize(5, 0.1)
    codes = before.encode(wave).codes()
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    loss, _ = made({"samples": samples(2)}, 0.0, Draws.whole(2))
    loss.backward()
    optimizer.step()
    after = made.export({})
    assert after.encode(wave).codes() == codes and after.spec.space == before.spec.space
    assert after.fingerprint != before.fingerprint
    assert not any("encoder" in name for name in made.averaged())
    averaged = made.with_weights({name: p for name, p in made.named_parameters() if name in made.averaged()})
    assert averaged.export({}).fingerprint == after.fingerprint  # what a run exports has the frozen encoder too


def recipe(**model: object) -> TrainRecipe:
    return TrainRecipe.parse(
        {
            "model": {"kind": "codicodec", "preset": "tiny", "replace": SMALL_BANDS.to_dict(), **model},
            "objective": {"kind": "estimate", "chunks": 2},
            "data": {"kind": "sound", "balance": "sources", "swap_share": 0.5, "workers": 1, "validation_share": 0.3},
            "optim": {"name": "muon", "rate": 2e-3, "warmup_steps": 2, "ema_decay": 0.9},
            "train": {
                "steps": 30, "batch_size": 4, "precision": "float32", "checkpoint_every": 10, "validate_every": 15,
                "decoded_clips": 2, "validation_batches": 1, "health_every": 10,
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    for name in "ab":
        (folder / name).mkdir()
    for i in range(4):
        write(folder / ("ab"[i % 2]) / f"{i}.wav", synthesize(i, 1.0))
    return folder


def test_it_trains_through_the_loop_resumes_exactly_and_starts_from_a_codec(sounds: Path, tmp_path: Path) -> None:
    sources = [str(sounds / "a"), str(sounds / "b")]
    losses: list[float] = []
    train(recipe(), sources, tmp_path / "whole", watchers=[lambda record: losses.append(record["loss"])])
    assert sum(losses[-5:]) < sum(losses[:5])
    counted = iter(range(1000))
    train(recipe(), sources, tmp_path / "parts", stop=lambda: next(counted) == 11)
    train(recipe(), sources, tmp_path / "parts")
    whole, parts = (load_codec(tmp_path / name / "codec") for name in ("whole", "parts"))
    assert isinstance(whole, BandCodec) and whole.fingerprint == parts.fingerprint
    train(recipe(start_from=str(tmp_path / "whole" / "codec")), sources, tmp_path / "more")
    assert load_codec(tmp_path / "more" / "codec").provenance["began_from"]["fingerprint"] == whole.fingerprint


def test_models_that_it_cannot_train_are_refused(sounds: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="frontend bands"):
        train(
            TrainRecipe.parse({**recipe().to_dict(), "model": {"kind": "codicodec", "preset": "base"}}),
            [str(sounds)],
            tmp_path / "x",
        )
    with pytest.raises(ConfigError, match="trains the refinement of a model with bands"):
        train(
            TrainRecipe.parse({**recipe().to_dict(), "objective": {"kind": "consistency"}}),
            [str(sounds)],
            tmp_path / "y",
        )
    made = EstimateObjective(SMALL_BANDS, EstimateSection())
    with pytest.raises(ConfigError, match="another network"):
        made.begin_from(random_bands(SMALL_BANDS.model_copy(update={"layers": 1})))
