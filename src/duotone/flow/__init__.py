"""Generation in a codec's continuous latents: a block-causal diffusion transformer, sampled chunk after chunk.

Latents come and go as arrays `[N, 8, 64]` in the codec's unit scale; no codec is imported here.
"""

from duotone.flow.cache import FlowCache
from duotone.flow.controls import Changes, Controls, Lfo
from duotone.flow.health import Health
from duotone.flow.model import FlowModel
from duotone.flow.sampler import Chunk, Sampler
from duotone.flow.session import Session, resume, session
from duotone.flow.solvers import Solution, solve
from duotone.flow.takes import Takes
from duotone.flow.weights import fingerprint, import_published, load, random, save

__all__ = [
    "Changes",
    "Chunk",
    "Controls",
    "FlowCache",
    "FlowModel",
    "Health",
    "Lfo",
    "Sampler",
    "Session",
    "Solution",
    "Takes",
    "fingerprint",
    "import_published",
    "load",
    "random",
    "resume",
    "save",
    "session",
    "solve",
]
