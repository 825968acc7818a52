"""Latents of a whole collection on disk: `LatentWriter` makes a store, `LatentStore` reads it.

docs/latents.md describes the files. Reading needs no torch until a value is asked for as `Latents`.
"""

from duotone.store.manifest import Recording, Statistics, StoreInfo
from duotone.store.reader import LatentStore
from duotone.store.writer import LatentWriter

__all__ = ["LatentStore", "LatentWriter", "Recording", "Statistics", "StoreInfo"]
