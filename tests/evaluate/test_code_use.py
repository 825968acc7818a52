"""Entropy, saturation and stability of codes, with codecs whose codes are known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.values import Codes, Latents
from duotone.errors import UsageError
from duotone.evaluate.code_use import agreement, digits, entropy, saturation, sizes, stability, use_of
from duotone.quant.fsq import FSQ
from toys import Features, Grouped, Pcm, Scaled


def random_codes(seed: int, chunks: int = 400) -> Codes:
    spec = Grouped.spec
    generator = torch.Generator().manual_seed(seed)
    return Codes(torch.randint(0, 11**4, (2, chunks * spec.steps), generator=generator), spec)


def test_digits_are_the_levels_of_each_dimension_in_the_order_of_the_latents() -> None:
    values = torch.linspace(-0.99, 0.99, 3 * 18 * 8).reshape(3, 18, 8)
    codes = Latents(values, Grouped.spec).codes()
    assert torch.equal(digits(codes), ((values * 5).round().long() + 5).flatten(1))
    assert sizes(Grouped.spec).tolist() == [11] * 144
    assert digits(codes).shape == (3, 144)


def test_digits_of_codecs_without_levels_are_their_codes_a_stream_after_the_other() -> None:
    indices = torch.arange(8 * 200).reshape(8, 200) % 16  # two streams of four codebooks
    found = digits(Codes(indices, Pcm.spec))
    assert found.shape == (4, 400) and found[0, :4].tolist() == indices[:4, 0].tolist()
    assert found[2, :4].tolist() == indices[4:, 0].tolist()
    assert sizes(Scaled.spec).tolist() == [11, 7, 300, 11, 7, 300]


def test_entropy_of_equal_shares_is_whole_of_one_value_nothing_and_by_hand_between() -> None:
    assert float(entropy([random_codes(0)]).min()) > 0.99
    constant = Codes(torch.full((2, 18 * 50), 77), Grouped.spec)
    assert float(entropy([constant]).abs().max()) == 0
    half = torch.where(torch.arange(18 * 100) // 18 % 2 == 0, 0, FSQ((11,) * 4).size - 1)  # every digit 0 or 10
    expected = (math.log(2) + 1 / 200) / math.log(11)
    assert entropy([Codes(half.expand(2, -1), Grouped.spec)]).tolist() == pytest.approx([expected] * 144)


def test_entropy_does_not_grow_much_with_the_number_of_chunks() -> None:
    few, many = (float(entropy([random_codes(1, chunks)]).mean()) for chunks in (60, 2000))
    assert abs(few - many) < 0.01  # without the correction few would have .034 less
    parts = [random_codes(2, 40), random_codes(3, 40)]
    assert torch.equal(entropy(parts), entropy([Codes.join(parts)]))
    with pytest.raises(UsageError, match="no chunks"):
        entropy([])


def test_saturation_counts_values_at_the_bound_by_position() -> None:
    values = torch.zeros(10, 18, 8)
    values[:3, 4, 5] = 0.98
    values[:, 0, 0] = 0.96
    found = saturation([Latents(values, Grouped.spec)])
    assert found[4 * 8 + 5] == pytest.approx(0.3) and float(found.sum()) == pytest.approx(0.3)
    use = use_of([Latents(values, Grouped.spec).codes()], [Latents(values, Grouped.spec)])
    assert use["saturated_most"] == pytest.approx(0.3) and use["positions"] == 144 and use["chunks"] == 10
    with pytest.raises(UsageError, match="bounded"):
        saturation([Latents(torch.zeros(2, 1, 8), Features.spec)])


@given(st.integers(0, 10_000), st.integers(0, 3))
def test_agreement_counts_what_was_changed(seed: int, dimension: int) -> None:
    codes = random_codes(seed, 5)
    assert agreement(codes, codes) == {"equal": 1.0, "within_one": 1.0}
    moved = digits(codes).reshape(5, 18, 2, 4)
    moved[..., dimension] = (moved[..., dimension] + 1).clamp_max(10)
    values = ((moved - 5) / 5).reshape(5, 18, 8).float()
    found = agreement(codes, Latents(values, Grouped.spec).codes())
    assert found["within_one"] == 1 and 0.75 <= found["equal"] <= 0.85
    with pytest.raises(UsageError, match="5 and 4 chunks"):
        agreement(codes, codes[:4])


def test_codes_without_levels_are_equal_or_not() -> None:
    codes = Codes(torch.zeros(4, 100, dtype=torch.long), Pcm.spec)
    assert agreement(codes, codes)["equal"] == 1 and math.isnan(agreement(codes, codes)["within_one"])


def test_a_lossless_codec_is_stable_in_every_way() -> None:
    samples = torch.round(8000 * torch.randn(1, 950, generator=torch.Generator().manual_seed(1))).clamp(-32768, 32767)
    found = stability(Pcm(), Waveform(samples / 32768, 16_000))
    assert {key: value["equal"] for key, value in found.items()} == {"decoded": 1.0, "rounded": 1.0, "shifted": 1.0}


def test_a_codec_with_chunks_of_their_own_does_not_mind_a_shift(codec: CoDiCodec) -> None:
    wave = Waveform(0.1 * torch.randn(2, 6 * 512 + 100, generator=torch.Generator().manual_seed(2)), 48_000)
    found = stability(codec, wave)
    assert found["shifted"] == {"equal": 1.0, "within_one": 1.0}
    assert 0 <= found["decoded"]["equal"] <= found["decoded"]["within_one"] <= 1
    assert found["rounded"]["within_one"] > 0.9
    assert "shifted" not in stability(codec, Waveform(wave.samples[:, :600].contiguous(), 48_000))
