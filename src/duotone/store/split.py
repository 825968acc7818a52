"""Where random crops may be taken: regions of recordings for training, and others, held out, for validation.

Of many recordings, whole ones are held out, chosen by a hash of their names: adding recordings does not move the others from
one side to the other. Of fewer than `FEW`, the end of each recording is held out, so that one is enough (or, if each has only one
crop, one of them). Does not import torch.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from duotone.errors import UsageError

#: With fewer recordings than this, the end of each is held out, and not whole ones.
FEW = 20


@dataclass(frozen=True)
class Region:
    """Consecutive chunks of a recording: `count` of them from `first` on."""

    recording: int
    first: int
    count: int


class Crops:
    """All crops of a fixed number of chunks inside some regions: a sequence of ``(recording, first)``.

    Regions that are shorter than a crop have none. `draw` gives random ones, each position equally likely.
    """

    def __init__(self, regions: Sequence[Region], chunks: int) -> None:
        self.regions, self.chunks = [region for region in regions if region.count >= chunks], chunks
        self._ends = list(accumulate(region.count - chunks + 1 for region in self.regions))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, position: int) -> tuple[int, int]:
        position = range(len(self))[position]
        which = bisect_right(self._ends, position)
        region = self.regions[which]
        return region.recording, region.first + position - (self._ends[which - 1] if which else 0)

    def draw(self, generator: np.random.Generator, count: int = 1) -> list[tuple[int, int]]:
        """Random crops, with replacement; for ``store.crop(*place, chunks)``. Raises `UsageError` if there are none."""
        if not self._ends:
            raise UsageError(f"No region holds {self.chunks} chunks. Take shorter crops, or more or longer recordings.")
        return [self[int(position)] for position in generator.integers(len(self), size=count)]

    def grid(self) -> list[tuple[int, int]]:
        """The crops that follow each other without overlap, from each region's beginning: for validation."""
        starts = ((r.recording, first) for r in self.regions for first in _starts(r, self.chunks))
        return list(starts)


@dataclass(frozen=True)
class Split:
    """Crops for training, and for validation; no chunk is in both."""

    training: Crops
    validation: Crops


def split(recordings: Sequence[tuple[str, int]], chunks: int, share: float = 0.1) -> Split:
    """Split recordings, given by name and number of chunks, for crops of `chunks` chunks; `share` (0 to 0.5) is held out.

    At least one crop is held out unless `share` is 0. Raises `UsageError` where there is nothing to train on.
    """
    if chunks < 1 or not 0 <= share <= 0.5:
        raise UsageError(f"split got chunks={chunks} and share={share}, expected at least 1 chunk and 0 to 0.5.")
    whole = [Region(i, 0, count) for i, (_, count) in enumerate(recordings) if count >= chunks]
    if not share and whole:
        return Split(Crops(whole, chunks), Crops([], chunks))
    if len(recordings) >= FEW:
        held = {region.recording for region in whole if _hash(recordings[region.recording][0]) < share}
        if 0 < len(held) < len(whole):
            return _hold_out(whole, held, chunks)
    if any(region.count >= 2 * chunks for region in whole):
        training, validation = [], []
        for region in whole:
            end = max(chunks, round(region.count * share)) if region.count >= 2 * chunks else 0
            training.append(Region(region.recording, 0, region.count - end))
            validation.append(Region(region.recording, region.count - end, end))
        return Split(Crops(training, chunks), Crops(validation, chunks))
    if len(whole) >= 2:
        return _hold_out(
            whole, {min(whole, key=lambda region: _hash(recordings[region.recording][0])).recording}, chunks
        )
    longest, want = max((count for _, count in recordings), default=0), chunks * (2 if share else 1)
    both = " (one for training, one for validation)" if share else ""
    raise UsageError(
        f"The longest of {len(recordings)} recordings has {longest} chunks, expected at least {want} for crops of "
        f"{chunks}{both}. Take shorter crops, or more or longer recordings."
    )


def _hold_out(whole: Sequence[Region], held: set[int], chunks: int) -> Split:
    """Hold out whole recordings."""
    training = [region for region in whole if region.recording not in held]
    return Split(Crops(training, chunks), Crops([region for region in whole if region.recording in held], chunks))


def _starts(region: Region, chunks: int) -> range:
    return range(region.first, region.first + region.count - chunks + 1, chunks)


def _hash(name: str) -> float:
    """A number in [0, 1) from a recording's name."""
    digest = hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little") / 2**64
