"""Latents and codes as values: shapes, slices, faces, layouts, equality, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio.waveform import Waveform
from duotone.codec.values import Codes, Latents
from duotone.errors import UsageError
from duotone.spec import CodecSpec, Source
from toys import Features, Grouped, Pcm, Scaled

SPEC = Grouped.spec


def latents(chunks: int, seed: int = 0) -> Latents:
    generator = torch.Generator().manual_seed(seed)
    return Latents(torch.rand(chunks, 18, 8, generator=generator) * 2 - 1, SPEC)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 5), st.integers(0, 99))
def test_codes_survive_their_latents(chunks: int, seed: int) -> None:
    codes = latents(chunks, seed).codes()
    assert codes.indices.shape == (2, 18 * chunks) and len(codes) == chunks
    assert codes.latents().codes() == codes
    assert ((codes.latents().values - latents(chunks, seed).values).abs() <= 0.1 + 1e-6).all()


def test_streams_of_a_mono_codec_are_folded_left_first() -> None:
    codec = Pcm()
    left, right = torch.full((1, 250), 0.5), torch.full((1, 250), -0.25)
    both = codec.encode(Waveform(torch.cat([left, right]), 16_000))
    alone = [codec.encode(Waveform(x, 16_000)) for x in (left, right)]
    assert both.streams == 2 and both.indices.shape == (8, 300)
    assert torch.equal(both.indices, torch.cat([a.indices for a in alone]))
    features = Features()
    folded = features.encode(Waveform(torch.cat([left, right]), 16_000))
    assert folded.values.shape[-1] == 16 and folded.streams == 2
    first = features.encode(Waveform(left, 16_000))
    assert torch.equal(folded.values[..., :8], first.values)


def test_slices_and_joins() -> None:
    value = latents(5)
    known = Latents(value.values, SPEC, Source(48_000, 2, 5 * 720 - 100))
    assert len(known[1:3]) == 2 and known[1:3].source.samples is None and known[:].source == known.source
    assert len(known[-1]) == 1 and torch.equal(known[-1].values, known.values[4:])
    joined = Latents.join([known[:2], known[2:]], known.source)
    assert joined == known and joined != latents(5, seed=1)
    with pytest.raises(IndexError):
        known[5]
    with pytest.raises(UsageError, match="consecutive"):
        known[::2]
    scaled = Scaled().encode(Waveform(torch.rand(2, 900), 24_000))
    again = Codes.join([scaled[:2], scaled[2:]], scaled.source)
    assert again == scaled and scaled.scale.shape == (1, len(scaled))
    with pytest.raises(UsageError, match="at least one"):
        Latents.join([])
    with pytest.raises(UsageError, match="cannot be joined"):
        Codes.join([scaled, latents(1).codes()])


def test_the_layout_for_generative_models() -> None:
    value = latents(3)
    users = value.channels(16)
    assert users.shape == (3, 9, 16)
    assert torch.allclose(Latents.from_channels(users, SPEC).values, value.values, atol=1e-5)
    unbounded = Features().encode(Waveform(torch.rand(1, 800), 16_000))
    assert torch.equal(unbounded.channels(8).reshape(-1), unbounded.values.reshape(-1))
    with pytest.raises(UsageError, match="divisor such as 48"):
        value.channels(7)
    source = Source(48_000, 2, 3 * 720)
    assert len(Latents.from_channels(users, SPEC, source)) == 3
    with pytest.raises(UsageError, match="has 3"):
        Latents.from_channels(torch.cat([users, users]), SPEC, source)
    with pytest.raises(UsageError, match=r"M \* C = 144"):
        Latents.from_channels(torch.zeros(2, 9, 15), SPEC)


def test_arrays_of_any_kind() -> None:
    numbers = np.arange(4 * 100).reshape(4, 100) % 16
    reference = Codes(torch.from_numpy(numbers), Pcm.spec)
    for kind in (">i4", "u1", "<u2", ">u8", np.int64):
        assert Codes(numbers.astype(kind), Pcm.spec) == reference  # type: ignore[arg-type]
    assert Codes(numbers.tolist(), Pcm.spec) == reference  # type: ignore[arg-type]
    values = latents(2).values
    for kind in (">f4", np.float64, np.float16, np.longdouble):
        made = Latents(values.numpy().astype(kind), SPEC)  # type: ignore[arg-type]
        assert made.values.dtype == torch.float32 and torch.allclose(made.values, values, atol=1e-3)


def test_reprs_are_a_line_and_equality_is_of_values() -> None:
    for value in (latents(2), latents(2).codes(), Pcm().encode(Waveform(torch.rand(1, 500), 16_000))):
        assert "\n" not in repr(value) and len(repr(value)) < 80 and value == value[:]
    assert latents(2) != latents(2).codes() and latents(2) != 3


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="shape"):
        Latents(torch.zeros(2, 18, 7), SPEC)
    with pytest.raises(UsageError, match="floating-point"):
        Latents(torch.zeros(2, 18, 8, dtype=torch.int64), SPEC)
    with pytest.raises(UsageError, match="not finite"):
        Latents(torch.full((1, 18, 8), torch.nan), SPEC)
    with pytest.raises(UsageError, match="from_channels"):
        Latents(torch.full((1, 18, 8), 1.5), SPEC)
    with pytest.raises(UsageError, match="0 to 14640"):
        Codes(torch.full((2, 18), 14641), SPEC)
    with pytest.raises(UsageError, match="whole numbers"):
        Codes(torch.zeros(2, 18), SPEC)
    with pytest.raises(UsageError, match="multiple of 18"):
        Codes(torch.zeros(2, 17, dtype=torch.int64), SPEC)
    with pytest.raises(UsageError, match="no latents"):
        Latents(torch.zeros(1, 1), Pcm.spec)
    with pytest.raises(UsageError, match="no codes"):
        Codes(torch.zeros(1, 1, dtype=torch.int64), Features.spec)
    with pytest.raises(UsageError, match="only latents"):
        Features().encode(Waveform(torch.rand(1, 800), 16_000)).codes()
    with pytest.raises(UsageError, match="no latents"):
        Pcm().encode(Waveform(torch.rand(1, 800), 16_000)).latents()
    with pytest.raises(UsageError, match="does not code loudness separately"):
        Codes(torch.zeros(4, 100, dtype=torch.int64), Pcm.spec, None, 0.1)  # type: ignore[arg-type]


@given(st.integers(1, 10**6))
def test_the_grid_of_published_framing(samples: int) -> None:
    spec = CodecSpec(
        family="codicodec", model="m", fingerprint="f", space="s", rate=48_000, rate_out=48_000, channels=2, chunk=512,
        behind=64, extra=64, steps=8, codebooks=(9,), latent=(8, 2), levels=(3, 3), independent=True,
    )  # fmt: skip
    whole_frames = max(1, samples // 64 - 1)
    assert spec.framed("published").chunks(samples) == -(-whole_frames // 8)
    assert spec.chunks(samples) == -(-(-(-samples // 64) + 1) // 8)
