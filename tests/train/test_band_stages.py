"""The stages of a codec with the bands frontend, one after the other: estimate, adversarial, refinement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.weights import load_codec
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from small_bands import SMALL_BANDS, SMALL_REFINEMENT

#: What each stage trains, with the fields that make it small.
ESTIMATE = {"kind": "estimate", "chunks": 2}
ADVERSARIAL = {
    "kind": "adversarial", "chunks": 3, "windows": [64, 128], "channels": 4, "heard_seconds": 0.02, "alone_share": 0.0,
}  # fmt: skip
CONSISTENCY = {"kind": "consistency", "teacher_decay": 0.5, "denoising_share": 0.5}
REFINEMENT = {"refinement": SMALL_REFINEMENT.to_dict()}


class Stages:
    """Trainings in a folder that has sounds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def train(self, name: str, objective: dict[str, Any], start: str | None, **replace: Any) -> BandCodec:
        """The codec of a few steps that start from that of an earlier stage; `replace` is added to the model's fields."""
        began = None if start is None else str(self.folder / start / "codec")
        wanted = {
            "model": {"preset": "tiny", "replace": {**SMALL_BANDS.to_dict(), **replace}, "start_from": began},
            "objective": objective,
            "data": {"workers": 1, "validation_share": 0.3},
            "optim": {"name": "muon", "rate": 2e-3, "warmup_steps": 2, "ema_decay": 0.5},
            "train": {"steps": 4, "batch_size": 2, "precision": "float32", "decoded_clips": 0, "validation_batches": 1},
        }
        train(TrainRecipe.parse(wanted), str(self.folder / "sounds"), self.folder / name)
        made = load_codec(self.folder / name / "codec")
        assert isinstance(made, BandCodec)
        return made


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Stages:
    """With the runs ``estimate``, ``adversarial`` and ``refined``."""
    folder = tmp_path_factory.mktemp("stages")
    (folder / "sounds").mkdir()
    for i in range(4):
        write(folder / "sounds" / f"{i}.wav", synthesize(i, 0.7))
    made = Stages(folder)
    made.train("estimate", ESTIMATE, None)
    made.train("adversarial", ADVERSARIAL, "estimate")
    made.train("refined", CONSISTENCY, "adversarial", **REFINEMENT)
    return made


def test_codes_stay_through_all_stages_and_the_refinement_keeps_the_estimate(stages: Stages) -> None:
    codecs = [load_codec(stages.folder / name / "codec") for name in ("estimate", "adversarial", "refined")]
    wave = synthesize(9, 0.3)
    first, second, third = (codec.encode(wave).codes() for codec in codecs)
    assert first == second == third
    assert codecs[0].spec.space == codecs[1].spec.space == codecs[2].spec.space
    sounds = [codec.decode(codec.encode(wave), seed=3, steps=0).samples for codec in codecs]
    assert not torch.equal(sounds[0], sounds[1]) and torch.equal(sounds[1], sounds[2])
    assert not torch.equal(codecs[2].decode(codecs[2].encode(wave), seed=3).samples, sounds[2])  # which it refines


@pytest.mark.parametrize("objective", [ESTIMATE, ADVERSARIAL], ids=["estimate", "adversarial"])
def test_a_training_of_the_estimate_leaves_out_a_refinement_that_is_not_named(
    stages: Stages, objective: dict[str, Any]
) -> None:
    with pytest.warns(UserWarning, match="has a refinement, which is left out"):
        made = stages.train(f"without-{objective['kind']}", objective, "refined")
    assert isinstance(made, BandCodec) and made.network.refiner is None
    wave = synthesize(9, 0.3)
    assert made.decode(made.encode(wave), seed=3).length == wave.length


def test_a_refined_codec_is_judged_with_its_refinement_if_it_is_named(stages: Stages) -> None:
    """It stays as it is then, beside an estimate that it was not trained for."""
    before, after = (
        load_codec(stages.folder / "refined" / "codec"),
        stages.train("judged", ADVERSARIAL, "refined", **REFINEMENT),
    )
    assert isinstance(before, BandCodec) and before.network.refiner is not None and after.network.refiner is not None
    own, theirs = after.network.refiner.state_dict(), before.network.refiner.state_dict()
    assert own.keys() == theirs.keys() and all(torch.equal(own[name], theirs[name]) for name in own)
    wave = synthesize(9, 0.3)
    assert after.encode(wave).codes() == before.encode(wave).codes()
    old, new = (codec.decode(codec.encode(wave), seed=3, steps=0).samples for codec in (before, after))
    assert not torch.equal(old, new)
