"""Latents that other programs wrote: `.pt` files of ``latent`` `[T, 8, 64]`, ``sample_rate``, ``samples`` and ``source``.

``latent`` is the layout of `Latents.channels`: T chunks of CoDiCodec's 8 vectors of 64 values, with about unit variance.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from duotone.codec.contract import Codec
from duotone.codec.values import Latents
from duotone.errors import FormatError, UsageError
from duotone.spec import CodecSpec, Framing, Source
from duotone.store.encode import settings_for
from duotone.store.folders import Folder, PathLike
from duotone.store.manifest import Layout
from duotone.store.parts import stamp_of
from duotone.store.reader import LatentStore
from duotone.store.writer import SHARD_BYTES, LatentWriter


def import_shards(
    paths: Sequence[PathLike],
    output: PathLike | Folder,
    codec: Codec,
    layout: Layout = "shards",
    shard_bytes: int = SHARD_BYTES,
) -> LatentStore:
    """Make a store of published shards: files, or folders of files ending in ``.pt``.

    `codec` is the one that made them (the files do not name it). Files that the store has already are left as they are. Raises
    `FormatError` for other files, `UsageError` for a codec whose chunks have another size, or if there are no files.
    """
    files = _files(paths)
    if not files:
        raise UsageError(
            f"There is no .pt file at {', '.join(map(str, paths))}. Give files, or folders that hold some."
        )
    with LatentWriter(output, settings_for(codec, layout, channels=64), shard_bytes) as writer:
        for name, path in files.items():
            stamp = stamp_of(str(path))
            if not writer.has(name, stamp):
                latents, sound = read_shard(path, codec.spec)
                writer.add(name, latents.numpy(), latents.source, sound, stamp)
    return LatentStore(writer.folder)


def read_shard(path: PathLike, spec: CodecSpec) -> tuple[Latents, str]:
    """The latents of a published shard, and the path of its audio file. Raises `FormatError` for another file.

    The number of samples is kept where a framing of the codec gives as many chunks for it.
    """
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError) as error:
        raise FormatError(f"{path} cannot be read as a published shard ({error}).") from None
    except Exception as error:  # the unpickler's own class, for files that would execute code
        if type(error).__name__ != "UnpicklingError":
            raise
        raise FormatError(f"{path} is no file of tensors alone, and is not read ({error}).") from None
    latent = found.get("latent") if isinstance(found, dict) else None
    rate = found.get("sample_rate") if isinstance(found, dict) else None
    if not isinstance(latent, torch.Tensor) or latent.ndim != 3 or not len(latent) or not isinstance(rate, int):
        raise FormatError(f"{path} is no published shard: expected latent [T, 8, 64] and sample_rate.")
    if latent.shape[1] * latent.shape[2] != torch.Size(spec.latent or (0,)).numel():
        raise UsageError(
            f"{path} has chunks of {latent.shape[1]} x {latent.shape[2]} values, but {spec.model or spec.family} has chunks of "
            f"{' x '.join(map(str, spec.latent or ()))}. Name the codec that made it."
        )
    samples = found.get("samples")
    source = _source(spec, int(rate), int(samples) if isinstance(samples, (int, float)) else None, len(latent))
    return Latents.from_channels(latent.float(), spec, source), str(found.get("source", ""))


def _source(spec: CodecSpec, rate: int, samples: int | None, chunks: int) -> Source:
    if samples is not None and samples > 0:
        framings: tuple[Framing, ...] = ("exact", "published") if spec.family == "codicodec" else ("exact",)
        for framing in framings:
            source = Source(rate, 2, samples, framing)
            if spec.framed(framing).chunks(source.at(spec.rate) or 0) == chunks:
                return source
    return Source(rate, 2, None)


def _files(paths: Sequence[PathLike]) -> dict[str, Path]:
    """The files by the names of their recordings: paths below the folder, without ending."""
    found: dict[str, Path] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise UsageError(f"There is no file or folder {path}.")
        inside = sorted(path.rglob("*.pt")) if path.is_dir() else [path]
        for each in inside:
            name = (each.relative_to(path) if path.is_dir() else Path(each.name)).with_suffix("").as_posix()
            if name in found:
                raise UsageError(f"{found[name]} and {each} would both become {name}. Import their folder above.")
            found[name] = each
    return found
