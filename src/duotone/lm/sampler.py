"""Chunk after chunk of codes: tokens drawn one by one with cached keys and values, whole chunks by the grammar.

The network sees the start token and the last chunks. When its context is full, the oldest chunks are dropped and the others are
given to it again, as a context of their own: positions never exceed those of the training, and memory is constant::

    context of 4 chunks     <sound> 0 1 2 [3]      a chunk in brackets is being drawn
                            <sound>   2 3 [4]      the context was full: half of it is kept
                            <sound>   2 3 4 [5]

Rows may need different numbers of tokens for a chunk. One that is done waits for the others: it is given padding, which is never
attended to and has no position.

Legend: B rows, n chunks, K rows of codes, S steps of a chunk, V tokens of the vocabulary, T tokens so far.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotone.config import LMSampling
from duotone.errors import AudioError, UsageError
from duotone.flow.sampler import check_seeds
from duotone.lm.frames import Int
from duotone.lm.model import LanguageModel, require_transformers
from duotone.nn.noise import uniform


@dataclass(frozen=True)
class CodesChunk:
    """A drawn chunk: codes `[B, K, S]`, its index, and how many tokens were drawn, of all rows together."""

    codes: Int
    index: int
    tokens: int


class LMSampler:
    """B generations side by side, one for each seed; a chunk depends on the seed, its index and the chunks before it.

    `sampling` (default: that stored with the model) may be replaced between chunks. `context` is the number of chunks that the network
    sees, the drawn one included; the default, and the most, is the model's. Raises `UsageError` for other numbers.
    """

    def __init__(
        self,
        model: LanguageModel,
        seeds: Sequence[int] = (0,),
        sampling: LMSampling | None = None,
        context: int | None = None,
    ) -> None:
        most = model.config.context_chunks
        if context is not None and not 2 <= context <= most:
            raise UsageError(f"Got a context of {context} chunks, expected 2 to {most}, those of the training.")
        self.model, self.seeds = model, check_seeds(seeds)
        self.sampling = model.sampling if sampling is None else sampling
        self.context = context or most
        self.index = 0  #: of the next chunk
        self._grammar = model.grammar()
        self._past: list[deque[Int]] = [deque(maxlen=self.context - 1) for _ in self.seeds]  # ids of chunks, by row
        self._state: _State | None = None  # None: the network has not seen `_past` yet

    def push(self, codes: Any) -> None:
        """Let chunks enter the context: codes `[B, K, n * S]`, or `[K, n * S]` for all rows. Raises `UsageError` for other shapes."""
        rows, spec = np.asarray(codes), self.model.spec
        if rows.ndim == 2:
            rows = np.broadcast_to(rows, (len(self.seeds), *rows.shape))
        if rows.ndim != 3 or rows.shape[:2] != (len(self.seeds), len(spec.codebooks)) or rows.shape[2] % spec.steps:
            raise UsageError(
                f"push got codes of shape {list(np.shape(codes))}, expected [{len(self.seeds)}, {len(spec.codebooks)}, n * {spec.steps}]."
            )
        count = rows.shape[2] // spec.steps
        kept = rows[:, :, max(0, count - self.context + 1) * spec.steps :]
        for past, own in zip(self._past, kept, strict=True):
            past.extend(self.model.encode(own))
        self.index += count
        self._state = None

    @torch.no_grad()
    def next(self) -> CodesChunk:
        """Draw the chunk after the context, and let it enter the context."""
        state = self._state or self._begin()
        drawn = self._draw(state)
        full = len(self._past[0]) == self.context - 1
        for past, ids in zip(self._past, drawn, strict=True):
            past.append(ids)
            while full and len(past) > self.context // 2:
                past.popleft()
        self._state = None if full else state
        self.index += 1
        codes = np.stack([self.model.decode(ids) for ids in drawn])
        return CodesChunk(codes, self.index - 1, sum(map(len, drawn)))

    def _begin(self) -> _State:
        """Show the network the start and the past; rows are padded on the left to the longest."""
        device, pad = self.model.device, self.model.pad
        rows = [self.model.context(list(past)) for past in self._past]
        longest = max(map(len, rows))
        ids = torch.stack([torch.nn.functional.pad(row, (longest - len(row), 0), value=pad) for row in rows])
        real = torch.stack([torch.arange(longest) >= longest - len(row) for row in rows])
        state = _State(self.model.network)
        state.see(ids.to(device), real.to(device))
        return state

    def _draw(self, state: _State) -> list[Int]:
        """The ids of the next chunk, by row; the network has seen them afterwards."""
        model, rows, most = self.model, len(self.seeds), self.model.codes_of_chunk
        lengths = np.zeros(model.network.config.vocab_size, np.int64)
        lengths[model.tokenizer.audio_ids] = model.tokenizer.lengths
        chance = torch.stack([uniform(f"lm/{seed}/{self.index}", (most,)) for seed in self.seeds]).to(model.device)
        written, drawn = np.zeros(rows, np.int64), [np.zeros(0, np.int64) for _ in range(rows)]
        warp = warper(self.sampling)
        for place in range(most):
            open_ = written < most
            if not open_.any():
                break
            scores = torch.stack(
                [self._grammar(ids[None], row[None])[0] for ids, row in zip(drawn, state.logits, strict=True)]
            )
            token = pick(warp(scores), chance[:, place])
            host = token.cpu().numpy()
            for i in np.flatnonzero(open_):
                drawn[i] = np.append(drawn[i], host[i])
            written += np.where(open_, lengths[host], 0)
            live = torch.from_numpy(open_).to(model.device)
            state.see(torch.where(live, token, model.pad)[:, None], live[:, None])
        return drawn


class _State:
    """What the network has seen: cached keys and values, which of them are real, and the logits `[B, V]` of what comes next."""

    def __init__(self, network: Any) -> None:
        self.network = network
        self.cache = require_transformers().DynamicCache()
        names = inspect.signature(network.forward).parameters
        self.word = "cache" if "cache" in names else "past_key_values"  # the former from transformers 5.24 on
        self.real: Tensor | None = None
        self.logits = torch.zeros(0)

    def see(self, ids: Tensor, real: Tensor) -> None:
        """Show ids `[B, n]`; where `real` `[B, n]` is false they are padding. Rows without real ones keep their logits."""
        before = 0 if self.real is None else self.real.shape[1]
        self.real = real if self.real is None else torch.cat([self.real, real], 1)
        positions = (self.real.long().cumsum(1) - 1).clamp_min(0)[:, before:]
        found = self.network(
            input_ids=ids, attention_mask=self.real.long(), position_ids=positions, use_cache=True, logits_to_keep=1,
            **{self.word: self.cache},
        ).logits[:, -1].float()  # fmt: skip
        self.logits = torch.where(real.any(1)[:, None], found, self.logits) if before else found


def warper(sampling: LMSampling) -> Any:
    """Logits `[B, V]` -> those of the distribution to draw from: temperature, then top-k, then top-p, as in transformers."""
    logits = require_transformers().generation.logits_process
    steps: list[Any] = []
    if sampling.temperature != 1:
        steps.append(logits.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        steps.append(logits.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        steps.append(logits.TopPLogitsWarper(sampling.top_p))

    def warp(scores: Tensor) -> Tensor:
        for step in steps:
            scores = step(None, scores)
        return scores

    return warp


def pick(scores: Tensor, chance: Tensor) -> Tensor:
    """Logits `[B, V]` and uniform numbers `[B]` in (0, 1) -> tokens `[B]`: the inverse of the distribution function.

    Raises `AudioError` where there is no distribution.
    """
    total = scores.double().softmax(-1).cumsum(-1)
    if not bool(torch.isfinite(total[:, -1]).all()):
        raise AudioError("The language model gave no probabilities: its weights, or the temperature, are unusable.")
    return (total <= (chance.to(total) * total[:, -1])[:, None]).sum(-1)
