"""Training the residual's predictor of a Lycodec alone: what stays, what it learns, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.lycodec.weights import load_lycodec, save_lycodec
from duotone.config import LycodecConfig
from duotone.errors import ConfigError
from duotone.train.draws import Draws
from duotone.train.lycodec_predictor import LycodecPredictorSection, PredictorObjective
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from small_lycodec import SMALL_LYCODEC, random_lycodec

CODEC = random_lycodec()
WITH = LycodecConfig.parse({**SMALL_LYCODEC.to_dict(), "predictor_units": 8})


def objective() -> PredictorObjective:
    torch.manual_seed(0)
    made = PredictorObjective(WITH, LycodecPredictorSection())
    made.begin_from(CODEC)
    return made


def recipe(start: object, **replace: object) -> TrainRecipe:
    values = TrainRecipe.load("lycodec-predictor").to_dict()
    values["model"] |= {"replace": {**SMALL_LYCODEC.to_dict(), "predictor_units": 8, **replace}, "start_from": start}
    values["optim"] |= {"ema_decay": 0.5, "warmup_steps": 1, "rate": 0.01}
    values["train"] |= {
        "steps": 6, "batch_size": 4, "checkpoint_every": 3, "validation_batches": 1, "precision": "float32", "device": "cpu",
    }  # fmt: skip
    return TrainRecipe.parse(values)


def test_the_loss_is_the_share_of_the_residual_that_is_missed() -> None:
    """A new predictor predicts nothing, so all of it; training on the same sounds predicts some."""
    made = objective()
    sounds = {"samples": 0.1 * torch.randn(8, 2, made.crop, generator=torch.Generator().manual_seed(0))}
    learning = [p for p in made.parameters() if p.requires_grad]
    assert made.network.predictor is not None
    assert {id(p) for p in learning} == {id(p) for p in made.network.predictor.parameters()}
    first, values = made(sounds, 0.0, Draws.whole(8))
    assert float(first.detach()) == pytest.approx(1) and float(values["predicted"]) == pytest.approx(0, abs=1e-6)
    optimizer = torch.optim.Adam(learning, 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        loss, _ = made(sounds, 0.0, Draws.whole(8))
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.9


def test_codes_and_all_other_weights_stay_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    for i in range(4):
        write(tmp_path / "sounds" / f"{i}.wav", synthesize(i, 1.0))
    save_lycodec(CODEC, tmp_path / "begun", torch.bfloat16)
    begun = load_lycodec(tmp_path / "begun")
    train(recipe(str(tmp_path / "begun")), [str(tmp_path / "sounds")], tmp_path / "run")
    found = load_lycodec(tmp_path / "run" / "codec")
    before, after = begun.network.state_dict(), found.network.state_dict()
    added = {name for name in after if name.startswith("predictor.")}
    assert set(after) - added == set(before) and all(torch.equal(before[name], after[name]) for name in before)
    assert bool(after["predictor.down.weight"].any())
    wave = synthesize(9, 0.2)
    ours, theirs = begun.encode(wave), found.encode(wave)
    assert torch.equal(ours.codes().indices, theirs.codes().indices) and begun.spec.space == found.spec.space
    assert not torch.equal(begun.decode(ours.codes()).samples, found.decode(theirs.codes()).samples)
    assert torch.equal(begun.decode(ours).samples, found.decode(theirs).samples)


@pytest.mark.parametrize(
    ("start", "replace", "match"),
    [(None, {}, r"model\.start_from=lycodec-tiny"), ("begun", {"predictor_units": 0}, "predictor_units=256"),
     ("begun", {"decoder_layers": 1}, "decoder_layers 2 there, 1 here"), ("has one", {}, "has a predictor of 4 units")],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused(
    start: str | None, replace: dict[str, object], match: str, tmp_path: Path
) -> None:
    (tmp_path / "sounds").mkdir()
    write(tmp_path / "sounds" / "0.wav", synthesize(0, 1.0))
    save_lycodec(CODEC, tmp_path / "begun")
    save_lycodec(random_lycodec(predictor_units=4), tmp_path / "has one")
    with pytest.raises(ConfigError, match=match):
        train(recipe(start and str(tmp_path / start), **replace), [str(tmp_path / "sounds")], tmp_path / "run")
