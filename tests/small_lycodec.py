"""A Lycodec small enough to run in milliseconds: chunks of 640 samples, 6 tokens of 16 values."""

from __future__ import annotations

import torch

from duotone.codec.lycodec.codec import Lycodec
from duotone.config import LycodecConfig

SMALL_LYCODEC = LycodecConfig(
    n_fft=128, hop=40, frames=16, stem_channels=(8, 16), stem_factors=((2, 2), (2, 2)), tokens=6, values=16, levels=(11, 11), packed=4,
    encoder_dim=16, encoder_heads=2, encoder_layers=2, mlp=2, fusion_units=8, stereo_bands=3, conditioner_channels=4, patch_bins=8,
    patch_frames=4, decoder_dim=16, decoder_heads=2, decoder_layers=2, noise_dim=8, split_channels=4,
)  # fmt: skip
BANDS = {"stem": "bands", "band_units": 4, "token_frames": 4, "conditioner": "patches", "modulation": "shared"}


def random_lycodec(seed: int = 1, **changes: object) -> Lycodec:
    """A codec whose every layer computes something: what starts at zero does not."""
    network = Lycodec.random(LycodecConfig.parse({**SMALL_LYCODEC.to_dict(), **changes}), seed).network
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            if not torch.any(p):
                p.copy_(0.1 * torch.randn(p.shape, generator=generator))
        network.encoder.head.weight.mul_(4)  # values that spread over the levels
    return Lycodec(network, name="random")
