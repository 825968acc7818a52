"""Lycodec's objective: its draws, targets and terms, gradients, and training through the loop."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import duotone
from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.codec.lycodec.frontend import chunk_spectra
from duotone.codec.lycodec.stereo import Stereo
from duotone.codec.lycodec.weights import load_lycodec
from duotone.config import LycodecConfig, lycodec_preset
from duotone.errors import ConfigError
from duotone.train import checkpoint
from duotone.train.draws import Draws
from duotone.train.log import LOG, read_log
from duotone.train.lycodec import (
    LycodecObjective,
    LycodecObjectiveSection,
    LycodecSection,
    draw_hybrid,
    draw_kept,
    hybrid_share,
    spectral_rise,
)
from duotone.train.lycodec_losses import SpectralLosses, StereoTargets, stereo_losses
from duotone.train.muon import Muon
from duotone.train.optimizers import make_optimizers
from duotone.train.recipe import TrainRecipe, bundled
from duotone.train.run import train
from small_lycodec import SMALL_LYCODEC, random_lycodec

SIZES = {"spectral_sizes": (64, 128), "mel_bands": 8}


def samples(count: int, seed: int = 0, chunks: int = 1) -> Tensor:
    length = SMALL_LYCODEC.overlap + chunks * SMALL_LYCODEC.chunk_samples
    return 0.1 * torch.randn(count, 2, length, generator=torch.Generator().manual_seed(seed))


def objective(config: LycodecConfig = SMALL_LYCODEC, **fields: object) -> LycodecObjective:
    torch.manual_seed(0)
    made = LycodecObjective(config, LycodecObjectiveSection.parse({**SIZES, **fields}))
    made.network.load_state_dict(random_lycodec(predictor_units=config.predictor_units).network.state_dict())
    made.calibrate(samples(24))
    return made


def test_windows_longer_than_a_chunk_are_refused() -> None:
    with pytest.raises(ConfigError, match="at most 728"):
        SpectralLosses(SMALL_LYCODEC, (64, 1024), 8)


def test_the_schedule_of_the_dropout_is_the_seeds() -> None:
    schedule = LycodecObjectiveSection().hybrid_share
    found = [hybrid_share(schedule, step) for step in (0, 4999, 5000, 9999, 10000, 10**6)]
    assert found == [0.5, 0.5, 0.65, 0.65, 0.75, 0.75]
    with pytest.raises(ConfigError, match="step 0"):
        LycodecObjectiveSection.parse({"hybrid_share": [[5, 0.5]]})


def test_each_batch_has_a_discrete_example() -> None:
    generator = torch.Generator().manual_seed(0)
    assert all(not draw_hybrid(total, 1.0, generator).all() for total in (1, 2, 8) for _ in range(20))
    assert float(draw_hybrid(4000, 0.65, generator).float().mean()) == pytest.approx(0.65, abs=0.03)


def test_groups_are_dropped_by_their_share() -> None:
    kept = draw_kept(4000, 0.3, 4, torch.Generator().manual_seed(0))
    assert float((kept < 4).float().mean()) == pytest.approx(0.3, abs=0.03) and set(kept.tolist()) == {1, 2, 3, 4}
    assert set(draw_kept(50, 1.0, 1, torch.Generator()).tolist()) == {1}


def test_spectral_terms_warm_up_and_end() -> None:
    assert [spectral_rise(step, 4, 10) for step in (0, 1, 3, 9, 10)] == [0.25, 0.5, 1, 1, 0]
    assert spectral_rise(10**6, 4, None) == 1
    batch = {"samples": samples(4)}
    _, with_them = objective(spectral_end=3)(batch, 0.0, Draws.whole(4, step=2))
    _, without = objective(spectral_end=3)(batch, 0.0, Draws.whole(4, step=3))
    assert "spectral" in with_them and "spectral" not in without


@pytest.mark.parametrize("delay", [-12, 0, 7])
def test_stereo_targets_of_a_delayed_and_scaled_copy(delay: int) -> None:
    """Left is right, `delay` samples later and 6 dB louder: the closed forms of ITD and ILD."""
    config = LycodecConfig(stem="bands")
    length, reach = config.overlap + config.chunk_samples, 20
    noise = 0.1 * torch.randn(length + 2 * reach, generator=torch.Generator().manual_seed(1))
    right, left = (noise[reach - d : reach - d + length] for d in (0, delay))
    spectra = chunk_spectra(torch.stack([2 * left, right])[None], config)
    wanted, bands, tokens = StereoTargets(config)(spectra)
    assert bands.all() and tokens.all()
    assert torch.allclose(wanted.time, torch.full_like(wanted.time, delay / 48))
    assert float((wanted.level - 20 * math.log10(2) / 20).abs().max()) < 0.03
    if delay == 0:  # side is a third of mid
        assert float((wanted.side - math.log10(1 / 3)).abs().max()) < 1e-3


def test_silence_has_no_stereo_targets() -> None:
    _, bands, tokens = StereoTargets(SMALL_LYCODEC)(torch.zeros(1, 4, 64, 16))
    assert not bands.any() and not tokens.any()


def check_gradient(loss: object, x: Tensor) -> None:
    """A directional derivative, against a central difference in float32."""
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(5), dtype=x.dtype)
    start = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), [start])  # type: ignore[operator]
    step = 1e-3
    numeric = (loss(x + step * direction) - loss(x - step * direction)) / (2 * step)  # type: ignore[operator]
    found = float((gradient * direction).sum())
    assert found != 0 and found == pytest.approx(float(numeric), rel=3e-2)


def test_the_spectral_terms_hear_the_samples_that_were_given() -> None:
    given = samples(2)
    heard = SpectralLosses(SMALL_LYCODEC, (64,), 8).samples(chunk_spectra(given, SMALL_LYCODEC)).unflatten(0, (2, 2))
    mid, inner = given.mean(1), slice(SMALL_LYCODEC.overlap, -SMALL_LYCODEC.overlap)
    assert torch.corrcoef(torch.stack([heard[:, 0, inner].flatten(), mid[:, inner].flatten()]))[0, 1] > 0.99


@pytest.mark.parametrize("name", ["mel_distance", "multi_resolution"])
def test_gradients_of_the_spectral_terms_equal_finite_differences(name: str) -> None:
    losses = SpectralLosses(SMALL_LYCODEC, (64, 128), 8)
    clean = chunk_spectra(samples(2), SMALL_LYCODEC)
    assert float(getattr(losses, name)(clean, clean)) == 0
    check_gradient(lambda x: getattr(losses, name)(x, clean), 1.5 * clean)


def test_gradients_of_the_stereo_terms_equal_finite_differences() -> None:
    wanted, bands, tokens = StereoTargets(SMALL_LYCODEC)(chunk_spectra(samples(2), SMALL_LYCODEC))
    for name, weight in (("level", bands), ("time", tokens), ("side", bands)):
        assert weight.any()

        def loss(x: Tensor, name: str = name) -> Tensor:
            found: Stereo = wanted._replace(**{name: x})
            return stereo_losses(found, wanted, bands, tokens)[name]

        check_gradient(loss, getattr(wanted, name) + 0.3)


def test_the_residuals_network_learns_from_hybrid_examples() -> None:
    made = objective(hybrid_share=[[0, 1.0]], group_share=0.0)
    loss, values = made({"samples": samples(4)}, 0.5, Draws.whole(4))
    loss.backward()
    gradients = [p.grad for p in made.network.fusion.parameters()]
    assert gradients and all(g is not None and float(g.abs().max()) > 0 for g in gradients)
    assert all(p.grad is not None for p in made.network.parameters())
    assert made.teacher is not None and all(p.grad is None for p in made.teacher.parameters())
    assert {"spread", "spectral", "level", "time", "side"} <= set(values)


def test_the_predictor_learns_the_residual() -> None:
    made = objective(LycodecConfig.parse({**SMALL_LYCODEC.to_dict(), "predictor_units": 8}))
    loss, values = made({"samples": samples(4)}, 0.0, Draws.whole(4))
    loss.backward()
    assert made.network.predictor is not None and float(values["predictor"]) > 0
    assert any(p.grad is not None and float(p.grad.abs().max()) > 0 for p in made.network.predictor.parameters())


def test_the_teacher_follows_the_student() -> None:
    made = objective(teacher_decay=0.75)
    assert made.teacher is not None
    before = made.teacher.encoder.head.weight.clone()
    with torch.no_grad():
        made.network.encoder.head.weight.add_(1.0)
    made.after_step()
    assert torch.allclose(made.teacher.encoder.head.weight, before + 0.25)


def test_calibration_sets_the_deviation_before_the_bound() -> None:
    health = objective().health({"samples": samples(24)})
    assert health["pre_tanh_deviation"] == pytest.approx(0.8, abs=0.02) and 0 < health["level_entropy"] <= 1


def recipe(**model: object) -> TrainRecipe:
    return TrainRecipe.parse(
        {
            "model": {"kind": "lycodec", "replace": SMALL_LYCODEC.to_dict(), **model},
            "objective": {"kind": "lycodec", "chunks": 2, "denoising_share": 0.5, "spectral_warmup": 2, **SIZES},
            "data": {"kind": "sound", "workers": 1, "validation_share": 0.3},
            "optim": {"rate": 2e-3, "warmup_steps": 2, "ema_decay": 0.9},
            "train": {
                "steps": 12, "batch_size": 4, "precision": "float32", "checkpoint_every": 4, "validate_every": 6,
                "decoded_clips": 1, "validation_batches": 1, "health_every": 6,
            },
        }
    )  # fmt: skip


def test_it_trains_resumes_exactly_and_its_export_loads(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    for i in range(4):
        write(tmp_path / "sounds" / f"{i}.wav", synthesize(i, 1.0))
    sources = [str(tmp_path / "sounds")]
    train(recipe(), sources, tmp_path / "whole")
    counted = iter(range(1000))
    train(recipe(), sources, tmp_path / "parts", stop=lambda: next(counted) == 5)
    train(recipe(), sources, tmp_path / "parts")
    whole, parts = (load_lycodec(tmp_path / name / "codec") for name in ("whole", "parts"))
    assert whole.fingerprint == parts.fingerprint
    codec = duotone.load(str(tmp_path / "whole" / "codec"))
    wave = synthesize(9, 0.1)
    assert codec.decode(codec.encode(wave)).samples.shape[-1] == wave.samples.shape[-1]
    train(recipe(start_from=str(tmp_path / "whole" / "codec")), sources, tmp_path / "more")
    assert load_lycodec(tmp_path / "more" / "codec").provenance["began_from"]["fingerprint"] == whole.fingerprint


def gradients(made: LycodecObjective, batch: dict[str, Tensor]) -> tuple[float, Tensor]:
    """Loss of a step, and all gradients of the network in one vector."""
    loss, _ = made(batch, 0.5, Draws.whole(len(batch["samples"])))
    loss.backward()
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in made.network.parameters()]
    return float(loss.detach()), torch.cat([g.flatten() for g in found])


def test_a_step_in_bfloat16_is_about_that_in_float32() -> None:
    batch = {"samples": samples(8)}
    exact, wanted = gradients(objective(), batch)
    made, formats = objective(), set()
    made.network.decoder.blocks[0].mlp.up.register_forward_hook(lambda layer, given, out: formats.add(out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        loss, found = gradients(made, batch)
    assert formats == {torch.bfloat16} and found.dtype == torch.float32
    assert loss != exact and loss == pytest.approx(exact, rel=0.02)
    assert torch.isfinite(found).all() and float(torch.cosine_similarity(found, wanted, dim=0)) > 0.98


def test_the_loop_trains_it_in_bfloat16(tmp_path: Path) -> None:
    """Two steps with `train.precision: bfloat16`: the losses are those of float32 within 2%, and the weights stay float32."""
    (tmp_path / "sounds").mkdir()
    write(tmp_path / "sounds" / "0.wav", synthesize(0, 1.0))
    losses = []
    for precision in ("float32", "bfloat16"):
        values = recipe().to_dict()
        values["data"]["validation_share"] = 0.0
        values["train"] |= {"steps": 2, "precision": precision, "checkpoint_every": 2}
        train(TrainRecipe.parse(values), [str(tmp_path / "sounds")], tmp_path / precision)
        losses.append([record["loss"] for record in read_log(tmp_path / precision / LOG)[0]])
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.02)
    weights = load_file(checkpoint.folder(tmp_path / "bfloat16") / "step-000000002" / "model.safetensors")
    assert {w.dtype for name, w in weights.items() if name.startswith("network.")} == {torch.float32}


def test_gradient_checkpointing_computes_blocks_again_and_changes_nothing() -> None:
    batch, found, calls = {"samples": samples(4)}, [], []
    for saving in (False, True):
        made, count = objective(), [0, 0]
        if saving:
            made.save_memory()
        parts = (made.network.encoder.layers[0].mlp.up, made.network.decoder.blocks[0].mlp.up)
        for i, layer in enumerate(parts):
            layer.register_forward_hook(lambda *_, i=i, count=count: count.__setitem__(i, count[i] + 1))
        found.append(gradients(made, batch))
        calls.append(count)
    assert calls == [[1, 1], [2, 2]]  # the teacher's decoder is another module
    assert found[0][0] == found[1][0] and torch.allclose(found[0][1], found[1][1], atol=1e-6)


def test_compiled_parts_train_as_they_do_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """`train.compile` reaches encoder and decoder; here with PyTorch's own kernels, as making kernels takes minutes on a CPU."""
    plain = torch.compile
    seen = []

    def compiled(function: object) -> object:
        seen.append(function)
        return plain(function, backend="eager")  # type: ignore[call-overload]

    monkeypatch.setattr(torch, "compile", compiled)
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl", compiled(self._call_impl))
    )
    batch, made = {"samples": samples(4)}, objective()
    made.compile_parts()
    assert len(seen) == 3  # encoder and decoder, and the teacher's decoder
    exact, wanted = gradients(objective(), batch)
    loss, found = gradients(made, batch)
    assert loss == pytest.approx(exact, rel=1e-5) and torch.allclose(found, wanted, atol=1e-4)
    assert set(made.state_dict()) == set(objective().state_dict())  # names of weights stay


@pytest.mark.parametrize("name", ["lycodec", "lycodec-tiny"])
def test_bundled_recipes_build_their_models(name: str) -> None:
    found = TrainRecipe.load(bundled()[name])
    assert isinstance(found.model, LycodecSection)
    assert found.model.build() == LycodecConfig.parse(lycodec_preset(name).to_dict())


def test_another_model_is_refused(tmp_path: Path) -> None:
    wrong = TrainRecipe.parse({**recipe().to_dict(), "model": {"kind": "codicodec"}})
    with pytest.raises(ConfigError, match=r"model\.kind lycodec"):
        train(wrong, [str(tmp_path)], tmp_path / "x")


def test_the_recipes_optimizers_fit_the_network() -> None:
    """Muon trains the matrices of encoder and decoder, AdamW the rest; no parameter is left out."""
    network = random_lycodec().network.requires_grad_(True)
    muon = [o for o in make_optimizers(TrainRecipe.load("lycodec-tiny").optim, network) if isinstance(o, Muon)]
    (trained,) = ({id(p) for group in o.param_groups for p in group["params"]} for o in muon)
    named = dict(network.named_parameters())
    assert id(named["encoder.layers.0.attention.query.weight"]) in trained
    assert (
        id(named["decoder.blocks.0.cross.query.weight"]) in trained and id(named["encoder.head.weight"]) not in trained
    )
