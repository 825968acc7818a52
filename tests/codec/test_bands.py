"""The bands frontend: identities first, then what its parts compute."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio.waveform import Waveform
from duotone.codec.codicodec.bands import layout
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.features import Analysis
from duotone.codec.codicodec.bands.network import Maps
from duotone.codec.codicodec.bands.synthesis import Magnitudes, Synthesis
from duotone.codec.codicodec.weights import load_codec, save_codec
from duotone.codec.verify import verify_codec
from duotone.config import BandsConfig, preset
from duotone.errors import ConfigError, UsageError
from small_bands import SMALL_BANDS, random_bands

CODEC = random_bands()


@pytest.fixture(scope="module")
def codec() -> BandCodec:
    return CODEC


def noise(samples: int, seed: int = 0) -> Waveform:
    return Waveform(0.2 * torch.randn(2, samples, generator=torch.Generator().manual_seed(seed)).clamp(-4, 4), 48_000)


# --- identities


def test_it_keeps_the_contract_of_codecs(codec: BandCodec) -> None:
    assert len(verify_codec(codec)) > 10


@pytest.mark.parametrize("summary", [0, 2])
def test_the_contract_holds_with_summary_latents_without_pitches_and_with_iterations(summary: int) -> None:
    config = SMALL_BANDS.model_copy(update={"summary": summary, "pitches": 0 if summary else 12})
    verify_codec(random_bands(config))


@settings(max_examples=20)
@given(st.integers(1, 6 * 512))
def test_any_length_comes_back_exactly(samples: int) -> None:
    assert CODEC.decode(CODEC.encode(noise(samples))).length == samples


@settings(max_examples=20)
@given(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(0, 3))
def test_chunks_pushed_in_any_groups_decode_alike(groups: list[int], iterations: int) -> None:
    codec = CODEC
    latents = codec.encode(noise(sum(groups) * 512 - 300))
    decoder = codec.decoder(latents.source, 3, iterations=iterations)
    pieces, first = [], 0
    for count in groups:
        pieces.append(decoder.push(latents[first : first + count]))
        first += count
    pieces.append(decoder.push(latents[first:]))
    whole = codec.decoder(latents.source, 3, iterations=iterations).push(latents)
    assert torch.allclose(torch.cat(pieces, 1), whole, atol=2e-4)


def test_a_chunk_depends_on_as_many_before_it_as_there_are_layers(codec: BandCodec) -> None:
    values = torch.rand(1, 6, 16, 4, requires_grad=True)
    maps, _ = codec.network.estimator(values)
    maps.mid.unflatten(0, (1, 6))[0, 3].sum().backward()
    reached = values.grad.abs().sum((0, 2, 3)) > 0  # type: ignore[union-attr]
    assert reached.tolist() == [False, True, True, True, False, False]  # two layers: chunks 1, 2 and 3


def test_saved_weights_are_the_same_codec(codec: BandCodec, tmp_path: Path) -> None:
    save_codec(codec, tmp_path)
    again = load_codec(tmp_path)
    assert (
        isinstance(again, BandCodec) and again.fingerprint == codec.fingerprint and again.spec.space == codec.spec.space
    )
    wave = noise(2000)
    assert torch.equal(again.decode(again.encode(wave)).samples, codec.decode(codec.encode(wave)).samples)


def test_the_space_depends_on_the_encoder_alone(codec: BandCodec) -> None:
    other = random_bands()
    with torch.no_grad():
        other.network.estimator.lift.weight.add_(0.1)
    changed = BandCodec(other.network)
    assert changed.spec.space == codec.spec.space and changed.fingerprint != codec.fingerprint


def test_seeds_and_iterations(codec: BandCodec) -> None:
    latents = codec.encode(noise(3000))
    first, again, other = (codec.decode(latents, seed=seed).samples for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert not torch.equal(codec.decode(latents, seed=1, iterations=4).samples, first)
    with pytest.raises(UsageError, match="iterations"):
        codec.decode(latents, iterations=-1)
    with pytest.raises(UsageError, match="got speed, expected steps"):
        codec.decode(latents, speed=3)


# --- physics


def test_a_sine_at_full_scale_has_magnitude_one() -> None:
    config = preset("tiny")
    assert isinstance(config, BandsConfig)
    time = torch.arange(config.chunk_samples + config.spare) / config.rate
    wave = torch.sin(2 * torch.pi * 1500 * time).expand(1, 2, -1)  # the middle of bin 64
    features = Analysis(config)(wave)
    assert features.mid[0, :, 64].exp() == pytest.approx(1 + config.floor, abs=1e-3)
    assert features.low[0, :, 128].exp() == pytest.approx(1 + config.floor, abs=1e-3)
    assert float(features.mels[0, :, 2].exp().max()) == pytest.approx(config.floor, abs=1e-6)  # there is no side


def test_frames_and_long_windows_have_the_same_middle() -> None:
    config = SMALL_BANDS
    frames = torch.arange(config.frames) * config.hop + config.lead + config.n_fft / 2
    long = torch.arange(config.tokens) * config.per_token * config.hop + config.n_fft
    assert torch.equal(frames.unflatten(0, (config.tokens, -1)).mean(1), long.float())


def test_combs_peak_at_the_harmonics() -> None:
    config = preset("tiny")
    assert isinstance(config, BandsConfig)
    pitches, combs = layout.pitch_frequencies(config), layout.combs(config)
    index = int((pitches - 220).abs().argmin())
    for harmonic in range(1, 10):
        at = float(pitches[index]) * harmonic / config.rate * config.n_fft
        near = combs[index, round(at) - 4 : round(at) + 5]
        assert int(near.argmax()) == 4 and float(near.max()) > 0.7
    assert combs.shape == (229, 1025) and layout.band_edges(config)[-1] == 1025
    assert torch.allclose(layout.listening_combs(config).sum(0), torch.ones(229), atol=1e-5)


def test_salience_at_the_pitch_of_a_tone_stands_out() -> None:
    config = preset("tiny")
    assert isinstance(config, BandsConfig)
    encoder = BandCodec.random(config).network.encoder
    time = torch.arange(config.chunk_samples + config.spare) / config.rate
    for pitch in (110.0, 220.0, 440.0):
        tone = sum(torch.sin(2 * torch.pi * pitch * k * time) / k for k in range(1, 12)) / 4
        mid = Analysis(config)(tone.expand(1, 2, -1)).mid  # type: ignore[union-attr]
        salience, pitches = encoder.salience(mid).mean((0, 1)), layout.pitch_frequencies(config)
        at = int((pitches - pitch).abs().argmin())
        beside = torch.cat([salience[at - 6 : at - 2], salience[at + 3 : at + 7]])  # one to two semitones away
        assert float(salience[at]) > float(beside.max()) + 0.2


def test_synthesis_makes_the_level_and_the_side_that_the_maps_say() -> None:
    config = SMALL_BANDS
    sound = noise(32 * config.chunk_samples + config.spare).samples[:1].expand(1, 2, -1)
    mid = Analysis(config)(sound).mid.unflatten(1, (32, config.frames))[0]
    ratio, share = torch.full((32, config.frames, 6), -1.0), torch.full((32, config.frames, 6), 0.5)
    samples = Synthesis(config, 0, 0).push(Maps(mid, ratio, share))[:, 512:]
    middle, side = (samples[0] + samples[1]) / 2, (samples[0] - samples[1]) / 2
    level = 10 * torch.log10(side.square().mean() / middle.square().mean())
    assert float(level) == pytest.approx(-8.69, abs=0.3)  # one neper
    correlation = (middle * side).mean() / (middle.square().mean() * side.square().mean()).sqrt()
    assert float(correlation) == pytest.approx(0.5, abs=0.15)


def test_the_uncorrelated_side_of_a_tone_keeps_its_energy() -> None:
    """Harmonics of 97 Hz, whose peaks lie on edges of the narrow bands too; side 6 dB below mid, at the sizes of the bundled codec."""
    config, chunks = BandsConfig(), 4
    time = torch.arange(chunks * config.chunk_samples + config.spare) / config.rate
    tone = sum((torch.sin(2 * math.pi * 97.0 * k * time + k * k) / k for k in range(1, 81)), torch.zeros_like(time))
    mid = Analysis(config)((0.1 * tone).expand(1, 2, -1)).mid.unflatten(1, (chunks, config.frames))[0]
    bands = torch.zeros(chunks, config.frames, config.stereo_bands)
    left, right = Synthesis(config, 0, 2).push(Maps(mid, bands - math.log(2), bands))[:, config.n_fft :]
    level = 10 * torch.log10((left - right).square().mean() / (left + right).square().mean())
    assert float(level) == pytest.approx(-6.02, abs=0.3)


def test_mono_stays_mono_chunk_by_chunk() -> None:
    """One chunk with side, one whose side is 49 dB below mid but for a quiet frame, one so quiet that its ratio says nothing."""
    config = SMALL_BANDS
    mid = torch.full((3, config.frames, config.bins), 0.1).log()
    ratio = torch.full((3, config.frames, config.stereo_bands), -1.0)
    ratio[1] = -5.6
    mid[1, 0], ratio[1, 0] = math.log(1e-4), -1.0
    mid[2], ratio[2] = math.log(9e-5), -1.0
    magnitudes = Magnitudes(config)(Maps(mid, ratio, torch.zeros_like(ratio)))
    sides = magnitudes[:, 1].sum((1, 2))
    assert float(sides[0]) > 0 and sides[1:].tolist() == [0, 0]
    assert bool((magnitudes[:, 0] > 0).all())
    made = Synthesis(config, 0, 0).push(Maps(mid, ratio, torch.zeros_like(ratio)))
    apart = made[:, 512 + 192 :]  # behind what overlaps the chunk with side
    assert torch.equal(apart[0], apart[1]) and not torch.equal(made[0], made[1])


def test_configurations_that_cannot_work_are_refused() -> None:
    for change, word in (
        ({"dim": 31}, "heads"),
        ({"tokens": 3}, "multiples"),
        ({"summary": 3}, "summary"),
        ({"levels": (4,)}, "odd"),
    ):
        with pytest.raises(ConfigError, match=word):
            BandsConfig.parse({**SMALL_BANDS.to_dict(), **change})
