"""CoDiCodec (arXiv 2509.09836): the network, its identity, its ways of decoding, and its weights in and out."""

from duotone.codec.codicodec.codec import STRATEGIES, CoDiCodec, Strategy, best_dtype

__all__ = ["STRATEGIES", "CoDiCodec", "Strategy", "best_dtype"]
