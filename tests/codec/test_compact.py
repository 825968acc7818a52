"""Compact `.duo` files: adaptive coding loses nothing, is the same with and without the kernel, and damage stays where it is."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from duotone.audio.synth import synthesize
from duotone.codec import adaptive
from duotone.codec.container import DuoReader, DuoWriter, describe, read_duo, write_duo
from duotone.codec.duofile import RecordReader
from duotone.codec.header import SIZE
from duotone.codec.values import Codes
from duotone.errors import FormatError, UsageError
from duotone.hub import load
from duotone.nn import native
from duotone.spec import CodecSpec, Source
from toys import Features, Pcm, Scaled

SPEC = CodecSpec(
    family="codicodec", model="made-up", fingerprint="00ff" * 4, space="ff00" * 4, rate=48_000, rate_out=48_000, channels=2,
    chunk=32768, behind=1024, extra=1024, steps=128, codebooks=(14641,), latent=(128, 4), levels=(11,) * 4,
    independent=True,
)  # fmt: skip


def walk(count: int, period: int, levels: int, seed: int, step: int = 1) -> NDArray[np.int64]:
    """Values that go at most `step` levels up or down from token to token."""
    rng = np.random.default_rng(seed)
    steps = rng.integers(-step, step + 1, (-(-count // period), period))
    values: NDArray[np.int64] = np.clip(np.cumsum(steps, 0) + levels // 2, 0, levels - 1).reshape(-1)[:count]
    return values


def codes(chunks: int, seed: int = 0, lag: int = 4) -> Codes:
    """Codes that resemble those `lag` codes before."""
    digits = walk(chunks * 512, 4 * lag, 11, seed).reshape(-1, 4)
    return Codes(torch.from_numpy(digits @ 11 ** np.arange(4))[None], SPEC, Source(48_000, 2, chunks * 32768 - 1024))


def packed(value: Codes, compact: bool = True) -> bytes:
    buffer = io.BytesIO()
    assert write_duo(buffer, value, compact=compact) == len(buffer.getvalue())
    return buffer.getvalue()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 300), st.integers(1, 40), st.integers(1, 255), st.integers(0, 3), st.integers(0, 1 << 30))
def test_nothing_is_lost_and_the_kernel_gives_the_same_bytes(
    count: int, period: int, levels: int, step: int, seed: int
) -> None:
    values = walk(count, period, levels, seed, step * levels // 3)
    data = adaptive.plain_encode(values.tolist(), period, levels)
    assert adaptive.encode(values, period, levels) == data
    found, read = adaptive.plain_decode(data, count, period, levels)
    assert np.array_equal(found, values) and read >= len(data)
    assert np.array_equal(adaptive.decode(data, count, period, levels), values)


@pytest.mark.parametrize("values", [[5] * 4000, [0, 10] * 2000, [0] * 1999 + [10] * 2001])
def test_extreme_values(values: list[int]) -> None:
    data = adaptive.plain_encode(values, 3, 11)
    assert adaptive.encode(np.array(values), 3, 11) == data
    assert adaptive.decode(data, len(values), 3, 11).tolist() == values


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=60), st.integers(1, 90), st.integers(1, 9), st.sampled_from([1, 2, 3, 11, 255]))
def test_any_bytes_are_values_or_refused_the_same_with_and_without_the_kernel(
    data: bytes, count: int, period: int, levels: int
) -> None:
    values, read = adaptive.plain_decode(data, count, period, levels)
    if read < len(data):
        with pytest.raises(ValueError, match="something else"):
            adaptive.decode(data, count, period, levels)
    else:
        assert np.array_equal(adaptive.decode(data, count, period, levels), values) and values.max() < levels


def test_it_works_without_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    data = packed(codes(3))
    monkeypatch.setattr(native, "library", lambda: None)
    assert packed(codes(3)) == data and read_duo(io.BytesIO(data)) == codes(3)


def test_distributions_are_whole_and_their_sums_fit() -> None:
    for levels in (1, 2, 11, 255):
        found = adaptive.tables(levels)
        assert (np.diff(found.cumulative.astype(np.int64), axis=-1) > 0).all()
        assert found.cumulative.max() < 1 << 16 and (np.diff(found.bounds) > 0).all()
    row = adaptive.tables(11).cumulative[8, 5]
    even = np.diff(row.astype(np.int64)) - (row[1] - row[0])  # less the share that every level has
    mean = float((even * np.abs(np.arange(11) - 5)).sum() / even.sum())
    assert mean == pytest.approx(adaptive.NARROWEST * adaptive.WIDER**8, rel=0.03)


@pytest.mark.parametrize("lag", [1, 4, 32])
def test_resemblance_is_found_at_any_distance(lag: int) -> None:
    value = codes(8, lag=lag)
    data = packed(value)
    assert read_duo(io.BytesIO(data)) == value and len(data) < 0.75 * len(packed(value, False))


def test_codes_without_resemblance_cost_three_bytes_a_record() -> None:
    noise = Codes(
        torch.randint(14641, (1, 8 * 128), generator=torch.Generator().manual_seed(1)), SPEC, Source(48_000, 2, None)
    )
    assert len(packed(noise)) == len(packed(noise, False)) + 2 * 3 and read_duo(io.BytesIO(packed(noise))) == noise


def test_codes_of_the_bundled_codec_take_at_least_8_percent_less(tmp_path: Path) -> None:
    codec = load("tiny")
    value = codec.encode(synthesize(11, 8.0)).codes()
    sizes = [write_duo(tmp_path / f"{compact}.duo", value, compact=compact) for compact in (False, True)]
    assert sizes[1] < 0.92 * sizes[0]
    assert read_duo(tmp_path / "True.duo") == read_duo(tmp_path / "False.duo") == value
    found = describe(tmp_path / "True.duo")
    assert (found.version, found.chunks, found.bytes, found.damage) == (3, len(value), sizes[1], ())


def test_live_records_of_a_chunk(tmp_path: Path) -> None:
    value = codes(5)
    buffer = io.BytesIO()
    with DuoWriter(buffer, SPEC, value.source, compact=True) as writer:
        for i in range(5):
            writer.write(Codes(value.indices[:, i * 128 : (i + 1) * 128], SPEC, value.source))
            writer.flush()
        writer.finish()
    assert read_duo(io.BytesIO(buffer.getvalue())) == value


def starts(data: bytes) -> list[int]:
    """Offsets of the records."""
    reader = RecordReader(io.BytesIO(data))
    found, at = [], data.index(bytes([4]) + reader.bytes.peek(8)[1:])
    while data[at]:
        found.append(at)
        at += 1 + SIZE.size + SIZE.unpack(data[at + 1 : at + 1 + SIZE.size])[0] + 4
    return found


@pytest.mark.parametrize("place", ["count", "size", "lag", "codes", "checksum"])
def test_damage_costs_the_record_it_is_in(place: str) -> None:
    value = codes(12)
    data = bytearray(packed(value))
    first, second, third = starts(bytes(data))
    data[
        {"count": second, "size": second + 1, "lag": second + 3, "codes": second + 40, "checksum": third - 1}[place]
    ] ^= 2
    with pytest.raises(FormatError, match="chunks 4 to 7"):
        read_duo(io.BytesIO(bytes(data)))
    with DuoReader(io.BytesIO(bytes(data)), salvage=True) as reader:
        joined = torch.cat([piece.indices for piece in reader], 1)  # type: ignore[union-attr]
        assert reader.lost == {4, 5, 6, 7} and reader.complete
    assert joined.shape == value.indices.shape and first < second
    for part in (slice(0, 512), slice(1024, None)):
        assert torch.equal(joined[:, part], value.indices[:, part])


@pytest.mark.parametrize("change", ["inserted", "missing", "doubled", "silence"])
def test_records_after_shifted_bytes_are_found_again(change: str) -> None:
    """Also where the lost bytes held many more records than usual (silence)."""
    value = codes(40)
    if change == "silence":
        value = Codes(torch.full_like(value.indices, 7320), SPEC, value.source)
    data = packed(value)
    at = starts(data)
    broken = {
        "inserted": data[: at[1]] + b"garbage!" + data[at[1] :],
        "missing": data[: at[1] + 10] + data[at[1] + 30 :],
        "doubled": data[: at[3]] + data[at[2] :],
        "silence": data[: at[1]] + data[at[7] :],
    }[change]
    with DuoReader(io.BytesIO(broken), salvage=True) as reader:
        joined = torch.cat([piece.indices for piece in reader], 1)  # type: ignore[union-attr]
        lost = reader.lost
    assert reader.complete and reader.damage and joined.shape == value.indices.shape
    assert len(lost) <= {"silence": 28}.get(change, 4)
    for chunk in set(range(40)) - lost:
        part = slice(chunk * 128, (chunk + 1) * 128)
        assert torch.equal(joined[:, part], value.indices[:, part])


def test_cut_files() -> None:
    data = packed(codes(12))
    with pytest.raises(FormatError, match="cut off"):
        read_duo(io.BytesIO(data[:-29]))
    assert len(read_duo(io.BytesIO(data[:-29]), salvage=True)) == 12
    assert len(read_duo(io.BytesIO(data[:-60]), salvage=True)) == 12  # the last record's chunks are filled in


def test_what_cannot_be_compact_is_refused(tmp_path: Path) -> None:
    uneven = replace(SPEC, levels=(11, 13), codebooks=(143,), latent=(128, 2))
    for spec in (Pcm.spec, Scaled.spec, Features.spec, uneven):
        with pytest.raises(UsageError, match="without compact"):
            DuoWriter(tmp_path / "x.duo", spec, compact=True)
    with pytest.raises(UsageError, match="without compact"):
        DuoWriter(tmp_path / "x.duo", SPEC, kind="latents", compact=True)
    assert not list(tmp_path.iterdir())


def test_impossible_records_are_refused() -> None:
    header = RecordReader(io.BytesIO(packed(codes(1)))).header
    assert header.version == 3
    with pytest.raises(ValueError, match="something else"):
        header.unpack(0, 1, SIZE.pack(900) + bytes([4]) + bytes(range(1, 250)) * 4)
