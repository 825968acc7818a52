"""Rotary attention: relative positions in each head; patches cover a map exactly."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duotone.nn.patches import from_patches, grid_positions, to_patches
from duotone.nn.rotary import rotate, turns
from duotone.nn.rotary_attention import RotaryAttention


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(-100, 100))
def test_products_depend_on_differences_of_positions(a: float, b: float, shift: float) -> None:
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0)).unbind()

    def product(at: float, to: float) -> float:
        return float(rotate(q, *turns(torch.tensor([[at]]), 16)) @ rotate(k, *turns(torch.tensor([[to]]), 16)).T)

    assert product(a, b) == pytest.approx(product(a + shift, b + shift), abs=1e-3)
    assert product(0, 0) == pytest.approx(float(q @ k), abs=1e-5)


def test_a_rotation_is_that_of_complex_numbers() -> None:
    x = torch.randn(5, 8, dtype=torch.float32, generator=torch.Generator().manual_seed(1))
    at = torch.arange(5.0)[:, None]
    angles = at * 1e4 ** (-torch.arange(4) / 4)
    wanted = torch.view_as_real(torch.view_as_complex(x.view(5, 4, 2)) * torch.polar(torch.ones(5, 4), angles))
    assert torch.allclose(rotate(x, *turns(at, 8)), wanted.flatten(1), atol=1e-5)


def _attention(positions: torch.Tensor) -> RotaryAttention:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = RotaryAttention(16, 2, positions)
        torch.nn.init.normal_(layer.out.weight, std=0.5)
    return layer


def test_attention_is_relative_and_values_are_not_turned() -> None:
    """Positions on a layer's input (the seed's) would change with a shift, and change a single token's value."""
    x = torch.randn(1, 6, 16, generator=torch.Generator().manual_seed(2))
    at = torch.arange(6.0)[:, None]
    here, there = _attention(at), _attention(at + 7)
    assert torch.allclose(here(x), there(x), atol=1e-5)
    spread = _attention(at * 3)
    assert not torch.allclose(here(x), spread(x), atol=1e-3)
    alone = [_attention(torch.tensor([[p]]))(x[:, :1]) for p in (0.0, 9.0)]
    assert torch.allclose(*alone, atol=1e-6)


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))
def test_patches_cover_the_map_exactly(channels: int, rows: int, columns: int, f: int, t: int) -> None:
    x = torch.arange(2 * channels * rows * f * columns * t).reshape(2, channels, rows * f, columns * t)
    patches = to_patches(x, (f, t))
    assert patches.shape == (2, rows * columns, channels * f * t)
    assert torch.equal(from_patches(patches, (rows, columns), (f, t)), x)
    assert torch.equal(patches[0, columns * (rows - 1)].view(channels, f, t), x[0, :, -f:, :t])  # frequency-major


def test_positions_of_patches() -> None:
    at = grid_positions((2, 3), (1.0, 6.0))
    assert at.tolist() == [[0.5, 3], [0.5, 9], [0.5, 15], [1.5, 3], [1.5, 9], [1.5, 15]]
