"""The refinement of the bands frontend: what it computes, and the identities of its strategies."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

import duotone
from duotone.audio.waveform import Waveform
from duotone.codec import consistency
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.network import BandNetwork
from duotone.codec.codicodec.bands.refiner import Given, Refiner
from duotone.codec.codicodec.bands.relative import Projection, absolute, blend, magnitude, relative
from duotone.codec.codicodec.noise import seeded_noise
from duotone.codec.values import Latents
from duotone.codec.verify import verify_codec
from duotone.config import BandsConfig, DecodeConfig, NoiseConfig, RefinementConfig
from duotone.errors import ConfigError, UsageError
from duotone.evaluate.compare import rows_of
from duotone.nn.noise import normal
from small_bands import SMALL_BANDS, SMALL_REFINED, SMALL_REFINEMENT, random_bands

CHUNK = SMALL_BANDS.chunk_samples
FROM_NOISE = SMALL_BANDS.model_copy(
    update={"refinement": SMALL_REFINEMENT.model_copy(update={"start": "noise", "noise": NoiseConfig()})}
)
STRATEGIES = ("parallel", "autoregressive", "wavefront")


@cache
def refined(start: str = "estimate") -> BandCodec:
    return random_bands(SMALL_REFINED if start == "estimate" else FROM_NOISE)


def wave(chunks: float, channels: int = 2, seed: int = 0) -> Waveform:
    generator = torch.Generator().manual_seed(seed)
    return Waveform(0.2 * torch.randn(channels, int(chunks * CHUNK), generator=generator), 48_000)


def refiner(start: str = "estimate") -> Refiner:
    found = refined(start).network.refiner
    assert found is not None
    return found


def given_for(start: str, chunks: int, seed: int = 0) -> Given:
    """Time steps and magnitudes at random; of the latter some are zero."""
    config = SMALL_REFINED
    hidden = normal(f"{seed}/hidden", (1, chunks, config.tokens, config.dim))
    sizes = normal(f"{seed}/sizes", (1, chunks, 2, config.frames, config.bins)).clamp_min(-0.5) + 0.5
    return refiner(start).given(hidden, sizes if start == "estimate" else None)


def noisy(chunks: int, seed: int = 0) -> Tensor:
    return normal(f"{seed}/x", (1, chunks, 2, 2, SMALL_BANDS.frames, SMALL_BANDS.bins))


# --- what it computes


def test_relative_spectra_are_companded_and_come_back() -> None:
    spectra = torch.view_as_complex(normal("spectra", (3, 2, 8, 129, 2)))
    reference = normal("reference", (3, 2, 8, 129)).abs() + 0.1
    z = relative(spectra, reference**0.65, 0.65)
    assert torch.allclose(magnitude(z), (spectra.abs() / reference) ** 0.65, rtol=1e-4)
    assert torch.allclose(torch.atan2(z[:, :, 1], z[:, :, 0]), spectra.angle(), atol=1e-4)
    assert torch.allclose(absolute(z, reference, 0.65), spectra, rtol=1e-3, atol=1e-4)
    assert torch.equal(relative(torch.zeros_like(spectra), reference, 0.65), torch.zeros_like(z))


def test_blending_moves_magnitudes_and_keeps_phases() -> None:
    z, towards = noisy(1), torch.rand(1, 1, 2, 8, 129)
    whole = blend(z, towards, torch.ones(()))
    assert torch.allclose(magnitude(whole), towards, atol=1e-5)
    assert torch.allclose(
        torch.atan2(whole[:, :, :, 1], whole[:, :, :, 0]), torch.atan2(z[:, :, :, 1], z[:, :, :, 0]), atol=1e-3
    )
    assert torch.allclose(blend(z, towards, torch.zeros(())), z)


def test_the_projection_keeps_spectra_of_samples_and_takes_most_of_white_noise() -> None:
    config = SMALL_BANDS
    project = Projection(config.n_fft, config.hop, config.frames)
    samples = normal("samples", (config.chunk_samples + config.n_fft - config.hop,))
    hann = torch.hann_window(config.n_fft)
    spectra = torch.fft.rfft(samples.unfold(0, config.n_fft, config.hop) * hann)
    assert torch.allclose(project(spectra), spectra, atol=1e-3)
    noise = torch.view_as_complex(normal("white", (config.frames, config.bins, 2)))
    once = project(noise)
    assert torch.allclose(project(once), once, atol=1e-3)
    kept = float(once.abs().square().sum() / noise.abs().square().sum())
    count = samples.numel() / (
        config.frames * 2 * (config.bins - 1)
    )  # free numbers in samples against those in spectra
    assert kept == pytest.approx(count, rel=0.15) and kept < 0.45


@pytest.mark.parametrize("start", ["estimate", "noise"])
def test_at_the_least_noise_level_it_changes_nothing(start: str) -> None:
    """The boundary condition of consistency models (arXiv 2303.01469, section 3), for any weights."""
    found, given = refiner(start), given_for(start, 2)
    x = noisy(2)
    if given.towards is not None:
        x[:, :, 1] *= (given.towards[:, :, 1:2] > 0).float()
    low = torch.full((1, 2), found.sizes.noise.sigma_min)
    with torch.no_grad():
        assert torch.equal(found.denoise(x, low, given)[0], x)
        assert not torch.allclose(found.denoise(x, low * 50, given)[0], x, atol=1e-3)
        noise = noisy(2, 9)
        assert torch.allclose(found.noised(x, low, noise, given), x, atol=1e-4)


def test_noise_ends_at_the_magnitudes_of_the_estimate() -> None:
    """Where decoding starts, training has the estimate's magnitudes and noise of sigma_max."""
    found, given = refiner(), given_for("estimate", 2)
    assert given.towards is not None
    top = torch.full((1, 2), found.sizes.noise.sigma_max)
    start = found.noised(noisy(2), top, torch.zeros_like(noisy(2)), given)
    assert torch.allclose(magnitude(start)[:, :, 0], given.towards[:, :, 0], atol=1e-5)


def test_where_the_estimate_has_no_side_the_refined_has_none() -> None:
    """So mono stays mono."""
    found, given = refiner(), given_for("estimate", 2)
    assert given.towards is not None
    silent, level = given.towards[:, :, 1] == 0, torch.full((1, 2), 0.3)
    assert 0.1 < float(silent.float().mean()) < 0.9
    with torch.no_grad():
        for z in (found.denoise(noisy(2), level, given)[0], found.noised(noisy(2), level, noisy(2, 5), given)):
            assert torch.equal(magnitude(z)[:, :, 1] <= 1e-15, silent)


def test_a_chunk_depends_on_as_many_before_it_as_there_are_layers() -> None:
    x = noisy(6).requires_grad_()
    clean, _ = refiner().denoise(x, torch.full((1, 6), 0.3), given_for("estimate", 6))
    clean[:, 3].sum().backward()
    assert x.grad is not None
    assert (x.grad.abs().sum((0, 2, 3, 4, 5)) > 0).tolist() == [False, True, True, True, False, False]


# --- strategies


@pytest.mark.parametrize("start", ["estimate", "noise"])
def test_it_keeps_the_contract_of_codecs(start: str) -> None:
    assert len(verify_codec(refined(start))) > 10


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("start", ["estimate", "noise"])
def test_pushed_one_by_one_is_the_whole(start: str, steps: int) -> None:
    found = refined(start)
    latents = found.encode(wave(5.3))
    for strategy in STRATEGIES:
        whole = found.decode(latents, strategy, steps=steps, seed=3).samples
        pieces = []
        with found.decode_stream(latents, strategy, steps=steps, seed=3) as stream:
            pieces = [stream.push(Latents(v[None], latents.spec)).samples for v in latents.values]
            pieces.append(stream.finish().samples)
        assert torch.allclose(torch.cat(pieces, 1), whole, atol=2e-4)


@pytest.mark.parametrize("steps", [1, 3])
def test_wavefront_is_parallel_and_autoregressive_is_not(steps: int) -> None:
    found = refined()
    latents = found.encode(wave(4))
    parallel, autoregressive, wavefront = (found.decode(latents, name, steps=steps).samples for name in STRATEGIES)
    assert torch.equal(parallel, wavefront) and not torch.allclose(parallel, autoregressive, atol=1e-4)


def test_live_is_autoregressive_in_constant_memory() -> None:
    found = refined()
    latents = found.encode(wave(6))
    offline = found.decode(latents, "autoregressive", seed=4, restore=False).samples
    pieces, sizes = [], []
    with found.stream(seed=4) as live:
        for v in latents.values:
            pieces.append(live.push(Latents(v[None], latents.spec)).samples)
            sizes.append(sum(t.numel() for t in live.state().values()))
    joined = torch.cat(pieces, 1)
    assert torch.allclose(joined[:, : offline.shape[1]], offline[:, : joined.shape[1]], atol=2e-4)
    assert pieces[1].shape[1] == CHUNK and len(set(sizes)) == 1


@pytest.mark.parametrize("strategy", ["parallel", "autoregressive"])
def test_a_restored_stream_goes_on_bit_for_bit(strategy: str) -> None:
    found = refined()
    values = found.encode(wave(6)).values
    one, other = (found.decode_stream(found.spec, strategy, seed=2) for _ in range(2))
    for v in values[:3]:
        one.push(Latents(v[None], found.spec))
    other.resume(load(save({name: t.contiguous() for name, t in one.state().items()})))
    for v in values[3:]:
        value = Latents(v[None], found.spec)
        assert torch.equal(one.push(value).samples, other.push(value).samples)


def test_two_listeners_never_meet() -> None:
    found = refined()
    a, b = (found.encode(wave(3, seed=seed)) for seed in (1, 2))
    alone = found.decode(a, restore=False, seed=5).samples
    with found.decode_stream(a, "parallel", seed=5, restore=False) as first, found.decode_stream(b, seed=6) as second:
        out = []
        for x, y in zip(a.values, b.values, strict=True):
            out.append(first.push(Latents(x[None], a.spec)).samples)
            second.push(Latents(y[None], b.spec))
        out.append(first.finish().samples)
    assert torch.allclose(torch.cat(out, 1), alone, atol=2e-4)


@settings(max_examples=12)
@given(
    st.integers(1, 4 * CHUNK), st.sampled_from(STRATEGIES), st.sampled_from([8_000, 44_100, 48_000]), st.integers(0, 2)
)
def test_any_length_comes_back_exactly(samples: int, strategy: str, rate: int, steps: int) -> None:
    found = refined()
    sound = Waveform(wave(4).samples[:, :samples], rate)
    out = found.decode(found.encode(sound), strategy, steps=steps)
    assert (out.rate, out.channels, out.length) == (rate, 2, samples) and bool(torch.isfinite(out.samples).all())


def test_no_steps_are_the_estimate_of_the_codec_without_refinement() -> None:
    found = refined()
    network = random_bands().network
    network.load_state_dict({k: v for k, v in found.network.state_dict().items() if not k.startswith("refiner.")})
    plain = BandCodec(network)
    assert plain.spec.space == found.spec.space and plain.fingerprint != found.fingerprint
    latents = found.encode(wave(4))
    assert torch.equal(plain.encode(wave(4)).values, latents.values)
    estimate = plain.decode(plain.latents(latents.values, latents.source), seed=7).samples
    for strategy in STRATEGIES:
        assert torch.equal(found.decode(latents, strategy, steps=0, seed=7).samples, estimate)
    assert not torch.allclose(found.decode(latents, steps=1, seed=7).samples, estimate, atol=1e-3)


def test_where_no_steps_are_the_default_all_strategies_give_the_estimate() -> None:
    sizes = SMALL_REFINEMENT.model_copy(update={"decode": DecodeConfig(parallel_steps=0, autoregressive_steps=0)})
    found = random_bands(SMALL_REFINED.model_copy(update={"refinement": sizes}))
    assert found.alike_by_default == ("autoregressive", "wavefront") and refined().alike_by_default == ()
    assert rows_of(found) == [("latents", "parallel"), ("tokens", "parallel")]  # evaluation decodes with one of them
    latents = found.encode(wave(3))
    estimate, *others = (found.decode(latents, strategy, seed=7).samples for strategy in STRATEGIES)
    assert all(torch.equal(other, estimate) for other in others)
    assert not torch.equal(found.decode(latents, "autoregressive", steps=1, seed=7).samples, estimate)


def test_noise_is_a_function_of_seed_chunk_and_draw() -> None:
    found = refined()
    latents = found.encode(wave(3))
    drawn: list[tuple[int, int]] = []
    seeded = seeded_noise(3, SMALL_REFINED)

    def noise(chunk: int, draw: int) -> Tensor:
        drawn.append((chunk, draw))
        return seeded(chunk, draw)

    assert torch.equal(
        found.decode(latents, "parallel", steps=2, seed=3, noise=noise).samples,
        found.decode(latents, "parallel", steps=2, seed=3).samples,
    )
    chunks = range(len(latents))
    assert sorted(drawn) == [(chunk, draw) for chunk in chunks for draw in (0, 1)]
    drawn.clear()
    found.decode(latents, "autoregressive", steps=2, seed=3, noise=noise)
    assert sorted(drawn) == [(chunk, draw) for chunk in chunks for draw in (-1, 0, 1)]
    with pytest.raises(UsageError, match="noise gave shape"):
        found.decode(latents, noise=lambda chunk, draw: torch.zeros(3))
    other = found.decode(latents, steps=2, seed=4).samples
    assert not torch.allclose(other, found.decode(latents, steps=2, seed=3).samples, atol=1e-4)


def test_levels_begin_at_the_configured_start() -> None:
    levels = consistency.schedule(3, SMALL_REFINEMENT.noise)
    assert levels[0] == pytest.approx(SMALL_REFINEMENT.noise.sigma_max) and levels == sorted(levels, reverse=True)
    low = SMALL_REFINEMENT.model_copy(update={"begin": 0.05})
    assert consistency.schedule(3, low.decoded_noise)[0] == pytest.approx(0.05)
    codec, other = random_bands(SMALL_REFINED.model_copy(update={"refinement": low})), refined()
    values = codec.encode(wave(3)).values
    heard = [c.decode(c.latents(values), steps=steps).samples for c, steps in ((codec, 0), (codec, 1), (other, 1))]
    estimate, near, far = heard
    assert 0 < float((near - estimate).square().mean()) < 0.5 * float((far - estimate).square().mean())


# --- what is refused


def test_steps_that_weights_do_not_have_are_refused() -> None:
    plain, found, bare = random_bands(), refined(), refined("noise")
    latents = plain.encode(wave(2))
    assert plain.decode(latents, steps=0).length == 2 * CHUNK
    with pytest.raises(UsageError, match=r"steps got 2, .*no refinement.*tiny-2-refinement"):
        plain.decode(latents, steps=2)
    with pytest.raises(UsageError, match="they begin with noise"):
        bare.decode(bare.encode(wave(2)), steps=0)
    refinedly = found.encode(wave(2))
    for options, message in (
        ({"steps": -1}, "steps"),
        ({"steps": 5000}, "1 to 4 are usual"),
        ({"time_prompt": 0.3}, "autoregressive"),
        ({"strategy": "autoregressive", "time_prompt": 1.5}, "from 0 to 1"),
        ({"strategy": "autoregressive", "steps": 0, "time_prompt": 0.5}, "Leave it out"),
        ({"strategy": "sideways"}, "one of parallel"),
        ({"speed": 2}, "got speed"),
    ):
        with pytest.raises(UsageError, match=message):
            found.decode(refinedly, **options)  # type: ignore[arg-type]


def test_configurations_that_cannot_work_are_refused() -> None:
    for change, message in (
        ({"heads": 3}, "multiple of its 3 heads"),
        ({"begin": 0.6}, "begin got 0.6"),
        ({"begin": 0.1, "start": "noise"}, "begin got 0.1"),
        ({"start": "noise", "decode": DecodeConfig(parallel_steps=0).to_dict()}, "expected 1 or more"),
        ({"decode": DecodeConfig(autoregressive_steps=-1).to_dict()}, "expected 0 or more"),
        ({"units": (1, 2, 3)}, "units"),
    ):
        with pytest.raises(ConfigError, match=message):
            RefinementConfig.parse({**SMALL_REFINEMENT.to_dict(), **change})


def test_the_bundled_refinement_is_small_off_by_default_and_leaves_the_space_as_it_is() -> None:
    """A section that is absent counts in no hash: files and stores that name the space of weights without one can be decoded."""
    bundled = duotone.load("tiny")
    assert isinstance(bundled, BandCodec) and bundled.config.refinement is not None
    decode = bundled.config.refinement.decode
    assert (decode.parallel_steps, decode.autoregressive_steps) == (0, 0) and bundled.alike_by_default
    assert bundled.parameter_count() <= 12_000_000
    config = BandsConfig.parse({k: v for k, v in bundled.config.to_dict().items() if k != "refinement"})
    assert config.refinement is None
    network = BandNetwork(config)
    own = network.state_dict()
    network.load_state_dict({k: v for k, v in bundled.network.state_dict().items() if k in own})
    plain = BandCodec(network)
    assert plain.spec.space == bundled.spec.space and plain.fingerprint != bundled.fingerprint
