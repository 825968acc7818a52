"""Random damage to a .duo: always an error of ours or a salvage whose kept chunks are right; never anything else."""

from __future__ import annotations

import contextlib
import dataclasses
import io

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.codec.container import DuoReader, read_duo, write_duo
from duotone.codec.header import Header
from duotone.codec.values import Codes
from duotone.errors import FormatError
from duotone.spec import CodecSpec, Source

CHUNKS, LATENTS = 14, 8
SPEC = CodecSpec(
    family="codicodec", model="m", fingerprint="ab12", space="12ab", rate=48_000, rate_out=48_000, channels=2, chunk=512,
    behind=64, extra=64, steps=LATENTS, codebooks=(121,), latent=(LATENTS, 2), levels=(11, 11), independent=True,
)  # fmt: skip
SOURCE = Source(44_100, 1, 6526)
VALUE = Codes(torch.randint(121, (1, CHUNKS * LATENTS), generator=torch.Generator().manual_seed(0)), SPEC, SOURCE)
#: Slow digits, which version 3 codes in fewer bytes.
SLOW = Codes(torch.arange(CHUNKS * LATENTS)[None] // 9 % 3 * 12, SPEC, SOURCE)


def packed(value: Codes, compact: bool) -> bytes:
    buffer = io.BytesIO()
    write_duo(buffer, value, compact=compact)
    return buffer.getvalue()


DATA = packed(VALUE, False)
#: Files by value: version 2, version 3, and version 3 with coded records.
FILES = ((VALUE, DATA), (VALUE, packed(VALUE, True)), (SLOW, packed(SLOW, True)))

place = st.integers(0, len(DATA) - 1)
edits = st.lists(
    st.one_of(
        st.tuples(st.just("flip"), place, st.integers(0, 7)),
        st.tuples(st.just("cut"), place, st.just(0)),
        st.tuples(st.just("insert"), place, st.binary(min_size=1, max_size=40)),
        st.tuples(st.just("delete"), place, st.integers(1, 60)),
        st.tuples(st.just("double"), place, st.integers(1, 60)),
    ),
    min_size=1,
    max_size=4,
)


def apply(data: bytes, changes: list[tuple[str, int, object]]) -> bytes:
    for kind, at, how in changes:
        at = min(at, max(0, len(data) - 1))
        if kind == "flip" and data:
            data = data[:at] + bytes([data[at] ^ (1 << int(how))]) + data[at + 1 :]  # type: ignore[call-overload]
        elif kind == "cut":
            data = data[:at]
        elif kind == "insert":
            data = data[:at] + how + data[at:]  # type: ignore[operator]
        elif kind == "delete":
            data = data[:at] + data[at + how :]  # type: ignore[operator]
        elif kind == "double":
            data = data[: at + how] + data[at:]  # type: ignore[operator]
    return data


damages = given(edits, st.sampled_from(FILES))


@settings(max_examples=150)
@damages
def test_damage_is_an_error_or_a_salvage(changes: list[tuple[str, int, object]], file: tuple[Codes, bytes]) -> None:
    check(changes, *file)


@pytest.mark.long
@settings(max_examples=2000)
@damages
def test_much_damage_is_an_error_or_a_salvage(
    changes: list[tuple[str, int, object]], file: tuple[Codes, bytes]
) -> None:
    check(changes, *file)


def check(changes: list[tuple[str, int, object]], value: Codes, data: bytes) -> None:
    """What the reader gives of a damaged file is right, or an error of ours."""
    broken = apply(data, changes)
    try:
        whole = read_duo(io.BytesIO(broken))
    except FormatError as error:
        assert str(error)
    else:
        assert isinstance(whole, Codes) and torch.equal(whole.indices, value.indices)
    try:
        with DuoReader(io.BytesIO(broken), salvage=True) as reader:
            pieces = list(reader)
            lost = reader.lost
    except FormatError:
        return
    joined = torch.cat([torch.zeros(1, 0, dtype=torch.int64), *(p.indices for p in pieces)], dim=1)  # type: ignore[union-attr]
    for chunk in range(min(CHUNKS, joined.shape[1] // LATENTS)):
        part = slice(chunk * LATENTS, (chunk + 1) * LATENTS)
        assert chunk in lost or torch.equal(joined[:, part], value.indices[:, part])


@settings(max_examples=15)  # a search for what can be salvaged may take a second
@given(st.binary(max_size=300))
def test_arbitrary_bytes(data: bytes) -> None:
    read_after_beginnings(data)


@pytest.mark.long
@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_many_arbitrary_bytes(data: bytes) -> None:
    read_after_beginnings(data)


def read_after_beginnings(data: bytes) -> None:
    for salvage in (False, True):
        for start in (b"", DATA[:8], DATA[:-60], FILES[2][1][:-50]):
            with contextlib.suppress(FormatError):
                read_duo(io.BytesIO(start + data), salvage=salvage)


def test_a_header_that_claims_endless_steps_of_no_bits_is_refused() -> None:
    """Codebooks of one code: without bits no limit on bits would stop a record of any number of codes."""
    spec = dataclasses.replace(SPEC, codebooks=(1,), levels=None, latent=None, steps=1 << 39)
    head = Header("tokens", spec, SOURCE, 1).to_bytes()
    with pytest.raises(FormatError, match="codebooks of sizes"):
        read_duo(io.BytesIO(head), salvage=True)
