"""`CodecSpec` describes a codec and its encodings, `Source` the audio that was encoded. Plain values; imports no torch.

How n samples are divided into chunks (here behind = 2, chunk = 6, ahead = 1)::

    samples        ..0123456789..        zeros before the beginning and after the end
    chunk 0      [bb|cccccc|a]           sees `behind` samples before its own, and `ahead` after them
    chunk 1            [bb|cccccc|a]

Chunk i covers the samples from ``i * chunk`` on. There are ``ceil((n + extra) / chunk)`` chunks: `extra` is the number of
samples after the last one that must also be covered, so that it can be decoded.

Legend: N chunks, K codebooks, S steps.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from typing import Any, Literal

from duotone.errors import FormatError, UsageError

Framing = Literal["exact", "published"]
Face = Literal["latents", "tokens"]

#: The number format that encodings are made in unless the caller asks for another.
ENCODING_FORMAT = "float32"
#: Bounded latents v are shown to generative models as ``atanh(v) / UNIT_SCALE``, which has about unit deviation.
UNIT_SCALE = 0.8
#: In files, tuples longer than this are written as runs; and no tuple may have more values than this.
_LONG, _MOST = 40, 4096


@dataclass(frozen=True)
class CodecSpec:
    """A codec's identity, its division of time into chunks and steps, the shapes of its latents and codes, and what it can do."""

    family: str  #: codicodec, lycodec, encodec, mimi, ...
    model: str  #: the name of the weights
    fingerprint: str  #: hash of the configuration and all weights: provenance
    space: str  #: hash of what decides latents and codes (encoder and quantiser): what files and models check
    rate: int  #: samples a second that the encoder takes
    rate_out: int  #: samples a second that the decoder gives
    channels: int  #: channels of a stream; a codec of one codes each channel of a stereo sound as a stream of its own
    chunk: int  #: samples that a chunk advances
    behind: int = 0  #: samples before its own that a chunk sees
    ahead: int = 0  #: samples after its own that a chunk sees
    extra: int = 0  #: n samples make ceil((n + extra) / chunk) chunks
    steps: int = 1  #: steps of codes a chunk
    codebooks: tuple[int, ...] = ()  #: size of each codebook; empty: no tokens
    latent: tuple[int, ...] | None = None  #: shape of a chunk's latents; None: no latents
    levels: tuple[int, ...] | None = None  #: FSQ levels, where tokens are rounded latents
    bounded: bool = True  #: whether latents lie in (-1, 1)
    scaled: bool = False  #: whether loudness is coded apart, a number a chunk
    independent: bool = False  #: whether each chunk is encoded from its own samples alone
    strategies: tuple[str, ...] = ()  #: ways of decoding; empty: one, without a name
    seeded: bool = False  #: whether decoding draws noise from a seed
    live: bool = False  #: whether decoding gives a chunk's samples as soon as the chunk is pushed

    @property
    def faces(self) -> tuple[Face, ...]:
        """Which encodings the codec has: tokens, latents, or both."""
        faces: list[Face] = ["latents"] if self.latent is not None else []
        return (*faces, *(["tokens"] if self.codebooks else []))  # type: ignore[arg-type]

    def chunks(self, samples: int) -> int:
        """Number of chunks (at least one) for this number of samples at `rate`."""
        return max(1, -(-(samples + self.extra) // self.chunk))

    def samples(self, chunks: int) -> int:
        """Maximum number of samples at `rate` that this number of chunks decodes to."""
        return max(0, chunks * self.chunk + (self.ahead if self.extra < 0 else -self.extra))

    @property
    def framings(self) -> tuple[Framing, ...]:
        """The framings of the codec: *exact*, and of CoDiCodec with convolutions *published*."""
        known = self.family == "codicodec" and self.behind == self.extra  # the bands frontend has other windows
        return ("exact", "published") if known else ("exact",)

    def framed(self, framing: Framing) -> CodecSpec:
        """The spec under a framing. *published* frames the audio as the published package of CoDiCodec does.

        There, frame i starts at sample ``i * hop`` and only complete frames are used: n samples have ``n // hop - 1`` frames.
        Raises `UsageError` for a codec without this framing.
        """
        if framing == "exact":
            return self
        if framing not in self.framings:
            known = len(self.framings) > 1
            raise UsageError(
                f"framing got {framing!r}, expected 'exact'"
                + (" or 'published'." if known else f" (the only framing of {self.model or self.family}).")
            )
        hop = self.extra
        return dataclasses.replace(self, behind=0, ahead=hop, extra=1 - 2 * hop)

    @property
    def chunk_seconds(self) -> float:
        """Duration of a chunk."""
        return self.chunk / self.rate

    @property
    def steps_per_second(self) -> float:
        """Steps per second: the frame rate of tokenizers and language models."""
        return self.steps * self.rate / self.chunk

    @property
    def tokens_per_second(self) -> float:
        """Codes per second, over all codebooks of a stream."""
        return self.steps_per_second * len(self.codebooks)

    @property
    def bits_per_chunk(self) -> float:
        """Information in one chunk's codes of one stream, in bits."""
        return self.steps * sum(math.log2(size) for size in self.codebooks)

    @property
    def bit_rate(self) -> float:
        """Information in one stream's codes, in bits per second."""
        return self.bits_per_chunk / self.chunk_seconds

    @property
    def digits(self) -> tuple[tuple[int, ...], ...]:
        """FSQ levels of the values that each codebook's codes are made of.

        A codebook takes the next of `levels`, as many as multiply to its size; after the last comes the first again.
        Raises `ValueError` where levels and codebooks do not fit.
        """
        return _digits(self.levels or (), self.codebooks)

    def grid(self) -> dict[str, Any]:
        """The fields, besides the weights, that the values of an encoding depend on."""
        names = ("rate", "rate_out", "channels", "chunk", "steps", "codebooks", "latent", "levels", "scaled")
        return {name: getattr(self, name) for name in names}

    def to_dict(self, short: bool = False) -> dict[str, Any]:
        """As plain JSON values; `short` leaves out the fields that have their defaults."""
        fields = [f for f in dataclasses.fields(self) if not (short and getattr(self, f.name) == f.default)]
        values = {f.name: getattr(self, f.name) for f in fields}
        return {k: (_runs(v) if short else list(v)) if isinstance(v, tuple) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: str = "The description of a codec") -> CodecSpec:
        """The inverse of `to_dict`; fields of later versions are left out. Raises `FormatError` naming what is wrong."""
        try:
            names = {field.name for field in dataclasses.fields(cls)}
            known: dict[str, Any] = {
                k: _plain(v) if isinstance(v, list) else v for k, v in values.items() if k in names
            }
            spec = cls(**known)
            spec._check()
        except (TypeError, ValueError, AttributeError) as error:
            raise FormatError(f"{where} is not valid: {error}.") from None
        return spec

    def _check(self) -> None:
        whole = {
            "rate": self.rate, "rate_out": self.rate_out, "channels": self.channels, "chunk": self.chunk,
            "steps": self.steps,
            **{f"codebooks[{i}]": size for i, size in enumerate(self.codebooks)},
            **{f"latent[{i}]": size for i, size in enumerate(self.latent or ())},
            **{f"levels[{i}]": size for i, size in enumerate(self.levels or ())},
        }  # fmt: skip
        for name, value in whole.items():
            if type(value) is not int or not 1 <= value < 1 << 40:
                raise ValueError(f"{name} is {value!r}, expected a whole number above 0")
        for name in ("behind", "ahead", "extra"):
            value = getattr(self, name)
            if type(value) is not int or abs(value) >= 1 << 40:
                raise ValueError(f"{name} is {value!r}, expected a whole number")
        for name in ("family", "model", "fingerprint", "space"):
            if not isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected text")
        for name in ("bounded", "scaled", "independent", "seeded", "live"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected true or false")
        if not self.codebooks and self.latent is None:
            raise ValueError("it has neither codebooks nor latents")
        if self.channels > 2 or not all(isinstance(name, str) for name in self.strategies):
            raise ValueError("channels or strategies cannot be used")


def _runs(values: tuple[Any, ...]) -> list[Any]:
    """A long tuple as pairs of a value and how often it stands there; a short one as it is."""
    if len(values) <= _LONG:
        return list(values)
    return [[value, len(list(same))] for value, same in groupby(values)]


def _plain(values: list[Any]) -> tuple[Any, ...]:
    """The inverse of `_runs`. Raises `ValueError` for more than `_MOST` values."""
    if not any(isinstance(value, list) for value in values):
        return tuple(values)
    counts = [count for _, count in values]
    if any(type(count) is not int or count < 1 for count in counts) or sum(counts) > _MOST:
        raise ValueError(f"{len(values)} runs have more than {_MOST} values together, or an empty run")
    return tuple(value for value, count in values for _ in range(count))


@lru_cache(maxsize=64)
def _digits(levels: tuple[int, ...], codebooks: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    taken, out = 0, []
    for size in codebooks:
        own: list[int] = []
        while math.prod(own) < size and levels:
            own.append(levels[taken % len(levels)])
            taken += 1
        if math.prod(own) != size:
            raise ValueError(f"a codebook of {size} is not a product of levels {levels[:8]}")
        out.append(tuple(own))
    return tuple(out)


@dataclass(frozen=True)
class Source:
    """The audio that was encoded: rate, channels, length; and how: framing, number format of the encoder."""

    rate: int
    channels: int
    samples: int | None = None  #: a channel; None while it is not known
    framing: Framing = "exact"
    format: str = ENCODING_FORMAT  #: number format of the encoder: float32, bfloat16, float16

    def at(self, rate: int) -> int | None:
        """Number of samples after resampling to another rate (at least one); None if not known yet."""
        return None if self.samples is None else max(1, round(self.samples * rate / self.rate))

    @property
    def seconds(self) -> float | None:
        """Duration in seconds; None if not known yet."""
        return None if self.samples is None else self.samples / self.rate

    def of_length(self, samples: int | None) -> Source:
        """The same source with another length."""
        return dataclasses.replace(self, samples=samples)
