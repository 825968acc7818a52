"""Muon: equal to PyTorch's, its singular values, and the format in which it multiplies."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duotone.train.muon import Muon, orthogonalized


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="needs PyTorch 2.9 or newer")
@pytest.mark.parametrize("shape", [(8, 8), (24, 8), (8, 24)], ids=str)
def test_it_steps_as_that_of_pytorch(shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duotone.train.muon.best_dtype", lambda device: torch.bfloat16)
    ours, theirs = (torch.nn.Parameter(draw(*shape)) for _ in range(2))
    optimizers = [Muon([ours], lr=0.02, weight_decay=0.1), torch.optim.Muon([theirs], lr=0.02, weight_decay=0.1)]
    for i in range(4):
        for p, optimizer in zip((ours, theirs), optimizers, strict=True):
            p.grad = draw(*shape, seed=i + 1)
            optimizer.step()
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-3)


@given(st.integers(1, 24), st.integers(1, 24), st.integers(0, 99))
def test_singular_values_come_near_to_one_and_vectors_stay(rows: int, columns: int, seed: int) -> None:
    left, values, right = torch.linalg.svd(draw(rows, columns, seed=seed), full_matrices=False)
    values = values.clamp_min(0.05 * values.max())
    found = left.T @ orthogonalized(left @ torch.diag(values) @ right).float() @ right.T
    diagonal = found.diagonal()
    assert float(diagonal.min()) > 0.5 and float(diagonal.max()) < 1.3
    assert float((found - torch.diag(diagonal)).abs().max()) < 0.05


def test_it_multiplies_in_float32_where_bfloat16_has_no_units(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    matmul = torch.addmm
    monkeypatch.setattr(
        torch, "addmm", lambda x, *others, **scales: (seen.append(x.dtype), matmul(x, *others, **scales))[1]
    )
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr("duotone.train.muon.best_dtype", lambda device, dtype=dtype: dtype)
        assert orthogonalized(draw(4, 6)).dtype == torch.float32 and set(seen) == {dtype}
        seen.clear()


def test_it_takes_matrices_alone() -> None:
    with pytest.raises(ValueError, match="expected matrices"):
        Muon([torch.nn.Parameter(draw(3))])
