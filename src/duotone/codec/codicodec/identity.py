"""Two hashes of a CoDiCodec: `fingerprint` (all weights) and `space` (what latents and codes depend on)."""

from __future__ import annotations

import json
from typing import Any

from torch import nn

from duotone.codec.digests import digest
from duotone.config import BandsConfig, CoDiCodecConfig

#: Fields of the configuration when fingerprints were first written. A later field counts only where it differs from its
#: default, so that adding one orphans no file.
_FIRST_FIELDS = frozenset(
    [
        "anchored",
        "audio_channels",
        "blocks",
        "channels",
        "compand_power",
        "compand_scale",
        "decode",
        "decode.autoregressive_steps",
        "decode.parallel_steps",
        "decode.time_prompt",
        "denoiser_layers",
        "encoder_layers",
        "factors",
        "family",
        "frames",
        "heads",
        "hop",
        "latents",
        "levels",
        "mlp",
        "noise",
        "noise.rho",
        "noise.sigma_data",
        "noise.sigma_max",
        "noise.sigma_min",
        "rate",
        "registers",
        "stem",
        "upsampler_layers",
    ]
)
#: Fields that decide what the encoder and the quantiser compute.
_SPACE_FIELDS = (
    "family", "rate", "audio_channels", "hop", "frames", "compand_scale", "compand_power", "stem", "channels", "blocks",
    "factors", "heads", "mlp", "encoder_layers", "latents", "registers", "anchored", "levels",
)  # fmt: skip

#: The same for the bands frontend.
_BAND_FIELDS = (
    "family", "frontend", "rate", "audio_channels", "n_fft", "hop", "frames", "tokens", "summary", "floor", "levels", "latents", "low_bins",
    "pitches", "lowest_pitch", "pitches_per_octave", "salience", "encoder_dim", "encoder_heads", "encoder_layers", "band_units", "mlp",
)  # fmt: skip


def fingerprint(config: CoDiCodecConfig | BandsConfig, network: nn.Module) -> str:
    """16 hexadecimal digits of a hash over the configuration and every weight in float32."""
    values = _without_new_defaults(config.to_dict(), type(config)().to_dict(), "")
    return digest(json.dumps(values, indent=2, sort_keys=True), network.state_dict())


def space(config: CoDiCodecConfig | BandsConfig, network: nn.Module) -> str:
    """16 hexadecimal digits of a hash over what latents and codes depend on: the encoder, its weights, the FSQ levels."""
    values, defaults = config.to_dict(), type(config)().to_dict()
    if isinstance(config, BandsConfig):
        decisive = {name: values[name] for name in _BAND_FIELDS}
    else:
        later = {k: v for k, v in values.items() if k.startswith("encoder_") and v != defaults[k]}
        decisive = {name: values[name] for name in _SPACE_FIELDS} | later
    weights = {name: t for name, t in network.state_dict().items() if name.startswith("encoder.")}
    return digest(json.dumps(decisive, sort_keys=True), weights)


def _without_new_defaults(values: dict[str, Any], defaults: dict[str, Any], prefix: str) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in values.items():
        name = prefix + key
        if name not in _FIRST_FIELDS and value == defaults.get(key):
            continue
        nested = isinstance(value, dict) and isinstance(defaults.get(key), dict)
        kept[key] = _without_new_defaults(value, defaults[key], f"{name}.") if nested else value
    return kept
