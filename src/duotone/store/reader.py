"""`LatentStore`: a store of latents and codes. A crop reads only its own bytes: memory-mapped, or by a range of a URL.

Legend: N chunks, M vectors of a chunk, C channels, K codebooks of all streams, S steps.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from duotone.errors import FormatError, UsageError
from duotone.spec import CodecSpec
from duotone.store.folders import Folder, PathLike, open_folder
from duotone.store.manifest import MADE_BY, Recording, StoreInfo, read_recordings
from duotone.store.split import Split, split
from duotone.store.statistics import to_channels

if TYPE_CHECKING:
    from duotone.codec.values import Codes, Latents

Array = NDArray[np.float32]
_READ = 64 << 20  # bytes read at once when checksums are compared
_NAMED = 5  # damaged recordings that an error names


class LatentStore:
    """The encodings of a collection; `store[i]` or `store["name"]` are the latents of a recording.

    `folder` is a path or a URL of fsspec. Raises `FormatError` for a folder that is no store, or a damaged one. A store can be
    handed to other processes (data loaders); each maps the files itself.
    """

    def __init__(self, folder: PathLike | Folder) -> None:
        self.folder = open_folder(folder)
        self.info = StoreInfo.read(self.folder)
        self.recordings: list[Recording] = read_recordings(self.folder)
        self._index: dict[str, int] | None = None

    @property
    def spec(self) -> CodecSpec:
        """The spec of the codec that made the encodings."""
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
            self._require("latents")
            why = "the run that made it did not end" if self.recordings else "it has no recordings"
            raise FormatError(
                f"{self.folder} has no statistics: {why}. Start {MADE_BY} (or duotone latents) again, which goes on with it."
            )
        return np.array(found.mean, np.float32), np.array(found.deviation, np.float32)

    def __len__(self) -> int:
        return len(self.recordings)

    def __repr__(self) -> str:
        seconds = self.chunks * self.spec.chunk_seconds
        return f"LatentStore({len(self)} recordings, {seconds / 3600:.2f} hours, {self.spec.model or self.spec.family})"

    def index(self, recording: int | str) -> int:
        """The position of a recording, given by its position or its name. Raises `UsageError` if there is none."""
        if isinstance(recording, str):
            if self._index is None:
                self._index = {each.name: i for i, each in enumerate(self.recordings)}
            if recording not in self._index:
                raise UsageError(
                    f"{self.folder} has no recording {recording!r} among its {len(self)}. Names are paths below the folder of "
                    f"sounds, without ending: see [r.name for r in store.recordings]."
                )
            return self._index[recording]
        return range(len(self))[recording]

    def __getitem__(self, recording: int | str) -> Latents:
        """The latents of a recording, as a value."""
        import torch

        from duotone.codec.values import Latents

        i = self.index(recording)
        return Latents(torch.from_numpy(np.array(self.values(i))), self.spec, self.recordings[i].source)

    def __iter__(self) -> Iterator[Latents]:
        return (self[i] for i in range(len(self)))

    def codes(self, recording: int | str) -> Codes:
        """The codes of a recording, as a value. Raises `UsageError` for a store that holds none."""
        import torch

        from duotone.codec.values import Codes

        i = self.index(recording)
        scale = None
        if "scale" in self.info.holds:
            scale = torch.from_numpy(np.array(self.stored("scale", i, 0, None).T, order="C"))
        return Codes(torch.from_numpy(self.crop_codes(i, 0, None)), self.spec, self.recordings[i].source, scale)

    def values(self, recording: int | str) -> Array:
        """The latents of a recording `[N, *latent]` as they are, memory-mapped and read-only."""
        return self.stored("latents", self.index(recording), 0, None)

    def crop(self, recording: int | str, first: int, count: int | None) -> Array:
        """Some chunks of a recording `[count, M, C]` in the layout for generative models, scaled as `channels` is.

        A `count` of None means all from `first` on. Raises `UsageError` for chunks that it does not have.
        """
        found = self.stored("latents", self.index(recording), first, count)
        return to_channels(found, self.spec.bounded, self.info.channels)

    def crop_codes(self, recording: int | str, first: int, count: int | None) -> NDArray[np.int64]:
        """The codes of the same chunks `[K, S]`, with S the steps of `count` chunks. Raises `UsageError` as `crop` does."""
        found = self.stored("codes", self.index(recording), first, count)
        return np.ascontiguousarray(found.transpose(1, 0, 2).reshape(found.shape[1], -1), np.int64)

    def channels(self, recording: int | str) -> Array:
        """All of a recording `[N, M, C]`: bounded latents as ``atanh(v) / 0.8``, others as they are.

        `mean` and `deviation` are those of this layout; `Latents.from_channels` takes it back.
        """
        return self.crop(recording, 0, None)

    def normalized(self, recording: int | str, first: int, count: int | None) -> Array:
        """`crop` with mean 0 and deviation 1 in each channel (over the collection); constant channels become 0."""
        mean, deviation = self._statistics()
        return np.where(
            deviation > 0, (self.crop(recording, first, count) - mean) / np.where(deviation > 0, deviation, 1), 0
        )

    def split(self, chunks: int, share: float = 0.1) -> Split:
        """Where crops of `chunks` chunks may be taken, for training and for validation; see `duotone.store.split`."""
        return split([(recording.name, recording.chunks) for recording in self.recordings], chunks, share)

    def is_whole(self, recording: Recording) -> bool:
        """Whether a recording's files exist and are long enough; their bytes are not read."""
        if set(recording.arrays) != set(self.info.holds):
            return False
        for array, stored in recording.arrays.items():
            size = self.folder.size(stored.file)
            if size is None or size < stored.offset + recording.chunks * self.info.chunk_bytes(array):
                return False
        return True

    def damaged(self, recordings: Iterable[int] | None = None) -> list[Recording]:
        """The recordings (of all, or of some) whose bytes are missing or differ from their checksum; reads all of them."""
        wanted = range(len(self)) if recordings is None else recordings
        return [self.recordings[i] for i in wanted if not self._is_sound(i, self.recordings[i])]

    def verify(self, recordings: Iterable[int] | None = None) -> None:
        """Compare checksums, of all recordings or of some. Raises `FormatError` naming those that are damaged."""
        bad = self.damaged(recordings)
        if bad:
            names = ", ".join(f"{each.name} (in {each.file})" for each in bad[:_NAMED])
            more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
            raise FormatError(
                f"{len(bad)} of {len(self)} recordings in {self.folder} are damaged: {names}{more}. Their bytes are missing or "
                f"differ from their checksums. Run {MADE_BY} again with --verify, which encodes these again, and check the disk."
            )

    def _is_sound(self, index: int, recording: Recording) -> bool:
        if not self.is_whole(recording):
            return False
        for array, stored in recording.arrays.items():
            step, crc = max(1, _READ // self.info.chunk_bytes(array)), 0
            for first in range(0, recording.chunks, step):
                part = self.stored(array, index, first, min(step, recording.chunks - first))
                crc = zlib.crc32(np.ascontiguousarray(part).tobytes(), crc)
            if crc != stored.crc32:
                return False
        return True

    def _require(self, array: str) -> None:
        if array not in self.info.holds:
            how = {"latents": "without --no-latents", "codes": "with --codes"}.get(array, "with --codes")
            raise UsageError(
                f"{self.folder} holds {' and '.join(self.info.holds)}, no {array}. Make another store {how} ({MADE_BY})."
            )

    def stored(self, array: str, recording: int | str, first: int = 0, count: int | None = None) -> NDArray[Any]:
        """Some chunks of an array (latents, codes, scale) as they are in the file, read-only; None: all from `first` on.

        Raises `UsageError` for chunks or an array that are not there, `FormatError` for a file that is missing or cut.
        """
        self._require(array)
        found = self.recordings[self.index(recording)]
        if count is None:
            count = found.chunks - first
        if count < 1 or first < 0 or first + count > found.chunks:
            raise UsageError(
                f"Chunks {first} to {first + count - 1} were requested from a recording that has {found.chunks}."
            )
        place, (kind, shape) = found.arrays[array], self.info.array(array)
        offset = place.offset + first * self.info.chunk_bytes(array)
        try:
            return self.folder.array(place.file, kind, offset, (count, *shape))
        except (FileNotFoundError, ValueError) as error:
            raise FormatError(
                f"{self.folder.show(place.file)} does not hold the {found.chunks} chunks of {found.name} ({error}). "
                f"Start {MADE_BY} (or duotone latents) again, which encodes what is missing."
            ) from None
