"""Each contradiction of Lycodec's description, and the tests that would fail on it.

The rows are those of the design's table of resolutions, in its order: what the description (or its code) does, and the tests that
hold ours to what was chosen in its place. Tests that belong to no single part of the codec stand below.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch

import duotone
from duotone.codec.lycodec.frontend import chunk_spectra
from duotone.codec.lycodec.network import LycodecNetwork
from duotone.codec.lycodec.stem import QueryResampler
from duotone.codec.values import Codes
from duotone.config import LycodecConfig
from duotone.train.draws import Draws
from duotone.train.lycodec import LycodecObjective, LycodecObjectiveSection
from duotone.train.lycodec_losses import StereoTargets, stereo_losses
from small_lycodec import BANDS, SMALL_LYCODEC, random_lycodec

TESTS = Path(__file__).resolve().parents[1]
HERE, CODEC, SEED = "codec/test_lycodec_resolutions.py", "codec/test_lycodec.py", "codec/test_lycodec_seed.py"
TRAINING, RECIPE = "train/test_lycodec_training.py", "train/test_lycodec_seed_recipe.py"

#: What the description does -> the tests that fail on it, as FILE::TEST.
ROWS: dict[str, list[str]] = {
    "bits of a token are called bits of a frame, 128:1 is said, files hold float32": [
        f"{CODEC}::test_rates_are_said_truthfully", f"{CODEC}::test_compact_files_follow_the_values_of_the_token_before",
        "evaluate/test_compare.py::test_bit_rates_are_those_of_the_real_files",
    ],
    "hybrid tokens, which are real numbers, are called the compressed representation": [
        f"{HERE}::test_a_file_of_codes_holds_nothing_that_rounding_took_away", f"{HERE}::test_both_faces_are_trained_and_validated",
        f"{SEED}::test_tokens_are_hybrid_and_disc_is_what_integers_carry", f"{CODEC}::test_codes_have_no_residual_and_their_tokens_are_the_levels",
        f"{CODEC}::test_latents_decode_with_their_residual",
    ],
    "the residual is identically 0 in training": [
        f"{CODEC}::test_the_residual_trains_the_fusion", f"{TRAINING}::test_the_residuals_network_learns_from_hybrid_examples",
        f"{CODEC}::test_hybrid_is_chosen_for_each_example",
    ],
    "4 groups of 11 levels are the same as one of 11": [
        f"{CODEC}::test_groups_make_a_ladder_of_rates", f"{HERE}::test_levels_of_each_group_decide_the_rate",
        f"{HERE}::test_dropped_groups_are_not_heard_in_training", f"{TRAINING}::test_groups_are_dropped_by_their_share",
    ],
    "patches drop the last bin and frame, and interpolation stretches the rest": [
        f"{CODEC}::test_the_grid_is_covered_exactly", f"{CODEC}::test_each_patch_of_the_estimate_can_change",
        "nn/test_rotary.py::test_patches_cover_the_map_exactly",
    ],
    "15 encoder frames are interpolated up to 18 tokens": [
        f"{HERE}::test_tokens_are_more_than_mixtures_of_fewer_frames", f"{HERE}::test_tokens_of_the_band_stem_see_frames_of_their_own",
    ],
    "rotary positions on the input of a layer, which are not relative": [
        "nn/test_rotary.py::test_attention_is_relative_and_values_are_not_turned",
        "nn/test_rotary.py::test_products_depend_on_differences_of_positions",
    ],
    "one step from sigma .001 returns noise": [
        f"{CODEC}::test_one_step_starts_at_sigma_max_and_is_seeded",
        f"{SEED}::test_decoding_starts_at_sigma_max_and_depends_on_the_tokens",
    ],
    "the band-split head comes after the scaling, so that f(x, sigma_min) is not x": [
        f"{CODEC}::test_the_boundary_condition_holds_with_the_band_split_head",
    ],
    "raw spectra in the hundreds with sigma_data .5": [f"{CODEC}::test_spectra_have_the_scale_that_the_decoder_expects"],
    "a tanh estimates decibels; time difference and side residual have no loss": [
        f"{HERE}::test_large_level_differences_can_be_said", f"{HERE}::test_all_three_stereo_estimates_are_learnt",
        f"{TRAINING}::test_stereo_targets_of_a_delayed_and_scaled_copy",
    ],
    "levels double where the last chunk overlaps; some lengths and mono fail": [
        f"{CODEC}::test_chunks_add_up_to_one_where_they_overlap", f"{CODEC}::test_any_length_rate_and_channels_come_back_exactly",
    ],
    "encode gives no integers": [
        f"{CODEC}::test_codes_of_a_token_go_through_acoustic_bpe", "codec/test_lycodec_bundled.py::test_its_codes_are_those_recorded",
    ],
    "training crashes at the first batch, EMA too, and checkpoints do not load": [
        f"{TRAINING}::test_it_trains_resumes_exactly_and_its_export_loads", f"{TRAINING}::test_the_teacher_follows_the_student",
        f"{TRAINING}::test_gradient_checkpointing_computes_blocks_again_and_changes_nothing", f"{RECIPE}::test_the_command_writes_a_recipe",
    ],
    "taken over: the residual predicted from indices; a discrete sample in each batch": [
        f"{CODEC}::test_a_predicted_residual_replaces_the_missing_one", f"{TRAINING}::test_the_predictor_learns_the_residual",
        "train/test_lycodec_predictor.py::test_codes_and_all_other_weights_stay_as_they_are",
        f"{TRAINING}::test_each_batch_has_a_discrete_example",
    ],
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_the_tests_of_each_row_are_there(row: str) -> None:
    for name in ROWS[row]:
        file, _, test = name.partition("::")
        known = {node.name for node in ast.parse((TESTS / file).read_text()).body if isinstance(node, ast.FunctionDef)}
        assert test in known, name


def spectra(config: LycodecConfig, chunks: int, seed: int = 0) -> torch.Tensor:
    length = config.overlap + chunks * config.chunk_samples
    noise = torch.randn(1, 2, length, generator=torch.Generator().manual_seed(seed))
    return chunk_spectra(0.2 * noise, config)


def objective(**fields: object) -> LycodecObjective:
    torch.manual_seed(0)
    section = {"spectral_sizes": (64, 128), "mel_bands": 8, "teacher_decay": 0.0, **fields}
    made = LycodecObjective(SMALL_LYCODEC, LycodecObjectiveSection.parse(section))
    made.network.load_state_dict(random_lycodec().network.state_dict())
    return made


# --- two faces


def test_a_file_of_codes_holds_nothing_that_rounding_took_away(tmp_path: Path) -> None:
    """Two sounds' values that round alike have the same file of codes, and decode alike from it; as latents they do not.

    The description's tokens contain the residual, so that their files would differ, or decode to another sound than tokens do.
    """
    codec = random_lycodec()
    fsq = codec.network.fsq
    generator = torch.Generator().manual_seed(0)
    levels = fsq.round(2 * torch.rand(3, 6, 16, generator=generator) - 1)
    values = [levels + 0.08 * (torch.rand(levels.shape, generator=generator) - 0.5) for _ in range(2)]
    both = [codec.latents(v.clamp(-1, 1)) for v in values]
    assert not torch.allclose(codec.decode(both[0]).samples, codec.decode(both[1]).samples, atol=1e-3)
    files = [tmp_path / f"{i}.duo" for i in range(2)]
    for file, latents in zip(files, both, strict=True):
        duotone.write_duo(file, latents.codes())
    assert files[0].read_bytes() == files[1].read_bytes()
    again = duotone.read_duo(files[0])
    assert isinstance(again, Codes) and again.indices.dtype == torch.int64
    fused = codec.network.fuse(again.latents().values)
    assert torch.equal(fused, fsq.round(fused))  # what the decoder gets of codes is levels, nothing between
    assert torch.equal(codec.decode(again).samples, codec.decode(both[1].codes()).samples)
    assert not torch.allclose(codec.decode(again).samples, codec.decode(both[1]).samples, atol=1e-3)


def test_both_faces_are_trained_and_validated() -> None:
    """Examples with their residual and without are in one batch, and validation measures a distance for each."""
    made = objective()
    hybrid, _ = made.choices(Draws.whole(64))
    assert 16 < int(hybrid.sum()) < 48
    batch = {"samples": 0.1 * torch.randn(4, 2, made.crop, generator=torch.Generator().manual_seed(0))}
    found = made.errors(batch)
    assert found["mel_continuous"] != found["mel_rounded"]
    with torch.no_grad():
        made.network.fusion.alpha.zero_()  # no residual is heard any more
    without = made.errors(batch)
    assert without["mel_continuous"] == pytest.approx(without["mel_rounded"], abs=1e-5)
    assert without["mel_rounded"] == pytest.approx(found["mel_rounded"], abs=1e-5)


# --- groups


def test_levels_of_each_group_decide_the_rate() -> None:
    plain, mixed = (LycodecConfig(levels=levels) for levels in ((11, 11, 11, 11), (15, 11, 11, 7)))
    bits = [
        18 * sum(torch.log2(torch.tensor(float(n))) for book in c.codebook_levels for n in book) for c in (plain, mixed)
    ]
    wanted = [18 * 64 * sum(torch.log2(torch.tensor(float(n))) for n in c.levels) for c in (plain, mixed)]
    assert torch.allclose(torch.stack(bits), torch.stack(wanted)) and bits[0] != bits[1]  # type: ignore[arg-type]
    codec = random_lycodec(levels=[15, 7])
    values = codec.encode(duotone.Waveform(torch.rand(2, 3_000) - 0.5, 48_000)).codes().latents().values
    first, second = values[..., :8], values[..., 8:]
    assert torch.allclose(first * 7, (first * 7).round(), atol=1e-5)
    assert torch.allclose(second * 3, (second * 3).round(), atol=1e-5)


def test_dropped_groups_are_not_heard_in_training() -> None:
    """An example that keeps one group decodes alike whatever the others are, and they get no gradient of it."""
    network = random_lycodec().network
    values = 0.9 * (2 * torch.rand(2, 6, 16, generator=torch.Generator().manual_seed(0)) - 1)
    values.requires_grad_()
    kept = network.keep(values, torch.tensor([1, 2]))
    fused = network.fuse(kept)
    (gradient,) = torch.autograd.grad(fused.square().sum(), values)
    assert not gradient[0, :, 8:].any() and gradient[0, :, :8].any() and gradient[1, :, 8:].any()
    with torch.no_grad():
        other = values.clone()
        other[:, :, 8:] *= -1
        again = network.fuse(network.keep(other, torch.tensor([1, 2])))
    assert torch.equal(again[0], fused[0]) and not torch.equal(again[1], fused[1])
    made, seen = objective(group_share=1.0), []
    real = made.network.fuse
    made.network.fuse = lambda values, hybrid=None: (seen.append(values), real(values, hybrid))[1]  # type: ignore[method-assign,func-returns-value]
    made({"samples": 0.1 * torch.randn(4, 2, made.crop)}, 0.5, Draws.whole(4))
    assert not seen[0][..., 8:].any() and seen[0][..., :8].any()


# --- tokens


def test_tokens_are_more_than_mixtures_of_fewer_frames() -> None:
    """Interpolated tokens of 4 frames would span 4 dimensions at most (15 of 18 in the description); queries make 6 of them."""
    torch.manual_seed(0)
    steps = -(-SMALL_LYCODEC.frames // 4)
    layer = QueryResampler(steps, SMALL_LYCODEC.tokens, 16, 2)
    for p in layer.parameters():
        torch.nn.init.normal_(p, std=0.5)
    assert steps < SMALL_LYCODEC.tokens
    found = layer(torch.randn(1, steps, 16))[0]
    assert int(torch.linalg.matrix_rank(found, rtol=1e-4)) == SMALL_LYCODEC.tokens
    # and each step is heard by the tokens: attention, not a constant
    x = torch.randn(1, steps, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x)
    assert bool(gradient.abs().sum(-1).gt(1e-4).all())


def test_tokens_of_the_band_stem_see_frames_of_their_own() -> None:
    """Token i hears the frames around its time and no others: no token is a mixture of its neighbours."""
    config = LycodecConfig.parse({**SMALL_LYCODEC.to_dict(), **BANDS})
    stem = random_lycodec(**BANDS).network.encoder.stem
    x = spectra(config, 1).requires_grad_()
    middles = []
    for token in range(config.tokens):
        (gradient,) = torch.autograd.grad(stem(x)[0, token].sum(), x)
        heard = gradient.abs().sum((0, 1, 2)).nonzero().flatten()
        assert len(heard) == config.token_frames and heard.tolist() == list(range(int(heard[0]), int(heard[-1]) + 1))
        middles.append(float(heard.float().mean()))
    ideal = [(i + 0.5) * config.frames / config.tokens - 0.5 for i in range(config.tokens)]
    inside = [min(max(m, (config.token_frames - 1) / 2), config.frames - (config.token_frames + 1) / 2) for m in ideal]
    assert middles == pytest.approx(inside, abs=0.5) and len(set(middles)) == config.tokens


# --- stereo


def test_large_level_differences_can_be_said() -> None:
    """36 dB to one side is 1.8 units: a target and an estimate beyond 1, which a tanh cannot reach."""
    config = SMALL_LYCODEC
    noise = 0.2 * torch.randn(1, 1, config.overlap + config.chunk_samples, generator=torch.Generator().manual_seed(0))
    wanted, bands, tokens = StereoTargets(config)(chunk_spectra(torch.cat([noise, noise * 10**-1.8], 1), config))
    assert torch.allclose(wanted.level[bands], torch.tensor(1.8), atol=0.05) and tokens.all()
    head = LycodecNetwork(config).stereo
    assert head is not None
    with torch.no_grad():
        head.out.bias.fill_(1.8)
        head.out.weight.zero_()
        estimate, _ = head(torch.randn(1, config.tokens, config.values))
    assert float(stereo_losses(estimate, wanted, bands, tokens)["level"]) < 0.02


@pytest.mark.parametrize("name", ["level", "time", "side"])
def test_all_three_stereo_estimates_are_learnt(name: str) -> None:
    """With the weight of one term alone, its outputs of the head get gradients of the objective; the description left two without a loss."""
    weights = {f"{each}_weight": float(each == name) for each in ("level", "time", "side")}
    found = {}
    for factor in (0.0, 1.0):
        made = objective(**{key: factor * value for key, value in weights.items()}, group_share=0.0)
        batch = {"samples": 0.1 * torch.randn(4, 2, made.crop, generator=torch.Generator().manual_seed(0))}
        loss, values = made(batch, 0.5, Draws.whole(4))
        assert made.network.stereo is not None and float(values[name]) > 0
        (found[factor],) = torch.autograd.grad(loss, [made.network.stereo.out.bias])
    change = (found[1.0] - found[0.0]).abs() > 1e-7
    bands = SMALL_LYCODEC.stereo_bands
    part = {"level": slice(0, bands), "time": slice(bands, bands + 1), "side": slice(bands + 1, None)}[name]
    outside = torch.ones_like(change)
    outside[part] = False
    assert bool(change[part].any()) and not change[outside].any()
