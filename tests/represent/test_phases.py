"""Phases from magnitudes: streams equal wholes, sinusoids and impulses come back, and odd input does no harm."""

from __future__ import annotations

import heapq
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duotone.errors import AudioError, ConfigError
from duotone.represent.phases import PhaseGradient, Reconstruction, deviations, sources, to_radians, to_turns
from duotone.represent.stft import OverlapAdd, dual_window, window

N_FFT, HOP, BLOCK = 2048, 512, 64
BINS = N_FFT // 2 + 1


def spectra_of(wave: Tensor, n_fft: int = N_FFT, hop: int = HOP) -> Tensor:
    """Samples `[T]` -> complex spectra `[n, F]`."""
    spectra: Tensor = torch.fft.rfft(wave.unfold(0, n_fft, hop) * window(n_fft))
    return spectra


def wave_of(spectra: Tensor, n_fft: int = N_FFT, hop: int = HOP) -> Tensor:
    """Complex spectra `[n, F]` -> samples."""
    add = OverlapAdd(n_fft, hop, 1)
    frames = torch.fft.irfft(spectra, n=n_fft) * dual_window(n_fft, hop)
    return torch.cat([add.push(frames[None]), add.finish()], 1)[0]


def whole(
    magnitudes: Tensor, iterations: int = 0, seed: int = 0, n_fft: int = N_FFT, hop: int = HOP, block: int = BLOCK
) -> Tensor:
    made = Reconstruction(n_fft, hop, block, seed, iterations)
    return torch.cat([made.push(magnitudes), made.finish()])


def sound(frames: int, seed: int = 0, n_fft: int = N_FFT, hop: int = HOP) -> Tensor:
    """Magnitudes `[frames, F]` of harmonics, clicks and noise."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange((frames - 1) * hop + n_fft)
    wave = sum(torch.sin(2 * math.pi * 0.0043 * k * t) / k for k in range(1, 12)) * (0.6 + 0.4 * torch.sin(t / 5000))
    wave = 0.1 * wave + 0.01 * torch.randn(len(t), generator=g)
    wave[::7001] += 0.5
    return spectra_of(wave, n_fft, hop).abs()


def snr(reference: Tensor, estimate: Tensor) -> float:
    """In dB, over all gains and delays of up to a period of the lowest of the test's sinusoids."""
    best, length = -math.inf, len(reference) - 400
    for shift in range(400):
        a, b = reference[200 : 200 + length - 200].double(), estimate[shift : shift + length - 200].double()
        error = a - b * (a @ b) / (b @ b)
        best = max(best, float(10 * torch.log10((a @ a) / (error @ error))))
    return best


# ---- streams ----


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 50), max_size=8),
    block=st.integers(1, 20),
    iterations=st.integers(0, 2),
    pause=st.integers(0, 8),
)
def test_however_frames_are_pushed_the_same_spectra_come_out(
    cuts: list[int], block: int, iterations: int, pause: int
) -> None:
    n_fft, hop, frames = 64, 16, 50
    magnitudes = sound(frames, n_fft=n_fft, hop=hop)
    want = whole(magnitudes, iterations, 3, n_fft, hop, block)
    made, parts = Reconstruction(n_fft, hop, block, 3, iterations), []
    for i, (a, b) in enumerate(zip([0, *sorted(cuts)], [*sorted(cuts), frames], strict=True)):
        if i == pause:  # another session takes over
            kept, made = made.state(), Reconstruction(n_fft, hop, block, 99, iterations)
            made.restore(kept)
        parts.append(made.push(magnitudes[a:b]))
    parts.append(made.finish())
    assert want.shape == magnitudes.shape
    assert torch.equal(torch.cat(parts), want)


def test_frames_one_by_one_at_the_real_size() -> None:
    magnitudes = sound(130)
    want = whole(magnitudes, 1)
    made = Reconstruction(N_FFT, HOP, BLOCK, 0, 1)
    got = torch.cat([*(made.push(m[None]) for m in magnitudes), made.finish()])
    assert torch.equal(got, want)


def test_at_most_one_frame_waits_and_none_at_the_end_of_a_block() -> None:
    made, magnitudes = PhaseGradient(N_FFT, HOP, 4, 0), sound(11)
    counts = [len(made.push(m[None])) for m in magnitudes]
    assert counts == [0, 1, 1, 2, 0, 1, 1, 2, 0, 1, 1]
    assert len(made.finish()) == 1 and len(made.finish()) == 0


def test_a_block_does_not_hear_the_next() -> None:
    a, b = sound(12), sound(12, seed=1)
    b[:8] = a[:8]
    for iterations in (0, 2):
        first, second = (whole(m, iterations, block=8) for m in (a, b))
        assert torch.equal(first[:8], second[:8]) and not torch.equal(first[8:], second[8:])


def test_after_finish_a_new_stream_starts() -> None:
    made, magnitudes = Reconstruction(N_FFT, HOP, 5, 0, 1), sound(7)
    first, second = (torch.cat([made.push(magnitudes), made.finish()]) for _ in range(2))
    assert torch.equal(first, second)


def test_seeds_draw_the_first_phases() -> None:
    magnitudes = sound(6)
    assert torch.equal(whole(magnitudes, seed=7), whole(magnitudes, seed=7))
    assert not torch.equal(whole(magnitudes, seed=7), whole(magnitudes, seed=8))
    drawn = PhaseGradient(8, 2, 1, 5).state()["turns"]
    assert drawn.tolist() == [-1143552414, -1758700440, 892532603, 1904229981, 1069441842]


# ---- physics ----


@pytest.mark.parametrize("frequency", [10.0, 100.25, 311.5, 700.9])
def test_a_sinusoid_advances_by_its_frequency(frequency: float) -> None:
    wave = 0.3 * torch.sin(2 * math.pi * frequency / N_FFT * torch.arange(40 * HOP, dtype=torch.float64)).float()
    made = PhaseGradient(N_FFT, HOP, BLOCK, 0)
    turns = torch.cat([made.push(spectra_of(wave).abs()), made.finish()])
    peak = round(frequency)
    for k in range(peak - 1, peak + 2):  # the main lobe
        advance = (turns[1:, k].long() - turns[:-1, k].long()).remainder(2**32).double() / 2**32
        error = (advance - frequency * HOP / N_FFT + 0.5).remainder(1) - 0.5
        assert error.abs().max() < 1e-3
    between = to_radians(
        turns[:, peak] - turns[:, peak - 1]
    ).abs()  # frames start at the window's edge: pi between bins
    assert (between > 3.1).all()


@pytest.mark.parametrize("iterations", [0, 2])
def test_sinusoids_come_back(iterations: int) -> None:
    t = torch.arange(70 * HOP, dtype=torch.float64)
    wave = (0.3 * torch.sin(2 * math.pi * 0.00731 * t)).float()
    back = wave_of(whole(spectra_of(wave).abs(), iterations))
    inner = slice(4 * HOP, 60 * HOP)
    assert snr(wave[inner], back[inner]) > 35


@pytest.mark.parametrize("at", [9000, 9250, 9511])
def test_an_impulse_stays_compact(at: int) -> None:
    wave = torch.zeros(40 * HOP)
    wave[at] = 0.9
    for iterations in (0, 2):
        back = wave_of(whole(spectra_of(wave).abs(), iterations)) ** 2
        centre = int(back.argmax())
        assert abs(centre - at) < HOP
        assert back[centre - 256 : centre + 256].sum() > 0.8 * back.sum()


def test_iterations_make_spectra_consistent() -> None:
    magnitudes = sound(130)
    errors = []
    for iterations in (0, 1, 2, 4, 8):
        again = spectra_of(wave_of(whole(magnitudes, iterations))).abs()[4:-4]
        errors.append(float((again - magnitudes[4:-4]).norm() / magnitudes[4:-4].norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 0.25 and errors[-1] < 0.12


def test_deviations_are_exact_for_sinusoids() -> None:
    t = torch.arange(N_FFT, dtype=torch.float64)
    for deviation in (-0.9, -0.5, -0.1, 0.0, 0.3, 0.5, 0.9):
        frame = torch.exp(2j * math.pi * (200 + deviation) / N_FFT * t) * window(N_FFT)
        magnitudes = torch.fft.fft(frame).abs()[None, :BINS].float()
        assert abs(float(deviations(magnitudes.numpy())[0, 200]) - deviation) < 1e-4


def test_phases_keep_their_precision_for_hours() -> None:
    """A frequency between bins: after 10 hours the advance is that of the first second, to the last unit."""
    magnitudes = sound(1).repeat(9, 1)
    made = PhaseGradient(N_FFT, HOP, BLOCK, 0)
    early = made.push(magnitudes)
    state = made.state()
    state["turns"] = early[-1] + (early[-1] - early[-2]) * 3_375_000  # frames in ten hours, modulo 2**32
    made.restore(state)
    late = made.push(magnitudes)
    assert torch.equal(late[1] - late[0], early[-1] - early[-2])


# ---- the order of integration ----


def by_heap(before: list[float], now: list[float]) -> list[int]:
    """RTPGHI, algorithm 1, literally: the sources of one frame's bins."""
    heap = [(-m, 0, k, k) for k, m in enumerate(before)]
    heapq.heapify(heap)
    own: dict[int, int] = {}
    while len(own) < len(now):
        _, frame, k, source = heapq.heappop(heap)
        for j in [k] if frame == 0 else [k - 1, k + 1]:
            if 0 <= j < len(now) and j not in own:
                own[j] = source
                heapq.heappush(heap, (-now[j], 1, j, source))
    return [own[k] for k in range(len(now))]


@settings(deadline=None, max_examples=200)
@given(st.integers(2, 40), st.integers(0, 10**6))
def test_two_passes_give_the_order_of_the_heap(bins: int, seed: int) -> None:
    values = np.random.default_rng(seed).permutation(2 * bins).astype(np.float32)  # no two are equal
    before, now = values[:bins], values[bins:]
    assert sources(before[None], now[None])[0].tolist() == by_heap(before.tolist(), now.tolist())


# ---- odd input ----


@pytest.mark.parametrize("value", [0.0, 1e-40, 1e-20, 1e30, 3e38])
@pytest.mark.parametrize("iterations", [0, 2])
def test_silence_tiny_and_huge_magnitudes_give_finite_phases(value: float, iterations: int) -> None:
    magnitudes = torch.full((20, BINS), value)
    magnitudes[10:] *= 0.5
    made = PhaseGradient(N_FFT, HOP, BLOCK, 0)
    assert len(made.push(magnitudes)) == 19
    if value <= 1e30:
        got = whole(magnitudes, iterations)
        assert torch.isfinite(torch.view_as_real(got)).all()
        assert torch.allclose(got.abs(), magnitudes, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("value", [math.nan, math.inf, -1e-3])
def test_what_is_no_magnitude_is_refused_and_changes_nothing(value: float) -> None:
    made, good = Reconstruction(N_FFT, HOP, 4, 0, 1), sound(9)
    bad = good[:3].clone()
    bad[1, 77] = value
    parts = [made.push(good[:5])]
    with pytest.raises(AudioError, match="expected finite ones"):
        made.push(bad)
    parts += [made.push(good[5:]), made.finish()]
    assert torch.equal(torch.cat(parts), whole(good, 1, block=4))


def test_shapes_and_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(AudioError, match=r"\[3, 1024\], expected \[frames, 1025\]"):
        PhaseGradient(N_FFT, HOP, BLOCK, 0).push(torch.ones(3, 1024))
    for n_fft, hop, block in ((2047, 512, 64), (2048, 1025, 64), (2048, 0, 64), (2048, 512, 0)):
        with pytest.raises(ConfigError, match="blocks of"):
            PhaseGradient(n_fft, hop, block, 0)
    with pytest.raises(ConfigError, match="-1 iterations"):
        Reconstruction(N_FFT, HOP, BLOCK, 0, -1)
    with pytest.raises(ConfigError, match=r"\[33\], expected \[1025\]"):
        PhaseGradient(N_FFT, HOP, BLOCK, 0).restore(PhaseGradient(64, 16, 4, 0).state())


def test_nothing_pushed_gives_nothing() -> None:
    made = Reconstruction(N_FFT, HOP, BLOCK, 0, 2)
    assert made.push(torch.zeros(0, BINS)).shape == (0, BINS)
    assert made.finish().shape == (0, BINS)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20))
def test_turns_are_cycles_modulo_one(cycles: list[float]) -> None:
    x = np.array(cycles, np.float32)
    distance = to_turns(x).astype(np.float64) / 2**32 - x
    assert np.abs(distance - np.rint(distance)).max() < 1e-6


def test_half_a_turn_is_not_lost() -> None:
    turns = to_turns(np.array([0.5, -0.5, 1.5], np.float32)).astype(np.int64)
    assert (np.abs(turns - 2**31) <= 128).all()
