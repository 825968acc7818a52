"""Duotone: neural audio codecs with two outputs. One encoding gives continuous latents and discrete tokens.

Names are imported when first used; importing this package is fast and has no side effects.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from duotone.audio.files import read, write
    from duotone.audio.waveform import Waveform
    from duotone.codec.codicodec import CoDiCodec
    from duotone.codec.codicodec.weights import import_codicodec
    from duotone.codec.container import DuoReader, DuoWriter, read_duo, write_duo
    from duotone.codec.contract import Codec
    from duotone.codec.values import Codes, Latents
    from duotone.config import CoDiCodecConfig, preset
    from duotone.errors import (
        AudioError,
        CodecMismatchError,
        ConfigError,
        DuotoneError,
        FormatError,
        UsageError,
        WeightsError,
    )
    from duotone.hub import load, save
    from duotone.spec import CodecSpec, Source

__version__ = "0.2.0"

_HOMES = {
    "audio.files": ("read", "write"),
    "audio.waveform": ("Waveform",),
    "codec.codicodec": ("CoDiCodec",),
    "codec.container": ("DuoReader", "DuoWriter", "read_duo", "write_duo"),
    "codec.contract": ("Codec",),
    "codec.values": ("Codes", "Latents"),
    "codec.codicodec.weights": ("import_codicodec",),
    "config": ("CoDiCodecConfig", "preset"),
    "errors": (
        "AudioError", "CodecMismatchError", "ConfigError", "DuotoneError", "FormatError", "UsageError", "WeightsError",
    ),
    "hub": ("load", "save"),
    "spec": ("CodecSpec", "Source"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "AudioError",
    "CoDiCodec",
    "CoDiCodecConfig",
    "Codec",
    "CodecMismatchError",
    "CodecSpec",
    "Codes",
    "ConfigError",
    "DuoReader",
    "DuoWriter",
    "DuotoneError",
    "FormatError",
    "Latents",
    "Source",
    "UsageError",
    "Waveform",
    "WeightsError",
    "__version__",
    "import_codicodec",
    "load",
    "preset",
    "read",
    "read_duo",
    "save",
    "write",
    "write_duo",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'duotone' has no attribute {name!r}")
    value = getattr(import_module(f"duotone.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
