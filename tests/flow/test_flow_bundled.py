"""The bundled flows: both of the bundled codec, one with eight and one with two evaluations a chunk."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

import duotone
from duotone import flow, hub
from duotone.flow.sampler import Sampler

CLIP = hub.WEIGHTS.parent / "assets" / "demo-recorded.flac"
EVALUATIONS = {"flow-tiny": 8, "flow-few": 2}


def test_these_are_bundled_in_16_mib_each() -> None:
    assert set(hub.bundled("flow")) == set(EVALUATIONS)
    for name in EVALUATIONS:
        assert sum(path.stat().st_size for path in (hub.WEIGHTS / name).iterdir()) < 16 * 2**20


@torch.no_grad()
@pytest.mark.parametrize("name", EVALUATIONS)
def test_each_continues_a_prompt_with_its_evaluations(name: str) -> None:
    model, codec = duotone.load(name), duotone.load("tiny")
    assert model.config.codec == codec.spec.space
    chunk = Sampler(model, [0]).next()
    assert chunk.evaluations == EVALUATIONS[name] and 0.2 < float(chunk.latents.std()) < 2
    with flow.session(model, codec, duotone.read(CLIP), seed=1) as session:
        for wave in islice(session, 2):
            assert 1e-3 < float(wave.samples.square().mean()) ** 0.5 < 1
