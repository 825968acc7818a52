"""Random crops from stores of latents: a section of the recipe, and batches for a generative model.

Legend: B examples, N chunks of a crop, M tokens of a chunk, C channels of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from duotone.errors import ConfigError
from duotone.store import LatentStore
from duotone.train.crops import Collection, Stored, StoredCrops, divided
from duotone.train.sections import DATA, DataSection
from duotone.train.task import Batch

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


class StoredLatents(Stored):
    """Latents of several stores of one codec. Raises `ConfigError` for stores that do not belong together."""

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
        super().__init__(stores)

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens of a chunk M and channels of a token C."""
        info = self.stores[0].info
        return int(np.prod(info.shape)) // info.channels, info.channels

    def crop(self, recording: int, first: int, count: int) -> Tensor:
        """Some chunks of a recording `[count, M, C]`, in the codec's unit scale."""
        store, index = self.place(recording)
        return torch.from_numpy(np.array(store.crop(index, first, count)))

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


class LatentCrops(StoredCrops[StoredLatents]):
    """Batches ``{"latents": [B, N, M, C]}`` in the codec's unit scale."""

    def batch(self, step: int, positions: range) -> Batch:
        """Crops that are a function of (seed, step, position)."""
        return {"latents": torch.stack([self.crop(f"{step}/{position}") for position in positions])}

    def plain(self, count: int, name: str) -> Tensor:
        """`[count, N, M, C]`: crops that are a function of (seed, name)."""
        return torch.stack([self.crop(f"{name}/{i}") for i in range(count)])


#: Latents to train and to validate on.
LatentCollection = Collection[StoredLatents, LatentCrops]


def open_latents(section: LatentsSection, sources: Sequence[str], seed: int) -> LatentCollection:
    """Open stores. Raises `FormatError` for folders that are no stores, `ConfigError` for ones that do not belong together."""
    stored = StoredLatents([LatentStore(source) for source in sources])
    return divided(stored, LatentCrops, section.chunks, section.validation_share, seed, section.workers)


def _layout(store: LatentStore) -> tuple[str, int, tuple[int, ...]]:
    return store.spec.space, store.info.channels, store.info.shape


def _told(store: LatentStore) -> str:
    space, channels, shape = _layout(store)
    return f"{store.spec.model or store.spec.family}, space {space}, chunks {list(shape)}, {channels} channels"
