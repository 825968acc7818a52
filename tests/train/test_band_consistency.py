"""The consistency objective on the bands frontend: its loss, gradients, what stays frozen, and training through the loop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.network import Maps
from duotone.codec.codicodec.bands.refiner import Given
from duotone.codec.codicodec.weights import load_codec, save_codec
from duotone.config import BandsConfig, NoiseConfig, codicodec_config
from duotone.errors import ConfigError
from duotone.nn.noise import normal
from duotone.train.band_consistency import BandConsistencyObjective
from duotone.train.consistency import ConsistencySection
from duotone.train.draws import Draws
from duotone.train.noise_pairs import Pair
from duotone.train.recipe import TrainRecipe, bundled
from duotone.train.run import train
from small_bands import SMALL_BANDS, SMALL_REFINED, SMALL_REFINEMENT, random_bands

FROM_NOISE = SMALL_BANDS.model_copy(
    update={"refinement": SMALL_REFINEMENT.model_copy(update={"start": "noise", "noise": NoiseConfig()})}
)


def objective(config: BandsConfig = SMALL_REFINED, **fields: object) -> BandConsistencyObjective:
    torch.manual_seed(0)
    made = ConsistencySection.parse(dict(fields)).objective(config)
    assert isinstance(made, BandConsistencyObjective)
    made.begin_from(random_bands(config))
    made.calibrate(samples(24), latents=not config.estimated)
    return made


def samples(count: int, seed: int = 0, chunks: int = 2) -> Tensor:
    return 0.1 * normal(f"{seed}/samples", (count, 2, chunks * 512 + SMALL_BANDS.spare))


# --- the loss


@pytest.mark.parametrize("config", [SMALL_REFINED, FROM_NOISE], ids=["estimate", "noise"])
@pytest.mark.parametrize("to_clean", [True, False], ids=["denoising", "consistency"])
def test_gradients_equal_finite_differences(config: BandsConfig, to_clean: bool) -> None:
    made = objective(config).double()
    shape = (2, 2, 2, 2, config.frames, config.bins)
    clean, noise = (normal(name, shape).double() for name in ("clean", "noise"))
    sizes = normal("sizes", (2, 2, 2, config.frames, config.bins)).double().abs()
    hidden = normal("hidden", (2, 2, config.tokens, config.dim)).double().requires_grad_()
    top = made.sizes.noise.sigma_max
    pair = Pair(
        torch.tensor([[0.5, 0.9], [0.2, 1.0]]).double() * top, torch.tensor([[0.4, 0.5], [0.1, 0.7]]).double() * top
    )
    made.teacher = copy.deepcopy(made.refiner)  # which finite differences of the student do not move

    def cost() -> Tensor:
        terms, _ = made.terms(
            clean, noise, pair, made.refiner.given(hidden, sizes if config.estimated else None), to_clean
        )
        assert list(terms) == ["consistency"]
        return terms["consistency"]

    learnt = dict(made.refiner.named_parameters())
    points = [learnt[f"network.{name}.weight"] for name in ("lift", "head.3", "stem.5", "to_units", "hidden")]
    points += [hidden] if to_clean else []  # the teacher sees it too, but gives it no gradient
    gradients = torch.autograd.grad(cost(), points)
    for point, gradient in zip(points, gradients, strict=True):
        direction = normal(f"direction/{tuple(point.shape)}", tuple(point.shape)).double()
        with torch.no_grad():
            values = []
            for sign in (1, -1):
                point.add_(sign * 1e-5 * direction)
                values.append(float(cost()))
                point.sub_(sign * 1e-5 * direction)
        numeric = (values[0] - values[1]) / 2e-5
        assert float((gradient * direction).sum()) == pytest.approx(numeric, rel=2e-3, abs=1e-7)


def heard(made: BandConsistencyObjective, count: int, seed: int = 0) -> tuple[Tensor, Maps, Given, Tensor]:
    """Examples, the maps of their estimate, what the refiner is given, and noise."""
    sounds = samples(count, seed)
    with torch.no_grad():
        given, maps = made.told(made.before_bound(sounds), torch.zeros(2 * count, dtype=torch.bool))
    assert maps is not None
    return sounds, maps, given, normal("noise", (count, 2, 2, 2, made.config.frames, made.config.bins))


def test_training_hears_what_decoding_in_one_step_gives() -> None:
    """Phases, noise, level and overlap of frames are those of the codec."""
    config = SMALL_REFINED.model_copy(update={"refinement": SMALL_REFINEMENT.model_copy(update={"begin": 0.2})})
    made, codec = objective(config), random_bands(config)
    sounds, maps, given, noise = heard(made, 1)
    with torch.no_grad():
        values = made.bottleneck(made.before_bound(sounds), torch.zeros(2, dtype=torch.bool))
        found = made.one_step(maps, given, torch.tensor([7]), noise)[0]

    def drawn(chunk: int, draw: int) -> Tensor:
        return noise[0, chunk].flatten(0, 1).transpose(1, 2)

    latents = codec.latents(values)
    decoded = codec.decoder(latents.source, 7, strategy="parallel", steps=1, noise=drawn).push(latents)
    assert decoded.shape == found.shape and bool(found.abs().max() > 1e-3)
    assert torch.allclose(decoded, found, atol=1e-6)


@pytest.mark.parametrize("which", [0, 1], ids=["mel", "convergence"])
def test_gradients_of_the_heard_terms_equal_finite_differences(which: int) -> None:
    made = objective()
    sounds, maps, given, _ = heard(made, 2)
    made.refiner.double()
    given = Given(*(t.double() for t in (given.hidden, given.reference, given.companded, given.towards)))

    def cost() -> Tensor:
        return made.heard(sounds.double(), maps, given, Draws.whole(2))[which]

    for name in ("lift", "head.3", "stem.5", "hidden"):
        point = dict(made.refiner.named_parameters())[f"network.{name}.weight"]
        (gradient,) = torch.autograd.grad(cost(), point)
        direction = normal(f"direction/{name}", tuple(point.shape)).double()
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                point.add_(sign * 1e-5 * direction)
                values.append(float(cost()))
                point.sub_(sign * 1e-5 * direction)
        expected = (values[0] - values[1]) / 2e-5
        assert expected != 0 and float((gradient * direction).sum()) == pytest.approx(expected, rel=2e-3, abs=1e-8)


def test_the_heard_terms_train_the_refiner_alone_and_are_reported() -> None:
    made = objective(heard_weight=1.0, heard_convergence_weight=1.0)
    loss, values = made({"samples": samples(2)}, 0.1, Draws.whole(2))
    without, _ = objective()({"samples": samples(2)}, 0.1, Draws.whole(2))
    assert float((loss - without).detach()) == pytest.approx(
        float(values["heard"] + values["heard_convergence"]), rel=1e-4
    )
    loss.backward()
    assert all(p.grad is None for part in (made.network.encoder, made.network.estimator) for p in part.parameters())
    assert {"heard", "heard_convergence"} < made.summarise(values).keys()


def test_a_student_that_equals_its_teacher_at_one_level_has_no_loss() -> None:
    made = objective()
    shape = (1, 2, 2, 2, SMALL_BANDS.frames, SMALL_BANDS.bins)
    given = made.refiner.given(
        normal("h", (1, 2, SMALL_BANDS.tokens, SMALL_BANDS.dim)), normal("m", shape[:3] + shape[4:]).abs()
    )
    level = torch.full((1, 2), 0.3)
    _, error = made.terms(normal("c", shape), normal("n", shape), Pair(level, level), given, to_clean=False)
    assert torch.allclose(error, torch.zeros(2), atol=1e-6)


def test_the_loss_reaches_the_encoder_only_without_an_estimate() -> None:
    for config, reached in ((SMALL_REFINED, False), (FROM_NOISE, True)):
        made = objective(config)
        loss, values = made({"samples": samples(3)}, 0.9, Draws.whole(3))
        loss.backward()
        for part in (made.network.encoder, made.network.estimator):
            assert any(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in part.parameters()) is reached
        assert all(p.grad is not None for p in made.refiner.parameters())
        assert values["sigma"].shape == values["error"].shape == (6,)
        summary = made.summarise(values)
        assert summary and all(name.startswith("error_from_") for name in summary)


def test_the_teacher_follows_the_student() -> None:
    made = objective(teacher_decay=0.75)
    assert made.teacher is not None and "teacher" not in " ".join(made.averaged())
    name = "network.lift.weight"
    student, teacher = (dict(m.named_parameters())[name] for m in (made.refiner, made.teacher))
    assert torch.equal(student, teacher)
    before = student.detach().clone()
    with torch.no_grad():
        student.add_(1.0)
    made.after_step()
    assert torch.allclose(teacher, before + 0.25, atol=1e-6)


def test_without_an_estimate_calibration_gives_spectra_the_deviation_of_the_data() -> None:
    made = objective(FROM_NOISE)
    given = made.given(made.before_bound(samples(24)), torch.ones(48, dtype=torch.bool))
    z = made.refiner.relative(made.spectra(samples(24)), given)
    assert float(z.std()) == pytest.approx(made.sizes.noise.sigma_data, rel=0.05)
    assert float(made.before_bound(samples(24)).detach().std(0).mean()) == pytest.approx(0.9, abs=0.05)


# --- training


def recipe(**changes: Any) -> TrainRecipe:
    replace, model = (
        {**own, **changes.pop(name, {})} for own, name in ((SMALL_REFINED.to_dict(), "replace"), ({}, "model"))
    )
    aims = {"kind": "consistency", "teacher_decay": 0.5, "denoising_share": 0.4, **changes}
    return TrainRecipe.parse(
        {
            "model": {"kind": "codicodec", "preset": "tiny", "replace": replace, **model},
            "objective": {k: v for k, v in aims.items() if v is not None},
            "data": {"kind": "sound", "workers": 1, "validation_share": 0.3},
            "optim": {"name": "muon", "rate": 2e-3, "warmup_steps": 2, "ema_decay": 0.9},
            "train": {
                "steps": 20, "batch_size": 4, "precision": "float32", "checkpoint_every": 10, "validate_every": 10,
                "decoded_clips": 2, "validation_batches": 1, "health_every": 10,
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds, and a codec with an estimate alone."""
    made = tmp_path_factory.mktemp("stage")
    (made / "sounds").mkdir()
    for i in range(4):
        write(made / "sounds" / f"{i}.wav", synthesize(i, 1.0))
    save_codec(random_bands(), made / "estimate", torch.bfloat16)
    return made


def test_a_refinement_is_trained_on_a_frozen_estimate_and_resumes_exactly(folder: Path, tmp_path: Path) -> None:
    sources, began = [str(folder / "sounds")], load_codec(folder / "estimate")
    wanted = recipe(model={"start_from": str(folder / "estimate")})
    records: list[dict[str, Any]] = []
    train(wanted, sources, tmp_path / "whole", watchers=[records.append])
    counted = iter(range(1000))
    train(wanted, sources, tmp_path / "parts", stop=lambda: next(counted) == 11)
    train(wanted, sources, tmp_path / "parts")
    whole, parts = (load_codec(tmp_path / name / "codec") for name in ("whole", "parts"))
    assert isinstance(whole, BandCodec) and isinstance(began, BandCodec) and whole.fingerprint == parts.fingerprint

    wave = synthesize(9, 0.3)
    assert whole.encode(wave).codes() == began.encode(wave).codes() and whole.spec.space == began.spec.space
    own, theirs = whole.network.state_dict(), began.network.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in theirs.items())
    value = whole.encode(wave)
    estimate = began.decode(began.latents(value.values, value.source)).samples
    assert torch.equal(whole.decode(value, steps=0).samples, estimate)
    assert not torch.equal(whole.decode(value).samples, estimate)  # two steps, as its configuration says

    last = records[-1]
    assert {"validation_loss", "validation_error_rounded_1", "level_entropy"} <= last.keys()
    train(recipe(model={"start_from": str(tmp_path / "whole" / "codec")}), sources, tmp_path / "more")
    assert load_codec(tmp_path / "more" / "codec").provenance["began_from"]["fingerprint"] == whole.fingerprint


def test_one_loss_from_end_to_end_learns(folder: Path, tmp_path: Path) -> None:
    wanted = recipe(replace={"refinement": FROM_NOISE.to_dict()["refinement"]}, denoising_share=1.0, teacher_decay=0.0)
    losses: list[float] = []
    train(wanted, [str(folder / "sounds")], tmp_path / "run", watchers=[lambda record: losses.append(record["loss"])])
    assert sum(losses[-5:]) < sum(losses[:5])
    made = load_codec(tmp_path / "run" / "codec")
    assert isinstance(made, BandCodec) and not any(
        hasattr(made.network.estimator, name) for name in ("envelope", "stereo")
    )
    wave = synthesize(9, 0.3)
    decoded = made.decode(made.encode(wave))
    assert decoded.length == wave.length and bool(torch.isfinite(decoded.samples).all())


def test_what_it_cannot_train_is_refused(folder: Path, tmp_path: Path) -> None:
    start = {"start_from": str(folder / "estimate")}
    for wanted, message in (
        (recipe(), "model.start_from is missing"),
        (recipe(model=start, replace={"refinement": None}), "has none"),
        (recipe(model=start, replace={"floor": 1e-3}), "floor"),
        (recipe(model=start, envelope_weight=1.0), "envelope_weight"),
        (
            recipe(model=start, heard_weight=1.0, replace={"refinement": FROM_NOISE.to_dict()["refinement"]}),
            "no estimate",
        ),
        (recipe(model=start, kind="estimate", teacher_decay=None, denoising_share=None), "trains no refinement"),
    ):
        with pytest.raises(ConfigError, match=message):
            train(wanted, [str(folder / "sounds")], tmp_path / "x")
    other = objective()
    sizes = SMALL_REFINEMENT.model_copy(update={"layers": 1})
    with pytest.raises(ConfigError, match="another network"):
        other.begin_from(random_bands(SMALL_BANDS.model_copy(update={"refinement": sizes})))


@pytest.mark.parametrize("name", ["tiny-2-refinement", "small-consistency"])
def test_bundled_recipes_build_their_models(name: str) -> None:
    found = TrainRecipe.load(bundled()[name]).to_dict()
    config = codicodec_config({**BandsConfig().to_dict(), **found["model"]["replace"]})
    assert isinstance(config, BandsConfig) and config.refinement is not None
    assert config.estimated is (name == "tiny-2-refinement")
