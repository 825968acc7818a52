"""The representation: perfect reconstruction, physics of a sine, and frames against a direct transform."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from duotone.errors import ConfigError
from duotone.represent.stft import (
    OverlapAdd,
    Stft,
    compand,
    dual_window,
    expand,
    to_samples,
    to_spectrum,
    window,
)

HOP = 1024
STFT = Stft(n_fft=2 * HOP, hop=HOP, bins=HOP, compand_scale=0.34, compand_power=0.65)
UNEVEN = Stft(n_fft=2048, hop=640, bins=1025, compand_scale=0.34, compand_power=0.65)  # the hop divides no window


def tone(samples: int, seed: int = 0) -> torch.Tensor:
    """Sound without content at the Nyquist frequency, whose bin the representation drops."""
    t = torch.arange(samples, dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    waves = [torch.sin(2 * torch.pi * f * t + 6 * torch.rand(1, generator=g)) for f in (0.001, 0.013, 0.11, 0.3)]
    return (0.2 * torch.stack([sum(waves), sum(waves[1:])])).float()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 96 * HOP), st.integers(0, 99), st.sampled_from([STFT, UNEVEN]))
def test_with_zeros_before_it_a_wave_comes_back_from_its_first_sample(samples: int, seed: int, stft: Stft) -> None:
    lead = stft.n_fft - stft.hop
    wave = tone(samples, seed)
    frames = -(-(lead + samples) // stft.hop)  # all that start before the last sample
    padded = torch.nn.functional.pad(wave, (lead, frames * stft.hop - samples))
    spectrum = to_spectrum(padded[None], stft)
    assert spectrum.shape == (1, 4, stft.bins, frames)
    back = to_samples(spectrum[0], stft)[:, lead:]
    # an abrupt end has some energy at the Nyquist bin, which STFT drops
    assert (back[:, :samples] - wave).abs().max() < 2e-2
    inner = slice(0, max(0, samples - stft.n_fft))
    assert torch.allclose(back[:, inner], wave[:, inner], atol=1e-2)


def test_a_steady_tone_comes_back_to_float_precision() -> None:
    wave = tone(20 * HOP)
    back = to_samples(to_spectrum(wave[None], STFT)[0], STFT)
    assert torch.allclose(back[:, HOP : 19 * HOP], wave[:, HOP : 19 * HOP], atol=2e-5)


def test_frames_are_plain_windowed_transforms() -> None:
    wave = tone(5 * HOP)
    spectrum = expand(to_spectrum(wave[None], STFT), STFT)[0]
    hann = np.hanning(2 * HOP + 1)[:-1]
    want = np.fft.rfft(wave[1, 2 * HOP : 4 * HOP].double().numpy() * hann)[:1024]
    assert np.allclose(spectrum[2, :, 2].numpy(), want.real, atol=2e-3)
    assert np.allclose(spectrum[3, :, 2].numpy(), want.imag, atol=2e-3)


def test_a_sine_on_a_bin_has_its_amplitude_there() -> None:
    t = torch.arange(4 * HOP)
    wave = 0.5 * torch.cos(2 * torch.pi * 100 * t / (2 * HOP))[None].expand(2, -1)
    frame = expand(to_spectrum(wave[None], STFT), STFT)[0, :2, :, 1]
    magnitude = frame.pow(2).sum(0).sqrt()
    assert magnitude.argmax() == 100
    assert torch.isclose(magnitude[100], torch.tensor(0.5 * HOP / 2), rtol=1e-3)  # A/2 * sum of the window


@given(st.floats(-1e3, 1e3))
def test_companding_is_odd_and_inverts(x: float) -> None:
    v = torch.tensor([x], dtype=torch.float64)
    assert torch.allclose(expand(compand(v, STFT), STFT), v, rtol=1e-6, atol=1e-9)
    assert torch.equal(compand(-v, STFT), -compand(v, STFT))


@st.composite
def windows(draw: st.DrawFn) -> tuple[int, int]:
    """Any n_fft and a hop below it, short of the hops at which the windows hardly overlap."""
    n_fft = draw(st.integers(4, 300))
    return n_fft, draw(st.integers(1, 3 * n_fft // 4))


@given(st.one_of(windows(), st.sampled_from([(2048, 1024), (2048, 640), (2048, 512), (1920, 640)])))
def test_windows_and_their_duals_add_up_to_one(sizes: tuple[int, int]) -> None:
    n_fft, hop = sizes
    count = 2 * -(-n_fft // hop)
    product = (window(n_fft) * dual_window(n_fft, hop)).expand(1, count, n_fft)
    add = OverlapAdd(n_fft, hop, 1)
    total = add.push(product)[0]
    inner = slice(n_fft - hop, None)  # before it, not all frames cover a sample
    torch.testing.assert_close(total[inner], torch.ones_like(total[inner]), rtol=0, atol=1e-5)


@given(windows(), st.lists(st.integers(0, 4), min_size=1, max_size=6))
def test_frames_in_several_pushes_are_those_in_one_bit_for_bit(sizes: tuple[int, int], pushes: list[int]) -> None:
    n_fft, hop = sizes
    frames = 0.1 * torch.randn(2, sum(pushes), n_fft, generator=torch.Generator().manual_seed(n_fft))
    whole, cut = OverlapAdd(n_fft, hop, 2), OverlapAdd(n_fft, hop, 2)
    want = torch.cat([whole.push(frames), whole.finish()], dim=1)
    got = torch.cat([*map(cut.push, torch.split(frames, pushes, dim=1)), cut.finish()], dim=1)
    assert torch.equal(got, want)
    assert got.shape == (2, sum(pushes) * hop + n_fft - hop)


def test_nothing_pushed_gives_no_samples() -> None:
    assert OverlapAdd(16, 4, 3).finish().shape == (3, 0)


@pytest.mark.parametrize("stft", [STFT, UNEVEN], ids=["half", "uneven"])
def test_a_wave_comes_back_for_any_hop(stft: Stft) -> None:
    wave = tone(12 * stft.hop + stft.n_fft)
    back = to_samples(to_spectrum(wave[None], stft)[0], stft)
    assert back.shape == wave.shape
    inner = slice(stft.n_fft - stft.hop, -(stft.n_fft - stft.hop))
    assert torch.allclose(back[:, inner], wave[:, inner], atol=2e-5)


def _half_overlap(spectrum: Tensor) -> Tensor:
    """The formulas for a hop of half a window, as the first release had them."""
    b, c, f, t = spectrum.shape
    real = (spectrum.sign() * (spectrum.abs() / 0.34) ** (1 / 0.65)).reshape(b, c // 2, 2, f, t).permute(0, 1, 4, 3, 2)
    full = torch.nn.functional.pad(torch.view_as_complex(real.contiguous()), (0, 1))
    hann = torch.hann_window(2 * HOP)
    frames = torch.fft.irfft(full, n=2 * HOP) * (hann / (hann**2 + hann.roll(HOP) ** 2))
    out = frames[0, :, :, :HOP].clone()
    out[:, 1:] += frames[0, :, :-1, HOP:]
    return torch.cat([out.flatten(1), frames[0, :, -1, HOP:]], dim=1).clamp(-1, 1)


def test_numbers_of_the_published_transform_stay_bit_for_bit() -> None:
    wave = 0.4 * torch.randn(1, 2, 9 * HOP, generator=torch.Generator().manual_seed(1))
    spectrum = to_spectrum(wave, STFT)
    raw = torch.fft.rfft(wave.unfold(-1, 2 * HOP, HOP) * torch.hann_window(2 * HOP))[..., :HOP]
    want = torch.view_as_real(raw).permute(0, 1, 4, 3, 2).reshape(1, 4, HOP, 8)
    assert torch.equal(spectrum, 0.34 * want.sign() * want.abs() ** 0.65)
    assert torch.equal(to_samples(spectrum[0], STFT), _half_overlap(spectrum))


def test_gradients_flow_there_and_back_and_are_finite_at_zero() -> None:
    small = Stft(16, 6, 9, 0.34, 0.65)
    wave = torch.zeros(1, 2, 34, requires_grad=True)
    (of_silence,) = torch.autograd.grad(to_spectrum(wave, small).sum(), wave)
    assert torch.equal(of_silence, torch.zeros_like(wave))
    spectrum = 0.1 * torch.randn(4, 9, 4, generator=torch.Generator().manual_seed(2))
    spectrum[:, 3] = 0
    spectrum.requires_grad_()
    weights = torch.randn(2, 34, generator=torch.Generator().manual_seed(3))
    (gradient,) = torch.autograd.grad((to_samples(spectrum, small) * weights).sum(), spectrum)
    assert torch.isfinite(gradient).all()
    with torch.no_grad():
        step = 1e-3 * torch.randn(spectrum.shape, generator=torch.Generator().manual_seed(4))
        ahead, behind = (float((to_samples(spectrum + sign * step, small) * weights).sum()) for sign in (1, -1))
    assert (ahead - behind) / 2 == pytest.approx(float((gradient * step).sum()), rel=3e-2)


def test_compand_has_the_same_values_with_and_without_gradients() -> None:
    x = torch.tensor([0.0, -0.0, 1e-45, -1e-40, 1e-20, 0.5, -2.0])
    assert torch.equal(compand(x, STFT), compand(x.clone().requires_grad_(), STFT))


@pytest.mark.parametrize("numbers", [(64, 64, 33), (64, 0, 33), (64, 16, 34), (64, 16, 0)])
def test_numbers_that_no_wave_can_be_rebuilt_from_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="expected 1 to"):
        Stft(*numbers, compand_scale=1, compand_power=1)
