"""The results of encoding: `Latents` (continuous) and `Codes` (discrete), each with its codec's spec and its source.

A mono codec encodes stereo audio as two streams, left first. They are concatenated along the codebooks of codes
(`[2 K, S]`) and along the last dimension of latents (`[N, ..., 2 d]`).

Legend: N chunks, d dimensions of a latent, K codebooks, S steps (N times the steps of a chunk).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotone.errors import UsageError
from duotone.quant.grouped import GroupedFSQ
from duotone.spec import UNIT_SCALE, CodecSpec, Source

Value = TypeVar("Value", "Latents", "Codes")


def _default_source(spec: CodecSpec, streams: int) -> Source:
    return Source(spec.rate_out, max(spec.channels, streams))


def _seconds(spec: CodecSpec, source: Source, chunks: int) -> float:
    """The duration of the audio in seconds or, if not known, that of the chunks."""
    if source.samples is not None:
        return source.samples / source.rate
    return spec.framed(source.framing).samples(chunks) / spec.rate


def _chunk_slice(index: int | slice, count: int) -> slice:
    if isinstance(index, slice):
        first, last, step = index.indices(count)
        if step != 1:
            raise UsageError(f"Chunks were sliced with step {step}, expected consecutive chunks.")
        return slice(first, max(first, last))
    place = index + count if index < 0 else index
    if not 0 <= place < count:
        raise IndexError(f"There is no chunk {index}; there are {count}.")
    return slice(place, place + 1)


def _of_part(source: Source, part: slice, count: int) -> Source:
    """The source for a part of the chunks; the length is known only if it has all chunks."""
    return source if (part.start, part.stop) == (0, count) else source.of_length(None)


def _check_length(spec: CodecSpec, source: Source, chunks: int, what: str) -> None:
    """Raise `UsageError` if a source of known length has another number of chunks."""
    length = source.at(spec.rate)
    if length is None:
        return
    wanted = spec.framed(source.framing).chunks(length)
    if chunks != wanted:
        raise UsageError(
            f"{what} got {chunks} chunks, but audio of {source.samples} samples at {source.rate} Hz has {wanted}. "
            f"Make {wanted} chunks, or give a source of another length (source.of_length(None): all of the chunks)."
        )


@dataclass(frozen=True, eq=False, repr=False)
class Latents:
    """Continuous latents `[N, *latent]`, float32, before rounding; in (-1, 1) if the codec bounds them.

    Takes a tensor or an array. Raises `UsageError` for another shape, NaN or infinite values, or values out of bounds.
    """

    values: Tensor
    spec: CodecSpec
    source: Source = field(default=None)  # type: ignore[assignment]  # filled in below

    def __post_init__(self) -> None:
        spec = self.spec
        if spec.latent is None:
            raise UsageError(f"{spec.model or spec.family} has no latents; its encodings are codes.")
        values = _tensor(self.values, "Latents")
        if not values.dtype.is_floating_point:
            raise UsageError(f"Latents got {values.dtype}, expected floating-point values.")
        values = values.float()
        shape, want = tuple(values.shape), spec.latent
        streams = shape[-1] // want[-1] if shape else 0
        fits = len(shape) == len(want) + 1 and shape[1:-1] == want[:-1] and shape[-1] == streams * want[-1]
        if not fits or not 1 <= streams <= 2 // spec.channels:
            expected = ", ".join(map(str, want))
            raise UsageError(f"Latents got values of shape {shape}, expected [N, {expected}].")
        detached = values.detach()
        if not bool(torch.isfinite(detached).all()):
            raise UsageError("Latents got values that are not finite. Check the model that made them.")
        if spec.bounded and detached.numel() and float(detached.abs().max()) > 1:
            raise UsageError(
                f"Latents got values up to {float(detached.abs().max()):.4g}, expected -1 to 1. "
                f"For the normalised values of a generative model use Latents.from_channels."
            )
        object.__setattr__(self, "values", values)
        if cast(Any, self.source) is None:
            object.__setattr__(self, "source", _default_source(spec, streams))

    def __len__(self) -> int:
        return int(self.values.shape[0])

    def __getitem__(self, index: int | slice) -> Latents:
        part = _chunk_slice(index, len(self))
        return Latents(self.values[part], self.spec, _of_part(self.source, part, len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Latents) and _same(self, other) and torch.equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return _line("Latents", self.values, self.spec, self.seconds)

    @property
    def streams(self) -> int:
        """Number of streams in the last dimension: 2 for stereo audio in a mono codec."""
        return int(self.values.shape[-1]) // (self.spec.latent or (1,))[-1]

    @property
    def seconds(self) -> float:
        """Duration of the sound."""
        return _seconds(self.spec, self.source, len(self))

    @property
    def about(self) -> CodecSpec:
        """The former name of `spec`."""
        return self.spec

    @classmethod
    def join(cls, parts: Iterable[Latents], source: Source | None = None) -> Latents:
        """Consecutive parts of one encoding as one; `source` defaults to that of the first, of unknown length."""
        parts, first = _parts(cls, parts)
        values = torch.cat([part.values for part in parts])
        return cls(values, first.spec, source or _joined_source(parts))

    def to(self, device: str | torch.device) -> Latents:
        """The same values on a device."""
        return dataclasses.replace(self, values=self.values.to(device))

    def numpy(self) -> NDArray[np.float32]:
        """The values as an array `[N, *latent]`."""
        array: NDArray[np.float32] = self.values.detach().cpu().numpy()
        return array

    def codes(self) -> Codes:
        """Codes of the same encoding: each value rounded to its FSQ level.

        Raises `UsageError` for a codec that has only latents.
        """
        spec = self.spec
        if spec.levels is None or not spec.codebooks:
            raise UsageError(f"{spec.model or spec.family} has only latents; its encodings have no codes.")
        n, streams, width = len(self), self.streams, (spec.latent or (1,))[-1]
        each = self.values.reshape(n, spec.steps, streams, width).movedim(2, 0)
        fsq = GroupedFSQ(spec.digits)  # of all the values, or of the first ones
        digits = each.reshape(streams, n * spec.steps, math.prod(spec.latent or ()) // spec.steps)[..., : fsq.width]
        indices = fsq.bounded_to_index(digits.detach())  # [streams, S, K]
        return Codes(indices.transpose(1, 2).reshape(streams * len(spec.codebooks), n * spec.steps), spec, self.source)

    def channels(self, channels: int = 64) -> Tensor:
        """The layout for generative models `[N, M, channels]`: ``atanh(v) / 0.8`` (roughly unit variance) for bounded latents.

        Unbounded latents are only reshaped: normalise them with their statistics. Raises `UsageError` for
        a number of channels that does not divide a chunk.
        """
        size = math.prod(self.values.shape[1:])
        if channels < 1 or size % channels:
            raise UsageError(
                f"channels got {channels}, which does not divide the {size} values of a chunk "
                f"({' x '.join(map(str, self.values.shape[1:]))}). Take a divisor such as {_divisor(size)}."
            )
        values = self.values.reshape(len(self), size // channels, channels)
        if not self.spec.bounded:
            return values
        edge = 1 - torch.finfo(torch.float32).eps
        return torch.atanh(values.clamp(-edge, edge)) / UNIT_SCALE

    @classmethod
    def from_channels(cls, values: Any, spec: CodecSpec, source: Source | None = None) -> Latents:
        """The inverse of `channels`: any `[N, M, channels]` whose M * channels are the values of a chunk.

        Raises `UsageError` for another size, or another number of chunks than `source` has (if its length is known).
        """
        values = _tensor(values, "from_channels")
        if not isinstance(spec, CodecSpec):
            raise UsageError(f"from_channels got {type(spec).__name__}, expected a CodecSpec, for example codec.spec.")
        if not bool(torch.isfinite(values.detach()).all()):  # tanh would make 1 of infinity
            raise UsageError("from_channels got values that are not finite. Check the model that made them.")
        size = math.prod(spec.latent or ())
        streams = math.prod(values.shape[1:]) // size if spec.latent else 0
        if values.ndim != 3 or values.shape[1] * values.shape[2] != streams * size or not streams:
            raise UsageError(f"from_channels got shape {tuple(values.shape)}, expected [N, M, C] with M * C = {size}.")
        if source is not None:
            _check_length(spec, source, len(values), "from_channels")
        shape = (*(spec.latent or ())[:-1], streams * (spec.latent or (1,))[-1])
        values = values.float().reshape(-1, *shape)
        return cls(torch.tanh(UNIT_SCALE * values) if spec.bounded else values, spec, source)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False, repr=False)
class Codes:
    """Discrete tokens: indices `[streams * K, S]`, int64; `scale` `[streams, N]` if loudness is coded separately.

    Takes tensors or arrays of whole numbers. Raises `UsageError` for another shape or kind, or codes out of range.
    """

    indices: Tensor
    spec: CodecSpec
    source: Source = field(default=None)  # type: ignore[assignment]  # filled in below
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        spec, k = self.spec, len(self.spec.codebooks)
        if not k:
            raise UsageError(f"{spec.model or spec.family} has no codes; its encodings are latents.")
        indices = _tensor(self.indices, "Codes")
        if indices.dtype.is_floating_point or indices.dtype.is_complex or indices.dtype == torch.bool:
            raise UsageError(f"Codes got {indices.dtype}, expected whole numbers.")
        indices = indices.to(torch.int64)
        rows = indices.shape[0] if indices.ndim == 2 else 0
        if rows not in range(k, 2 * k // spec.channels + 1, k) or indices.shape[1] % spec.steps:
            raise UsageError(
                f"Codes got shape {tuple(indices.shape)}, expected [{k}, S] with S a multiple of {spec.steps}."
            )
        sizes = torch.tensor(spec.codebooks, device=indices.device).repeat(rows // k)[:, None]
        if indices.numel() and bool(((indices < 0) | (indices >= sizes)).any()):
            raise UsageError(
                f"Codes reach from {int(indices.min())} to {int(indices.max())}, expected 0 to "
                f"{max(spec.codebooks) - 1}."
            )
        object.__setattr__(self, "indices", indices)
        if cast(Any, self.source) is None:
            object.__setattr__(self, "source", _default_source(spec, rows // k))
        self._take_scale(rows // k, indices.shape[1] // spec.steps)

    def _take_scale(self, streams: int, chunks: int) -> None:
        """Check the loudness and expand it to `[streams, chunks]`."""
        if self.scale is None:
            return
        if not self.spec.scaled:
            raise UsageError(
                f"{self.spec.model} does not code loudness separately, but Codes got a scale. Leave it out."
            )
        scale = _tensor(self.scale, "scale").float()
        if scale.ndim > 2 or (scale.ndim and scale.shape not in ((chunks,), (streams, chunks))):
            raise UsageError(f"scale got shape {tuple(scale.shape)}, expected one number or [{streams}, {chunks}].")
        object.__setattr__(self, "scale", scale.expand(streams, chunks))

    def __len__(self) -> int:
        return int(self.indices.shape[1]) // self.spec.steps

    def __getitem__(self, index: int | slice) -> Codes:
        part = _chunk_slice(index, len(self))
        steps = slice(part.start * self.spec.steps, part.stop * self.spec.steps)
        scale = None if self.scale is None else self.scale[:, part]
        return Codes(self.indices[:, steps], self.spec, _of_part(self.source, part, len(self)), scale)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Codes) or not _same(self, other) or not torch.equal(self.indices, other.indices):
            return False
        if self.scale is None or other.scale is None:
            return self.scale is other.scale
        return torch.equal(self.scale, other.scale)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return _line("Codes", self.indices, self.spec, self.seconds)

    @property
    def streams(self) -> int:
        """Number of streams on the first axis: 2 for stereo audio in a mono codec."""
        return int(self.indices.shape[0]) // len(self.spec.codebooks)

    @property
    def seconds(self) -> float:
        """Duration of the sound."""
        return _seconds(self.spec, self.source, len(self))

    @property
    def about(self) -> CodecSpec:
        """The former name of `spec`."""
        return self.spec

    @classmethod
    def join(cls, parts: Iterable[Codes], source: Source | None = None) -> Codes:
        """Consecutive parts of one encoding as one; `source` defaults to that of the first, of unknown length."""
        parts, first = _parts(cls, parts)
        scales = [part.scale for part in parts if part.scale is not None]
        return cls(
            torch.cat([part.indices for part in parts], dim=1),
            first.spec,
            source or _joined_source(parts),
            torch.cat(scales, dim=1) if scales else None,
        )

    def to(self, device: str | torch.device) -> Codes:
        """The same codes on a device."""
        scale = None if self.scale is None else self.scale.to(device)
        return dataclasses.replace(self, indices=self.indices.to(device), scale=scale)

    def numpy(self) -> NDArray[np.int64]:
        """The codes as an array `[streams * K, S]`."""
        array: NDArray[np.int64] = self.indices.cpu().numpy()
        return array

    def codes(self) -> Codes:
        """Returns itself, so that `codes()` works on latents and codes alike."""
        return self

    def latents(self) -> Latents:
        """The latents of these codes. Raises `UsageError` for a codec that has only codes."""
        spec = self.spec
        if spec.levels is None or spec.latent is None:
            raise UsageError(f"{spec.model or spec.family} has only codes, no latents.")
        n, streams = len(self), self.streams
        each = self.indices.reshape(streams, len(spec.codebooks), n, spec.steps).permute(2, 3, 0, 1)
        values = GroupedFSQ(spec.digits).index_to_bounded(each)  # [N, steps, streams, values]
        width = math.prod(spec.latent) // spec.steps  # values of codebooks that the codes lack are 0
        values = torch.nn.functional.pad(values, (0, width - values.shape[-1]))
        shape = (*spec.latent[:-1], streams * spec.latent[-1])
        return Latents(values.reshape(n, *shape), spec, self.source)


def _tensor(values: Any, what: str) -> Tensor:
    """Convert an array, a list or a tensor to a tensor. Raises `UsageError` for anything else."""
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iufb":
            raise TypeError(f"dtype {array.dtype}")
        if array.dtype.kind == "u" and array.size and int(array.max()) >= 1 << 63:
            raise TypeError("whole numbers beyond int64")
        plain = {"f": np.float32, "i": np.int64, "u": np.int64, "b": np.bool_}[array.dtype.kind]
        return torch.from_numpy(np.array(array, dtype=plain, order="C"))
    except (TypeError, ValueError) as error:
        raise UsageError(f"{what} got {type(values).__name__} ({error}), expected a tensor or an array.") from None


def _same(a: Latents | Codes, b: Latents | Codes) -> bool:
    return a.spec.space == b.spec.space and a.source == b.source


def _parts(kind: type[Value], given: Any) -> tuple[list[Value], Value]:
    """The parts to join, and the first of them. Raises `UsageError` where they do not go together."""
    parts: list[Any] = [given] if isinstance(given, kind) else list(given if isinstance(given, Iterable) else [given])
    if not parts:
        raise UsageError("There are no parts to join; give at least one.")
    for part in parts:
        if not isinstance(part, kind):
            raise UsageError(
                f"{kind.__name__}.join got {type(part).__name__} among its parts, expected {kind.__name__}."
            )
    for part in parts[1:]:
        if part.spec.space != parts[0].spec.space or part.streams != parts[0].streams:
            raise UsageError(f"Parts of {parts[0]} and of {part} cannot be joined: they differ in codec or channels.")
    return parts, parts[0]


def _joined_source(parts: Sequence[Latents] | Sequence[Codes]) -> Source:
    return parts[0].source if len(parts) == 1 else parts[0].source.of_length(None)


def _line(name: str, values: Tensor, spec: CodecSpec, seconds: float) -> str:
    shape = ", ".join(map(str, values.shape))
    return f"{name}([{shape}], {spec.model or spec.family} {spec.space[:8]}, {seconds:.3f} s)"


def _divisor(size: int) -> int:
    """A divisor near 64, for advice."""
    return max(d for d in range(1, 65) if size % d == 0)
