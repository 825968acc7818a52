"""Random crops of codes from stores, as the tokens of a language model: a section of the recipe, and batches.

Legend: B examples, N chunks of a crop, K rows of codes, S steps of a chunk, T tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field

from duotone.errors import ConfigError
from duotone.lm.frames import Int
from duotone.lm.model import LanguageModel
from duotone.spec import CodecSpec
from duotone.store import Crops, LatentStore
from duotone.store.split import split
from duotone.train.latents import crop_length, described
from duotone.train.sections import DATA, DataSection
from duotone.train.task import Batch, Examples


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


class StoredCodes:
    """The recordings of several stores of one codec, as one list. Raises `ConfigError` for stores that do not belong together."""

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
        self.stores = stores
        self._places = [(i, j) for i, store in enumerate(stores) for j in range(len(store))]
        self.recordings = [(stores[i].recordings[j].name, stores[i].recordings[j].chunks) for i, j in self._places]
        if not self.recordings:
            raise ConfigError(f"{', '.join(str(s.folder) for s in stores)}: no recordings. Run duotone prepare first.")

    @property
    def spec(self) -> CodecSpec:
        """The spec of the codec that made the codes."""
        return self.stores[0].spec

    def crop(self, recording: int, first: int, count: int) -> Int:
        """Some chunks of a recording `[K, count * S]`."""
        store, index = self._places[recording]
        return self.stores[store].crop_codes(index, first, count)


class CodeCrops(Examples):
    """Batches ``{"ids": [B, T]}``: the start token, then the tokens of the chunks of a crop, filled up with padding.

    `model` tokenizes; it is set before the first batch.
    """

    def __init__(self, codes: StoredCodes, crops: Crops, seed: int, workers: int = 1) -> None:
        self.codes, self.crops, self.seed, self.workers = codes, crops, seed, workers
        self.model: LanguageModel | None = None

    def batch(self, step: int, positions: range) -> Batch:
        """Crops that are a function of (seed, step, position)."""
        return {"ids": self.tokens([self.crop(f"{step}/{position}") for position in positions])}

    def plain(self, count: int, name: str) -> list[Int]:
        """Codes `[K, N * S]` of crops that are a function of (seed, name)."""
        return [self.crop(f"{name}/{i}") for i in range(count)]

    def crop(self, name: str) -> Int:
        """Codes `[K, N * S]`."""
        place = self.crops[random.Random(f"{self.seed}/{name}").randrange(len(self.crops))]
        return self.codes.crop(*place, self.crops.chunks)

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
            yield self.codes.crop(recording, first, 1)

    @property
    def hours(self) -> float:
        """Hours of sound that crops are taken from."""
        return sum(region.count for region in self.crops.regions) * self.codes.spec.chunk_seconds / 3600

    def about(self) -> str:
        """Recordings, hours, and a hash of names and lengths."""
        return described(self.crops, self.codes.recordings, self.hours)


@dataclass(frozen=True)
class CodeCollection:
    """Codes to train and to validate on."""

    codes: StoredCodes
    training: CodeCrops
    validation: CodeCrops | None
    skipped: list[str]  #: a line for each recording that is shorter than a crop

    @property
    def chunks(self) -> int:
        """Length of a crop."""
        return self.training.crops.chunks

    def about(self) -> dict[str, str | int]:
        """A description for the run's record; it does not depend on the folder."""
        out: dict[str, str | int] = {"space": self.codes.spec.space, "chunks": self.chunks}
        out["training"] = self.training.about()
        if self.validation is not None:
            out["validation"] = self.validation.about()
        return out


def open_codes(section: CodesSection, sources: Sequence[str], seed: int) -> CodeCollection:
    """Open stores. Raises `FormatError` for folders that are no stores, `ConfigError` for ones that do not belong together."""
    codes = StoredCodes([LatentStore(source) for source in sources])
    lengths = [chunks for _, chunks in codes.recordings]
    chunks, share = crop_length(section.chunks, section.validation_share, lengths)
    if chunks < 2:
        raise ConfigError(
            f"The longest recording has {max(lengths)} chunk, expected at least 2. Give longer recordings."
        )
    parts = split(codes.recordings, chunks, share)
    skipped = [
        f"{name}: {length} chunks, shorter than a crop of {chunks}"
        for name, length in codes.recordings
        if length < chunks
    ]
    return CodeCollection(
        codes,
        CodeCrops(codes, parts.training, seed, section.workers),
        CodeCrops(codes, parts.validation, seed) if len(parts.validation) else None,
        skipped,
    )
