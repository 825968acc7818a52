"""The codec's path on devices without float64 and complex numbers (mps): nothing of either is computed there."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from duotone.codec.codicodec.decoding import Autoregressive, Engine, Parallel, Wavefront
from duotone.codec.codicodec.network import CoDiCodecNetwork, stft_of
from duotone.config import CoDiCodecConfig
from duotone.quant.fsq import FSQ
from duotone.represent.stft import OverlapAdd, to_frames, to_samples, to_spectrum
from guards import NoDoubleNoComplex, like_mps, moved
from small import SMALL

ANCHORED = SMALL.model_copy(update={"latents": SMALL.token_grid[0] * SMALL.token_grid[1], "anchored": True})
CONFIGS = pytest.mark.parametrize("config", [SMALL, ANCHORED], ids=["small", "anchored"])


def test_the_guard_refuses_both() -> None:
    for make in (
        lambda device: torch.zeros(2, device=device, dtype=torch.float64),
        lambda device: torch.fft.rfft(torch.zeros(4, device=device)),
        lambda device: torch.zeros(2, device=device).to(torch.complex64),
    ):
        with like_mps() as device, pytest.raises(AssertionError, match="on meta"):
            make(device)
    with like_mps():
        assert torch.zeros(2, dtype=torch.float64).dtype == torch.float64  # on the CPU it may be
    with NoDoubleNoComplex("cpu"), pytest.raises(AssertionError, match="float64 on cpu"):
        torch.zeros(2) + torch.zeros(2, dtype=torch.float64)


@CONFIGS
def test_encoding(config: CoDiCodecConfig) -> None:
    network = CoDiCodecNetwork(config)
    with like_mps() as device:
        moved(network, device)
        samples = torch.zeros(3, 2, config.chunk_samples + config.hop, device=device)
        spectrum = to_spectrum(samples, stft_of(config))
        assert spectrum.device.type == device and spectrum.shape == (3, 4, config.bins, config.frames)
        fsq = FSQ(config.levels)
        latents = fsq.bound(network.encode_pre(spectrum))
        assert latents.device.type == device and latents.shape == (3, config.latents, 4)
        index = fsq.bounded_to_index(latents)
        assert index.device.type == device and fsq.index_to_bounded(index).shape == latents.shape
        assert fsq.round_straight_through(latents).device.type == device


def engines(network: CoDiCodecNetwork) -> dict[str, Engine]:
    def noise(chunk: int, draw: int) -> Tensor:
        return torch.zeros(4, network.config.bins, network.config.frames)

    return {
        "autoregressive": Autoregressive(network, 2, noise, 0.4),
        "wavefront": Wavefront(network, 2, noise),
        "parallel": Parallel(network, 2, noise),
    }


@pytest.mark.parametrize(
    ("config", "strategy", "dtype"),
    [
        (SMALL, "autoregressive", torch.float32),
        (SMALL, "wavefront", torch.float16),
        (ANCHORED, "parallel", torch.float32),
    ],
)
def test_decoding(config: CoDiCodecConfig, strategy: str, dtype: torch.dtype) -> None:
    network = CoDiCodecNetwork(config).to(dtype)
    with like_mps() as device, torch.no_grad():
        moved(network, device)
        engine = engines(network)[strategy]
        spectra = [*engine.push(torch.zeros(3, config.latents, 4)), *engine.finish()]
        stft = stft_of(config)
        add = OverlapAdd(stft.n_fft, stft.hop, config.audio_channels)
        samples = [add.push(to_frames(spectrum[None], stft)[0]) for spectrum in spectra]
        assert [tuple(s.shape) for s in samples] == [(2, config.chunk_samples)] * 3
        assert {s.device.type for s in samples} == {device}


@pytest.mark.parametrize("default", [torch.float32, torch.float64])
def test_gradients_of_both_ways(default: torch.dtype) -> None:
    network = CoDiCodecNetwork(SMALL)
    torch.set_default_dtype(default)
    try:
        with like_mps() as device:
            moved(network, device)
            stft = stft_of(SMALL)
            samples = torch.zeros(1, 2, SMALL.chunk_samples + SMALL.hop, device=device, dtype=torch.float32)
            spectrum = to_spectrum(samples.requires_grad_(), stft)
            values = FSQ(SMALL.levels).bound(network.encode_pre(spectrum))
            condition = network.denoiser.condition(torch.tensor([80.0], device=device, dtype=torch.float32))
            clean, _ = network.denoiser.denoise(spectrum, values, condition, network.upsample(values))
            back: Callable[[], Tensor] = to_samples(clean[0], stft).sum().backward
            back()
        assert samples.grad is not None and samples.grad.device.type == device
        assert all(p.grad is None or p.grad.device.type == device for p in network.parameters())
    finally:
        torch.set_default_dtype(torch.float32)
