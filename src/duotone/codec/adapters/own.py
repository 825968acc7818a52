"""Former wrapper of Duotone's own codec, for compatibility."""

from __future__ import annotations

import warnings
from typing import TypeVar

from duotone.codec.contract import Codec

AnyCodec = TypeVar("AnyCodec", bound=Codec)


def Own(codec: AnyCodec, name: str = "") -> AnyCodec:
    """Deprecated: returns the codec itself."""
    warnings.warn("Own(codec, name) is not needed any more: use the codec itself.", DeprecationWarning, stacklevel=2)
    return codec
