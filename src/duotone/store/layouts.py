"""The files of a store: each layout puts recordings (parts) into files, and tells where their values are.

shards       shard-000000.latents.npy holds the chunks of many recordings `[N, *latent]`; .codes.npy and .scale.npy likewise
npy          NAME.npy, one recording and one array
safetensors  NAME.safetensors, one recording, a tensor for each array
tar          shard-000000.tar with NAME.json, NAME.npy (latents), NAME.codes.npy and NAME.scale.npy, as WebDataset reads them

In each, an array of a recording is consecutive little-endian bytes. The same recordings give the same bytes.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import IO, Any

import numpy as np

from duotone.store.folders import Folder
from duotone.store.manifest import Recording, Stored, StoreInfo
from duotone.store.parts import Part

_SHARD = re.compile(r"shard-(\d{6})\.(?:latents\.npy|codes\.npy|scale\.npy|tar)")
_TENSOR = {"<f4": "F32", "<u2": "U16", "<u4": "U32"}  # safetensors' names of number formats


def is_grouped(info: StoreInfo) -> bool:
    """Whether a file holds many recordings."""
    return info.layout in ("shards", "tar")


def write_group(folder: Folder, info: StoreInfo, parts: Sequence[Part], number: int) -> list[Recording]:
    """Put recordings into the files of a shard (or one recording into its own file); where they are now."""
    if info.layout == "shards":
        return _write_shards(folder, info, parts, number)
    if info.layout == "tar":
        return _write_tar(folder, info, parts, number)
    (part,) = parts
    write = _write_npy if info.layout == "npy" else _write_safetensors
    return [write(folder, info, part)]


def number_of(file: str) -> int:
    """The number of a shard's file; -1 for another file."""
    found = _SHARD.fullmatch(file)
    return int(found[1]) if found else -1


def _recording(part: Part, places: dict[str, tuple[str, int]]) -> Recording:
    arrays = {array: Stored(file, offset, part.crc32[array]) for array, (file, offset) in places.items()}
    return Recording(part.name, part.chunks, arrays, part.source, part.sound, part.stamp)


def _write_shards(folder: Folder, info: StoreInfo, parts: Sequence[Part], number: int) -> list[Recording]:
    places: list[dict[str, tuple[str, int]]] = [{} for _ in parts]
    for array in info.holds:
        name = f"shard-{number:06d}.{array}.npy"
        with folder.replacing(name) as path, path.open("wb") as file:
            file.write(_npy_header(info, array, sum(part.chunks for part in parts)))
            for part, place in zip(parts, places, strict=True):
                place[array] = (name, file.tell())
                _copy(part.blocks(array), file)
    return [_recording(part, place) for part, place in zip(parts, places, strict=True)]


def _write_npy(folder: Folder, info: StoreInfo, part: Part) -> Recording:
    (array,) = info.holds
    name = f"{part.name}.npy"
    with folder.replacing(name) as path, path.open("wb") as file:
        file.write(_npy_header(info, array, part.chunks))
        offset = file.tell()
        _copy(part.blocks(array), file)
    return _recording(part, {array: (name, offset)})


def _write_safetensors(folder: Folder, info: StoreInfo, part: Part) -> Recording:
    """The format: the header's length (8 bytes, little-endian), a JSON header padded with spaces, the tensors."""
    name, end = f"{part.name}.safetensors", 0
    header: dict[str, Any] = {"__metadata__": {"source": json.dumps(asdict(part.source))}}
    starts = {}
    for array in info.holds:
        kind, shape = info.array(array)
        starts[array], end = end, end + part.chunks * info.chunk_bytes(array)
        header[array] = {
            "dtype": _TENSOR[kind.str], "shape": [part.chunks, *shape], "data_offsets": [starts[array], end],
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with folder.replacing(name) as path, path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in info.holds:
            _copy(part.blocks(array), file)
    return _recording(part, {array: (name, 8 + len(text) + start) for array, start in starts.items()})


def _write_tar(folder: Folder, info: StoreInfo, parts: Sequence[Part], number: int) -> list[Recording]:
    name = f"shard-{number:06d}.tar"
    done, keys = [], set[str]()
    with folder.replacing(name) as path, tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for part in parts:
            key = _key(part.name, keys)
            about = {"name": part.name, "chunks": part.chunks, "source": asdict(part.source)}
            _member(tar, f"{key}.json", [json.dumps(about).encode()])
            places: dict[str, tuple[str, int]] = {}
            for array in info.holds:
                ending = "npy" if array == "latents" else f"{array}.npy"
                size = part.chunks * info.chunk_bytes(array)
                header = _npy_header(info, array, part.chunks)
                end = _member(tar, f"{key}.{ending}", _chained(header, part.blocks(array)), len(header) + size)
                places[array] = (name, end - size)
            done.append(_recording(part, places))
    return done


def _member(tar: tarfile.TarFile, name: str, data: Iterable[bytes], size: int | None = None) -> int:
    """Add a member; where its data ends."""
    if size is None:
        data = list(data)
        size = sum(map(len, data))
    about = tarfile.TarInfo(name)
    about.size = size
    tar.addfile(about, _Pieces(data))  # type: ignore[arg-type]
    return int(tar.offset) - (-size % tarfile.BLOCKSIZE)


class _Pieces:
    """Pieces of bytes as a file to read from."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._rest = iter(pieces), b""

    def read(self, size: int) -> bytes:
        """The next bytes; fewer only at the end."""
        while len(self._rest) < size:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._rest += piece
        found, self._rest = self._rest[:size], self._rest[size:]
        if not self._rest:  # the last piece may end exactly here: let its source check itself
            self._rest = next(self._pieces, b"")
        return found


def _chained(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _key(name: str, keys: set[str]) -> str:
    """A member's name without a dot, at which WebDataset would end it, and unlike all others in the shard."""
    plain = key = name.replace(".", "_")
    count = 1
    while key.casefold() in keys:
        count += 1
        key = f"{plain}~{count}"
    keys.add(key.casefold())
    return key


def _npy_header(info: StoreInfo, array: str, chunks: int) -> bytes:
    kind, shape = info.array(array)
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": kind.str, "fortran_order": False, "shape": (chunks, *shape)})
    return buffer.getvalue()


def _copy(blocks: Iterator[bytes], file: IO[bytes]) -> None:
    for block in blocks:
        file.write(block)
