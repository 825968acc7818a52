"""`LatentStore`: a store of latents, memory-mapped: a crop reads only its own bytes.

Legend: N chunks, M tokens of a chunk, C channels.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from duotone.errors import FormatError, UsageError
from duotone.spec import CodecSpec
from duotone.store.manifest import Recording, StoreInfo, read_recordings, to_channels

if TYPE_CHECKING:
    from duotone.codec.values import Latents

Array = NDArray[np.float32]


class LatentStore:
    """The latents of a collection; `store[i]` are those of a recording.

    Raises `FormatError` for a folder that is no store, or a damaged one.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.info = StoreInfo.read(self.folder)
        self.recordings: list[Recording] = read_recordings(self.folder)

    @property
    def spec(self) -> CodecSpec:
        """The spec of the codec that made the latents."""
        return self.info.spec

    @property
    def chunks(self) -> int:
        """Chunks of all recordings."""
        return sum(recording.chunks for recording in self.recordings)

    @property
    def mean(self) -> Array:
        """Mean of each channel `[C]`, of what `channels` gives."""
        return self._statistics()[0]

    @property
    def deviation(self) -> Array:
        """Standard deviation of each channel `[C]`, of what `channels` gives."""
        return self._statistics()[1]

    def _statistics(self) -> tuple[Array, Array]:
        found = self.info.statistics
        if found is None:
            raise FormatError(
                f"{self.folder} has no statistics: the run that made it did not end. Start duotone latents again, "
                f"which goes on with it."
            )
        return np.array(found.mean, np.float32), np.array(found.deviation, np.float32)

    def __len__(self) -> int:
        return len(self.recordings)

    def __repr__(self) -> str:
        seconds = self.chunks * self.spec.chunk_seconds
        return f"LatentStore({len(self)} recordings, {seconds / 3600:.2f} hours, {self.spec.model or self.spec.family})"

    def __getitem__(self, index: int) -> Latents:
        """The latents of a recording, as a value."""
        import torch

        from duotone.codec.values import Latents

        return Latents(torch.from_numpy(np.array(self.values(index))), self.spec, self.recordings[index].source)

    def __iter__(self) -> Iterator[Latents]:
        return (self[i] for i in range(len(self)))

    def values(self, index: int) -> Array:
        """The latents of a recording `[N, *latent]`, memory-mapped and read-only."""
        recording = self.recordings[index]
        path = self.folder / recording.file
        shape = (recording.chunks, *self.info.shape)
        try:
            return np.memmap(path, "<f4", "r", recording.offset, shape)
        except (FileNotFoundError, ValueError) as error:
            raise FormatError(
                f"{path} does not hold the {recording.chunks} chunks of {recording.name} ({error}). "
                f"Start duotone latents again, which encodes what is missing."
            ) from None

    def crop(self, index: int, first: int, count: int) -> Array:
        """Some chunks of a recording `[count, M, C]` in the layout for generative models, scaled as `channels` is.

        Raises `UsageError` for chunks that it does not have.
        """
        length = self.recordings[index].chunks
        if count < 1 or first < 0 or first + count > length:
            raise UsageError(
                f"Chunks {first} to {first + count - 1} were requested from a recording that has {length}."
            )
        return to_channels(self.values(index)[first : first + count], self.spec.bounded, self.info.channels)

    def channels(self, index: int) -> Array:
        """All of a recording `[N, M, C]`: bounded latents as ``atanh(v) / 0.8``, others as they are.

        `mean` and `deviation` are those of this layout; `Latents.from_channels` takes it back.
        """
        return self.crop(index, 0, self.recordings[index].chunks)

    def is_whole(self, recording: Recording) -> bool:
        """Whether a recording's file exists and is long enough; its bytes are not read."""
        path = self.folder / recording.file
        size = 4 * recording.chunks * int(np.prod(self.info.shape))
        return path.is_file() and path.stat().st_size >= recording.offset + size

    def damaged(self) -> list[Recording]:
        """The recordings whose bytes are missing or differ from their checksum; reads all of the store."""
        return [
            recording
            for i, recording in enumerate(self.recordings)
            if not self.is_whole(recording) or zlib.crc32(self.values(i).tobytes()) != recording.crc32
        ]
