"""The .duo container: round-trips, rate, streaming, damage named."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio.waveform import Waveform
from duotone.codec.container import DuoReader, DuoWriter, describe, read_duo, write_duo
from duotone.codec.crc32c import crc32c
from duotone.codec.header import Header
from duotone.codec.packing import pack_codes, pack_latents, packed_size, unpack_codes, unpack_latents
from duotone.codec.values import Codes, Latents
from duotone.errors import CodecMismatchError, FormatError, UsageError
from duotone.spec import CodecSpec, Source
from toys import TOYS, Pcm, Scaled, Toy

SPEC = CodecSpec(
    family="codicodec", model="made-up", fingerprint="00ff" * 4, space="ff00" * 4, rate=48_000, rate_out=48_000, channels=2,
    chunk=32768, behind=1024, extra=1024, steps=128, codebooks=(14641,), latent=(128, 4), levels=(11,) * 4,
    independent=True,
)  # fmt: skip


def source(chunks: int) -> Source:
    return Source(48_000, 2, chunks * 32768 - 1024)


def codes(chunks: int, seed: int = 0) -> Codes:
    generator = torch.Generator().manual_seed(seed)
    return Codes(torch.randint(14641, (1, chunks * 128), generator=generator), SPEC, source(chunks))


def packed(value: Codes | Latents) -> bytes:
    buffer = io.BytesIO()
    write_duo(buffer, value)
    return buffer.getvalue()


def test_crc32c_known_answers() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA  # RFC 3720, B.4
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")


@given(st.integers(2, 1 << 20), st.integers(0, 200), st.integers(0, 1 << 32))
def test_packing_round_trip_at_the_information(size: int, count: int, seed: int) -> None:
    values = np.random.default_rng(seed).integers(0, size, count)
    data = pack_codes(values, size)
    assert len(data) == packed_size(count, size)
    assert len(data) <= count * np.log2(size) / 8 + 1
    assert np.array_equal(unpack_codes(data, count, size), values)


def test_impossible_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        unpack_codes(b"\xff" * packed_size(3, 14641), 3, 14641)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.sampled_from(["tokens", "latents"]), st.integers(0, 99))
def test_round_trip(chunks: int, kind: str, seed: int) -> None:
    value: Codes | Latents = codes(chunks, seed)
    if kind == "latents":
        generator = torch.Generator().manual_seed(seed)
        value = Latents(torch.tanh(torch.randn(chunks, 128, 4, generator=generator)), SPEC, source(chunks))
    data = packed(value)
    again = read_duo(io.BytesIO(data))
    assert again.spec == value.spec and again.source == value.source
    if isinstance(value, Codes):
        assert isinstance(again, Codes) and torch.equal(again.indices, value.indices)
    else:
        assert isinstance(again, Latents) and (again.values - value.values).abs().max() <= 1.6e-5
        assert packed(again) == data  # what was read is written the same


def test_files_stay_within_one_percent_of_the_information() -> None:
    chunks = 600
    size = len(packed(codes(chunks)))
    information = chunks * 128 * np.log2(14641) / 8
    assert size <= 1.01 * information


def test_integers_beat_float16() -> None:
    generator = torch.Generator().manual_seed(0)
    for deviation in (0.65, 1.5):
        v = 0.999 * torch.tanh(deviation * torch.randn(100_000, generator=generator))
        ours = torch.from_numpy(unpack_latents(pack_latents(v.numpy())))
        half = v.half().float()
        assert (ours - v).abs().max() < 0.1 * (half - v).abs().max()
        z = torch.atanh(v)
        assert (torch.atanh(ours) - z).abs().mean() < 0.5 * (torch.atanh(half) - z).abs().mean()


class Pipe(io.RawIOBase):
    """Bytes that can only be read forward, a few at a time."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        out, self.data = self.data[: min(size, 100)], self.data[min(size, 100) :]
        return out


def test_unknown_length_through_a_pipe() -> None:
    value = codes(6)
    unknown = value.source.of_length(None)
    buffer = io.BytesIO()
    with DuoWriter(buffer, SPEC, unknown) as writer:
        for i in range(6):
            piece = value.indices[:, i * 128 : (i + 1) * 128]
            writer.write(Codes(piece, SPEC, unknown))
            if i == 2:
                writer.flush()
        writer.finish(value.source)
    with DuoReader(Pipe(buffer.getvalue())) as reader:  # type: ignore[arg-type]
        assert reader.source.samples is None
        pieces = list(reader)
        assert reader.source == value.source and reader.complete
    assert torch.equal(torch.cat([p.indices for p in pieces], dim=1), value.indices)  # type: ignore[union-attr]


def test_writing_is_atomic(tmp_path: Path) -> None:
    target = tmp_path / "a.duo"
    with pytest.raises(RuntimeError), DuoWriter(target, SPEC, source(1)) as writer:
        writer.write(codes(1))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    write_duo(target, codes(1))
    assert [p.name for p in tmp_path.iterdir()] == ["a.duo"]


def test_damage_is_named_and_salvaged() -> None:
    value = codes(12)
    data = bytearray(packed(value))
    start = len(data) - 29 - 3 * 891
    data[start + 891 + 100] ^= 4  # inside the second record: chunks 4 to 7
    with pytest.raises(FormatError, match=r"chunks 4 to 7 \(2.73 s to 5.46 s\)") as caught:
        read_duo(io.BytesIO(bytes(data)))
    assert "--salvage" in str(caught.value)
    with DuoReader(io.BytesIO(bytes(data)), salvage=True) as reader:
        pieces = list(reader)
        assert reader.lost == {4, 5, 6, 7}
    joined = torch.cat([p.indices for p in pieces], dim=1)  # type: ignore[union-attr]
    assert torch.equal(joined[:, : 4 * 128], value.indices[:, : 4 * 128])
    assert torch.equal(joined[:, 8 * 128 :], value.indices[:, 8 * 128 :])
    assert (joined[:, 4 * 128 : 8 * 128] == 7320).all()  # the middle of every level


@pytest.mark.parametrize("change", ["inserted", "missing", "swapped", "doubled"])
def test_records_after_shifted_bytes_are_found_again(change: str) -> None:
    value = codes(16)
    data = packed(value)
    start = len(data) - 29 - 4 * 891
    first, second = start + 891, start + 2 * 891
    broken = {
        "inserted": data[:first] + b"garbage!" + data[first:],
        "missing": data[: first + 10] + data[first + 30 :],
        "swapped": data[:first] + data[second : second + 891] + data[first:second] + data[second + 891 :],
        "doubled": data[:second] + data[first:],
    }[change]
    with pytest.raises(FormatError):
        read_duo(io.BytesIO(broken))
    with DuoReader(io.BytesIO(broken), salvage=True) as reader:
        pieces = list(reader)
        lost = reader.lost
        assert reader.complete and reader.damage
    joined = torch.cat([p.indices for p in pieces], dim=1)  # type: ignore[union-attr]
    assert joined.shape == value.indices.shape
    for chunk in set(range(16)) - lost:
        part = slice(chunk * 128, (chunk + 1) * 128)
        assert torch.equal(joined[:, part], value.indices[:, part])
    assert len(lost) <= 8


def test_cut_files(tmp_path: Path) -> None:
    data = packed(codes(12))
    with pytest.raises(FormatError, match="salvage"):
        read_duo(io.BytesIO(data[:-29]))
    again = read_duo(io.BytesIO(data[:-29]), salvage=True)
    assert len(again) == 12
    (tmp_path / "cut.duo").write_bytes(data[:-500])
    info = describe(tmp_path / "cut.duo")
    assert info.damage and info.kind == "tokens"


def test_describe_measures_real_bytes(tmp_path: Path) -> None:
    size = write_duo(tmp_path / "a.duo", codes(40))
    info = describe(tmp_path / "a.duo")
    assert info.bytes == size == (tmp_path / "a.duo").stat().st_size
    assert info.kbit_per_second == pytest.approx(size * 8 / (40 * 32768 - 1024) * 48, rel=1e-6)
    assert 2.5 < info.information_kbit_per_second < 2.7 and not info.damage


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"not a \.duo"):
        read_duo(io.BytesIO(b"RIFF....WAVEfmt "))
    with pytest.raises(FormatError, match="not there"):
        read_duo(tmp_path / "missing.duo")
    data = packed(codes(1))
    with pytest.raises(FormatError, match="version 9"):
        read_duo(io.BytesIO(data[:8] + b"\x09" + data[9:]))
    with pytest.raises(FormatError, match="claims"):
        read_duo(io.BytesIO(data[:10] + b"\xff\xff\xff\x7f" + data[14:]))
    with pytest.raises(UsageError, match="holds tokens"):
        DuoWriter(io.BytesIO(), SPEC, source(1)).write(codes(1).latents())
    with pytest.raises(UsageError, match="not finite"):
        write_duo(io.BytesIO(), Latents(torch.full((1, 128, 4), float("nan")), SPEC))


def test_two_files_in_a_row_are_told_of() -> None:
    data = packed(codes(2))
    with pytest.raises(FormatError, match="joined"):
        read_duo(io.BytesIO(data + data))
    assert read_duo(io.BytesIO(data + data), salvage=True) == codes(2)


def test_codes_of_another_codec_are_refused() -> None:
    other = Codes(codes(1).indices, replace(SPEC, fingerprint="abcd"), source(1))
    with pytest.raises(CodecMismatchError, match="abcd"), DuoWriter(io.BytesIO(), SPEC, source(1)) as writer:
        writer.write(other)


def test_codes_of_no_length_last_as_long_as_they_decode() -> None:
    value = Codes(codes(3).indices, SPEC)
    buffer = io.BytesIO()
    write_duo(buffer, value)
    told = describe(io.BytesIO(buffer.getvalue()))
    assert told.seconds == pytest.approx((3 * 32768 - 1024) / 48_000) and 2 < told.kbit_per_second < 6
    assert read_duo(io.BytesIO(buffer.getvalue())).source.samples is None


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.__name__)
@settings(max_examples=10, deadline=None)
@given(st.integers(1, 1500), st.sampled_from([1, 2]), st.booleans())
def test_every_shape_of_codec_round_trips(toy: type[Toy], samples: int, channels: int, rounded: bool) -> None:
    codec = toy()
    value = codec.encode(Waveform(torch.rand(channels, samples) - 0.5, codec.rate))
    value = value.codes() if rounded and len(codec.spec.faces) == 2 else value
    again = read_duo(io.BytesIO(packed(value)))
    assert again.spec == codec.spec and again.source == value.source and len(again) == len(value)
    if isinstance(value, Codes):
        assert again == value
    else:
        assert isinstance(again, Latents) and torch.allclose(again.values, value.values, rtol=1e-3, atol=2e-5)


@given(st.lists(st.integers(2, 1 << 20), min_size=1, max_size=6), st.integers(0, 40), st.integers(0, 1 << 32))
def test_mixed_radix_round_trip_at_the_information(sizes: list[int], turns: int, seed: int) -> None:
    rng, turn = np.random.default_rng(seed), tuple(sizes)
    values = np.array([rng.integers(0, size) for _ in range(turns) for size in turn], np.int64)
    data = pack_codes(values, turn)
    assert len(data) == packed_size(len(values), turn) <= turns * np.log2(np.array(turn, float)).sum() / 8 + 1
    assert np.array_equal(unpack_codes(data, len(values), turn), values)


def test_headers_of_impossible_sizes_are_refused() -> None:
    for change in ({"codebooks": (1 << 40,) * 900, "levels": None, "latent": None, "steps": 60_000},
                   {"levels": (4, 4), "codebooks": (16,)}, {"levels": (3, 3)}, {"chunk": 1 << 30}):  # fmt: skip
        header = Header("tokens", replace(SPEC, **change), Source(48_000, 2, 9), 4)  # type: ignore[arg-type]
        with pytest.raises(FormatError, match="not valid"):
            read_duo(io.BytesIO(header.to_bytes()))


def test_a_loudness_is_written_or_missed() -> None:
    value = Scaled().encode(Waveform(torch.rand(2, 900), 24_000))
    with pytest.raises(UsageError, match="loudness separately"):
        write_duo(io.BytesIO(), Codes(value.indices, value.spec, value.source))


@pytest.mark.parametrize("toy", [Pcm, Scaled], ids=["pcm", "scaled"])
def test_damage_in_records_of_many_chunks_costs_little(toy: type[Toy]) -> None:
    """Small chunks share long records; the place of a record is read from its checksum, not tried."""
    codec = toy()
    value = codec.encode(Waveform(torch.rand(2, 20 * codec.spec.rate) - 0.5, codec.rate))
    data = bytearray(packed(value))
    data[len(data) // 2] ^= 16
    with DuoReader(io.BytesIO(bytes(data)), salvage=True) as reader:
        pieces = list(reader)
        lost = reader.lost
        assert 0 < len(lost) <= reader.header.chunks_per_record and len(reader.damage) == 1
    joined = type(pieces[0]).join(pieces)  # type: ignore[arg-type]
    assert isinstance(joined, Codes) and len(joined) == len(value)
    kept = [i for i in range(len(value)) if i not in lost]
    steps = [i * codec.spec.steps for i in kept]
    assert torch.equal(joined.indices[:, steps], value.indices[:, steps])
