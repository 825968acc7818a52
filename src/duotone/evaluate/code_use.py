"""How a codec uses its codes: entropy and saturation at each position of a chunk, and whether codes stay the same.

Legend: N chunks, S steps, K codebooks, d dimensions of a code, P positions of a chunk (steps x codebooks x dimensions).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.errors import UsageError
from duotone.quant.grouped import GroupedFSQ
from duotone.spec import CodecSpec

#: Bounded values beyond this count as at the bound, where the bounding function has no slope left.
BOUND = 0.97
_FULL_SCALE = 32_768


def digits(codes: Codes) -> Tensor:
    """`[streams * N, P]` whole numbers: the FSQ level of each dimension from 0, or the code itself where a codec has no levels."""
    spec, books = codes.spec, len(codes.spec.codebooks)
    each = codes.indices.reshape(codes.streams, books, -1, spec.steps).permute(0, 2, 3, 1)  # [streams, N, steps, K]
    if spec.levels is not None:
        fsq = GroupedFSQ(spec.digits)
        half = fsq.half.to(each.device)
        each = torch.round(fsq.index_to_bounded(each) * half).long() + half
    return each.flatten(2).flatten(0, 1)


def sizes(spec: CodecSpec) -> Tensor:
    """`[P]`: how many values each position's digit has."""
    book = sum(spec.digits, ()) if spec.levels is not None else spec.codebooks
    return torch.tensor(book).repeat(spec.steps)


def entropy(codes: Iterable[Codes]) -> Tensor:
    """`[P]`: entropy of each position's digit as a share of its maximum, over all chunks of all codes.

    With the correction for few chunks of Miller 1955 (*Note on the bias of information estimates*): half of (values seen - 1) a
    chunk, in nats. Raises `UsageError` for no codes.
    """
    values = list(codes)
    if not values or not sum(map(len, values)):
        raise UsageError("The entropy of codes got no chunks. Give at least one.")
    found, most = torch.cat([digits(each) for each in values]), sizes(values[0].spec)
    n, largest = len(found), int(most.max())
    counts = torch.zeros(found.shape[1], largest, dtype=torch.float64)
    counts.scatter_add_(1, found.T, torch.ones_like(found.T, dtype=torch.float64))
    share = counts / n
    nats = -(share * share.clamp_min(1e-300).log()).sum(1) + ((counts > 0).sum(1) - 1) / (2 * n)
    return (nats / most.log()).clamp_max(1)


def saturation(latents: Iterable[Latents]) -> Tensor:
    """`[P]`: the share of a position's values beyond 0.97 of the bound, over all chunks.

    Raises `UsageError` for no latents or ones without bounds.
    """
    values = list(latents)
    if not values or not values[0].spec.bounded:
        raise UsageError("Saturation got no bounded latents. Give the latents of a codec with spec.bounded.")
    parts = []
    for each in values:
        streams = torch.stack(each.values.chunk(each.streams, dim=-1))  # [streams, N, *latent]
        parts.append(streams.flatten(2).flatten(0, 1))
    return (torch.cat(parts).abs() > BOUND).float().mean(0)


def agreement(a: Codes, b: Codes) -> dict[str, float]:
    """Shares of digits that are `equal` and, where the codec has levels, at most `within_one` apart (else NaN).

    Raises `UsageError` for different numbers of chunks.
    """
    first, second = digits(a), digits(b)
    if first.shape != second.shape:
        raise UsageError(f"The codes have {len(a)} and {len(b)} chunks, expected the same number.")
    gap = (first - second).abs()
    near = float((gap <= 1).float().mean()) if a.spec.levels is not None else math.nan
    return {"equal": float((gap == 0).float().mean()), "within_one": near}


def stability(codec: Codec, wave: Waveform, seed: int = 0) -> dict[str, dict[str, float]]:
    """`agreement` of a sound's codes with those after the sound has gone through a change, on the same grid of chunks.

    `decoded`: decoding and encoding again. `shifted`: its first chunk cut off; the next chunk, whose past is then silence, is not
    compared (absent below three chunks). `rounded`: the decoded sound rounded to 16 bits against not rounded, both encoded.
    """
    wave = wave.resample(codec.spec.rate)
    codes = codec.encode(wave).codes()
    decoded = codec.decode(codes, seed=seed)
    again = codec.encode(decoded).codes()
    rounded = (decoded.samples * _FULL_SCALE).round().clamp(-_FULL_SCALE, _FULL_SCALE - 1) / _FULL_SCALE
    out = {
        "decoded": agreement(codes, again),
        "rounded": agreement(again, codec.encode(Waveform(rounded, decoded.rate)).codes()),
    }
    if len(codes) >= 3 and wave.length > codec.spec.chunk:
        later = codec.encode(Waveform(wave.samples[:, codec.spec.chunk :].contiguous(), wave.rate)).codes()
        out["shifted"] = agreement(codes[2:], later[1:])
    return out


def use_of(codes: list[Codes], latents: list[Latents]) -> dict[str, Any]:
    """Figures of `entropy` and (for bounded latents) `saturation` over positions, as plain numbers."""
    shares = entropy(codes)
    out: dict[str, Any] = {
        "chunks": sum(map(len, codes)),
        "positions": len(shares),
        "entropy_least": float(shares.min()),
        "entropy_median": float(shares.median()),
    }
    if latents and latents[0].spec.bounded:
        at_bound = saturation(latents)
        out |= {"saturated_most": float(at_bound.max()), "saturated_mean": float(at_bound.mean())}
    return out
