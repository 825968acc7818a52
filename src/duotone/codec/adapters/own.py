"""The former wrapper of our own codec, from when codecs of others had a contract of their own."""

from __future__ import annotations

import warnings
from typing import TypeVar

from duotone.codec.contract import Codec

AnyCodec = TypeVar("AnyCodec", bound=Codec)


def Own(codec: AnyCodec, name: str = "") -> AnyCodec:
    """Deprecated: the codec itself, which satisfies the one contract of all codecs."""
    warnings.warn("Own(codec, name) is not needed any more: use the codec itself.", DeprecationWarning, stacklevel=2)
    return codec
