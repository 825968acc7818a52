"""Lycodec: the contract and identities first, then what each part computes, then sizes and rates."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import duotone
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.codec.lycodec.codec import Lycodec
from duotone.codec.lycodec.frontend import chunk_spectra, stft_of
from duotone.codec.lycodec.network import LycodecNetwork
from duotone.codec.lycodec.stem import log_magnitudes
from duotone.codec.lycodec.weights import load_lycodec, save_lycodec
from duotone.codec.noise import seeded_noise
from duotone.codec.values import Latents
from duotone.codec.verify import verify_codec
from duotone.config import LycodecConfig, lycodec_preset
from duotone.errors import CodecMismatchError, ConfigError, FormatError, UsageError, WeightsError
from duotone.spec import CodecSpec
from duotone.tokens.alphabet import Alphabet
from duotone.tokens.training import train_bpe
from small_lycodec import BANDS, SMALL_LYCODEC, random_lycodec

CODEC = random_lycodec()
CHUNK, OVERLAP = SMALL_LYCODEC.chunk_samples, SMALL_LYCODEC.overlap


def noise(samples: int, channels: int = 2, seed: int = 0) -> Waveform:
    generator = torch.Generator().manual_seed(seed)
    return Waveform(0.2 * torch.randn(channels, samples, generator=generator).clamp(-4, 4), 48_000)


def spectra(chunks: int, seed: int = 0) -> torch.Tensor:
    return chunk_spectra(noise(OVERLAP + chunks * CHUNK, seed=seed).samples[None], SMALL_LYCODEC)


# --- identities


@pytest.mark.parametrize(
    "changes",
    [{}, BANDS, {"packed": 1}, {"levels": [15, 7]}, {"predictor_units": 8}, {"stereo": False, "split_channels": 0}],
    ids=str,
)
def test_it_keeps_the_contract_of_codecs(changes: dict[str, object]) -> None:
    assert len(verify_codec(random_lycodec(**changes))) > 10


def test_a_rung_that_is_too_low_says_how_to_load_the_codec(tmp_path: Path) -> None:
    save_lycodec(CODEC, tmp_path)
    low = load_lycodec(tmp_path, n_quantizers=2)
    value = CODEC.encode(noise(CHUNK)).codes()
    with pytest.raises(CodecMismatchError, match=r"has 4 codebooks, and the codec was loaded with 2.*n_quantizers=4"):
        low.decode(value)
    assert CODEC.decode(low.encode(noise(CHUNK)).codes()).length == CHUNK


def test_the_format_of_decoding_leaves_the_encoder_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duotone.codec.own.best_dtype", lambda device: torch.bfloat16)
    codec = random_lycodec().to(dtype="auto")
    before, after = CODEC.network.encoder.state_dict(), codec.network.encoder.state_dict()
    assert codec.dtype == torch.bfloat16 and all(torch.equal(before[name], after[name]) for name in before)
    wave = noise(2 * CHUNK)
    assert torch.equal(codec.encode(wave).codes().indices, CODEC.encode(wave).codes().indices)


@settings(max_examples=25)
@given(st.integers(1, 4 * CHUNK), st.sampled_from([1, 2]), st.sampled_from([8_000, 44_100, 48_000]))
def test_any_length_rate_and_channels_come_back_exactly(samples: int, channels: int, rate: int) -> None:
    wave = Waveform(noise(samples, channels).samples, rate)
    for value in (CODEC.encode(wave), CODEC.encode(wave).codes()):
        out = CODEC.decode(value)
        assert (out.rate, out.channels, out.length) == (rate, channels, samples)


def identity(monkeypatch: pytest.MonkeyPatch, codec: Lycodec, wave: Waveform) -> None:
    """Let the decoder give the spectra of this sound, chunk by chunk, in place of its estimate."""
    padded = torch.nn.functional.pad(wave.samples.expand(2, -1), (OVERLAP, 2 * CHUNK))
    count = codec.spec.chunks(wave.length)
    true = chunk_spectra(padded[None, :, : OVERLAP + count * CHUNK], codec.config)
    place = iter(range(count))
    monkeypatch.setattr(
        codec.network, "denoise", lambda x, level, tokens: torch.stack([true[next(place)] for _ in range(len(x))])
    )


@pytest.mark.parametrize("length", [1, 39, OVERLAP, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK - OVERLAP, 4 * CHUNK - 7])
def test_chunks_add_up_to_one_where_they_overlap(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of ones comes back as ones, to the last sample: no level doubles, nothing fades."""
    codec = random_lycodec()
    ones = Waveform(torch.ones(2, length) * 0.5, 48_000)
    value = codec.encode(ones)
    identity(monkeypatch, codec, ones)
    with codec.decode_stream(value) as stream:
        pieces = [stream.push(value[i]).samples for i in range(len(value))]
        out = torch.cat([*pieces, stream.finish().samples], 1)
    # what remains is the Nyquist bin, which is dropped: .4% of a click, nothing of a steady sound
    assert out.shape == (2, length) and float((out - 0.5).abs().max()) < 5e-3


def test_what_the_transform_loses_is_the_nyquist_bin_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    codec, t = random_lycodec(), torch.arange(5 * CHUNK)
    music = Waveform(torch.stack([0.3 * torch.sin(t * 0.3), 0.2 * torch.sin(t * 0.11)]), 48_000)
    value = codec.encode(music)
    identity(monkeypatch, codec, music)
    assert torch.allclose(codec.decode(value).samples, music.samples, atol=5e-3)


def test_no_chunk_sees_another() -> None:
    """The gradient of a chunk's latents and of its estimate with respect to other chunks is zero."""
    network = CODEC.network
    x = spectra(3).requires_grad_()
    (gx,) = torch.autograd.grad(network.encode(x)[1].sum(), x)
    assert [bool(g.any()) for g in gx] == [False, True, False]
    values = (torch.rand(3, 6, 16) - 0.5).requires_grad_()
    noisy = torch.randn(3, 4, 64, 16, requires_grad=True)
    out = network.denoise(noisy, torch.full((3,), 3.0), network.listen(network.fuse(values))[1])
    for g in torch.autograd.grad(out[1].sum(), [values, noisy]):
        assert [bool(part.any()) for part in g] == [False, True, False]


@pytest.mark.parametrize("steps", [1, 3])
def test_chunks_pushed_in_any_groups_decode_alike(steps: int) -> None:
    latents = CODEC.encode(noise(7 * CHUNK - 300))
    whole = CODEC.decode(latents, seed=3, steps=steps).samples
    with CODEC.decode_stream(latents, seed=3, steps=steps) as stream:
        parts = [stream.push(latents[a:b]) for a, b in ((0, 1), (1, 1), (1, 3), (3, 7))]
        parts.append(stream.finish())
    assert torch.allclose(torch.cat([part.samples for part in parts], 1), whole, atol=1e-5)


def test_a_stream_goes_on_from_its_state() -> None:
    latents = CODEC.encode(noise(4 * CHUNK))
    with CODEC.stream(seed=2) as whole, CODEC.stream(seed=2) as first, CODEC.stream(seed=2) as second:
        wanted = torch.cat([whole.push(latents[i]).samples for i in range(4)], 1)
        start = [first.push(latents[i]).samples for i in range(2)]
        second.resume(first.state())
        found = torch.cat([*start, *(second.push(latents[i]).samples for i in (2, 3))], 1)
    assert torch.allclose(found, wanted, atol=1e-6)


def test_memory_of_a_stream_is_constant() -> None:
    decoder, held = CODEC.decoder(CODEC.source()), []
    for _ in range(4):
        decoder.push(CODEC.encode(noise(CHUNK))[:1])
        held.append(sum(t.numel() for t in decoder.state().values()))
    assert held[0] == held[-1] < 1000


def test_saved_weights_are_the_same_codec(tmp_path: Path) -> None:
    for codec in (CODEC, random_lycodec(**BANDS), random_lycodec(levels=[15, 7])):
        folder = tmp_path / codec.fingerprint
        save_lycodec(codec, folder)
        again = duotone.load(folder, dtype="float32")
        assert isinstance(again, Lycodec) and again.fingerprint == codec.fingerprint
        assert again.spec.space == codec.spec.space
        wave = noise(1500)
        assert torch.equal(again.decode(again.encode(wave)).samples, codec.decode(codec.encode(wave)).samples)


def test_the_space_depends_on_the_encoder_alone() -> None:
    other = random_lycodec()
    with torch.no_grad():
        other.network.decoder.rows.add_(0.1)
    changed = Lycodec(other.network)
    assert changed.spec.space == CODEC.spec.space and changed.fingerprint != CODEC.fingerprint
    with torch.no_grad():
        other.network.encoder.head.bias.add_(0.1)
    assert Lycodec(other.network).spec.space != CODEC.spec.space
    assert random_lycodec(packed=1).spec.space != CODEC.spec.space  # other codes


def test_files_hold_both_faces(tmp_path: Path) -> None:
    latents = CODEC.encode(noise(3 * CHUNK))
    for value in (latents, latents.codes(), CODEC.with_groups(1).encode(noise(3 * CHUNK)).codes()):
        duotone.write_duo(tmp_path / "a.duo", value, force=True)
        back = duotone.read_duo(tmp_path / "a.duo")
        assert CODEC.decode(back).length == 3 * CHUNK
        if not isinstance(value, Latents):
            assert back == value and back.spec.codebooks == value.spec.codebooks


@pytest.mark.parametrize("packed", [1, 4])
def test_compact_files_follow_the_values_of_the_token_before(packed: int, tmp_path: Path) -> None:
    codec = random_lycodec(packed=packed)
    still = codec.encode(noise(CHUNK)).values[:1].expand(20, -1, -1).contiguous()
    codes = codec.latents(still).codes()
    duotone.write_duo(tmp_path / "plain.duo", codes)
    duotone.write_duo(tmp_path / "compact.duo", codes, compact=True)
    assert duotone.read_duo(tmp_path / "compact.duo") == codes
    header = 700
    plain, compact = ((tmp_path / f"{name}.duo").stat().st_size - header for name in ("plain", "compact"))
    assert 0 < compact < 0.8 * plain


# --- the steps of decoding


def test_the_boundary_condition_holds_with_the_band_split_head() -> None:
    """f(x, sigma_min) = x, whatever F computes; the seed's head came after the scaling."""
    network = CODEC.network
    assert network.decoder.split is not None and any(layer.weight.any() for layer in network.decoder.split.outer)
    x, tokens = torch.randn(2, 4, 64, 16), torch.randn(2, 6, 16)
    assert torch.allclose(network.denoise(x, torch.tensor([SMALL_LYCODEC.noise.sigma_min]), tokens), x, atol=1e-6)
    assert not torch.allclose(network.denoise(x, torch.tensor([1.0]), tokens), x, atol=1e-2)


def test_one_step_starts_at_sigma_max_and_is_seeded() -> None:
    """From sigma_min (the seed's default) a step returns the noise that it was given, whatever the tokens are."""
    codec = random_lycodec()
    latents, seen = codec.encode(noise(2 * CHUNK)), []
    inner = codec.network.denoise

    def watched(x: torch.Tensor, level: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        seen.append((float(level), float(x.std())))
        return inner(x, level, tokens)

    codec.network.denoise = watched  # type: ignore[method-assign]
    first, again, other = (codec.decode(latents, seed=s).samples for s in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    limit = SMALL_LYCODEC.noise.sigma_max
    assert seen[0][0] == limit and seen[0][1] == pytest.approx(limit, rel=0.05) and len(seen) == 3
    with pytest.raises(UsageError, match="returns that noise"):
        codec.decode(latents, sigma=SMALL_LYCODEC.noise.sigma_min)
    codec.decode(latents, sigma=5.0)
    assert seen[-1][0] == 5 and seen[-1][1] == pytest.approx(5, rel=0.05)


def test_more_steps_add_noise_again() -> None:
    latents = CODEC.encode(noise(2 * CHUNK))
    drawn: list[tuple[int, int]] = []
    plain = seeded_noise(0, (4, 64, 16))

    def watched(chunk: int, draw: int) -> torch.Tensor:
        drawn.append((chunk, draw))
        return plain(chunk, draw)

    out = CODEC.decode(latents, steps=3, noise=watched)
    chunks = range(len(latents))
    assert sorted(drawn) == [(c, d) for c in chunks for d in range(3)]
    assert torch.equal(out.samples, CODEC.decode(latents, steps=3).samples)
    assert not torch.allclose(out.samples, CODEC.decode(latents).samples, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "match"),
    [({"steps": 0}, "steps"), ({"steps": 5000}, "steps"), ({"sigma": 81.0}, "sigma"), ({"groups": 3}, "groups"),
     ({"groups": 0}, "groups"), ({"time_prompt": 1}, "time_prompt"), ({"strategy": "parallel"}, "strategy")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options: dict[str, object], match: str) -> None:
    with pytest.raises(UsageError, match=match):
        CODEC.decode(CODEC.encode(noise(10)), **options)  # type: ignore[arg-type]


def test_gradients_flow_from_samples_to_latents() -> None:
    latents = CODEC.encode(noise(CHUNK))
    values = latents.values.clone().requires_grad_()
    CODEC.decode(CODEC.latents(values), grad=True, restore=False).samples.square().sum().backward()
    assert values.grad is not None and bool(values.grad.any())


# --- fusion


def test_codes_have_no_residual_and_their_tokens_are_the_levels() -> None:
    codes = CODEC.encode(noise(2 * CHUNK)).codes()
    values = codes.latents().values
    fused = CODEC.network.fuse(values)
    assert torch.equal(fused, values) and torch.equal(CODEC.network.fsq.round(values), values)


def test_latents_decode_with_their_residual() -> None:
    """The face of latents is another than that of codes, and only the residual makes the difference."""
    latents = CODEC.encode(noise(2 * CHUNK))
    network, values = CODEC.network, latents.values
    fused = network.fuse(values)
    levels = network.fsq.round(values)
    wanted = levels + network.fusion.alpha * network.fusion.down(
        torch.nn.functional.gelu(network.fusion.up(values - levels))
    )
    assert torch.allclose(fused, wanted, atol=1e-6) and not torch.allclose(fused, levels, atol=1e-3)
    assert not torch.equal(CODEC.decode(latents).samples, CODEC.decode(latents.codes()).samples)


def test_the_residual_trains_the_fusion() -> None:
    """Gradients reach the residual's MLP and alpha in hybrid examples, and not in discrete ones; the encoder gets both."""
    network = copy.deepcopy(CODEC.network).requires_grad_(True)
    for hybrid in (True, False):
        network.zero_grad()
        z = network.encode(spectra(2))
        network.fuse(z, torch.tensor([hybrid, hybrid])).square().sum().backward()
        for p in (network.fusion.up.weight, network.fusion.down.weight, network.fusion.alpha):
            assert p.grad is not None and bool(p.grad.any()) is hybrid
        assert network.encoder.head.weight.grad is not None and bool(network.encoder.head.weight.grad.any())


def test_hybrid_is_chosen_for_each_example() -> None:
    z = CODEC.network.encode(spectra(2))
    mixed = CODEC.network.fuse(z, torch.tensor([True, False]))
    assert torch.equal(mixed[0], CODEC.network.fuse(z)[0])
    assert torch.allclose(mixed[1], CODEC.network.fsq.round(z)[1], atol=1e-6)


def test_a_predicted_residual_replaces_the_missing_one() -> None:
    network = random_lycodec(predictor_units=8).network
    z = network.encode(spectra(2))
    levels = network.fsq.round(z)
    assert network.predictor is not None
    told = network.predictor(levels)
    assert float(told.abs().max()) <= 0.1 + 1e-6 and bool(told.any())  # half a step of 11 levels
    assert torch.allclose(network.fuse(levels), network.fusion(levels, told), atol=1e-6)
    assert torch.allclose(network.fuse(z), network.fusion(levels, z - levels), atol=1e-6)


# --- rates


@pytest.mark.parametrize("levels", [[11, 11], [15, 7]])
def test_groups_make_a_ladder_of_rates(levels: list[int]) -> None:
    codec = random_lycodec(levels=levels)
    low, wave = codec.with_groups(1), noise(3 * CHUNK)
    full, few = codec.encode(wave).codes(), low.encode(wave).codes()
    k = len(codec.spec.codebooks) // 2
    assert few.spec.codebooks == codec.spec.codebooks[:k] and torch.equal(few.indices, full.indices[:k])
    assert low.spec.bit_rate < codec.spec.bit_rate and low.spec.space == codec.spec.space
    out = codec.decode(few).samples
    assert torch.allclose(out, low.decode(few).samples, atol=1e-6)
    assert torch.allclose(out, codec.decode(full, groups=1).samples, atol=1e-6)
    assert not torch.allclose(out, codec.decode(full).samples, atol=1e-3)
    assert few.latents().codes() == few and not few.latents().values[..., 8:].any()
    with pytest.raises(CodecMismatchError):
        low.decode(full)


def test_a_folder_loads_at_a_lower_rate(tmp_path: Path) -> None:
    save_lycodec(CODEC, tmp_path)
    assert load_lycodec(tmp_path, n_quantizers=2).groups == 1 == duotone.load(tmp_path, n_quantizers=2).groups
    with pytest.raises(UsageError, match="one of 2, 4"):
        duotone.load(tmp_path, n_quantizers=3)
    with pytest.raises(UsageError, match="bandwidth"):
        duotone.load(tmp_path, bandwidth=3.0)


def test_rates_are_said_truthfully(tmp_path: Path) -> None:
    """Bits are those of tokens, and a file has at most 111 bytes for each token beside its header."""
    config = lycodec_preset("lycodec-tiny")
    spec = Lycodec.random(config).spec
    assert spec.bits_per_chunk / spec.steps == pytest.approx(885.6, abs=0.05)
    assert spec.bit_rate == pytest.approx(10_675, abs=1)
    ladder = [Lycodec.random(config).with_groups(g).spec.bit_rate for g in (1, 2, 3, 4)]
    assert ladder == pytest.approx([spec.bit_rate * g / 4 for g in (1, 2, 3, 4)])
    count = 40
    indices = torch.randint(0, 11, (256, 18 * count), generator=torch.Generator().manual_seed(0))
    codec = Lycodec.random(config)
    sizes = []
    for chunks in (20, count):
        duotone.write_duo(tmp_path / "a.duo", codec.codes(indices[:, : 18 * chunks]), force=True)
        sizes.append((tmp_path / "a.duo").stat().st_size)
    assert (sizes[1] - sizes[0]) / (20 * 18) <= 111
    assert sizes[0] - 20 * 18 * 111 < 900  # the header


def test_the_layout_of_codes_is_a_field() -> None:
    plain, packed = random_lycodec(packed=1), random_lycodec(packed=4)
    assert plain.spec.codebooks == (11,) * 16 and packed.spec.codebooks == (14641,) * 4
    assert plain.spec.bit_rate == pytest.approx(packed.spec.bit_rate)
    wave = noise(CHUNK)
    a, b = plain.encode(wave).codes().indices, packed.encode(wave).codes().indices
    digits = b[:, None] // 11 ** torch.arange(4)[None, :, None] % 11
    assert torch.equal(digits.flatten(0, 1), a)


def test_codes_of_a_token_go_through_acoustic_bpe() -> None:
    codec = random_lycodec(packed=1, levels=[15, 7])
    recordings = [codec.encode(noise(6 * CHUNK, seed=seed)).codes() for seed in range(3)]
    alphabet = Alphabet(16, 15)
    assert max(codec.spec.codebooks) == 15 and len(codec.spec.codebooks) == 16
    bpe = train_bpe(
        [codes.numpy() for codes in recordings], alphabet, vocab_size=300, special_tokens=["<pad>"], pad_token="<pad>"
    )
    ids = bpe.encode(recordings[0].numpy())
    assert len(ids) < recordings[0].indices.numel()
    back = codec.codes(bpe.decode(ids).codes, recordings[0].source)
    assert back == recordings[0] and codec.decode(back).length == 6 * CHUNK


@pytest.mark.parametrize(
    "runs", [[[11, 5000]], [[11, 0]], [[11, 1e999]], [[11, 2], 3], [[11]], [["a", 2]], [[11, "2"]]]
)
def test_lists_of_a_header_that_are_no_runs_are_refused(runs: list[object]) -> None:
    values = Lycodec.random(lycodec_preset("lycodec-tiny")).spec.to_dict(short=True)
    assert values["codebooks"] == [[11, 256]]
    with pytest.raises(FormatError):
        CodecSpec.from_dict({**values, "codebooks": runs})


# --- parts


@pytest.mark.parametrize("stem", ["patches", "bands"])
def test_stems_give_the_tokens_directly(stem: str) -> None:
    codec = random_lycodec(stem=stem)
    x = spectra(2)
    assert codec.network.encoder.stem(x).shape == (2, SMALL_LYCODEC.tokens, SMALL_LYCODEC.encoder_dim)
    # each token hears mostly its own time: a click in the last quarter changes the last token more than the first
    late = x.clone()
    late[..., 13] += 3
    change = (codec.network.encoder.stem(late) - codec.network.encoder.stem(x)).norm(dim=-1)
    assert (change[:, -1] > 1.2 * change[:, 0]).all() if stem == "bands" else bool(change.any())


def test_the_grid_is_covered_exactly() -> None:
    """112 frames and 1024 bins: every frame and every bin but Nyquist is in exactly one patch; no interpolation."""
    for size in (8, 16, 32):
        config = LycodecConfig(patch_bins=size)
        rows, columns = config.patch_grid
        assert (rows * size, columns * 16) == (1024, 112) == (config.bins, config.frames)
    assert config.chunk_samples == 71_680 and stft_of(config).bins == 1024
    with pytest.raises(ConfigError, match="not covered"):
        LycodecConfig.parse({"frames": 113})


def test_each_patch_of_the_estimate_can_change() -> None:
    network = CODEC.network
    x, tokens = torch.randn(1, 4, 64, 16), torch.randn(1, 6, 16)
    out = [network.denoise(x, torch.tensor([80.0]), t) for t in (tokens, -tokens)]
    assert ((out[0] - out[1]).abs() > 0).float().mean() > 0.99


def test_spectra_have_the_scale_that_the_decoder_expects() -> None:
    """Companded, not raw: values about sigma_data; raw ones reach hundreds."""
    config = lycodec_preset("lycodec")
    music = synthesize(3, 3.0).samples
    found = chunk_spectra(music[None, :, : config.overlap + config.chunk_samples], config)
    assert config.noise.sigma_data / 2 < float(found.std()) < 2 * config.noise.sigma_data
    assert float(found.abs().max()) < 40


def test_magnitudes_of_a_sine() -> None:
    """A sine at full scale in both channels has magnitude 1 in mid and none in side."""
    sine = torch.sin(2 * torch.pi * 8 / 128 * torch.arange(OVERLAP + CHUNK)).expand(1, 2, -1)
    logs = log_magnitudes(chunk_spectra(sine, SMALL_LYCODEC), SMALL_LYCODEC)
    assert float(logs[0, 0, 8].exp().mean()) == pytest.approx(1, abs=1e-3)
    assert float(logs[0, 1, 8].exp().max()) < 1e-4


def test_the_stereo_head_speaks_to_the_decoder() -> None:
    network = CODEC.network
    tokens = torch.randn(2, 6, 16)
    estimate, told = network.listen(tokens)
    assert estimate is not None and estimate.level.shape == estimate.side.shape == (2, 6, 3)
    assert estimate.time.shape == (2, 6) and not torch.equal(told, tokens)
    plain = random_lycodec(stereo=False).network
    assert plain.listen(tokens)[0] is None and plain.listen(tokens)[1] is tokens


def test_calibration_centres_the_values() -> None:
    for changes in ({}, BANDS):
        network = copy.deepcopy(random_lycodec(**changes).network)
        x = spectra(32)
        network.encoder.calibrate(x, 0.8)
        pre = network.encoder(x)
        assert float(pre.mean(0).abs().max()) < 1e-3 and torch.allclose(pre.std(0), torch.tensor(0.8), atol=1e-2)


def test_checkpointing_changes_no_gradient() -> None:
    found = []
    for on in (False, True):
        network = copy.deepcopy(CODEC.network).requires_grad_(True)
        network.encoder.checkpointing = network.decoder.checkpointing = on
        z = network.encode(spectra(1))
        network.denoise(torch.ones(1, 4, 64, 16), torch.tensor([2.0]), network.fuse(z)).square().sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.allclose(*found, atol=1e-5)


# --- sizes and names


def test_sizes_of_the_presets() -> None:
    big, tiny = (LycodecNetwork(lycodec_preset(name)) for name in ("lycodec", "lycodec-tiny"))
    assert sum(p.numel() for p in big.parameters()) == 82_812_058
    assert sum(p.numel() for p in tiny.parameters()) <= 8_000_000
    for network in (big, tiny):
        assert sum(network.parameters_by_part().values()) == sum(p.numel() for p in network.parameters())


def test_names() -> None:
    with pytest.raises(WeightsError, match="no weights of it come with this installation"):
        duotone.load("lycodec")
    with pytest.raises(ConfigError, match="lycodec-tiny"):
        lycodec_preset("lycodec-huge")


@pytest.mark.parametrize(
    ("change", "match"),
    [({"levels": [11, 10]}, "odd"), ({"values": 250}, "groups"), ({"decoder_dim": 20}, "decoder_dim"), ({"hop": 4096}, "hop"),
     ({"stem_channels": [64]}, "stem_factors"), ({"encoder_dim": 256}, "stem_channels"), ({"token_frames": 200}, "token_frames")],
)  # fmt: skip
def test_configurations_that_cannot_work_are_refused(change: dict[str, object], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        LycodecConfig.parse(change)
