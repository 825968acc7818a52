"""Make the test vectors of `.duo` versions 2 and 3: ``python tests/golden/make_duo_vectors.py`` (they are committed; run it for a
new version alone). Values come from a formula, so that any reader can be tested with the files and this page."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from duotone.codec.container import write_duo
from duotone.codec.values import Codes, Latents
from duotone.spec import Source
from toys import Features, Grouped, Pcm, Scaled

FOLDER = Path(__file__).parent / "duo"


def numbers(count: int, below: int) -> torch.Tensor:
    """``(i * 7919 + i * i) mod below`` for i = 0, 1, ..."""
    i = torch.arange(count)
    return (i * 7919 + i * i) % below


def resembling(chunks: int) -> torch.Tensor:
    """Codes whose digits go up and down slowly: in steps of 18 codes, digit k of codebook b at code i is ``5 + (i // 6 + k + b) % 3``."""
    i, digits = torch.arange(chunks * 18), torch.arange(4)
    return torch.stack([((5 + (i[:, None] // 6 + digits + b) % 3) * 11**digits).sum(1) for b in range(2)])


def vectors() -> dict[str, Codes | Latents]:
    """Name -> the value that the file of that name holds."""
    grouped = Codes(numbers(2 * 18 * 5, 14641).reshape(2, -1), Grouped.spec, Source(48_000, 2, 5 * 720 - 7))
    mixed = torch.stack([numbers(8, size) for size in (11, 7, 300)])
    return {
        "version-2-tokens": grouped,
        "version-2-two-streams": Codes(numbers(8 * 300, 16).reshape(8, -1), Pcm.spec, Source(44_100, 2, 801)),
        "version-2-mixed-radix-and-scale": Codes(
            mixed, Scaled.spec, Source(24_000, 1, 777, format="bfloat16"), torch.tensor([[0.5, 0.25, 0.125, 2.0]])
        ),
        "version-2-latents": Latents(
            numbers(2 * 18 * 8, 1001).reshape(2, 18, 8) / 500.5 - 1, Grouped.spec, Source(48_000, 2, None)
        ),
        "version-2-unbounded-latents": Latents(
            numbers(9 * 8, 64).reshape(9, 1, 8) - 32.0,
            replace(Features.spec, model="unbounded"),
            Source(16_000, 1, 650),
        ),
    }


def compact_vectors() -> dict[str, Codes]:
    """The same for version 3: codes that resemble each other, and codes for which the fewest bytes are those of version 2."""
    source = Source(48_000, 2, 9 * 720 - 7)
    return {
        "version-3-resembling": Codes(resembling(9), Grouped.spec, source),
        "version-3-random": Codes(numbers(2 * 18 * 9, 14641).reshape(2, -1), Grouped.spec, source),
    }


if __name__ == "__main__":
    for name, value in vectors().items():
        write_duo(FOLDER / f"{name}.duo", value, force=True)
    for name, codes in compact_vectors().items():
        write_duo(FOLDER / f"{name}.duo", codes, force=True, compact=True)
