"""Identities of the codec: streaming = offline, wavefront = parallel, live = autoregressive, cached = uncached..."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from duotone.audio.waveform import Waveform
from duotone.codec import consistency
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.noise import seeded_noise
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, CodecMismatchError, UsageError
from duotone.nn import native
from small import SMALL

relaxed = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
CHUNK = SMALL.chunk_samples


def noise_wave(samples: int, channels: int = 2, rate: int = 48_000, seed: int = 0) -> Waveform:
    generator = torch.Generator().manual_seed(seed)
    return Waveform(0.2 * torch.randn(channels, samples, generator=generator), rate)


@relaxed
@given(
    st.integers(1, 3 * CHUNK), st.sampled_from([1, 2]), st.sampled_from([8_000, 22_050, 44_100, 48_000, 96_000]),
    st.sampled_from(["parallel", "autoregressive", "wavefront"]),
)  # fmt: skip
def test_what_comes_in_comes_out(codec: CoDiCodec, samples: int, channels: int, rate: int, strategy: str) -> None:
    wave = noise_wave(samples, channels, rate)
    latents = codec.encode(wave)
    out = codec.decode(latents, strategy, steps=2)  # type: ignore[arg-type]
    assert (out.rate, out.channels, out.length) == (rate, channels, samples)
    assert torch.isfinite(out.samples).all()
    codec_side = codec.decode(latents.codes(), strategy, steps=1, restore=False)  # type: ignore[arg-type]
    assert (codec_side.rate, codec_side.channels, codec_side.length) == (48_000, 2, latents.source.at(48_000))


@relaxed
@given(
    st.integers(1, 4 * CHUNK), st.lists(st.integers(1, 700), min_size=1, max_size=5), st.sampled_from([44_100, 48_000])
)
def test_encoding_in_blocks_is_encoding_the_whole(codec: CoDiCodec, samples: int, sizes: list[int], rate: int) -> None:
    wave = noise_wave(samples, 2, rate)
    whole = codec.encode(wave)
    pieces, start, i = [], 0, 0
    with codec.encode_stream(rate, 2) as stream:
        while start < samples:
            size = sizes[i % len(sizes)]
            pieces.append(stream.push(Waveform(wave.samples[:, start : start + size], rate)).values)
            start, i = start + size, i + 1
        pieces.append(stream.finish().values)
        assert stream.source == whole.source
    assert torch.allclose(torch.cat(pieces), whole.values, atol=1e-5)


@pytest.mark.parametrize("framing", ["exact", "published"])
@pytest.mark.parametrize("chunks", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_wavefront_is_parallel(codec: CoDiCodec, framing: str, chunks: int, steps: int) -> None:
    latents = codec.encode(noise_wave(chunks * CHUNK - 100), framing=framing)  # type: ignore[arg-type]
    whole = codec.decode(latents, "parallel", steps=steps)
    assert torch.allclose(codec.decode(latents, "wavefront", steps=steps).samples, whole.samples, atol=1e-5)
    pieces = []
    with codec.decode_stream(latents, "wavefront", steps=steps) as stream:
        for value in latents.values:  # pushed one by one
            pieces.append(stream.push(Latents(value[None], latents.spec)).samples)
        pieces.append(stream.finish().samples)
    assert torch.allclose(torch.cat(pieces, dim=1), whole.samples, atol=1e-5)


def test_the_wavefront_holds_a_bounded_number_of_chunks(codec: CoDiCodec) -> None:
    from duotone.codec.codicodec.decoding import Wavefront

    steps = 4
    front = Wavefront(codec.network, steps, seeded_noise(0, SMALL))
    held = []
    with torch.inference_mode():
        for i in range(30):
            front.push(torch.zeros(1, SMALL.latents, 4) + i / 40)
            held.append(len(front._chunks))
    assert max(held[10:]) <= steps + 2


def test_live_is_autoregressive(codec: CoDiCodec) -> None:
    latents = codec.encode(noise_wave(5 * CHUNK))
    offline = codec.decode(latents, "autoregressive", seed=4, restore=False)
    with codec.stream(seed=4) as live:
        pieces = [live.push(Latents(v[None], latents.spec)).samples for v in latents.values]
        pieces.append(live.finish().samples)
    joined = torch.cat(pieces, dim=1)
    assert pieces[1].shape[1] == CHUNK
    assert torch.allclose(joined[:, : offline.length], offline.samples, atol=1e-6)


def test_two_listeners_never_meet(codec: CoDiCodec) -> None:
    a, b = (codec.encode(noise_wave(3 * CHUNK, seed=s)) for s in (1, 2))
    alone = codec.decode(a, "autoregressive", restore=False).samples
    with codec.stream() as first, codec.stream(seed=9) as second:
        out = []
        for x, y in zip(a.values, b.values, strict=True):
            out.append(first.push(Latents(x[None], a.spec)).samples)
            second.push(Latents(y[None], b.spec))
    joined = torch.cat(out, dim=1)
    assert torch.allclose(joined[:, : alone.shape[1]], alone[:, : joined.shape[1]], atol=1e-6)


def test_cached_left_half_is_the_joint_pass(codec: CoDiCodec) -> None:
    """The pair computed as one sequence with a block mask gives what the two halves give."""
    network, denoiser = codec.network, codec.network.denoiser
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, SMALL.bins, SMALL.frames, generator=g)
    values = torch.rand(2, SMALL.latents, 4, generator=g) - 0.5
    with torch.no_grad():
        pyramid = network.upsample(values)
        split = [[p[i : i + 1] for p in pyramid] for i in (0, 1)]
        conditions = [denoiser.condition(torch.tensor([s])) for s in (0.5, 7.0)]
        left, _ = denoiser.denoise(x[:1], values[:1], conditions[0], split[0])
        past = denoiser.left_context(x[:1], values[:1], conditions[0], split[0])
        right, _ = denoiser.denoise(x[1:], values[1:], conditions[1], split[1], past)
        joint = _joint(codec, x, values, conditions, split)
    assert torch.allclose(left, joint[0], atol=1e-5)
    assert torch.allclose(right, joint[1], atol=1e-5)


def _joint(codec: CoDiCodec, x, values, conditions, split):  # type: ignore[no-untyped-def]
    import torch.nn.functional as F

    d = codec.network.denoiser
    tokens, owns = [], []
    for i in (0, 1):
        t, own = d._tokens(x[i : i + 1], values[i : i + 1], conditions[i], split[i])
        tokens.append(t)
        owns.append(own)
    n = d.tokens
    h = torch.cat(tokens, dim=1) + d.transformer.positions
    mask = torch.ones(2 * n, 2 * n, dtype=torch.bool)
    mask[:n, n:] = False

    def norm(layer, h):  # type: ignore[no-untyped-def]
        return torch.cat([layer(h[:, :n], conditions[0].cond), layer(h[:, n:], conditions[1].cond)], dim=1)

    h = norm(d.transformer.input_norm, h)
    for layer in d.transformer.layers:
        y, a = norm(layer.attention_norm, h), layer.attention
        q, k, v = a.qkv(y).view(1, 2 * n, 3, a.heads, -1).permute(2, 0, 3, 1, 4)
        q = q * torch.rsqrt(q.pow(2).mean(-1, keepdim=True) + 1e-4) * a.q_gain
        k = k * torch.rsqrt(k.pow(2).mean(-1, keepdim=True) + 1e-4) * a.k_gain
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        h = h + a.out(y.transpose(1, 2).reshape(1, 2 * n, -1))
        h = h + layer.mlp(norm(layer.mlp_norm, h))
    h = norm(d.transformer.output_norm, h)
    out = []
    for i, c in enumerate(conditions):
        p = h[:, i * n : i * n + d.grid[0] * d.grid[1]].transpose(1, 2).unflatten(2, d.grid)
        raw = d.up(p, c.gain_out, c.cond, owns[i])
        noise = SMALL.noise
        out.append(consistency.c_skip(c.level, noise) * x[i : i + 1] + consistency.c_out(c.level, noise) * raw)
    return out


def test_the_left_chunk_never_sees_the_right(codec: CoDiCodec) -> None:
    """The gradient of the left estimate with respect to everything on the right is zero."""
    network = codec.network
    x = torch.randn(2, 4, SMALL.bins, SMALL.frames, requires_grad=True)
    values = (torch.rand(2, SMALL.latents, 4) - 0.5).requires_grad_()
    pyramid = network.upsample(values)
    one = torch.ones(1)
    left, right = network.denoise_pair(
        x[:1], x[1:], one, one, values[:1], values[1:], [p[:1] for p in pyramid], [p[1:] for p in pyramid]
    )
    for part, sees_other in ((left, False), (right, True)):
        gx, gv = torch.autograd.grad(part.sum(), [x, values], retain_graph=True)
        other = 1 if part is left else 0
        assert bool(gx[other].any()) is sees_other and bool(gv[other].any()) is sees_other


def test_a_batch_is_its_singles(codec: CoDiCodec) -> None:
    spectra = torch.randn(5, 4, SMALL.bins, SMALL.frames, generator=torch.Generator().manual_seed(2))
    singles = torch.cat([codec.encode_spectrum(s[None]) for s in spectra])
    assert torch.allclose(codec.encode_spectrum(spectra), singles, atol=1e-5)


@pytest.mark.parametrize("strategy", ["parallel", "autoregressive"])
def test_our_kernels_are_pytorch(codec: CoDiCodec, strategy: Literal["parallel", "autoregressive"]) -> None:
    wave = noise_wave(3 * CHUNK)
    latents, decoded = codec.encode(wave), codec.decode(codec.encode(wave), strategy).samples
    with native.declined():
        plain = codec.encode(wave)
        again = codec.decode(latents, strategy).samples
    assert torch.allclose(latents.values, plain.values, atol=1e-5)
    assert torch.allclose(decoded, again, atol=1e-5) and decoded.std() > 0


def test_the_place_in_a_longer_file_does_not_change_noise_or_first_chunks(codec: CoDiCodec) -> None:
    long = codec.encode(noise_wave(8 * CHUNK))
    short = long[:4]
    a = codec.decode(long, "autoregressive", restore=False).samples[:, : 3 * CHUNK]
    b = codec.decode(short, "autoregressive", restore=False).samples[:, : 3 * CHUNK]
    assert torch.allclose(a, b, atol=1e-6)
    draw = seeded_noise(3, SMALL)
    assert torch.equal(draw(5, 1), seeded_noise(3, SMALL)(5, 1))
    assert not torch.equal(draw(5, 1), draw(1, 5))


def test_seeds_matter_and_repeat(codec: CoDiCodec) -> None:
    latents = codec.encode(noise_wave(2 * CHUNK))
    first, again, other = (codec.decode(latents, seed=s).samples for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_both_faces_of_one_encoding(codec: CoDiCodec) -> None:
    latents = codec.encode(noise_wave(3 * CHUNK))
    codes = latents.codes()
    assert codes.indices.shape == (1, SMALL.latents * len(latents)) and codes.indices.dtype == torch.int64
    assert torch.equal(codes.latents().codes().indices, codes.indices)
    assert ((codes.latents().values - latents.values).abs() <= 0.1 + 1e-6).all()
    users = latents.channels(8)
    assert users.shape == (len(latents), SMALL.latents * 4 // 8, 8)
    assert torch.allclose(Latents.from_channels(users, latents.spec, latents.source).values, latents.values, atol=1e-5)
    assert isinstance(codes, Codes)


def test_consistency_boundary(codec: CoDiCodec) -> None:
    """f(x, sigma_min) = x."""
    low = torch.tensor([SMALL.noise.sigma_min])
    x = torch.randn(1, 4, SMALL.bins, SMALL.frames)
    values = torch.zeros(1, SMALL.latents, 4)
    network = codec.network
    with torch.no_grad():
        out, _ = network.denoiser.denoise(x, values, network.denoiser.condition(low), network.upsample(values))
    assert torch.allclose(out, x, atol=1e-6)


@pytest.mark.parametrize("u", [0.0, 0.1, 0.4, 0.9, 1.0])
def test_noise_grid_inverts(u: float) -> None:
    noise = SMALL.noise
    level = consistency.sigma(torch.tensor(u, dtype=torch.float64), noise)
    assert abs(float(consistency.position(level, noise)) - u) < 1e-9
    assert consistency.schedule(4, noise)[0] == pytest.approx(80)


def test_bfloat16_stays_close(codec: CoDiCodec) -> None:
    half = CoDiCodec.random(SMALL, seed=1).to(dtype=torch.bfloat16)
    assert half.fingerprint == codec.fingerprint
    wave = noise_wave(2 * CHUNK)
    a, b = codec.encode(wave).values, half.encode(wave).values
    assert (a - b).abs().mean() < 0.02
    assert half.decode(half.encode(wave)).samples.dtype == torch.float32


def test_what_is_refused(codec: CoDiCodec) -> None:
    latents = codec.encode(noise_wave(CHUNK))
    with pytest.raises(UsageError, match="strategy"):
        codec.decode(latents, "sideways")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="steps"):
        codec.decode(latents, steps=0)
    with pytest.raises(UsageError, match="time_prompt"):
        codec.decode(latents, "autoregressive", time_prompt=1.5)
    with pytest.raises(CodecMismatchError, match=codec.spec.space):
        CoDiCodec.random(SMALL, seed=2).decode(latents)
    with pytest.raises(AudioError, match="zero samples"):
        codec.encode(Waveform(torch.zeros(2, 0), 48_000))
    with pytest.raises(AudioError, match="NaN"):
        codec.encode(Waveform(torch.full((2, 100), float("nan")), 48_000))
    with pytest.raises(UsageError, match="finished"):
        stream = codec.stream()
        stream.finish()
        stream.push(latents)
