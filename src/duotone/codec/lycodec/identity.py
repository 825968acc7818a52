"""Two hashes of a Lycodec: `fingerprint` (all weights) and `space` (what latents and codes depend on)."""

from __future__ import annotations

import json

from torch import nn

from duotone.codec.digests import beyond_defaults, digest
from duotone.config import LycodecConfig

#: Fields that decide what the encoder and the quantiser compute.
_SPACE_FIELDS = frozenset(
    [
        "rate", "audio_channels", "n_fft", "hop", "frames", "compand_scale", "compand_power", "stem", "stem_channels",
        "stem_factors", "band_units", "token_frames", "floor", "tokens", "values", "levels", "packed", "encoder_dim",
        "encoder_heads", "encoder_layers", "mlp",
    ]
)  # fmt: skip


def fingerprint(config: LycodecConfig, network: nn.Module) -> str:
    """16 hexadecimal digits of a hash over the configuration and every weight in float32."""
    values = beyond_defaults(config.to_dict(), LycodecConfig().to_dict())
    return digest("lycodec" + json.dumps(values, sort_keys=True), network.state_dict())


def space(config: LycodecConfig, network: nn.Module) -> str:
    """16 hexadecimal digits of a hash over what latents and codes depend on: the encoder, its weights, the FSQ levels."""
    values = beyond_defaults(config.to_dict(), LycodecConfig().to_dict())
    decisive = {name: value for name, value in values.items() if name in _SPACE_FIELDS}
    scale = config.noise.sigma_data  # the stem divides spectra by it
    weights = {name: t for name, t in network.state_dict().items() if name.startswith("encoder.")}
    return digest(f"lycodec {scale} {json.dumps(decisive, sort_keys=True)}", weights)
