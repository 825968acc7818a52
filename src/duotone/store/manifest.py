"""The files that describe a store: `store.json`, and `recordings.jsonl` with a line for each recording.

Lines are added when their recordings are safely on disk, so an interrupted run resumes with the recordings without a line.
If a name has several lines, the last one is valid. docs/store-format.md describes both. Does not import torch.

Legend: N chunks, K codebooks of all streams.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal, get_args

import numpy as np

from duotone.errors import FormatError, UsageError
from duotone.spec import CodecSpec, Source
from duotone.store.folders import Folder
from duotone.store.statistics import Statistics

Layout = Literal["shards", "npy", "safetensors", "tar"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
#: What a store can hold, in the order of its files: `scale` is the loudness of codecs that code it apart from the codes.
Array = Literal["latents", "codes", "scale"]
ARRAYS: tuple[Array, ...] = get_args(Array)
INFO, RECORDINGS = "store.json", "recordings.jsonl"
KIND, VERSION = "duotone latents", 2
MADE_BY = "duotone prepare"  # the command that messages name

#: Size of an audio file in bytes and time of change in nanoseconds; None where there is none.
Stamp = tuple[int, int] | None


@dataclass(frozen=True)
class Stored:
    """Where an array of a recording is: consecutive bytes of a file."""

    file: str  #: below the store's folder
    offset: int  #: bytes before the first value
    crc32: int  #: of the values' bytes


@dataclass(frozen=True)
class Recording:
    """One recording: where its arrays are (each with `chunks` as its first dimension), and its audio file."""

    name: str  #: place below the folder of sounds, without ending, with / between folders
    chunks: int
    arrays: dict[str, Stored]  #: by their names, see `ARRAYS`
    source: Source
    sound: str  #: path of the sound file, as it was given
    stamp: Stamp

    @property
    def file(self) -> str:
        """The file of its first array."""
        return next(iter(self.arrays.values())).file

    def to_json(self) -> str:
        """A line of `recordings.jsonl`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Recording:
        """The inverse of `to_json`. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
        values = json.loads(line)
        if "crc32" in values:  # version 1: latents alone
            values["arrays"] = {"latents": {key: values.pop(key) for key in ("file", "offset", "crc32")}}
        stamp = values.pop("stamp")
        source = Source(**values.pop("source"))
        arrays = {name: Stored(**each) for name, each in values.pop("arrays").items()}
        found = cls(
            **values, arrays=arrays, source=source, stamp=None if stamp is None else (int(stamp[0]), int(stamp[1]))
        )
        if not arrays or set(arrays) - set(ARRAYS):
            raise ValueError(f"it holds {list(arrays)}, expected some of {', '.join(ARRAYS)}")
        for each in arrays.values():
            path = PurePosixPath(each.file)
            if not each.file or path.is_absolute() or ".." in path.parts:
                raise ValueError(f"the file {each.file!r} is not below the store")
            if min(each.offset, each.crc32) < 0:
                raise ValueError("a number is negative")
        if found.chunks < 1:
            raise ValueError("it has no chunks")
        return found


@dataclass(frozen=True)
class StoreInfo:
    """The content of `store.json`: the codec, how audio was encoded, and the layout of the files."""

    spec: CodecSpec
    format: str  #: number format of the encoder
    streams: int  #: streams of every recording, folded into the last dimension of latents and the codebooks of codes
    layout: Layout
    channels: int  #: of the layout for generative models, of which the statistics are; 0 without latents
    window: tuple[int | None, int] = (None, 0)  #: chunks encoded at a time (None: all), and chunks of their past
    statistics: Statistics | None = None  #: None until a run has ended, and without latents
    recordings: int = 0
    chunks: int = 0
    holds: tuple[Array, ...] = field(default=("latents",))  #: the arrays of each recording

    def check(self) -> None:
        """Raise `UsageError` for settings that no store can have."""
        size = int(np.prod(self.shape))
        if "latents" in self.holds and (self.channels < 1 or size % self.channels):
            divisors = ", ".join(str(n) for n in range(1, size + 1) if size % n == 0)
            raise UsageError(
                f"channels got {self.channels}, which does not divide the {size} values of a chunk. Take one of {divisors}."
            )
        if self.layout == "npy" and len(self.holds) > 1:
            raise UsageError(
                f"An .npy file holds one array, and {' and '.join(self.holds)} are to be stored. Take the layout shards, "
                f"safetensors or tar."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a chunk's latents."""
        latent = self.spec.latent or (0,)
        return (*latent[:-1], latent[-1] * self.streams)

    def array(self, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Number format and shape of a chunk of an array: latents `[*latent]`, codes `[K, steps]`, scale `[streams]`."""
        if name == "latents":
            return np.dtype("<f4"), self.shape
        if name == "codes":
            size = max(self.spec.codebooks, default=0)
            rows = len(self.spec.codebooks) * self.streams
            return np.dtype("<u2" if size <= 1 << 16 else "<u4"), (rows, self.spec.steps)
        return np.dtype("<f4"), (self.streams,)

    def chunk_bytes(self, name: str) -> int:
        """Bytes of a chunk of an array."""
        kind, shape = self.array(name)
        return int(kind.itemsize * np.prod(shape))

    def settings(self) -> dict[str, Any]:
        """The settings that all recordings of a store must share."""
        return {
            "space": self.spec.space, "grid": self.spec.grid(), "format": self.format, "streams": self.streams,
            "layout": self.layout, "channels": self.channels, "window": list(self.window), "holds": list(self.holds),
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """The content of `store.json`."""
        arrays = {
            name: {"dtype": self.array(name)[0].str, "shape": ["chunks", *self.array(name)[1]]} for name in self.holds
        }
        return {
            "kind": KIND, "version": VERSION, "layout": self.layout, "arrays": arrays,
            "format": self.format, "streams": self.streams, "channels": self.channels, "window": list(self.window),
            "chunk_seconds": self.spec.chunk_seconds, "recordings": self.recordings, "chunks": self.chunks,
            "statistics": None if self.statistics is None else asdict(self.statistics), "spec": self.spec.to_dict(),
        }  # fmt: skip

    @classmethod
    def from_dict(cls, values: Any, where: str) -> StoreInfo:
        """The inverse of `to_dict`. Raises `FormatError` naming what is wrong; `where` stands for the file in messages."""
        if not isinstance(values, dict) or values.get("kind") != KIND:
            raise FormatError(f"{where} does not belong to a store of latents. Give a folder made by {MADE_BY}.")
        if values.get("version") not in (1, VERSION):
            raise FormatError(
                f"{where} has version {values.get('version')}, this library reads 1 to {VERSION}. Update duotone."
            )
        try:
            told, (size, context) = values["statistics"], values["window"]
            statistics = None
            if told is not None:
                statistics = Statistics(tuple(told["mean"]), tuple(told["deviation"]), int(told["count"]))
            if values["layout"] not in LAYOUTS:
                raise ValueError(f"layout {values['layout']!r}")
            holds = tuple(values.get("arrays", ["latents"]))
            if not holds or set(holds) - set(ARRAYS):
                raise ValueError(f"arrays {list(holds)}")
            spec = CodecSpec.from_dict(values["spec"], f"The spec in {where}")
            return cls(
                spec, str(values["format"]), int(values["streams"]), values["layout"], int(values["channels"]),
                (None if size is None else int(size), int(context)), statistics, int(values["recordings"]),
                int(values["chunks"]), holds,
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{where} is damaged ({error!r}). Make the store again.") from None

    def write(self, folder: Folder) -> None:
        """Write `store.json`."""
        folder.write(INFO, (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode())

    @classmethod
    def read(cls, folder: Folder) -> StoreInfo:
        """Read `store.json`. Raises `FormatError` for a folder without one, or a damaged one."""
        path = folder.show(INFO)
        try:
            values = json.loads(folder.read(INFO))
        except (FileNotFoundError, NotADirectoryError):
            raise FormatError(f"{folder} is no store: it has no {INFO}. Make one with: {MADE_BY}") from None
        except ValueError as error:
            raise FormatError(f"{path} is not JSON ({error}). Make the store again.") from None
        return cls.from_dict(values, path)


def read_recordings(folder: Folder) -> list[Recording]:
    """The recordings of a store, the last line of each name, in the order of their names.

    A truncated last line is left out. Raises `FormatError` for any other damaged line.
    """
    try:
        text = folder.read(RECORDINGS).decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    found: dict[str, Recording] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # text after the last line break is a truncated line
        try:
            recording = Recording.from_json(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(
                f"Line {number} of {folder.show(RECORDINGS)} is damaged ({error!r}). Remove the line, or the store."
            ) from None
        found[recording.name] = recording
    return [found[name] for name in sorted(found)]


def write_recordings(folder: Folder, recordings: Iterable[Recording]) -> None:
    """Rewrite `recordings.jsonl`."""
    folder.write(RECORDINGS, _lines(recordings))


def append_recordings(folder: Folder, recordings: Iterable[Recording]) -> None:
    """Add lines to `recordings.jsonl`, and wait until they are on disk."""
    folder.append(RECORDINGS, _lines(recordings))


def _lines(recordings: Iterable[Recording]) -> bytes:
    return "".join(recording.to_json() + "\n" for recording in recordings).encode()
