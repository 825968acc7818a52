"""Generation in a codec's tokens: an ordinary language model of transformers, sampled chunk after chunk.

Needs transformers and the extra `tokens`, which are imported when a model is made, loaded or sampled.
"""

from duotone.lm.model import LanguageModel, fingerprint, load, random, save
from duotone.lm.rollouts import LatentRows, continued
from duotone.lm.sampler import CodesChunk, LMSampler
from duotone.lm.takes import LMTakes

__all__ = [
    "CodesChunk",
    "LMSampler",
    "LMTakes",
    "LanguageModel",
    "LatentRows",
    "continued",
    "fingerprint",
    "load",
    "random",
    "save",
]
