"""Random crops of codes from stores, as the tokens of a language model: a section of the recipe, and batches.

Legend: B examples, N chunks of a crop, K rows of codes, S steps of a chunk, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from duotone.errors import ConfigError
from duotone.lm.frames import Int
from duotone.lm.model import LanguageModel
from duotone.store import LatentStore
from duotone.train.crops import Collection, Stored, StoredCrops, divided
from duotone.train.sections import DATA, DataSection
from duotone.train.task import Batch


@DATA.register
class CodesSection(DataSection):
    """Stores made by `duotone prepare --codes`: the length of crops, and which part is held out for validation."""

    free: ClassVar[tuple[str, ...]] = ("workers",)

    kind: Literal["codes"] = "codes"
    chunks: int = Field(
        default=8, ge=2
    )  # length of a crop, and of the model's context; shorter where no recording is long enough
    validation_share: float = Field(default=0.05, ge=0, le=0.5)
    workers: int = Field(default=1, ge=1)  # threads that read


class StoredCodes(Stored):
    """Codes of several stores of one codec. Raises `ConfigError` for stores that do not belong together."""

    def __init__(self, stores: Sequence[LatentStore]) -> None:
        first = stores[0]
        for store in stores:
            if "codes" not in store.info.holds:
                raise ConfigError(f"{store.folder} holds latents only. Prepare the collection with --codes.")
            if (store.spec.space, store.info.streams) != (first.spec.space, first.info.streams):
                raise ConfigError(
                    f"{first.folder} and {store.folder} hold codes of different codecs or numbers of streams. Encode both with the same "
                    f"codec, or train on one of them."
                )
        if first.info.streams != 1:
            raise ConfigError(f"{first.folder} holds {first.info.streams} streams; a language model is trained on one.")
        super().__init__(stores)

    def crop(self, recording: int, first: int, count: int) -> Int:
        """Some chunks of a recording `[K, count * S]`."""
        store, index = self.place(recording)
        return store.crop_codes(index, first, count)


class CodeCrops(StoredCrops[StoredCodes]):
    """Batches ``{"ids": [B, T]}``: the start token, then the tokens of the chunks of a crop, filled up with padding.

    `model` tokenizes; it is set before the first batch.
    """

    model: LanguageModel | None = None

    def batch(self, step: int, positions: range) -> Batch:
        """Crops that are a function of (seed, step, position)."""
        return {"ids": self.tokens([self.crop(f"{step}/{position}") for position in positions])}

    def plain(self, count: int, name: str) -> list[Int]:
        """Codes `[K, N * S]` of crops that are a function of (seed, name)."""
        return [self.crop(f"{name}/{i}") for i in range(count)]

    def tokens(self, crops: Sequence[Int]) -> torch.Tensor:
        """Crops of codes -> ids `[B, T]`."""
        assert self.model is not None
        rows = [self.model.context(self.model.encode(codes)) for codes in crops]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.model.pad)

    def some_chunks(self, most: int) -> Iterator[Int]:
        """Codes `[K, S]` of at most `most` chunks, evenly spread over the regions that crops are taken from."""
        places = [(r.recording, first) for r in self.crops.regions for first in range(r.first, r.first + r.count)]
        for i in np.unique(np.linspace(0, len(places) - 1, min(most, len(places))).astype(int)):
            recording, first = places[i]
            yield self.stored.crop(recording, first, 1)


#: Codes to train and to validate on.
CodeCollection = Collection[StoredCodes, CodeCrops]


def open_codes(section: CodesSection, sources: Sequence[str], seed: int) -> CodeCollection:
    """Open stores. Raises `FormatError` for folders that are no stores, `ConfigError` for ones that do not belong together."""
    stored = StoredCodes([LatentStore(source) for source in sources])
    collection = divided(stored, CodeCrops, section.chunks, section.validation_share, seed, section.workers)
    if collection.chunks < 2:
        longest = max(length for _, length in stored.recordings)
        raise ConfigError(f"The longest recording has {longest} chunk, expected at least 2. Give longer recordings.")
    return collection
