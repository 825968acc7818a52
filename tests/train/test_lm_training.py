"""Training of language models by the one loop: the loss, exact resuming, tokenizers, export, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from duotone.errors import ConfigError
from duotone.lm import fingerprint, load
from duotone.train.codes import CodesSection, open_codes
from duotone.train.draws import Draws
from duotone.train.lm_objective import LMObjective, digits_of
from duotone.train.lm_task import LMObjectiveSection, chunk_bits, entropy
from duotone.train.log import LOG, read_log
from duotone.train.recipe import TrainRecipe
from duotone.train.run import train
from latent_toys import make_store as make_latents
from lm_toys import MERGED, PARTS, PLAIN, SPEC, make_store, melody, stirred
from toy_task import curve

SMALL = {"dim": 32, "layers": 1, "heads": 2}


def recipe(**sections: dict[str, Any]) -> TrainRecipe:
    values: dict[str, dict[str, Any]] = {
        "model": {"kind": "lm", "replace": SMALL},
        "objective": {"kind": "lm", "rollout_chunks": 2},
        "data": {"kind": "codes", "chunks": 4, "validation_share": 0.2},
        "optim": {"name": "muon", "rate": 1e-2, "muon_rate": 2e-2, "warmup_steps": 2, "ema_decay": 0.8},
        "train": {
            "steps": 6, "batch_size": 4, "checkpoint_every": 2, "validate_every": 3, "validation_batches": 1,
            "precision": "float32", "device": "cpu",
        },
    }  # fmt: skip
    return TrainRecipe.parse({name: {**values[name], **sections.get(name, {})} for name in values})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "s"
    make_store(folder, {"a": 60, "b": 40, "short": 2})
    return folder


@pytest.mark.parametrize("config", [PLAIN, PARTS, MERGED], ids=["codes", "parts", "merged"])
@pytest.mark.parametrize("shared", [True, False])
def test_the_loss_is_that_of_transformers_and_of_what_is_exported(config: Any, shared: bool) -> None:
    model = stirred(config)
    objective = LMObjective(model, LMObjectiveSection(shared_digits=shared))
    codes = [melody(i, 3) for i in range(2)]
    rows = [model.context(model.encode(each)) for each in codes]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=model.pad)
    loss, values = objective({"ids": ids}, 0.0, Draws.whole(2, 0))
    exported = objective.with_weights({name: p.detach() for name, p in objective.named_parameters()})
    own = [exported.network(input_ids=row[None], labels=row[None]).loss * (len(row) - 1) for row in rows]
    torch.testing.assert_close(values["nats"], torch.stack(own), atol=1e-3, rtol=1e-4)
    assert float(loss) == pytest.approx(float(sum(own)) / sum(len(row) - 1 for row in rows), rel=1e-4)
    bits = [sum(chunk_bits(exported, each)) * math.log(2) for each in codes]
    assert bits == pytest.approx(values["nats"].tolist(), rel=1e-4)
    assert (len(objective.digits) > 0) is shared


def test_digits_are_those_of_the_codes() -> None:
    model = stirred(PLAIN)
    places = digits_of(model)  # of levels 3, 5, 3, 5
    code = 2 + 3 * 4 + 15 * 1 + 45 * 3
    assert places.shape == (4, 227) and places[:, 2 + code].tolist() == [2, 4, 1, 3]
    assert (places[:, :2] == -1).all() and places.max(1).tolist() == [2, 4, 2, 4]
    parts = digits_of(stirred(PARTS))  # 15 numbers of the first two digits, then 15 of the others
    assert parts[:, 2 + 2 + 3 * 4].tolist() == [2, 4, -1, -1] and parts[:, 2 + 15 + 7].tolist() == [-1, -1, 1, 2]


def test_it_learns_and_exports_an_ordinary_model(store: Path, tmp_path: Path) -> None:
    long = recipe(train={"steps": 150, "validate_every": 1000, "checkpoint_every": 1000})
    seen: list[dict[str, Any]] = []
    target = train(long, store, tmp_path / "run", watchers=[seen.append])
    assert target == tmp_path / "run" / "lm"
    first, last = seen[0]["validation_loss"], seen[-1]["validation_loss"]
    assert first == pytest.approx(math.log2(227), abs=1.0) and last < first - 3  # a melody: about 1.2 bits a code
    assert seen[-1]["validation_bits_context_3"] < seen[-1]["validation_bits_context_0"]
    assert 0 < seen[-1]["rollout_entropy"] <= 1.5
    model = load(target)
    assert model.config.context_chunks == 4 and model.spec == SPEC
    assert model.provenance["steps"] == 150
    network = AutoModelForCausalLM.from_pretrained(target)
    assert network.dtype == torch.bfloat16
    # It goes on as the melodies do.
    from duotone.lm import LMSampler

    made = np.concatenate([LMSampler(model, [seed]).next().codes[0, 0] for seed in range(20)])
    assert np.mean(np.diff(made.reshape(20, -1)) % 225 == 7) > 0.5


@pytest.mark.parametrize("model", [{}, {"parts": 2, "vocabulary": 50}], ids=["codes", "merged"])
def test_resuming_is_exact(store: Path, tmp_path: Path, model: dict[str, Any]) -> None:
    chosen = recipe(model={"replace": {**SMALL, **model}})
    train(chosen, store, tmp_path / "whole")
    seen: list[int] = []
    for stop in (1, 3, 6):
        train(
            chosen,
            store,
            tmp_path / "parts",
            watchers=[lambda r: seen.append(r["step"])],
            stop=lambda stop=stop: seen[-1] >= stop,
        )
    assert curve(tmp_path / "whole") == curve(tmp_path / "parts")
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "whole" / "lm" / name).read_bytes() == (tmp_path / "parts" / "lm" / name).read_bytes()


def test_fine_tuning_begins_from_the_weights(store: Path, tmp_path: Path) -> None:
    train(recipe(), store, tmp_path / "first")
    began = recipe(model={"start_from": str(tmp_path / "first" / "lm")})
    seen: list[dict[str, Any]] = []
    train(began, store, tmp_path / "second", watchers=[seen.append])
    before = read_log(tmp_path / "first" / LOG)[0]
    assert seen[0]["validation_loss"] < before[0]["validation_loss"]
    one, two = load(tmp_path / "first" / "lm"), load(tmp_path / "second" / "lm")
    assert two.provenance["began_from"] == {"fingerprint": fingerprint(one), "provenance": one.provenance}
    other = recipe(model={"start_from": str(tmp_path / "first" / "lm"), "replace": {**SMALL, "layers": 2}})
    with pytest.raises(ConfigError, match="layers 1 there, 2 here"):
        train(other, store, tmp_path / "third")


def test_crops_are_chunks_of_the_recordings(store: Path) -> None:
    found = open_codes(CodesSection(chunks=4), [str(store)], seed=1)
    assert found.chunks == 4 and found.skipped == ["short: 2 chunks, shorter than a crop of 4"]
    found.training.model = stirred()
    batch = found.training.batch(3, range(6))["ids"]
    assert batch.shape == (6, 25) and torch.equal(batch[2:4], found.training.batch(3, range(2, 4))["ids"])
    assert (batch[:, 0] == found.training.model.start).all()
    whole = [melody(seed, chunks)[0] for seed, chunks in ((0, 60), (1, 40))]
    for row in found.training.plain(5, "x"):
        assert any((row[0] == x[i : i + 24]).all() for x in whole for i in range(0, len(x) - 23, 6))
    some = list(found.training.some_chunks(10))
    assert len(some) == 10 and all(chunk.shape == (1, 6) for chunk in some)


def test_entropy_of_known_codes() -> None:
    assert entropy(np.array([[0, 1, 2, 3], [5, 5, 5, 5]]), 8) == pytest.approx(1.0)


def test_what_cannot_be_trained_is_refused(store: Path, tmp_path: Path) -> None:
    make_latents(tmp_path / "latents", {"a": 30})
    with pytest.raises(ConfigError, match="--codes"):
        train(recipe(), tmp_path / "latents", tmp_path / "a")
    flow = recipe().model_copy(update={"objective": TrainRecipe.load("flow-tiny").objective})
    with pytest.raises(ConfigError, match="objective"):
        train(flow, store, tmp_path / "b")
    mixed = recipe().model_copy(update={"data": TrainRecipe.load("flow-tiny").data})
    with pytest.raises(ConfigError, match=r"data\.kind codes"):
        train(mixed, store, tmp_path / "c")
    assert isinstance(TrainRecipe.load("lm-tiny").objective, LMObjectiveSection)
