"""The C kernel of phases gives what the plain form gives, for every width of vector, and streams stay equal to wholes."""

from __future__ import annotations

import ctypes
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duotone.nn import build, native
from duotone.nn import phase_kernels as kernel
from duotone.represent import phases as plain
from duotone.represent.phases import PLAIN, Reconstruction

CC = native.compiler()
pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> dict[int, ctypes.CDLL]:
    """The kernels for vectors of 4, 8 and 16: compilers split those that the processor does not have."""
    assert CC is not None
    folder = tmp_path_factory.mktemp("kernels")
    flags = (*build.FLAGS, "-Wno-psabi")
    return {lanes: build.load(CC, folder, (*flags, f"-DLANES={lanes}")) for lanes in (4, 8, 16)}


def drawn(frames: int, bins: int, seed: int) -> tuple[Tensor, Tensor]:
    """Magnitudes `[frames + 2, bins]` over nine decades, with silence and equal neighbours, and turns `[bins]`."""
    g = torch.Generator().manual_seed(seed)
    magnitudes = 10 ** (torch.rand(frames + 2, bins, generator=g) * 9 - 6)
    magnitudes[torch.rand(frames + 2, bins, generator=g) < 0.1] = 0
    magnitudes[:, : bins // 3] = magnitudes[:, : bins // 3].round(decimals=1)
    return magnitudes, torch.randint(-(2**31), 2**31, (bins,), generator=g).int()


def apart(a: Tensor, b: Tensor) -> float:
    """The largest distance, in turns."""
    return float((a - b).double().abs().max() / 2**32)  # int32 wraps


@settings(deadline=None, max_examples=60)
@given(
    lanes=st.sampled_from([4, 8, 16]),
    frames=st.integers(1, 37),
    sizes=st.sampled_from([(4, 1), (64, 16), (64, 32), (60, 13), (46, 23), (512, 128), (2048, 512)]),
    seed=st.integers(0, 999),
)
def test_phases_are_those_of_the_plain_form(
    compiled: dict[int, ctypes.CDLL], lanes: int, frames: int, sizes: tuple[int, int], seed: int
) -> None:
    n_fft, hop = sizes
    magnitudes, turns = drawn(frames, n_fft // 2 + 1, seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: compiled[lanes])
        got = kernel.integrate(magnitudes, turns, n_fft, hop)
    want = plain.integrate(magnitudes, turns, n_fft, hop)
    assert got.shape == want.shape == (frames, n_fft // 2 + 1)
    assert apart(got, want) < 1e-6 * frames


@settings(deadline=None, max_examples=40)
@given(
    lanes=st.sampled_from([4, 8, 16]),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 70)),
    seed=st.integers(0, 999),
)
def test_polar_is_that_of_the_plain_form(
    compiled: dict[int, ctypes.CDLL], lanes: int, shape: tuple[int, int], seed: int
) -> None:
    g = torch.Generator().manual_seed(seed)
    magnitudes, turns = torch.rand(shape, generator=g), torch.randint(-(2**31), 2**31, shape, generator=g).int()
    for i, edge in enumerate((0, 2**29, 2**29 - 1, 2**30, -(2**30), -(2**29), -(2**31), 2**31 - 1)):
        turns.view(-1)[i % turns.numel()] = edge
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "library", lambda: compiled[lanes])
        got = kernel.polar(magnitudes, turns)
    angle = turns.double() * (2 * math.pi / 2**32)
    assert (got - torch.polar(magnitudes.double(), angle)).abs().max() < 3e-7
    assert (got - plain.polar(magnitudes, turns)).abs().max() < 1e-6


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_streams_by_the_kernel_equal_wholes(
    compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    monkeypatch.setattr(native, "library", lambda: compiled[lanes])
    magnitudes, _ = drawn(98, 257, 1)

    def pushed(cuts: list[int]) -> Tensor:
        made = Reconstruction(512, 128, 24, 0, 1, kernel.KERNELS)
        return torch.cat([*(made.push(part) for part in torch.split(magnitudes, cuts)), made.finish()])

    whole = pushed([100])
    assert torch.equal(pushed([1] * 100), whole)
    assert torch.equal(pushed([23, 1, 2, 0, 40, 34]), whole)


def test_the_whole_is_that_of_the_plain_form() -> None:
    magnitudes, _ = drawn(70, 1025, 2)
    spectra = []
    for kernels in (kernel.KERNELS, PLAIN):
        made = Reconstruction(2048, 512, 64, 0, 2, kernels)
        spectra.append(torch.cat([made.push(magnitudes), made.finish()]))
    assert float((spectra[0] - spectra[1]).norm() / spectra[1].norm()) < 1e-3


def test_without_kernels_the_plain_form_computes() -> None:
    magnitudes, turns = drawn(5, 33, 3)
    with native.declined():
        got = kernel.integrate(magnitudes, turns, 64, 16)
        assert torch.equal(got, plain.integrate(magnitudes, turns, 64, 16))
        assert torch.equal(kernel.polar(magnitudes[1:-1], got), plain.polar(magnitudes[1:-1], got))


def test_huge_magnitudes_and_silence_do_no_harm(
    compiled: dict[int, ctypes.CDLL], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "library", lambda: compiled[16])
    for value in (0.0, 1e-42, 3e38):
        magnitudes = torch.full((9, 33), value)
        turns = torch.arange(33, dtype=torch.int32)
        assert torch.equal(kernel.integrate(magnitudes, turns, 64, 16), plain.integrate(magnitudes, turns, 64, 16))
