"""CoDiCodec (arXiv 2509.09836): the network, its hashes, its decoding strategies, loading and saving its weights."""

from duotone.codec.codicodec.codec import STRATEGIES, CoDiCodec, Strategy
from duotone.codec.precision import best_dtype

__all__ = ["STRATEGIES", "CoDiCodec", "Strategy", "best_dtype"]
