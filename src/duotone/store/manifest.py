"""The files that describe a store: `store.json`, and `recordings.jsonl` with a line for each recording.

A line is added when its recording is safely on disk, so an interrupted run resumes with the recordings without a line. If
a name has several lines, the last one is valid. Does not import torch.

Legend: N chunks, C channels (of the layout for generative models).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from duotone.atomic import write_json, write_text
from duotone.errors import FormatError
from duotone.spec import UNIT_SCALE, CodecSpec, Source

Layout = Literal["npy", "safetensors", "tar"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)
INFO, RECORDINGS = "store.json", "recordings.jsonl"
KIND, VERSION = "duotone latents", 1
#: Channels that are taken where they divide a chunk: those of published generators of CoDiCodec's latents.
USUAL_CHANNELS = 64


@dataclass(frozen=True)
class Recording:
    """One recording: the position of its latents `[N, *latent]` (float32, little-endian, from `offset` on), and its audio file."""

    name: str  #: place below the folder of sounds, without ending, with / between folders
    file: str  #: below the store's folder
    offset: int  #: bytes before the first value
    chunks: int
    crc32: int  #: of the values' bytes
    source: Source
    sound: str  #: path of the sound file, as it was given
    stamp: tuple[int, int] | None  #: its size in bytes and time of change in nanoseconds; None where there is none

    def to_json(self) -> str:
        """A line of `recordings.jsonl`."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Recording:
        """The inverse of `to_json`. Raises `ValueError`, `KeyError` or `TypeError` for anything else."""
        values = json.loads(line)
        stamp = values.pop("stamp")
        source = Source(**values.pop("source"))
        found = cls(**values, source=source, stamp=None if stamp is None else (int(stamp[0]), int(stamp[1])))
        if not found.file or Path(found.file).is_absolute() or ".." in Path(found.file).parts:
            raise ValueError(f"the file {found.file!r} is not below the store")
        if min(found.offset, found.chunks - 1, found.crc32) < 0:
            raise ValueError("a number is negative")
        return found


@dataclass(frozen=True)
class Statistics:
    """Mean and deviation of each channel `[C]` in the layout for generative models, over all recordings."""

    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    count: int  #: values a channel

    @classmethod
    def of(cls, parts: Iterable[NDArray[np.float32]]) -> Statistics | None:
        """From arrays `[N, M, C]`; None without any."""
        count, total, squares = 0, np.zeros(()), np.zeros(())
        for part in parts:
            rows = part.reshape(-1, part.shape[-1]).astype(np.float64)
            count, total, squares = count + len(rows), total + rows.sum(0), squares + (rows**2).sum(0)
        if not count:
            return None
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return cls(tuple(mean.tolist()), tuple(deviation.tolist()), count)


@dataclass(frozen=True)
class StoreInfo:
    """The content of `store.json`: the codec, how audio was encoded, and the layout of the files."""

    spec: CodecSpec
    format: str  #: number format of the encoder
    streams: int  #: streams of every recording, folded into the last dimension
    layout: Layout
    channels: int  #: of the layout for generative models, of which the statistics are
    window: tuple[int | None, int] = (None, 0)  #: chunks encoded at a time (None: all), and chunks of their past
    statistics: Statistics | None = None  #: None until a run has ended
    recordings: int = 0
    chunks: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a chunk's latents."""
        latent = self.spec.latent or (0,)
        return (*latent[:-1], latent[-1] * self.streams)

    def settings(self) -> dict[str, Any]:
        """The settings that all recordings of a store must share."""
        return {
            "space": self.spec.space, "grid": self.spec.grid(), "format": self.format, "streams": self.streams,
            "layout": self.layout, "channels": self.channels, "window": list(self.window),
        }  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write `store.json`."""
        values = {
            "kind": KIND, "version": VERSION, "layout": self.layout, "shape": ["chunks", *self.shape],
            "format": self.format, "streams": self.streams, "channels": self.channels, "window": list(self.window),
            "chunk_seconds": self.spec.chunk_seconds, "recordings": self.recordings, "chunks": self.chunks,
            "statistics": None if self.statistics is None else asdict(self.statistics), "spec": self.spec.to_dict(),
        }  # fmt: skip
        write_json(folder / INFO, values)

    @classmethod
    def read(cls, folder: Path) -> StoreInfo:
        """Read `store.json`. Raises `FormatError` for a folder without one, or a damaged one."""
        path = folder / INFO
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise FormatError(f"{folder} is no store: it has no {INFO}. Make one with: duotone latents") from None
        except ValueError as error:
            raise FormatError(f"{path} is not JSON ({error}). Make the store again.") from None
        if not isinstance(values, dict) or values.get("kind") != KIND:
            raise FormatError(f"{path} does not belong to a store of latents. Give a folder made by duotone latents.")
        if values.get("version") != VERSION:
            raise FormatError(f"{path} has version {values.get('version')}, this library reads {VERSION}.")
        try:
            told, (size, context) = values["statistics"], values["window"]
            statistics = None
            if told is not None:
                statistics = Statistics(tuple(told["mean"]), tuple(told["deviation"]), int(told["count"]))
            if values["layout"] not in LAYOUTS:
                raise ValueError(f"layout {values['layout']!r}")
            spec = CodecSpec.from_dict(values["spec"], f"The spec in {path}")
            return cls(
                spec, str(values["format"]), int(values["streams"]), values["layout"], int(values["channels"]),
                (None if size is None else int(size), int(context)), statistics, int(values["recordings"]),
                int(values["chunks"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise FormatError(f"{path} is damaged ({error!r}). Make the store again.") from None


def read_recordings(folder: Path) -> list[Recording]:
    """The recordings of a store, the last line of each name, in the order of their names.

    A truncated last line is left out. Raises `FormatError` for any other damaged line.
    """
    path = folder / RECORDINGS
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    found: dict[str, Recording] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines[:-1], start=1):  # text after the last line break is a truncated line
        try:
            recording = Recording.from_json(line)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise FormatError(
                f"Line {number} of {path} is damaged ({error!r}). Remove the line, or the store."
            ) from None
        found[recording.name] = recording
    return [found[name] for name in sorted(found)]


def write_recordings(folder: Path, recordings: Iterable[Recording]) -> None:
    """Rewrite `recordings.jsonl`."""
    write_text(folder / RECORDINGS, "".join(recording.to_json() + "\n" for recording in recordings))


def append_recording(folder: Path, recording: Recording) -> None:
    """Add a line to `recordings.jsonl`, and wait until it is on disk."""
    with (folder / RECORDINGS).open("ab") as file:
        file.write((recording.to_json() + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def usual_channels(shape: tuple[int, ...]) -> int:
    """The default number of channels: 64 if it divides a chunk's values and is more than the last dimension."""
    size = int(np.prod(shape))
    return USUAL_CHANNELS if size % USUAL_CHANNELS == 0 and shape[-1] < USUAL_CHANNELS else shape[-1]


def to_channels(values: NDArray[np.float32], bounded: bool, channels: int) -> NDArray[np.float32]:
    """Latents `[N, *latent]` -> `[N, M, C]`, as `Latents.channels` does: with roughly unit variance if they are bounded."""
    each = np.ascontiguousarray(values, dtype=np.float32).reshape(len(values), -1, channels)
    if not bounded:
        return each
    edge = np.float32(1) - np.finfo(np.float32).eps
    scaled: NDArray[np.float32] = np.arctanh(np.clip(each, -edge, edge)) / np.float32(UNIT_SCALE)
    return scaled
