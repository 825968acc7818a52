"""A configuration of the bands frontend small enough to run in milliseconds: chunks of 512 samples, 16 latents."""

from __future__ import annotations

import torch

from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.config import BandsConfig, DecodeConfig, NoiseConfig, RefinementConfig

SMALL_BANDS = BandsConfig(
    n_fft=256, hop=64, frames=8, tokens=4, latents=16, low_bins=24, pitches=12, lowest_pitch=330.0, pitches_per_octave=6,
    noise_bands=6, stereo_bands=6, encoder_dim=32, encoder_heads=2, encoder_layers=1, dim=32, heads=2, layers=2, band_units=4,
    head_units=(6, 4),
)  # fmt: skip

SMALL_REFINEMENT = RefinementConfig(
    noise=NoiseConfig(sigma_max=0.5),
    dim=16,
    heads=2,
    layers=2,
    units=(6, 4),
    levels=8,
    decode=DecodeConfig(parallel_steps=2, autoregressive_steps=2),
)
SMALL_REFINED = SMALL_BANDS.model_copy(update={"refinement": SMALL_REFINEMENT})


def random_bands(config: BandsConfig = SMALL_BANDS, seed: int = 1) -> BandCodec:
    """A codec whose every layer computes something: attention and MLPs do not start at zero."""
    network = BandCodec.random(config, seed).network
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            if p.ndim == 2 and not torch.any(p):
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
        network.estimator.mean.fill_(-4.0)
    return BandCodec(network, name="random")
