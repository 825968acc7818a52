"""`duotone train` of a flow model: the same command, with a store of latents as its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from duotone.hub import load
from flow_toys import TOY
from latent_toys import make_store


def test_a_flow_is_trained_from_a_store_and_reported(duotone: Any, here: Path) -> None:
    make_store(here / "store", {"a": 30})
    (here / "r.yaml").write_text(
        json.dumps({"model": {"kind": "flow", "replace": TOY.to_dict()}, "objective": {"kind": "flow", "rollout_chunks": 2},
                    "data": {"kind": "latents", "chunks": 5},
                    "train": {"batch_size": 2, "device": "cpu", "steps": 3, "validate_every": 2, "validation_batches": 1}})
    )  # fmt: skip
    result = duotone("train", "r.yaml", "--data", "store", "--out", "run", "model.replace.sampling.steps=3")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.strip() == "run/flow" and "step 3/3" in result.stderr
    assert load(here / "run" / "flow").config.sampling.steps == 3
    result = duotone("report", "run")
    assert result.exit_code == 0
    page = (here / "run" / "report.html").read_text()
    assert "Loss by chunks of clean past" in page and "validation_generated_past" in page


def test_mistakes_are_explained(duotone: Any, here: Path) -> None:
    (here / "sounds").mkdir()
    make_store(here / "store", {"a": 200})
    for data, more, hint in (
        ("sounds", [], "is no store"),
        ("store", ["model.start_from=nobody", "data.listen_with=null"], "nobody"),
        ("store", ["train.listen_every=1", "data.listen_with=tiny"], "data.listen_with got tiny"),
    ):
        result = duotone("train", "flow-tiny", "--data", data, "--out", "run", "train.steps=1", *more)
        assert result.exit_code not in (0, 1) and hint in " ".join(result.stderr.split()), result.stderr
        assert "Traceback" not in result.stderr
