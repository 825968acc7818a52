"""The bundled language model: it belongs to the bundled codec, knows something of its codes, and generates."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import duotone
from duotone import hub, lm
from duotone.lm.model import LanguageModel

CLIP = hub.WEIGHTS.parent / "assets" / "demo-recorded.flac"
CODEC = duotone.load("tiny")
CHUNKS = 7  # 4.8 s


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    found: LanguageModel = duotone.load("lm-tiny")
    return found


def test_it_is_small_and_of_the_bundled_codec(model: LanguageModel) -> None:
    assert hub.bundled("lm") == ["lm-tiny"]
    assert sum(path.stat().st_size for path in (hub.WEIGHTS / "lm-tiny").iterdir()) < 16 * 2**20
    model.check(CODEC.spec)


@torch.no_grad()
def bits(model: LanguageModel, codes: np.ndarray) -> float:
    """What a code of the second half takes, given those before it."""
    ids = torch.from_numpy(np.concatenate([[model.start], *model.encode(codes)])).long()[None]
    scores = model.network(ids).logits[0, :-1].float()
    half = ids.shape[1] // 2
    return float(F.cross_entropy(scores[half:], ids[0, 1 + half :])) / math.log(2)


def test_music_takes_fewer_bits_than_codes_without_order(model: LanguageModel) -> None:
    music = CODEC.encode(duotone.read(CLIP)).codes().indices[:, : CHUNKS * CODEC.spec.steps]
    order = np.random.default_rng(0).permutation(music.shape[1])
    found = bits(model, music)
    assert found < 0.9 * math.log2(14641) and found < bits(model, music[:, order])


def test_it_continues_a_prompt(model: LanguageModel) -> None:
    prompt = duotone.read(CLIP)
    pieces = list(islice(lm.LMTakes(model, CODEC, prompt, seeds=[1]), 2))
    for (piece,) in pieces:
        assert piece.length == CODEC.spec.chunk
        assert 1e-3 < float(piece.samples.square().mean()) ** 0.5 < 1
