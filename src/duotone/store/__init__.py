"""Encodings of a whole collection on disk: `prepare` makes a store, `LatentStore` reads it.

docs/store-format.md describes the files, docs/latents.md how to use them. Reading needs no torch until a value is asked for as
`Latents` or `Codes`.
"""

from duotone.store.manifest import Recording, StoreInfo
from duotone.store.prepare import missing, prepare
from duotone.store.reader import LatentStore
from duotone.store.split import Crops, Split
from duotone.store.statistics import Statistics
from duotone.store.writer import LatentWriter

__all__ = [
    "Crops", "LatentStore", "LatentWriter", "Recording", "Split", "Statistics", "StoreInfo", "missing", "prepare",
]  # fmt: skip
