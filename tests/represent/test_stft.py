"""The representation: perfect reconstruction, physics of a sine, and frames against a direct transform."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.config import preset
from duotone.represent.framing import Layout
from duotone.represent.stft import OverlapAdd, compand, expand, to_frames, to_samples, to_spectrum

CONFIG = preset("base")
HOP = CONFIG.hop


def tone(samples: int, seed: int = 0) -> torch.Tensor:
    """Sound without content at the Nyquist frequency, whose bin the representation drops."""
    t = torch.arange(samples, dtype=torch.float64)
    g = torch.Generator().manual_seed(seed)
    waves = [torch.sin(2 * torch.pi * f * t + 6 * torch.rand(1, generator=g)) for f in (0.001, 0.013, 0.11, 0.3)]
    return (0.2 * torch.stack([sum(waves), sum(waves[1:])])).float()


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 3 * 32 * HOP), st.integers(0, 99))
def test_exact_framing_gives_every_sample_back(samples: int, seed: int) -> None:
    layout = Layout(CONFIG, "exact")
    chunks = layout.chunks(samples)
    wave = tone(samples, seed)
    total = chunks * CONFIG.chunk_samples + HOP
    padded = torch.nn.functional.pad(wave, (layout.lead, total - layout.lead - samples))
    spectrum = to_spectrum(padded[None], CONFIG)
    assert spectrum.shape == (1, 4, 1024, 32 * chunks)
    back = to_samples(spectrum[0], CONFIG)[:, layout.lead :]
    assert layout.length(chunks) >= samples > layout.length(chunks - 1)
    # an abrupt end has some energy at the dropped Nyquist bin
    assert (back[:, :samples] - wave).abs().max() < 2e-2
    inner = slice(0, max(0, samples - 2 * HOP))
    assert torch.allclose(back[:, inner], wave[:, inner], atol=1e-2)


def test_a_steady_tone_comes_back_to_float_precision() -> None:
    wave = tone(20 * HOP)
    back = to_samples(to_spectrum(wave[None], CONFIG)[0], CONFIG)
    assert torch.allclose(back[:, HOP : 19 * HOP], wave[:, HOP : 19 * HOP], atol=2e-5)


def test_frames_are_plain_windowed_transforms() -> None:
    wave = tone(5 * HOP)
    spectrum = expand(to_spectrum(wave[None], CONFIG), CONFIG)[0]
    hann = np.hanning(2 * HOP + 1)[:-1]
    want = np.fft.rfft(wave[1, 2 * HOP : 4 * HOP].double().numpy() * hann)[:1024]
    assert np.allclose(spectrum[2, :, 2].numpy(), want.real, atol=2e-3)
    assert np.allclose(spectrum[3, :, 2].numpy(), want.imag, atol=2e-3)


def test_a_sine_on_a_bin_has_its_amplitude_there() -> None:
    t = torch.arange(4 * HOP)
    wave = 0.5 * torch.cos(2 * torch.pi * 100 * t / (2 * HOP))[None].expand(2, -1)
    frame = expand(to_spectrum(wave[None], CONFIG), CONFIG)[0, :2, :, 1]
    magnitude = frame.pow(2).sum(0).sqrt()
    assert magnitude.argmax() == 100
    assert torch.isclose(magnitude[100], torch.tensor(0.5 * HOP / 2), rtol=1e-3)  # A/2 * sum of the window


@given(st.floats(-1e3, 1e3))
def test_companding_is_odd_and_inverts(x: float) -> None:
    v = torch.tensor([x], dtype=torch.float64)
    assert torch.allclose(expand(compand(v, CONFIG), CONFIG), v, rtol=1e-6, atol=1e-9)
    assert torch.equal(compand(-v, CONFIG), -compand(v, CONFIG))


def test_overlap_add_of_ones_is_one() -> None:
    frames = to_frames(to_spectrum(torch.full((1, 2, 9 * HOP), 0.25), CONFIG), CONFIG)[0]
    add = OverlapAdd(CONFIG)
    pieces = [add.push(frames[:, i : i + 2]) for i in range(0, 8, 2)]
    assert torch.allclose(torch.cat(pieces, dim=1)[:, HOP:], torch.full((2, 7 * HOP), 0.25), atol=1e-5)
