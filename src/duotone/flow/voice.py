"""One generation and its sound: a sampler of one row, and the live stream that decodes it.

Legend: n chunks, M tokens a chunk, C channels of a token, c channels of the sound, T samples.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from duotone.codec.contract import Codec
from duotone.codec.values import Latents
from duotone.errors import AudioError
from duotone.flow.controls import Controls
from duotone.flow.sampler import Chunk, Sampler
from duotone.flow.solvers import driven
from duotone.flow.together import Evaluation

#: Chunks that are decoded again to bring a new stream to the place of another whose state cannot be taken out.
REPLAY = 4


def noise_seed(seed: int, era: int) -> int:
    """The seed of the noise after `era` returns to the prompt, so that each return plays something else."""
    if era == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{era}".encode(), digest_size=8).digest(), "little")


class Voice:
    """A sampler and a live stream; `seed` is that of the decoder's noise."""

    def __init__(self, sampler: Sampler, codec: Codec, seed: int) -> None:
        self.sampler, self.codec, self.seed = sampler, codec, seed
        self.stream = codec.stream(seed)
        self.recent: deque[Tensor] = deque(maxlen=REPLAY)
        self.decoded = 0  #: chunks that the stream has taken

    def fork(self) -> Voice:
        """A second voice with the same past, in the context and in the decoder."""
        own = self.sampler
        sampler = Sampler(own.model, own.seeds, own.settings, own.cache.context, own.cache.exact)
        sampler.cache = own.cache.clone()
        other = Voice(sampler, self.codec, self.seed)
        other._take_over(self.stream.state() if self.stream.resumable else None, list(self.recent), self.decoded)
        return other

    def sampling(self, controls: Controls) -> Generator[Evaluation, Tensor, Chunk]:
        """The next chunk, asking for each evaluation; it does not enter the context yet."""
        self.sampler.settings = controls.sampling
        self.sampler.cache.see(controls.context)
        return self.sampler.sampling()

    def sample(self, controls: Controls) -> Chunk:
        """The next chunk; it does not enter the context yet."""
        return driven(self.sampling(controls), Evaluation.run)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents `[n, M, C]` in the codec's unit scale -> the samples `[c, T]` that are final now. Raises `AudioError` where they are not finite."""
        return self.decoding(latents).run()

    def decoding(self, latents: Tensor) -> Decoding:
        """The same, as something to be computed."""
        return Decoding(self, latents)

    def renew(self) -> None:
        """Open a new stream in place of one that failed, and bring it to where the last good chunk was decoded."""
        self.stream = self.codec.stream(self.seed)
        self._take_over(None, list(self.recent), self.decoded if self.recent else 0)

    def state(self) -> dict[str, Tensor]:
        """Context and decoder, as copies; of a decoder whose state cannot be taken out, the last chunks instead."""
        state = {f"cache.{name}": tensor for name, tensor in self.sampler.state().items()}
        if self.stream.resumable:
            state |= {f"stream.{name}": tensor for name, tensor in self.stream.state().items()}
        for i, latents in enumerate(self.recent):
            state[f"recent.{i}"] = latents
        return {**state, "decoded": torch.tensor(self.decoded)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.sampler.restore(part(state, "cache."))
        recent = [state[f"recent.{i}"] for i in range(REPLAY) if f"recent.{i}" in state]
        self.stream = self.codec.stream(self.seed)
        self._take_over(part(state, "stream.") or None, recent, int(state["decoded"]))

    def _take_over(self, stream: Mapping[str, Tensor] | None, recent: list[Tensor], decoded: int) -> None:
        if stream is not None:
            self.stream.resume(stream)
        elif recent:
            self.stream.push(Latents.from_channels(torch.stack(recent), self.codec.spec, self.stream.source))
        self.recent.clear()
        self.recent.extend(recent)
        self.decoded = decoded


@dataclass(frozen=True)
class Decoding:
    """Latents `[n, M, C]` that are to be decoded: `Voice.decode`."""

    voice: Voice
    latents: Tensor

    def run(self) -> Tensor:
        """The samples `[c, T]`."""
        stream = self.voice.stream
        return self.taken(stream.push(self.value).samples)

    @property
    def value(self) -> Latents:
        """What the stream takes."""
        return Latents.from_channels(self.latents.cpu(), self.voice.codec.spec, self.voice.stream.source)

    def taken(self, samples: Tensor) -> Tensor:
        """The samples that the stream gave. Raises `AudioError` where they are not finite."""
        if not bool(torch.isfinite(samples).all()):
            raise AudioError("The decoder gave samples that are not finite. Check the weights of the codec.")
        self.voice.recent.extend(self.latents.cpu().clone())
        self.voice.decoded += len(self.latents)
        return samples


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, without the beginning."""
    return {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
