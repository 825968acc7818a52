"""Language models small enough to run in milliseconds, and stores of codes that have something to learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from duotone.config import LMConfig
from duotone.lm import LanguageModel, random
from duotone.spec import CodecSpec, Source
from duotone.store import LatentStore, LatentWriter, StoreInfo

#: 6 codes of 3 x 5 levels a chunk... times two, so that a code can be divided into equal parts.
SPEC = CodecSpec(
    family="toy", model="toy", fingerprint="f2", space="s2", rate=8_000, rate_out=8_000, channels=2, chunk=800, steps=6,
    codebooks=(225,), latent=(6, 4), levels=(3, 5, 3, 5), bounded=True,
)  # fmt: skip
PLAIN = LMConfig(dim=32, layers=2, heads=2, context_chunks=4)
PARTS = PLAIN.model_copy(update={"parts": 2})
MERGED = PLAIN.model_copy(update={"parts": 2, "vocabulary": 60})


def melody(seed: int, chunks: int) -> np.ndarray:
    """Codes `[1, chunks * 6]`: a step up each time, now and then a jump."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(chunks * SPEC.steps) < 0.1, rng.integers(0, 225, chunks * SPEC.steps), 7)
    return (steps.cumsum() % 225)[None]


def stirred(config: LMConfig = PLAIN, seed: int = 0, scale: float = 6.0) -> LanguageModel:
    """A model whose predictions differ from token to token."""
    chunks = [melody(1, 1)] + [melody(i, 40)[:, j : j + 6] for i in range(3) for j in range(0, 240, 6)]
    model = random(config, SPEC, seed, chunks)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(scale if "embed" in name else scale / 2)
    return model


def make_store(folder: Path, lengths: dict[str, int], holds: tuple[Any, ...] = ("codes",)) -> LatentStore:
    """A store of melodies, by name and length in chunks."""
    with LatentWriter(folder, StoreInfo(SPEC, "float32", 1, "shards", 0, holds=holds)) as writer:
        for seed, (name, chunks) in enumerate(lengths.items()):
            codes = melody(seed, chunks).reshape(1, chunks, SPEC.steps).transpose(1, 0, 2)
            source = Source(SPEC.rate, SPEC.channels, SPEC.samples(chunks))
            writer.add(name, None, source, f"{name}.wav", (seed, 1), codes=codes)
    return LatentStore(folder)
