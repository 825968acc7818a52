"""CoDiCodec's noise: that of `duotone.codec.noise`, and draw -1 for a chunk's time prompt."""

from __future__ import annotations

from duotone.codec import noise
from duotone.codec.noise import Noise
from duotone.config import BandsConfig, CoDiCodecConfig

TIME_PROMPT = -1


def noise_shape(config: CoDiCodecConfig | BandsConfig) -> tuple[int, ...]:
    """Shape of a chunk's spectrum: ``(4, F, T)``."""
    return (2 * config.audio_channels, config.bins, config.frames)


def seeded_noise(seed: int, config: CoDiCodecConfig | BandsConfig) -> Noise:
    """Unit Gaussian noise `[4, F, T]` for (seed, chunk, draw)."""
    return noise.seeded_noise(seed, noise_shape(config))
