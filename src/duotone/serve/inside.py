"""What is inside a `.duo`, as numbers for a picture: codes, their digits, and latents.

Legend: N chunks, K codebooks (times streams), S steps, M columns of a chunk.
"""

from __future__ import annotations

import math
from typing import Any, BinaryIO

import numpy as np

from duotone.codec.container import DuoReader
from duotone.codec.values import Codes, Latents
from duotone.errors import UsageError
from duotone.spec import CodecSpec

#: Chunks that one request may ask for.
MOST_CHUNKS = 256
#: Rows of a picture of latents: the most that divides the values of a chunk.
_ROWS = 64


def inside(file: BinaryIO, start: int, chunks: int) -> dict[str, Any]:
    """Codes `[K, S]` and latents `[N * M, channels]` of chunks from `start` on; what a file does not hold and cannot give is None.

    Tokens give the latents that they are decoded from, latents the tokens that they are rounded to, where the codec has both.
    Raises `FormatError` for a damaged file, `UsageError` for a start beyond its end.
    """
    pieces: list[Latents | Codes] = []
    with DuoReader(file) as reader:
        spec, kind, at = reader.spec, reader.header.kind, 0
        for value in reader:
            first, last = max(0, start - at), min(len(value), start + chunks - at)
            if first < last:
                pieces.append(value[first:last])
            at += len(value)
            if at >= start + chunks:
                break
    if not pieces:
        raise UsageError(f"start got {start}, expected less than the {at} chunks of the .duo.")
    value = type(pieces[0]).join(pieces)  # type: ignore[arg-type]
    tokens = value if isinstance(value, Codes) else (value.codes() if spec.codebooks and spec.levels else None)
    latents = value if isinstance(value, Latents) else (value.latents() if spec.latent and spec.levels else None)
    return {
        "kind": kind, "start": start, "chunks": len(value), "chunk_seconds": spec.chunk_seconds,
        "codes": None if tokens is None else _codes(tokens), "latents": None if latents is None else _latents(latents),
    }  # fmt: skip


def digits(spec: CodecSpec) -> list[list[int]] | None:
    """The FSQ levels of each codebook's codes; None where codes have none."""
    return [list(each) for each in spec.digits] if spec.levels else None


def columns(spec: CodecSpec) -> int | None:
    """Columns of a chunk in a picture of its latents; None without latents."""
    size = math.prod(spec.latent or (0,))
    return None if size == 0 else size // next(count for count in range(min(_ROWS, size), 0, -1) if size % count == 0)


def _codes(value: Codes) -> dict[str, Any]:
    spec = value.spec
    return {
        "steps": spec.steps, "sizes": list(spec.codebooks), "streams": value.streams, "digits": digits(spec),
        "values": value.numpy().tolist(),
    }  # fmt: skip


def _latents(value: Latents) -> dict[str, Any]:
    spec, each = value.spec, columns(value.spec)
    assert each is not None  # there are latents
    rows = math.prod(spec.latent or ()) // each
    found = value.channels(rows).reshape(-1, rows).numpy()
    return {"rows": rows, "columns": each, "values": np.round(found.astype(np.float64), 3).tolist()}
