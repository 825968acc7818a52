"""Sampling: whole chunks from any weights, cached = uncached, batch = singles, prompts, seeds, the window."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from duotone.config import LMConfig, LMSampling
from duotone.errors import AudioError, CodecMismatchError, FormatError, UsageError
from duotone.lm import LanguageModel, LatentRows, LMSampler, continued
from duotone.lm.frames import from_frames, to_frames
from duotone.lm.sampler import pick, warper
from duotone.nn.noise import uniform
from lm_toys import MERGED, PARTS, PLAIN, SPEC, melody, stirred

ALL = pytest.mark.parametrize("config", [PLAIN, PARTS, MERGED], ids=["codes", "parts", "merged"])
S = SPEC.steps


def run(sampler: LMSampler, count: int) -> np.ndarray:
    return np.concatenate([sampler.next().codes for _ in range(count)], 2)


@ALL
def test_frames_are_the_digits_of_the_codes(config: LMConfig) -> None:
    codes = melody(3, 5)
    frames = to_frames(codes, SPEC, config.parts)
    assert frames.shape == (config.parts, 30) and (from_frames(frames, SPEC, config.parts) == codes).all()
    if config.parts == 2:
        assert (frames == [codes[0] % 15, codes[0] // 15]).all()  # 3 x 5 levels, then 3 x 5


def test_codes_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(UsageError, match="does not divide the levels"):
        to_frames(melody(0, 1), SPEC, 4)  # 3, 5, 3, 5 are not equal
    with pytest.raises(UsageError, match="does not divide the levels"):
        to_frames(melody(0, 1), SPEC, 3)


@ALL
def test_any_weights_give_whole_chunks_that_the_tokens_spell(config: LMConfig) -> None:
    model = stirred(config)
    sampler = LMSampler(model, range(3), LMSampling(temperature=3.0))
    tokens = []
    for n in range(9):  # beyond the context of 4
        chunk = sampler.next()
        assert chunk.codes.shape == (3, 1, S) and chunk.index == n
        assert chunk.codes.min() >= 0 and chunk.codes.max() < 225
        tokens.append(chunk.tokens)
    most = 3 * S * config.parts
    assert all(count == most for count in tokens) if config.vocabulary is None else min(tokens) < most
    assert len({row.tobytes() for row in run(sampler, 1)}) == 3


@ALL
@torch.no_grad()
def test_cached_logits_are_those_of_the_window_seen_at_once(config: LMConfig, monkeypatch: Any) -> None:
    """Straightforward: for each token the network sees the start, the chunks of the window and the tokens of this chunk."""
    model = stirred(config)
    sampler = LMSampler(model, [5])
    sampler.push(melody(2, 2))
    chunks = model.encode(melody(2, 2))
    kept = [2, 3, 2, 3, 2, 3]  # of a context of 4: the window is full with 3 chunks before the drawn one
    for before in kept:
        assert len(sampler._past[0]) == before
        own = sampler.next()
        ids = chunks[-before:]
        chance, drawn = uniform(f"lm/5/{own.index}", (model.codes_of_chunk,)), np.zeros(0, np.int64)
        while int(model.tokenizer.lengths[model.tokenizer.own(drawn)].sum()) < model.codes_of_chunk:
            seen = model.context([*ids, drawn])[None]
            scores = model.grammar()(torch.from_numpy(drawn)[None], model.network(input_ids=seen).logits[:, -1].float())
            drawn = np.append(drawn, int(pick(scores, chance[len(drawn)][None])))
        assert (model.decode(drawn) == own.codes[0]).all()
        chunks.append(drawn)


@ALL
def test_a_batch_is_its_rows(config: LMConfig) -> None:
    model, prompts = stirred(config), np.stack([melody(i, 3) for i in range(4)])
    batch = LMSampler(model, [7, 8, 9, 7])
    batch.push(prompts)
    together = run(batch, 6)
    for i, seed in enumerate((7, 8, 9, 7)):
        single = LMSampler(model, [seed])
        single.push(prompts[i])
        assert (run(single, 6)[0] == together[i]).all()


def test_seeds_and_nothing_else_decide() -> None:
    model = stirred()
    first, second = run(LMSampler(model, [3]), 5), run(LMSampler(model, [3]), 5)
    assert (first == second).all() and not (first == run(LMSampler(model, [4]), 5)).all()
    torch.manual_seed(9)
    assert (run(LMSampler(model, [3]), 5) == first).all()


def test_a_prompt_longer_than_the_context_is_its_end() -> None:
    model, long = stirred(), melody(2, 9)
    whole, end = LMSampler(model, [1]), LMSampler(model, [1])
    whole.push(long)
    end.push(long[:, -3 * S :])
    end.index = whole.index  # the seed's numbers belong to a place
    assert (run(whole, 4) == run(end, 4)).all()
    by_two = LMSampler(model, [1])
    by_two.push(long[:, : 4 * S])
    by_two.push(long[:, 4 * S :])
    assert (run(by_two, 4) == run(LMSamplerOf(model, long), 4)).all()


def LMSamplerOf(model: LanguageModel, codes: np.ndarray) -> LMSampler:
    sampler = LMSampler(model, [1])
    sampler.push(codes)
    return sampler


def test_drawing_is_by_the_probabilities() -> None:
    scores = torch.tensor([[0.0, 1.0, -torch.inf, 2.0]])
    chance = uniform("test", (20_000,))
    assert chance.dtype == torch.float64 and chance.min() > 0 and chance.max() < 1
    found = torch.bincount(pick(scores.expand(20_000, 4), chance), minlength=4) / 20_000
    torch.testing.assert_close(found.float(), scores.softmax(-1)[0], atol=0.01, rtol=0)
    least = torch.tensor([2.0**-25], dtype=torch.float64)
    assert pick(scores, 1 - least).item() == 3 and pick(scores, least).item() == 0
    with pytest.raises(AudioError, match="no probabilities"):
        pick(scores * torch.nan, chance[:1])


@pytest.mark.parametrize(
    ("settings", "allowed"),
    [({}, 4), ({"top_k": 2}, 2), ({"top_p": 0.6}, 1), ({"top_p": 0.7}, 2), ({"temperature": 0.1, "top_p": 0.99}, 1)],
)
def test_settings_restrict_what_is_drawn(settings: dict[str, Any], allowed: int) -> None:
    scores = torch.tensor([[0.0, 1.0, -1.0, 2.0]])  # 0.09, 0.24, 0.03, 0.64
    assert int(torch.isfinite(warper(LMSampling(**settings))(scores)).sum()) == allowed


def test_rollouts_continue_their_prompts_and_have_both_faces() -> None:
    model = stirred()
    prompts = [model.codes(melody(i, 2)) for i in range(3)]
    seen: list[tuple[int, int]] = []
    found = continued(model, prompts, 5, batch=2, progress=lambda done, total: seen.append((done, total)))
    assert [len(codes) for codes in found] == [5, 5, 5] and seen[-1] == (15, 15)
    sampler = LMSampler(model, [2])
    sampler.push(melody(2, 2))
    assert (run(sampler, 5)[0] == found[2].numpy()).all()
    assert found[2].latents().codes() == found[2]
    latents = [prompt.latents() for prompt in prompts]  # either face is a prompt
    assert [c.indices.tolist() for c in continued(model, latents, 5)] == [c.indices.tolist() for c in found]
    rows = LatentRows(model, [2], channels=4)
    rows.push(latents[2].channels(4))
    chunk = rows.next().latents
    assert chunk.shape == (1, 6, 4)
    torch.testing.assert_close(chunk[0], found[2][:1].latents().channels(4)[0])
    assert len(continued(model, [None], 2)[0]) == 2


def test_what_cannot_be_sampled_is_refused() -> None:
    model = stirred()
    with pytest.raises(UsageError, match="context of 5"):
        LMSampler(model, context=5)
    with pytest.raises(UsageError, match="codes of shape"):
        LMSampler(model).push(melody(0, 1)[:, :-1])
    with pytest.raises(UsageError, match="a seed for each"):
        continued(model, [None], 2, seeds=[1, 2])
    with pytest.raises(UsageError, match="equal lengths"):
        continued(model, [None, model.codes(melody(0, 1))], 2)
    with pytest.raises(FormatError, match="whole chunks"):
        model.decode(model.encode(melody(0, 1))[0][:-1])
    with pytest.raises(CodecMismatchError, match="elsewhere"):
        model.check(replace(SPEC, space="elsewhere"))
