"""Random crops from stores: what crops of latents and of codes have in common."""

from __future__ import annotations

import hashlib
import random
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from duotone.errors import ConfigError
from duotone.spec import CodecSpec
from duotone.store import Crops, LatentStore
from duotone.store.split import split
from duotone.train.task import Examples


class Stored:
    """The recordings of several stores of one codec, as one list. Raises `ConfigError` for stores without recordings."""

    def __init__(self, stores: Sequence[LatentStore]) -> None:
        self.stores = stores
        self._places = [(i, j) for i, store in enumerate(stores) for j in range(len(store))]
        self.recordings = [(stores[i].recordings[j].name, stores[i].recordings[j].chunks) for i, j in self._places]
        if not self.recordings:
            raise ConfigError(f"{', '.join(str(s.folder) for s in stores)}: no recordings. Run duotone prepare first.")

    @property
    def spec(self) -> CodecSpec:
        """The spec of the codec that made the stores."""
        return self.stores[0].spec

    def place(self, recording: int) -> tuple[LatentStore, int]:
        """The store that holds a recording, and the recording's number there."""
        store, index = self._places[recording]
        return self.stores[store], index

    @abstractmethod
    def crop(self, recording: int, first: int, count: int) -> Any:
        """Some chunks of a recording."""


S = TypeVar("S", bound=Stored)
C = TypeVar("C", bound="StoredCrops[Any]")


class StoredCrops(Examples, Generic[S]):
    """Crops of stored recordings; each position of a crop is equally likely."""

    def __init__(self, stored: S, crops: Crops, seed: int, workers: int = 1) -> None:
        self.stored, self.crops, self.seed, self.workers = stored, crops, seed, workers

    def crop(self, name: str) -> Any:
        """A crop that is a function of (seed, name)."""
        place = self.crops[random.Random(f"{self.seed}/{name}").randrange(len(self.crops))]
        return self.stored.crop(*place, self.crops.chunks)

    @property
    def hours(self) -> float:
        """Hours of sound that crops are taken from."""
        return sum(region.count for region in self.crops.regions) * self.stored.spec.chunk_seconds / 3600

    def about(self) -> str:
        """Number of recordings that crops are taken from, their hours, and a hash of names and lengths."""
        digest = hashlib.blake2b(digest_size=8)
        for region in self.crops.regions:
            name, _ = self.stored.recordings[region.recording]
            digest.update(f"{name}\0{region.first}\0{region.count}\n".encode("utf-8", "surrogateescape"))
        return f"{len(self.crops.regions)} recordings, {self.hours:.4g} hours, {digest.hexdigest()}"


@dataclass(frozen=True)
class Collection(Generic[S, C]):
    """Stored recordings to train and to validate on."""

    stored: S
    training: C
    validation: C | None
    skipped: list[str]  #: a line for each recording that is shorter than a crop

    @property
    def chunks(self) -> int:
        """Length of a crop."""
        return self.training.crops.chunks

    def about(self) -> dict[str, str | int]:
        """A description for the run's record; it does not depend on the folder."""
        out: dict[str, str | int] = {"space": self.stored.spec.space, "chunks": self.chunks}
        out["training"] = self.training.about()
        if self.validation is not None:
            out["validation"] = self.validation.about()
        return out


def divided(
    stored: S, crops: Callable[[S, Crops, int, int], C], wanted: int, share: float, seed: int, workers: int
) -> Collection[S, C]:
    """A collection with crops of the wanted length in chunks (or shorter: `crop_length`), a share of it held out."""
    chunks, share = crop_length(wanted, share, [length for _, length in stored.recordings])
    parts = split(stored.recordings, chunks, share)
    skipped = [
        f"{name}: {length} chunks, shorter than a crop of {chunks}"
        for name, length in stored.recordings
        if length < chunks
    ]
    validation = crops(stored, parts.validation, seed, 1) if len(parts.validation) else None
    return Collection(stored, crops(stored, parts.training, seed, workers), validation, skipped)


def crop_length(wanted: int, share: float, lengths: Sequence[int]) -> tuple[int, float]:
    """The length of crops, and the share to hold out, for recordings of these lengths in chunks.

    The wanted length, or the longest for which one crop can be held out: half of the longest recording, or all of the
    second longest. A single recording of less than four chunks is trained on whole, and nothing is held out.
    """
    longest, second, *_ = *sorted(lengths, reverse=True), 0
    if share:
        chunks = min(wanted, max(longest // 2, second))
        if chunks >= min(2, wanted):
            return chunks, share
    return min(wanted, longest), 0.0
