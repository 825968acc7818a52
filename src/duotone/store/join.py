"""Put stores together, or write one again: without the room of recordings that were replaced, or in another layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from duotone.errors import UsageError
from duotone.store.folders import Folder, PathLike
from duotone.store.manifest import ARRAYS, Layout
from duotone.store.reader import LatentStore
from duotone.store.writer import SHARD_BYTES, LatentWriter

_CHUNKS = 4096  # copied at a time


def join(
    stores: Sequence[LatentStore],
    output: PathLike | Folder,
    layout: Layout | None = None,
    shard_bytes: int = SHARD_BYTES,
    tick: Callable[[int], object] | None = None,
) -> LatentStore:
    """Copy the recordings of stores with the same settings into one store; checksums are compared.

    Equal recordings are taken once. `tick` gets the chunks of each recording. Raises `UsageError` for stores of different settings,
    or that have different recordings of one name; `FormatError` for damaged ones.
    """
    if not stores:
        raise UsageError("There are no stores to join; give at least one.")
    first = replace(stores[0].info, layout=layout or stores[0].info.layout, statistics=None)
    taken: dict[str, tuple[int, ...]] = {}
    with LatentWriter(output, first, shard_bytes) as writer:
        for store in stores:
            there, here = replace(store.info, layout=first.layout).settings(), first.settings()
            if there != here:
                differ = [key for key in here if there[key] != here[key]]
                raise UsageError(
                    f"{store.folder} and {stores[0].folder} differ in {', '.join(differ)}. Make them with the same codec and options."
                )
            store.verify()
            for i, recording in enumerate(store.recordings):
                sums = tuple(each.crc32 for each in recording.arrays.values())
                if taken.get(recording.name, sums) != sums:
                    raise UsageError(
                        f"{recording.name} is in several stores with different content. Keep it in one of them, or rename a folder "
                        f"and prepare it again."
                    )
                if recording.name not in taken and not writer.has_same(recording):
                    _copy(store, i, writer)
                taken[recording.name] = sums
                if tick is not None:
                    tick(recording.chunks)
    return LatentStore(writer.folder)


def _copy(store: LatentStore, index: int, writer: LatentWriter) -> None:
    recording = store.recordings[index]
    with writer.part(recording.name, recording.sound, recording.stamp) as part:
        for first in range(0, recording.chunks, _CHUNKS):
            count = min(_CHUNKS, recording.chunks - first)
            held = [name for name in ARRAYS if name in store.info.holds]
            part.push({name: np.asarray(store.stored(name, index, first, count)) for name in held})
        writer.take(part.finish(recording.source))
