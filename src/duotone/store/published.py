"""Latents that other programs wrote: `.pt` files of ``latent`` `[T, 8, 64]`, ``sample_rate``, ``samples`` and ``source``.

``latent`` is the layout of `Latents.channels`: T chunks of CoDiCodec's 8 vectors of 64 values, with about unit variance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from duotone.codec.contract import Codec
from duotone.codec.values import Latents
from duotone.errors import FormatError, UsageError, WeightsError
from duotone.nn.state import read_torch_file
from duotone.spec import CodecSpec, Source
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
    `WeightsError` or `FormatError` for other files, `UsageError` for a codec whose chunks have another size, or if there are no files.
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
                shard = read_shard(path)
                latents = shard.in_space(codec.spec)
                writer.add(name, latents.numpy(), latents.source, shard.source, stamp)
    return LatentStore(writer.folder)


@dataclass(frozen=True)
class Shard:
    """A published file of latents: `[T, 8, 64]` float32, the rate and length of the sound they come from, and its path."""

    latents: Tensor
    rate: int
    samples: int | None
    source: str

    def in_space(self, spec: CodecSpec) -> Latents:
        """As values of the codec that made them, which the file does not tell.

        The number of samples is kept where a framing of the codec gives as many chunks for it, the published one first. Raises
        `UsageError` for a codec whose chunks have another size.
        """
        size = tuple(self.latents.shape[1:])
        if math.prod(size) != math.prod(spec.latent or (0,)):
            raise UsageError(
                f"The shard has chunks of {' x '.join(map(str, size))} values, but {spec.model or spec.family} has chunks of "
                f"{' x '.join(map(str, spec.latent or ())) or 'none'}. Name the codec that made it."
            )
        return Latents.from_channels(self.latents, spec, self._source(spec))

    def _source(self, spec: CodecSpec) -> Source:
        for framing in reversed(spec.framings):
            source = Source(self.rate, spec.channels, self.samples, framing)
            if self.samples is not None and spec.framed(framing).chunks(source.at(spec.rate) or 1) == len(self.latents):
                return source
        return Source(self.rate, spec.channels, None)


def read_shard(path: PathLike) -> Shard:
    """Read a published shard. Raises `WeightsError` for what is no PyTorch file of plain tensors, `FormatError` for other content."""
    found = read_torch_file(path, "a published shard of latents")
    latent, rate, samples = (found.get(name) for name in ("latent", "sample_rate", "samples"))
    if not isinstance(latent, Tensor) or latent.dim() != 3 or not len(latent):
        told = list(latent.shape) if isinstance(latent, Tensor) else type(latent).__name__
        raise FormatError(f"{path} is no published shard: its entry 'latent' is {told}, expected a tensor [T, 8, 64].")
    if not bool(torch.isfinite(latent).all()):
        raise FormatError(f"{path} holds values that are not finite. Prepare it again.")
    count = _count(samples)
    if (hertz := _count(rate)) is None or (count is None and samples is not None):
        raise FormatError(
            f"{path} is no published shard: it has sample_rate {rate!r} and samples {samples!r}, expected numbers above 0."
        )
    return Shard(latent.to(torch.float32, copy=True), hertz, count, str(found.get("source", "")))


def is_shard(path: PathLike) -> bool:
    """Whether a file is a published shard of latents, by its entry `latent`; its values are not read."""
    try:
        return isinstance(read_torch_file(path, "a published shard of latents").get("latent"), Tensor)
    except WeightsError:
        return False


def _count(value: object) -> int | None:
    """A number above 0 as a whole one; None for anything else."""
    return (
        int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 1 <= value < 1 << 62 else None
    )


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
