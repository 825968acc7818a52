"""A configuration small enough to run in milliseconds: chunks of 512 samples, 16 latents."""

from __future__ import annotations

from duotone.config import CoDiCodecConfig

SMALL = CoDiCodecConfig(
    hop=64, frames=8, stem=(4, 2), channels=(8, 16, 32), blocks=(1, 1, 1), factors=((2, 2), (4, 1)), heads=2,
    encoder_layers=1, upsampler_layers=1, denoiser_layers=2, latents=16, registers=2,
)  # fmt: skip
