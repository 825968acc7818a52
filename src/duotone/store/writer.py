"""`LatentWriter`: adds recordings to a store; resumes an interrupted one.

Layouts: `npy` has NAME.npy for each recording, `safetensors` NAME.safetensors (tensor "latents"), `tar` has shards
shard-000000.tar with NAME.npy and NAME.json, as WebDataset reads them.
"""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import zlib
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from duotone.atomic import exclusive, replacing
from duotone.errors import UsageError
from duotone.spec import Source
from duotone.store.manifest import (
    INFO,
    Recording,
    Statistics,
    StoreInfo,
    append_recording,
    write_recordings,
)
from duotone.store.reader import LatentStore

Array = NDArray[np.float32]
Stamp = tuple[int, int] | None
SHARD_BYTES = 64 << 20
_SHARD = re.compile(r"shard-(\d{6})\.tar")


class LatentWriter:
    """Adds recordings to a store; use as a context manager. At a clean end it has the statistics of all recordings.

    A folder that is not empty must be a store of the same settings. Raises `UsageError` for any other, and where
    another process fills it.
    """

    def __init__(self, folder: str | os.PathLike[str], info: StoreInfo, shard_bytes: int = SHARD_BYTES) -> None:
        self.folder, self.info = Path(folder), info
        size = int(np.prod(info.shape))
        if info.channels < 1 or size % info.channels:
            raise UsageError(f"channels got {info.channels}, which does not divide the {size} values of a chunk.")
        if self.folder.exists() and not self.folder.is_dir():
            raise UsageError(f"{self.folder} is a file, expected a folder. Choose another name.")
        self.folder.mkdir(parents=True, exist_ok=True)
        self._stack = ExitStack()
        self._stack.enter_context(exclusive(self.folder))
        try:
            self._claim()
            self._store = self._resume()
        except BaseException:
            self._stack.close()
            raise
        self._known = {recording.name: recording for recording in self._store.recordings}
        self._shard = _Shard(self.folder, shard_bytes) if info.layout == "tar" else None

    def _claim(self) -> None:
        """Write `store.json`, or find out that the folder is a store of the same settings."""
        visible = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
        if not visible:
            self.info.write(self.folder)
            return
        if not (self.folder / INFO).is_file():
            raise UsageError(f"{self.folder} holds things that are no store of latents. Choose another folder.")
        there, here = StoreInfo.read(self.folder).settings(), self.info.settings()
        differ = [f"{key}: {there[key]} there, {here[key]} now" for key in here if there[key] != here[key]]
        if differ:
            raise UsageError(
                f"{self.folder} holds latents of other settings ({'; '.join(differ)}). Choose another folder."
            )

    def _resume(self) -> LatentStore:
        """Open the existing store, without the recordings whose files are missing."""
        store = LatentStore(self.folder)
        store.recordings = [recording for recording in store.recordings if store.is_whole(recording)]
        write_recordings(self.folder, store.recordings)
        return store

    def has(self, name: str, stamp: Stamp) -> bool:
        """Whether the store has a recording already, of an audio file with the same stamp."""
        found = self._known.get(name)
        return found is not None and stamp is not None and found.stamp == stamp

    def add(self, name: str, values: Array, source: Source, sound: str, stamp: Stamp) -> int:
        """Write the latents `[N, *latent]` of a recording, in place of former ones of that name; the bytes written.

        In a tar layout they are on disk when their shard is full, or at the end.
        """
        values = np.ascontiguousarray(values, dtype="<f4")
        if values.shape[1:] != self.info.shape or not len(values):
            raise UsageError(
                f"{name} has latents of shape {list(values.shape)}, expected [N, *{list(self.info.shape)}]."
            )
        recording = Recording(name, "?", 0, len(values), zlib.crc32(values.tobytes()), source, sound, stamp)
        if self._shard is not None:
            for done in self._shard.add(recording, values):
                self._record(done)
        else:
            write = _write_npy if self.info.layout == "npy" else _write_safetensors
            self._record(write(self.folder, recording, values))
        return int(values.nbytes)

    def _record(self, recording: Recording) -> None:
        append_recording(self.folder, recording)
        self._known[recording.name] = recording

    def __enter__(self) -> LatentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if self._shard is not None:  # also of a run that was stopped: what was encoded is kept
                for done in self._shard.close():
                    self._record(done)
            if kind is None:
                self._finish()

    def _finish(self) -> None:
        """Sort the lines, and write the statistics of all recordings."""
        recordings = [self._known[name] for name in sorted(self._known)]
        write_recordings(self.folder, recordings)
        store = LatentStore(self.folder)
        store.info = self.info
        statistics = Statistics.of(store.channels(i) for i in range(len(store)))
        replace(self.info, statistics=statistics, recordings=len(store), chunks=store.chunks).write(self.folder)


def _write_npy(folder: Path, recording: Recording, values: Array) -> Recording:
    target = _target(folder, f"{recording.name}.npy")
    with replacing(target) as temporary, temporary.open("wb") as file:
        np.save(file, values)
        offset = file.tell() - values.nbytes
    return replace(recording, file=f"{recording.name}.npy", offset=offset)


def _write_safetensors(folder: Path, recording: Recording, values: Array) -> Recording:
    from safetensors.numpy import save

    data = save({"latents": values}, metadata={"source": json.dumps(asdict(recording.source))})
    target = _target(folder, f"{recording.name}.safetensors")
    with replacing(target) as temporary:
        temporary.write_bytes(data)
    return replace(recording, file=f"{recording.name}.safetensors", offset=len(data) - values.nbytes)


def _target(folder: Path, name: str) -> Path:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


class _Shard:
    """The shard that is being filled; it appears under its name when it is closed."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder, self.size = folder, size
        numbers = [int(found[1]) for path in folder.iterdir() if (found := _SHARD.fullmatch(path.name))]
        self.number = max(numbers, default=-1) + 1
        self._stack = ExitStack()
        self._tar: tarfile.TarFile | None = None
        self._waiting: list[Recording] = []
        self._keys: set[str] = set()

    def add(self, recording: Recording, values: Array) -> list[Recording]:
        """Take a recording in; the recordings that are now on disk."""
        if self._tar is None:
            temporary = self._stack.enter_context(replacing(self.folder / self._name()))
            made = tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT)  # noqa: SIM115 (closed with the stack)
            self._tar = self._stack.enter_context(made)
        key = self._key(recording.name)
        about = {"name": recording.name, "chunks": recording.chunks, "source": asdict(recording.source)}
        buffer = io.BytesIO()
        np.save(buffer, values)
        start = self._tar.offset
        try:
            _member(self._tar, f"{key}.json", json.dumps(about).encode())
            end = _member(self._tar, f"{key}.npy", buffer.getvalue())
        except BaseException:  # an interruption too: the shard keeps whole recordings only
            file: Any = self._tar.fileobj
            file.seek(start)
            file.truncate()
            self._tar.offset = start
            raise
        self._waiting.append(replace(recording, file=self._name(), offset=end - values.nbytes))
        return self.close() if self._tar.offset >= self.size else []

    def close(self) -> list[Recording]:
        """Put the shard in its place; the recordings that it holds."""
        done, self._waiting = self._waiting, []
        if self._tar is not None:
            self._stack.close()
            self._tar, self._keys = None, set()
            if not done:  # the first recording did not get in
                (self.folder / self._name()).unlink()
            self.number += 1
        return done

    def _name(self) -> str:
        return f"shard-{self.number:06d}.tar"

    def _key(self, name: str) -> str:
        """A member's name without a dot, at which WebDataset would end it, and unlike all others in the shard."""
        plain = key = name.replace(".", "_")
        count = 1
        while key.casefold() in self._keys:
            count += 1
            key = f"{plain}~{count}"
        self._keys.add(key.casefold())
        return key


def _member(tar: tarfile.TarFile, name: str, data: bytes) -> int:
    """Add a member; where its data ends."""
    about = tarfile.TarInfo(name)
    about.size = len(data)
    tar.addfile(about, io.BytesIO(data))
    return int(tar.offset) - (-len(data) % tarfile.BLOCKSIZE)


def stamp_of(sound: str) -> Stamp:
    """Size and modification time of an audio file; None if it is not a regular file."""
    if not os.path.isfile(sound):
        return None
    about = os.stat(sound)
    return about.st_size, about.st_mtime_ns
