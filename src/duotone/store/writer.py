"""`LatentWriter`: adds recordings to a store; resumes an interrupted one. Does not import torch."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import UsageError
from duotone.spec import Source
from duotone.store.folders import Folder, PathLike, has_parts, open_folder, remove_parts
from duotone.store.layouts import is_grouped, number_of, write_group
from duotone.store.manifest import (
    INFO,
    Recording,
    Stamp,
    StoreInfo,
    append_recordings,
    write_recordings,
)
from duotone.store.parts import Part, PartWriter, find_part, stamp_of
from duotone.store.reader import LatentStore
from duotone.store.statistics import Moments

__all__ = ["SHARD_BYTES", "LatentWriter", "stamp_of"]

SHARD_BYTES = 256 << 20
_MOMENTS = "moments.npz"  # of each recording, so that a later run reads only what is new


class LatentWriter:
    """Adds recordings to a store, on disk or behind a URL; use as a context manager.

    Recordings are put into files in the order in which they are added. A run that is stopped keeps what was encoded: started
    again, it goes on, and gives the files that it would have given. At a clean end the store has its statistics.
    A folder that is not empty must be a store of the same settings. Raises `UsageError` for any other, and where
    another process fills it.
    """

    def __init__(self, folder: PathLike | Folder, info: StoreInfo, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.info, self.shard_bytes = open_folder(folder), info, shard_bytes
        info.check()
        self._stack = ExitStack()
        self._is_new = self._refuse_other_files()  # before the lock writes into the folder
        self._stack.enter_context(self.folder.claim())
        try:
            self._claim()
            store = LatentStore(self.folder)
            found = [recording for recording in store.recordings if store.is_whole(recording)]
            write_recordings(self.folder, found)
        except BaseException:
            self._stack.close()
            raise
        self._known = {recording.name: recording for recording in found}
        self._waiting: dict[str, Part] = {}
        files = (stored.file for recording in found for stored in recording.arrays.values())
        self._number = 1 + max(map(number_of, files), default=-1)
        self._moments = _Moments(self.folder, info)

    def _refuse_other_files(self) -> bool:
        """Whether the folder is empty or missing. Raises `UsageError` for one that holds files, but no store."""
        visible = self.folder.names()
        if visible and INFO not in visible:
            raise UsageError(f"{self.folder} holds other files, and no {INFO} of a store. Choose another folder.")
        return not visible

    def _claim(self) -> None:
        """Write `store.json`, or find out that the folder is a store of the same settings."""
        self._is_new = self._refuse_other_files()
        if self._is_new:
            self.info.write(self.folder)
            return
        there, here = StoreInfo.read(self.folder).settings(), self.info.settings()
        differ = [f"{key}: {there[key]} there, {here[key]} now" for key in here if there[key] != here[key]]
        if differ:
            raise UsageError(
                f"{self.folder} holds latents of other settings ({'; '.join(differ)}). Choose another folder."
            )

    @property
    def recordings(self) -> list[Recording]:
        """The recordings that the store has now."""
        return [self._known[name] for name in sorted(self._known)]

    @property
    def is_empty(self) -> bool:
        """Whether the store has no recording, and none waits to be put into a file."""
        return not self._known and not self._waiting

    def has(self, name: str, stamp: Stamp) -> bool:
        """Whether the store has a recording already, of an audio file with the same stamp."""
        found = self._known.get(name)
        return found is not None and stamp is not None and found.stamp == stamp

    def has_same(self, recording: Recording) -> bool:
        """Whether the store has a recording of this name with the same bytes."""
        found = self._known.get(recording.name)
        sums = {array: stored.crc32 for array, stored in recording.arrays.items()}
        return found is not None and {array: stored.crc32 for array, stored in found.arrays.items()} == sums

    def forget(self, names: Iterable[str]) -> None:
        """Take recordings out of the store, for example because their bytes are damaged."""
        for name in names:
            self._known.pop(name, None)
        write_recordings(self.folder, self.recordings)

    def part(self, name: str, sound: str, stamp: Stamp) -> PartWriter:
        """A writer for a recording that is encoded block by block; what its `finish` gives is for `take`."""
        return PartWriter(self.folder.parts, self.info, name, sound, stamp)

    def encoded(self, name: str, stamp: Stamp) -> Part | None:
        """What an earlier run that was stopped encoded from the same audio file."""
        return find_part(self.folder.parts, self.info, name, stamp)

    def add(
        self,
        name: str,
        values: NDArray[Any] | None,
        source: Source,
        sound: str,
        stamp: Stamp,
        *,
        codes: NDArray[Any] | None = None,
        scale: NDArray[Any] | None = None,
    ) -> int:
        """Write the latents `[N, *latent]` of a recording, in place of former ones of that name; the bytes written.

        A store that holds codes also takes `codes` `[N, K, steps]` and, for codecs that code loudness apart, `scale` `[N, streams]`.
        """
        arrays = {"latents": values, "codes": codes, "scale": scale}
        with self.part(name, sound, stamp) as part:
            part.push({key: np.asarray(value) for key, value in arrays.items() if value is not None})
            done = part.finish(source)
        self.take(done)
        return done.size

    def take(self, part: Part) -> None:
        """Add a recording. Of grouped layouts, recordings are in the store when their shard is full, or at the end."""
        self._waiting.pop(part.name, None)  # its files are those of the new part by now
        self._waiting[part.name] = part
        if not is_grouped(self.info) or sum(each.size for each in self._waiting.values()) >= self.shard_bytes:
            self._pack()

    def _pack(self) -> None:
        """Put the waiting recordings into a file, and add their lines."""
        if not self._waiting:
            return
        parts = list(self._waiting.values())
        done = write_group(self.folder, self.info, parts, self._number)
        append_recordings(self.folder, done)
        self._number += 1
        for part, recording in zip(parts, done, strict=True):
            self._known[recording.name] = recording
            if "latents" in self.info.holds:
                self._moments.add(recording, part.values("latents", self.info))
            part.remove()
        self._waiting = {}

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if kind is None:
                self._pack()
                self._finish()
            elif self._is_new and self.is_empty and not has_parts(self.folder):
                remove_parts(self.folder)
                for name in self.folder.names():  # store.json and the like: a store of nothing is of no use
                    self.folder.remove(name)

    def _finish(self) -> None:
        """Sort the lines, remove shards without recordings, and write the statistics of all recordings."""
        recordings = self.recordings
        write_recordings(self.folder, recordings)
        used = {stored.file for recording in recordings for stored in recording.arrays.values()}
        for name in self.folder.names():
            if number_of(name) >= 0 and name not in used:
                self.folder.remove(name)
        statistics = None
        if "latents" in self.info.holds and recordings:
            store = LatentStore(self.folder)
            parts = [self._moments.of(recording, store, i) for i, recording in enumerate(store.recordings)]
            statistics = Moments.join(parts).statistics()
            self._moments.write(recordings)
        chunks = sum(recording.chunks for recording in recordings)
        replace(self.info, statistics=statistics, recordings=len(recordings), chunks=chunks).write(self.folder)
        remove_parts(self.folder)


class _Moments:
    """Moments of each recording. The file is a cache: what it lacks is computed from the store."""

    def __init__(self, folder: Folder, info: StoreInfo) -> None:
        self._folder, self._info = folder, info
        self._found: dict[bytes, Moments] = {}
        try:
            with np.load(io.BytesIO(folder.read(_MOMENTS)), allow_pickle=False) as file:
                keys, counts, means, squares = (file[name] for name in ("keys", "counts", "means", "squares"))
            if means.shape == squares.shape == (len(keys), info.channels):
                for i, key in enumerate(keys):
                    self._found[key.tobytes()] = Moments(int(counts[i]), means[i], squares[i])
        except (FileNotFoundError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # none, or a damaged one
            pass

    @staticmethod
    def _key(recording: Recording) -> bytes:
        told = f"{recording.name}\n{recording.chunks}\n{recording.arrays['latents'].crc32}"
        return hashlib.blake2b(told.encode("utf-8", "surrogateescape"), digest_size=16).digest()

    def add(self, recording: Recording, values: NDArray[np.float32]) -> Moments:
        """Compute those of a recording."""
        found = Moments.of(values, self._info.spec.bounded, self._info.channels)
        self._found[self._key(recording)] = found
        return found

    def of(self, recording: Recording, store: LatentStore, index: int) -> Moments:
        """Those of a recording of the store."""
        found = self._found.get(self._key(recording))
        return self.add(recording, store.values(index)) if found is None else found

    def write(self, recordings: list[Recording]) -> None:
        """Write those of the recordings."""
        keys = [self._key(recording) for recording in recordings]
        each = [self._found[key] for key in keys]
        buffer = io.BytesIO()
        np.savez(
            buffer, keys=np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16),
            counts=np.array([m.count for m in each]), means=np.stack([m.mean for m in each]),
            squares=np.stack([m.squares for m in each]),
        )  # fmt: skip
        self._folder.write(_MOMENTS, buffer.getvalue())
