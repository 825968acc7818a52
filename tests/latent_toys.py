"""Stores of latents without sound: a Gaussian process whose statistics are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from duotone.spec import CodecSpec, Source
from duotone.store import LatentStore, LatentWriter, StoreInfo

#: 4 tokens of 6 channels a chunk, as flow_toys.TOY has.
SPEC = CodecSpec(
    family="toy", model="toy", fingerprint="f1", space="s1", rate=8_000, rate_out=8_000, channels=1, chunk=800,
    latent=(4, 6), bounded=False,
)  # fmt: skip
MEAN, DEVIATION = 0.5, 2.0


def process(seed: int, chunks: int, rho: float = 0.9) -> np.ndarray:
    """``x_n = rho x_{n-1} + (1 - rho**2)**0.5 e_n`` for each value of a chunk, from its stationary distribution; `[N, 4, 6]`."""
    rng = np.random.default_rng(seed)
    x = np.empty((chunks, *(SPEC.latent or ())), np.float32)
    x[0] = rng.normal(size=x.shape[1:])
    for n in range(1, chunks):
        x[n] = rho * x[n - 1] + (1 - rho**2) ** 0.5 * rng.normal(size=x.shape[1:])
    return (MEAN + DEVIATION * x).astype(np.float32)


def make_store(
    folder: Path, lengths: dict[str, int], spec: CodecSpec = SPEC, channels: int = 6, **options: Any
) -> LatentStore:
    """A store of such recordings, by name and length in chunks."""
    with LatentWriter(folder, StoreInfo(spec, "float32", 1, "npy", channels)) as writer:
        for seed, (name, chunks) in enumerate(lengths.items()):
            source = Source(spec.rate, spec.channels, spec.samples(chunks))
            writer.add(name, process(seed, chunks, **options), source, f"{name}.wav", (seed, 1))
    return LatentStore(folder)
