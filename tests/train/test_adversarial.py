"""The adversarial objective: what is heard, gradients of its terms, both sides of the duel, frozen codes, exact resuming."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.codicodec.bands import synthesis
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.features import Analysis
from duotone.codec.codicodec.bands.network import Maps
from duotone.codec.codicodec.weights import load_codec, save_codec
from duotone.config import BandsConfig, RefinementConfig
from duotone.errors import ConfigError
from duotone.hub import load
from duotone.train import checkpoint
from duotone.train.adversarial import AdversarialObjective, AdversarialSection
from duotone.train.discriminators import Discriminators, deceit, feature_distance, hinge, told_apart
from duotone.train.draws import Draws
from duotone.train.estimate import EstimateObjective, EstimateSection
from duotone.train.heard import HeardDistance, channel, decoded, heard_convergence, original, spectra
from duotone.train.recipe import TrainRecipe, bundled
from duotone.train.run import train
from duotone.train.sections import CoDiCodecSection
from small_bands import SMALL_BANDS, random_bands
from toy_task import curve

WINDOWS = (64, 128)
FIELDS: dict[str, Any] = {"windows": WINDOWS, "channels": 4, "heard_seconds": 0.02, "chunks": 3}


def samples(count: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.randn(count, 2, 3 * 512 + SMALL_BANDS.spare, generator=generator)


def random_maps(examples: int, chunks: int = 3) -> Maps:
    """Maps in double precision, whose every value matters."""
    g = torch.Generator().manual_seed(3)
    frames, n = SMALL_BANDS.frames, examples * chunks
    mid = torch.randn(n, frames, SMALL_BANDS.bins, generator=g, dtype=torch.float64) - 5
    ratio, share = torch.rand(2, n, frames, SMALL_BANDS.stereo_bands, generator=g, dtype=torch.float64) - 0.5
    noise = torch.rand(n, frames, SMALL_BANDS.bins, generator=g, dtype=torch.float64) * 0.8 + 0.1
    return Maps(mid, ratio, share, noise)


def test_what_is_heard_is_what_decoding_gives() -> None:
    codec = random_bands()
    latents = codec.encode(synthesize(3, 0.05))
    with torch.no_grad():
        maps, _ = codec.network.estimator(latents.values[None])
    heard = decoded(maps, codec.config, torch.tensor([7]))[0]
    sound = codec.decode(latents, seed=7).samples
    assert heard.shape[1] == len(latents) * 512 - 192
    assert torch.equal(heard[:, : sound.shape[1]], sound[:, : heard.shape[1]])
    leaning = Maps(maps.mid.clone().requires_grad_(), maps.ratio, maps.share, maps.noise)
    assert torch.allclose(decoded(leaning, codec.config, torch.tensor([7]))[0], heard, atol=1e-6)


def test_the_original_is_aligned_with_what_is_heard() -> None:
    """A click in the recording and its decoded magnitudes are at the same time, to a few samples of energy's centre."""
    recording = 1e-4 * samples(1)
    recording[..., 900:904] = 0.5
    found = Analysis(SMALL_BANDS)(recording).chunks(SMALL_BANDS)
    shape = (*found.mid.shape[:2], SMALL_BANDS.stereo_bands)
    made = decoded(Maps(found.mid, torch.full(shape, -9.0), torch.ones(shape)), SMALL_BANDS, torch.tensor([0]))
    real = original(recording, SMALL_BANDS)
    assert made.shape == real.shape
    places = torch.arange(real.shape[-1], dtype=torch.float32)
    centres = [float((x.square().sum((0, 1)) * places).sum() / x.square().sum()) for x in (real, made)]
    assert abs(centres[0] - centres[1]) < SMALL_BANDS.hop / 2


def test_each_example_is_heard_through_the_channel_that_is_drawn() -> None:
    sound = torch.tensor([[[1.0, 2.0], [3.0, 6.0]]]).expand(3, 2, 2)
    assert channel(sound, torch.tensor([0, 1, 2])).tolist() == [[2, 4], [1, 2], [3, 6]]


class _Held:
    """Phases that do not follow the magnitudes, as gradients see them."""

    def __init__(self, n_fft: int, *sizes: Any) -> None:
        self.bins = n_fft // 2 + 1

    def push(self, magnitudes: Tensor) -> Tensor:
        g = torch.Generator().manual_seed(1)
        turns = torch.rand(magnitudes.shape, generator=g, dtype=torch.float64) * 6.28
        return torch.polar(magnitudes.detach(), turns)


def slopes(cost: Callable[[list[Tensor]], Tensor], point: list[Tensor]) -> list[tuple[float, float]]:
    """For each tensor the slope in a random direction: by its gradient, and by a finite difference."""
    generator = torch.Generator().manual_seed(5)
    values = [p.detach().double().requires_grad_() for p in point]
    gradients = torch.autograd.grad(cost(values), values)
    out = []
    for i, gradient in enumerate(gradients):
        direction = torch.randn(values[i].shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            moved = [[v + s * direction if k == i else v for k, v in enumerate(values)] for s in (1e-6, -1e-6)]
            sides = [cost(point) for point in moved]
        out.append((float((gradient * direction).sum()), float((sides[0] - sides[1]) / 2e-6)))
    return out


@pytest.mark.parametrize("term", ["heard", "convergence", "adversarial", "feature"])
def test_gradients_of_the_maps_equal_finite_differences(term: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthesis, "Reconstruction", _Held)
    torch.manual_seed(2)
    judges = Discriminators(SMALL_BANDS.rate, WINDOWS, 3).double()
    distance = HeardDistance(SMALL_BANDS.rate, WINDOWS)
    real = spectra(channel(original(samples(2), SMALL_BANDS), torch.tensor([0, 1])).double(), WINDOWS)
    _, truth = judges(real)
    start = random_maps(2)
    assert start.noise is not None

    def cost(parts: list[Tensor]) -> Tensor:
        sound = decoded(Maps(*parts), SMALL_BANDS, torch.tensor([4, 5]))
        made = spectra(channel(sound, torch.tensor([0, 1])), WINDOWS)
        if term == "heard":
            return distance(real, made)
        if term == "convergence":
            return heard_convergence(real, made)
        scores, inner = judges(made)
        return deceit(scores) if term == "adversarial" else feature_distance([t.detach() for t in truth], inner)

    for slope, numeric in slopes(cost, [start.mid, start.ratio, start.share, start.noise]):
        assert abs(numeric) > 1e-7 and slope == pytest.approx(numeric, rel=2e-3, abs=1e-8)


def test_convergence_is_the_share_of_the_error() -> None:
    real = [torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]]]).mul(1e3)]
    made = [torch.tensor([[[3.0, 3.0]], [[0.0, 0.0]]]).mul(1e3)]
    assert float(heard_convergence(real, made)) == pytest.approx(0.1, rel=1e-3)  # a fifth, and silence that is silent


def test_the_gradient_of_the_discriminators_equals_finite_differences() -> None:
    torch.manual_seed(2)
    judges = Discriminators(SMALL_BANDS.rate, WINDOWS, 3).double()
    real, made = (spectra(samples(2, seed)[:, 0].double(), WINDOWS) for seed in (1, 2))
    names = [name for name, _ in judges.named_parameters()]

    def cost(weights: list[Tensor]) -> Tensor:
        own = dict(zip(names, weights, strict=True))
        scores = [torch.func.functional_call(judges, own, (x,))[0] for x in (real, made)]
        return hinge(*scores)

    for slope, numeric in slopes(cost, list(judges.parameters())):
        assert slope == pytest.approx(numeric, rel=1e-3, abs=1e-8)


def test_the_losses_of_the_duel_by_hand() -> None:
    real, made = [torch.tensor([2.0, 0.5])], [torch.tensor([-3.0, 0.5])]
    assert float(hinge(real, made)) == pytest.approx(0.25 + 0.75)
    assert float(deceit(made)) == pytest.approx(1.25)
    assert float(told_apart(real, made)) == 0.75
    assert float(feature_distance([torch.tensor([1.0, -3.0])], [torch.tensor([2.0, -3.0])])) == pytest.approx(0.25)


def objective(**fields: Any) -> AdversarialObjective:
    torch.manual_seed(0)
    made = AdversarialObjective(SMALL_BANDS, AdversarialSection.parse({**FIELDS, **fields}))
    made.begin_from(random_bands())
    return made


def test_both_sides_get_their_own_gradients_only() -> None:
    """Discriminators: that of the hinge, whatever they count for the estimator. Estimator: none from the hinge. Encoder: none."""
    gradients = []
    for weight in (0.0, 100.0):
        made = objective(alone_share=0.0, adversarial_weight=weight, feature_weight=weight)
        loss, _ = made({"samples": samples(2)}, 1.0, Draws.whole(2))
        loss.backward()
        gradients.append({name: p.grad for name, p in made.named_parameters()})
    for name, first in gradients[0].items():
        second = gradients[1][name]
        if "encoder" in name:
            assert first is None and second is None
        else:
            assert first is not None and second is not None
            assert torch.equal(first, second) == name.startswith("discriminators"), name


def test_a_refinement_is_kept_as_it_is() -> None:
    """No term reaches it, so no optimizer has it."""
    sizes = RefinementConfig(dim=32, heads=2, layers=1)
    codec = random_bands(SMALL_BANDS.model_copy(update={"refinement": sizes}))
    made = AdversarialObjective(codec.config, AdversarialSection.parse(FIELDS))
    made.begin_from(codec)
    assert codec.network.refiner is not None and not any("refiner" in name for name in made.averaged())
    after = made.export({}).network.refiner
    assert after is not None
    for name, p in codec.network.refiner.named_parameters():
        assert torch.equal(after.get_parameter(name), p)


def test_discriminators_learn_alone_at_first_and_then_count_gradually() -> None:
    section = AdversarialSection.parse({**FIELDS, "alone_share": 0.1})
    assert [section.strength(p) for p in (0.0, 0.1, 0.15, 0.2, 1.0)] == pytest.approx([0, 0, 0.5, 1, 1])
    assert AdversarialSection.parse({**FIELDS, "alone_share": 0.0}).strength(0.0) == 1
    made = objective()
    _, early = made({"samples": samples(2)}, 0.0, Draws.whole(2))
    _, late = made({"samples": samples(2)}, 0.5, Draws.whole(2))
    assert early.keys() == late.keys()
    assert "told_apart" not in made.summarise(early) and 0 <= made.summarise(late)["told_apart"] <= 1


def test_discriminators_learn_to_tell_noise_from_tones() -> None:
    torch.manual_seed(1)
    judges = Discriminators(48_000, WINDOWS, 4)
    optimizer = torch.optim.AdamW(judges.parameters(), lr=5e-3)
    for seed in range(40):
        noise = samples(4, seed)[:, 0]
        tones = 0.1 * torch.sin(torch.arange(noise.shape[1]) * (0.2 + 0.05 * torch.arange(4.0)[:, None]))
        scores = [judges(spectra(x, WINDOWS))[0] for x in (noise, tones)]
        loss = hinge(*scores)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert float(told_apart(*scores)) > 0.97


def test_a_win_or_a_defeat_of_the_discriminators_is_a_warning() -> None:
    def said(value: float) -> list[str]:
        return [w.advice for w in AdversarialSection.warnings if w.metric == "told_apart" and w.bad(value)]

    assert "win completely" in said(0.99)[0] and "lose completely" in said(0.5)[0] and not said(0.75)


def test_a_frozen_encoder_hears_with_the_floor_of_the_codec_it_belongs_to() -> None:
    """Another floor would give other features, so other codes."""
    codec = random_bands()
    other = SMALL_BANDS.model_copy(update={"floor": 3e-4})
    judged = AdversarialObjective(other, AdversarialSection.parse(FIELDS))
    judged.begin_from(codec)
    wave = synthesize(5, 0.1)
    assert judged.export({}).encode(wave).codes() == codec.encode(wave).codes()
    assert judged.fresh().config == judged.config and judged.config.floor == codec.config.floor
    learning = EstimateObjective(other, EstimateSection())
    learning.begin_from(codec)
    assert learning.config.floor == other.floor


def recipe(start: Path, **fields: Any) -> TrainRecipe:
    return TrainRecipe.parse(
        {
            "model": {"kind": "codicodec", "preset": "tiny", "replace": SMALL_BANDS.to_dict(), "start_from": str(start)},
            "objective": {"kind": "adversarial", **FIELDS, "alone_share": 0.25, **fields},
            "data": {"kind": "sound", "workers": 1, "validation_share": 0.3},
            "optim": {"name": "muon", "rate": 2e-3, "warmup_steps": 2, "ema_decay": 0.5, "weight_decay": 0.01},
            "train": {
                "steps": 8, "batch_size": 2, "precision": "float32", "checkpoint_every": 3, "validate_every": 4,
                "decoded_clips": 1, "validation_batches": 1, "health_every": 4,
            },
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def sounds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sounds")
    for i in range(4):
        write(folder / f"{i}.wav", synthesize(i, 0.7))
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start") / "codec"
    save_codec(random_bands(), folder, torch.bfloat16)
    return folder


@pytest.fixture(scope="module")
def run(start: Path, sounds: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole training."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    train(recipe(start), str(sounds), folder)
    return folder


def test_codes_stay_the_same_and_the_decoder_learns(run: Path, start: Path) -> None:
    before, after = (load_codec(path) for path in (start, run / "codec"))
    wave = synthesize(9, 0.2)
    assert after.encode(wave).codes() == before.encode(wave).codes() and after.spec.space == before.spec.space
    assert after.fingerprint != before.fingerprint and isinstance(after, BandCodec)
    with pytest.warns(UserWarning, match="the encoder is the same"):  # existing files play
        assert after.decode(before.encode(wave).codes()).samples.shape == wave.samples.shape


def test_checkpoints_hold_the_discriminators_and_the_export_does_not(run: Path) -> None:
    place = checkpoint.folder(run) / "step-000000008"
    weights, judges = (
        load_file(place / "model.safetensors"),
        load_file(place / "optimizer-discriminators-0.safetensors"),
    )
    names = {name for name in weights if name.startswith("discriminators.")}
    assert names and {name.partition("|")[0] for name in judges} == names
    assert not any("discriminator" in name for name in load_file(place / "ema.safetensors"))
    assert not any("discriminator" in name for f in (run / "codec").glob("*.safetensors") for name in load_file(f))


@pytest.mark.parametrize("stops", [(2, 5), (4,)])  # steps after which the run is interrupted: alone, and in the duel
def test_resuming_is_exact_for_both_sides(
    stops: tuple[int, ...], run: Path, start: Path, sounds: Path, tmp_path: Path
) -> None:
    for stop in stops:
        seen: list[int] = []
        watch = [lambda record: seen.append(record["step"])]  # noqa: B023
        train(recipe(start), str(sounds), tmp_path / "parts", watchers=watch, stop=lambda: seen[-1] >= stop)  # noqa: B023
    train(recipe(start), str(sounds), tmp_path / "parts")
    ours, theirs = (checkpoint.folder(r) / "step-000000008" for r in (tmp_path / "parts", run))
    assert {p.name for p in ours.iterdir()} == {p.name for p in theirs.iterdir()}
    for file in ours.glob("*.safetensors"):
        first, second = load_file(file), load_file(theirs / file.name)
        assert first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first), file.name
    assert curve(tmp_path / "parts") == curve(run)


def test_discriminators_are_fresh_whatever_training_starts_from(
    run: Path, start: Path, sounds: Path, tmp_path: Path
) -> None:
    """A codec has none; those of a new run depend on its seed alone."""
    found = []
    for name, (began, seed) in enumerate([(start, 0), (run / "codec", 0), (start, 1)]):
        values = recipe(began).to_dict()
        values["train"] |= {"steps": 1, "seed": seed}
        values["optim"]["rate"] = values["objective"]["discriminator_rate"] = 1e-12
        train(TrainRecipe.parse(values), str(sounds), tmp_path / str(name))
        found.append(load_file(checkpoint.folder(tmp_path / str(name)) / "step-000000001" / "model.safetensors"))
    names = [name for name in found[0] if name.startswith("discriminators.") and name.endswith("weight")]
    assert all(torch.allclose(found[0][n], found[1][n], atol=1e-9) for n in names)
    assert not any(torch.allclose(found[0][n], found[2][n], atol=1e-3) for n in names)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"windows": []}, "expected sizes in samples"),
        ({"windows": [128, 64]}, "rise"),
        ({"windows": [32]}, "from 64"),
        ({"windows": [70]}, "multiple of 4"),
        ({"channels": 0}, "channels"),
        ({"alone_share": 0.5}, "alone_share"),
        ({"adversarial_weight": -1}, "adversarial_weight"),
        ({"feature_weight": -1}, "feature_weight"),
        ({"heard_weight": -1}, "heard_weight"),
        ({"discriminator_rate": 0}, "discriminator_rate"),
        ({"freeze_encoder": False}, "freeze_encoder"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        AdversarialSection.parse({**FIELDS, **fields})


def test_what_it_cannot_train_is_refused(start: Path, sounds: Path, tmp_path: Path) -> None:
    for seconds, said in ((0.001, "4 of the longest window"), (1.0, r"objective\.chunks=3")):
        with pytest.raises(ConfigError, match=said):
            train(recipe(start, heard_seconds=seconds), str(sounds), tmp_path / "x")
    for model, said in (
        ({"start_from": None}, "start_from is null"),
        ({"preset": "base", "replace": {}}, "frontend bands"),
    ):
        values = recipe(start).to_dict()
        values["model"] |= model
        with pytest.raises(ConfigError, match=said):
            train(TrainRecipe.parse(values), str(sounds), tmp_path / "y")
    with pytest.raises(ConfigError, match="another network"):
        AdversarialObjective(BandsConfig(), AdversarialSection()).begin_from(random_bands())


def test_the_bundled_recipe_fits_the_bundled_codec() -> None:
    """Also where the preset has another floor of magnitudes than the bundled weights."""
    loaded, codec = TrainRecipe.load(bundled()["tiny-3-adversarial"]), load("tiny")
    assert isinstance(loaded.objective, AdversarialSection) and isinstance(loaded.model, CoDiCodecSection)
    assert loaded.model.start_from == "tiny" and isinstance(codec, BandCodec)
    made = loaded.objective.objective(loaded.model.build())
    made.begin_from(codec)
    assert made.export({}).spec.space == codec.spec.space
