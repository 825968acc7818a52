"""Random crops from stores of latents: a section of the recipe, and batches for a generative model.

Legend: B examples, N chunks of a crop, M tokens of a chunk, C channels of a token.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from duotone.errors import ConfigError
from duotone.spec import CodecSpec
from duotone.store import Crops, LatentStore
from duotone.store.split import split
from duotone.train.sections import DATA, DataSection
from duotone.train.task import Batch, Examples

#: Channels whose deviation is below this share of the largest one are constant; they get this deviation.
FLAT = 1e-3


@DATA.register
class LatentsSection(DataSection):
    """Stores made by `duotone prepare`: the length of crops, and which part is held out for validation."""

    free: ClassVar[tuple[str, ...]] = ("workers", "listen_with")

    kind: Literal["latents"] = "latents"
    chunks: int = Field(default=64, ge=1)  # length of a crop; shorter where no recording is long enough
    validation_share: float = Field(default=0.05, ge=0, le=0.5)
    listen_with: str | None = (
        None  # codec that decodes the clips of `train.listen_every`: bundled name, folder, or org/name on the Hub
    )
    workers: int = Field(default=1, ge=1)  # threads that read


class LatentCrops(Examples):
    """Batches ``{"latents": [B, N, M, C]}`` in the codec's unit scale; each position of a crop is equally likely."""

    def __init__(self, latents: StoredLatents, crops: Crops, seed: int, workers: int = 1) -> None:
        self.latents, self.crops, self.seed, self.workers = latents, crops, seed, workers

    def batch(self, step: int, positions: range) -> Batch:
        """Crops that are a function of (seed, step, position)."""
        return {"latents": torch.stack([self._crop(f"{step}/{position}") for position in positions])}

    def plain(self, count: int, name: str) -> Tensor:
        """`[count, N, M, C]`: crops that are a function of (seed, name)."""
        return torch.stack([self._crop(f"{name}/{i}") for i in range(count)])

    def _crop(self, name: str) -> Tensor:
        place = self.crops[random.Random(f"{self.seed}/{name}").randrange(len(self.crops))]
        return self.latents.crop(*place, self.crops.chunks)

    @property
    def hours(self) -> float:
        """Hours of sound that crops are taken from."""
        return sum(region.count for region in self.crops.regions) * self.latents.spec.chunk_seconds / 3600

    def about(self) -> str:
        """Recordings, hours, and a hash of names and lengths."""
        return described(self.crops, self.latents.recordings, self.hours)


class StoredLatents:
    """The recordings of several stores of one codec, as one list. Raises `ConfigError` for stores that do not belong together."""

    def __init__(self, stores: Sequence[LatentStore]) -> None:
        first = stores[0]
        for store in stores:
            if "latents" not in store.info.holds:
                raise ConfigError(f"{store.folder} holds codes only. Prepare the collection without --no-latents.")
        for other in stores[1:]:
            if (other.spec.space, other.info.channels, other.info.shape) != _layout(first):
                raise ConfigError(
                    f"{first.folder} and {other.folder} hold latents of different codecs or layouts ({_told(first)}; "
                    f"{_told(other)}). Encode both collections with the same codec, or train on one of them."
                )
        self.stores = stores
        self._places = [(i, j) for i, store in enumerate(stores) for j in range(len(store))]
        self.recordings = [(stores[i].recordings[j].name, stores[i].recordings[j].chunks) for i, j in self._places]
        if not self.recordings:
            raise ConfigError(f"{', '.join(str(s.folder) for s in stores)}: no recordings. Run duotone prepare first.")

    @property
    def spec(self) -> CodecSpec:
        """The spec of the codec that made the latents."""
        return self.stores[0].spec

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens of a chunk M and channels of a token C."""
        info = self.stores[0].info
        return int(np.prod(info.shape)) // info.channels, info.channels

    def crop(self, recording: int, first: int, count: int) -> Tensor:
        """Some chunks of a recording `[count, M, C]`, in the codec's unit scale."""
        store, index = self._places[recording]
        return torch.from_numpy(np.array(self.stores[store].crop(index, first, count)))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation `[C]` over all stores; constant channels get a small deviation.

        Raises `ConfigError` if all channels are constant.
        """
        counts = [store.info.statistics.count if store.info.statistics else 0 for store in self.stores]
        means = np.stack([store.mean for store in self.stores]).astype(np.float64)  # refuses stores without statistics
        deviations = np.stack([store.deviation for store in self.stores]).astype(np.float64)
        share = np.array(counts, np.float64)[:, None] / sum(counts)
        mean = (share * means).sum(0)
        deviation = np.sqrt((share * (deviations**2 + (means - mean) ** 2)).sum(0))
        if not deviation.max() > 0:
            raise ConfigError(f"All latents of {self.stores[0].folder} are equal. Prepare recordings that hold sound.")
        floored = np.maximum(deviation, FLAT * deviation.max())
        return torch.from_numpy(mean).float(), torch.from_numpy(floored).float()


@dataclass(frozen=True)
class LatentCollection:
    """Latents to train and to validate on."""

    latents: StoredLatents
    training: LatentCrops
    validation: LatentCrops | None
    skipped: list[str]  #: a line for each recording that is shorter than a crop

    @property
    def chunks(self) -> int:
        """Length of a crop."""
        return self.training.crops.chunks

    def about(self) -> dict[str, str | int]:
        """A description for the run's record; it does not depend on the folder."""
        out: dict[str, str | int] = {"space": self.latents.spec.space, "chunks": self.chunks}
        out["training"] = self.training.about()
        if self.validation is not None:
            out["validation"] = self.validation.about()
        return out


def open_latents(section: LatentsSection, sources: Sequence[str], seed: int) -> LatentCollection:
    """Open stores. Raises `FormatError` for folders that are no stores, `ConfigError` for ones that do not belong together."""
    latents = StoredLatents([LatentStore(source) for source in sources])
    lengths = [chunks for _, chunks in latents.recordings]
    chunks, share = crop_length(section.chunks, section.validation_share, lengths)
    parts = split(latents.recordings, chunks, share)
    skipped = [
        f"{name}: {length} chunks, shorter than a crop of {chunks}"
        for name, length in latents.recordings
        if length < chunks
    ]
    return LatentCollection(
        latents,
        LatentCrops(latents, parts.training, seed, section.workers),
        LatentCrops(latents, parts.validation, seed) if len(parts.validation) else None,
        skipped,
    )


def described(crops: Crops, recordings: Sequence[tuple[str, int]], hours: float) -> str:
    """Number of recordings that crops are taken from, their hours, and a hash of names and lengths."""
    digest = hashlib.blake2b(digest_size=8)
    for region in crops.regions:
        name, _ = recordings[region.recording]
        digest.update(f"{name}\0{region.first}\0{region.count}\n".encode("utf-8", "surrogateescape"))
    return f"{len(crops.regions)} recordings, {hours:.4g} hours, {digest.hexdigest()}"


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


def _layout(store: LatentStore) -> tuple[str, int, tuple[int, ...]]:
    return store.spec.space, store.info.channels, store.info.shape


def _told(store: LatentStore) -> str:
    space, channels, shape = _layout(store)
    return f"{store.spec.model or store.spec.family}, space {space}, chunks {list(shape)}, {channels} channels"
