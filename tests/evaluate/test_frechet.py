"""Fréchet distances against closed forms, and the embedders on small models of the real classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
import torch

from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import UsageError, WeightsError
from duotone.evaluate.frechet import LogMel, Pretrained, frechet_distance, load_embedder


def normal(count: int, mean: float, deviation: float, seed: int) -> torch.Tensor:
    return mean + deviation * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_gaussians_in_closed_form() -> None:
    a, b = normal(200_000, 0, 1, 0), normal(200_000, 2, 3, 1)
    assert frechet_distance(a, b) == pytest.approx(3 * (2**2 + (3 - 1) ** 2), rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_the_trace_of_the_root_is_scipys() -> None:
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(50, 6, generator=g).double() @ torch.randn(6, 6, generator=g).double() for _ in range(2))
    cov_a, cov_b = np.cov(a.T.numpy()), np.cov(b.T.numpy())
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    gap = ((a.mean(0) - b.mean(0)) ** 2).sum()
    assert frechet_distance(a, b) == pytest.approx(float(gap) + np.trace(cov_a + cov_b - 2 * root), rel=1e-6)


def test_one_window_has_no_distance() -> None:
    assert np.isnan(frechet_distance(torch.zeros(1, 4), torch.zeros(9, 4)))


def test_the_stand_in_orders_damage() -> None:
    wave = synthesize(2, 6.0)
    g = torch.Generator().manual_seed(0)
    embed = LogMel()
    clean = embed(wave)
    assert clean.shape[1] == 64 and len(clean) > 5
    noisy = [Waveform(wave.samples + s * torch.randn(wave.samples.shape, generator=g), wave.rate) for s in (1e-3, 1e-1)]
    little, much = (frechet_distance(clean, embed(w)) for w in noisy)
    assert 0 < little < much
    assert embed(synthesize(2, 0.1)).shape == (1, 64)


def test_names() -> None:
    assert isinstance(load_embedder("logmel"), LogMel)
    for wrong in ("vggish", "clap", "logmel:x", ""):
        with pytest.raises(UsageError, match="logmel, clap:NAME"):
            load_embedder(wrong)


def test_clap_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ClapConfig(
        text_config={"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
                     "vocab_size": 20},
        audio_config={"depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16,
                      "spec_size": 128, "num_mel_bins": 16, "window_size": 4, "enable_fusion": False},
        projection_dim=12,
    )  # fmt: skip
    extractor = transformers.ClapFeatureExtractor(feature_size=16, truncation="rand_trunc", padding="repeatpad")
    embed = Pretrained(transformers.ClapModel(config), extractor, "CLAP small")
    out = embed(synthesize(1, 21.0))
    assert out.shape == (2, 12) and torch.allclose(out.norm(dim=1), torch.ones(2, dtype=torch.float64), atol=1e-5)


def test_ast_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_length=128,
        num_mel_bins=32,
    )
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=128)
    assert Pretrained(transformers.ASTModel(config), extractor, "AST small")(synthesize(1, 11.0)).shape == (1, 16)


def test_saved_models_are_loaded_by_kind_and_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ASTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, max_length=128, num_mel_bins=32,
    )  # fmt: skip
    transformers.ASTModel(config).save_pretrained(tmp_path / "ast")
    transformers.ASTFeatureExtractor(num_mel_bins=32, max_length=128).save_pretrained(tmp_path / "ast")
    embed = load_embedder(f"ast:{tmp_path / 'ast'}")
    assert embed.name == f"AST {tmp_path / 'ast'}" and embed(synthesize(1, 1.0)).shape == (1, 16)
    with pytest.raises(WeightsError, match="No CLAP weights"):
        load_embedder(f"clap:{tmp_path / 'nothing'}")
