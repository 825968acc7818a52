"""Encode an audio file to a part of a store: block by block, so that the latents are those of the whole file, in constant memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from duotone.audio.files import AudioReader, open_reader
from duotone.audio.formats import READABLE
from duotone.codec.batches import Window, window_for
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, UsageError
from duotone.store.folders import file_system, is_url
from duotone.store.manifest import Array, Layout, Stamp, StoreInfo
from duotone.store.parts import Part, PartWriter, stamp_of
from duotone.store.statistics import usual_channels


@dataclass(frozen=True)
class Job:
    """An audio file (a path or a URL), and the name of its recording in the store."""

    name: str
    sound: str


def settings_for(
    codec: Codec,
    layout: Layout = "shards",
    *,
    codes: bool = False,
    latents: bool = True,
    channels: int | None = None,
    stereo: bool = False,
    window: Window | None = None,
) -> StoreInfo:
    """The description of a store for a codec's encodings.

    `stereo` encodes both channels with codecs of one channel. Raises `UsageError` for a codec that has no such encodings,
    and for `channels` that do not divide a chunk's latents.
    """
    spec = codec.spec
    if not (codes or latents):
        raise UsageError("A store without latents and without codes would hold nothing. Ask for one of them.")
    for wanted, face in ((latents, "latents"), (codes, "tokens")):
        if wanted and face not in spec.faces:
            raise UsageError(
                f"{spec.model or spec.family} has no {face}, only {spec.faces[0]}. Choose another codec, or use its {spec.faces[0]}."
            )
    holds: list[Array] = ["latents"] if latents else []
    holds += [*(["codes"] if codes else []), *(["scale"] if codes and spec.scaled else [])]  # type: ignore[list-item]
    streams = 2 if stereo and spec.channels == 1 else 1
    last = spec.latent or (0,)
    usual = usual_channels((*last[:-1], last[-1] * streams)) if latents else 0
    cut = window_for(spec, window)
    count = channels if channels is not None and latents else usual
    return StoreInfo(spec, codec.encoding_format, streams, layout, count, (cut.chunks, cut.context), holds=tuple(holds))


def arrays_of(value: Latents | Codes, info: StoreInfo) -> dict[str, NDArray[Any]]:
    """The arrays of a store, each with chunks first, from an encoding of N chunks."""
    found: dict[str, NDArray[Any]] = {}
    if "latents" in info.holds and isinstance(value, Latents):
        found["latents"] = value.numpy()
    if "codes" in info.holds:
        codes = value.codes()
        kind, (rows, steps) = info.array("codes")
        found["codes"] = codes.numpy().reshape(rows, len(codes), steps).transpose(1, 0, 2).astype(kind)
        if "scale" in info.holds and codes.scale is not None:
            found["scale"] = codes.scale.cpu().numpy().T
    return found


def encode_file(
    codec: Codec, info: StoreInfo, job: Job, folder: Path, tick: Callable[[float, float | None], object] | None = None
) -> Part:
    """Encode a file into a part in a local folder.

    `tick` gets the seconds of audio that each block has, and the length of the file, None if not known. Raises `AudioError`
    for a file that cannot be used.
    """
    stamp = stamp_of_sound(job.sound)
    with opened(job.sound) as reader:
        # Stereo codecs get both channels (mono is duplicated); with mono codecs every recording has the same number of streams.
        channels = reader.channels if codec.spec.channels == 2 else info.streams
        length = None if reader.samples is None else reader.samples / reader.rate
        with (
            codec.encode_stream(reader.rate, channels, window=Window(*info.window)) as stream,
            PartWriter(folder, info, job.name, job.sound, stamp) as part,
        ):
            for block in reader:
                part.push(arrays_of(stream.push(block.to_channels(channels)), info))
                if tick is not None:
                    tick(block.seconds, length)
            part.push(arrays_of(stream.finish(), info))
            return part.finish(stream.source)


@contextmanager
def opened(sound: str) -> Iterator[AudioReader]:
    """An audio file on disk or behind a URL. Raises `AudioError` if it cannot be opened."""
    if not is_url(sound):
        with open_reader(sound) as reader:
            yield reader
        return
    system, path = file_system(sound)
    try:
        file = system.open(path, "rb")
    except OSError as error:
        raise AudioError(f"{sound} cannot be opened ({error}). Check the address and the permissions.") from None
    with file, open_reader(_Named(file, sound)) as reader:  # type: ignore[arg-type]
        yield reader


class _Named:
    """An open file with a name for messages."""

    def __init__(self, file: Any, name: str) -> None:
        self.name, self.read = name, file.read


def stamp_of_sound(sound: str) -> Stamp:
    """Size and time of change of an audio file; of a URL without a time, the size and 0; None if neither is known."""
    if not is_url(sound):
        return stamp_of(sound)
    system, path = file_system(sound)
    try:
        about = system.info(path)
    except OSError:
        return None
    changed = about.get("mtime", about.get("LastModified", about.get("created")))
    stamp = getattr(changed, "timestamp", None)
    seconds = stamp() if callable(stamp) else changed if isinstance(changed, (int, float)) else 0
    return (int(about["size"]), int(seconds * 1e9)) if about.get("size") is not None else None


def sounds_at(url: str) -> list[Job]:
    """The audio files below a URL, named as those of a folder are: by their paths, without ending unless two differ in it alone.

    Raises `UsageError` if there are none.
    """
    system, root = file_system(url.rstrip("/"))
    found = [str(path) for path in system.find(root)]
    taken = [p for p in found if os.path.splitext(p)[1].lower() in READABLE and "/." not in p[len(root) :]]
    if not taken:
        raise UsageError(f"{url} holds no audio file that can be read. Expected some of {', '.join(READABLE)}.")
    inside = [p[len(root) :].lstrip("/") or p.rpartition("/")[2] for p in sorted(taken)]
    stems = [os.path.splitext(name)[0] for name in inside]
    counts = Counter(stems)
    return [
        Job(name if counts[stem] > 1 else stem, system.unstrip_protocol(path))
        for name, stem, path in zip(inside, stems, sorted(taken), strict=True)
    ]
