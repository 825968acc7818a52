"""The user's sound in a session: cut on the session's grid of chunks, encoded, and put in place of ours in the context.

A chunk of the session whose own samples begin at sample `start` of its sound is replaced by the user's samples from there on::

    session's sound   ...|  chunk n   |  chunk n+1 |
    user's sound      [behind|  chunk n   |ahead]

Legend: c channels, T samples, M tokens a chunk, C channels of a token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.errors import AudioError
from duotone.flow.sampler import Sampler
from duotone.flow.together import Appending


class Input:
    """Takes blocks of any length and gives complete chunks with the places where they belong; keeps less than two chunks."""

    def __init__(self, codec: Codec, channels: int) -> None:
        self.codec, self.channels = codec, channels
        self.start: int | None = None  #: of the next chunk; None before the first block
        self._samples = torch.zeros(codec.spec.channels, 0)  # from `behind` samples before the next chunk on
        self._skip = 0  # samples to leave out before the first chunk

    def push(self, wave: Waveform, at: int | None, grid: int, taken: int) -> list[tuple[int, Tensor]]:
        """A block that began at sample `at` (None: where the last ended, first: at `taken`) -> (start, latents `[M, C]`) of each chunk.

        `grid` is the start of any chunk. Raises `AudioError` for another rate than the codec's.
        """
        spec = self.codec.spec
        if wave.rate != spec.rate:
            raise AudioError(
                f"The input has {wave.rate} Hz, expected {spec.rate} Hz, the codec's. Open the input at that rate, or resample it."
            )
        if at is not None or self.start is None:
            self._align(taken if at is None else at, grid)
        samples = wave.to_channels(spec.channels).samples
        skipped = min(self._skip, samples.shape[1])
        self._skip -= skipped
        self._samples = torch.cat([self._samples, samples[:, skipped:]], 1)
        found = []
        while self._samples.shape[1] >= (need := spec.behind + spec.chunk + spec.ahead):
            with torch.no_grad():
                latents = self.codec.encode_batch(self._samples[None, :, :need]).latents
            assert latents is not None and self.start is not None
            value = self.codec.latents(latents[0, :1].clone())
            found.append((self.start, value.channels(self.channels)[0]))
            self._samples = self._samples[:, spec.chunk :].clone()
            self.start += self._step
        return found

    @property
    def _step(self) -> int:
        """Samples of the session's sound that a chunk advances."""
        spec = self.codec.spec
        return round(spec.chunk * spec.rate_out / spec.rate)

    def _align(self, at: int, grid: int) -> None:
        """Begin with the first chunk of the grid that starts at `at` or later."""
        spec = self.codec.spec
        self.start = grid - (grid - at) // self._step * self._step
        self._skip = round((self.start - at) * spec.rate / spec.rate_out)
        self._samples = torch.zeros(spec.channels, spec.behind)

    def state(self) -> dict[str, Tensor]:
        """Everything that later chunks depend on, as copies."""
        counters = torch.tensor([-1 if self.start is None else self.start, self._skip, self.start is not None])
        return {"samples": self._samples.clone(), "counters": counters}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        start, self._skip, known = state["counters"].tolist()
        self.start = start if known else None
        self._samples = state["samples"].clone()


@dataclass
class _Stood:
    """What stands in the context for a chunk, and what its entering overwrote."""

    start: int
    latents: Tensor
    undo: dict[str, Tensor]


class Past:
    """The last chunks of a context, each replaceable: it and those after it are taken back, and enter again."""

    def __init__(self, chunks: int) -> None:
        self._stood: deque[_Stood] = deque(maxlen=chunks)

    def entering(self, sampler: Sampler, start: int, latents: Tensor) -> Generator[Appending, None, None]:
        """Let a chunk `[M, C]` enter the context, asking for the pass that this takes."""
        undo = sampler.cache.undo()
        yield sampler.entering(latents[None, None])
        self._stood.append(_Stood(start, latents.cpu(), undo))

    def replace(self, sampler: Sampler, start: int, latents: Tensor) -> bool:
        """Let other latents stand for the chunk of this start. False if it is not among the last chunks any more."""
        stood = list(self._stood)
        place = next((i for i, each in enumerate(stood) if each.start == start), None)
        if place is None:
            return False
        for each in reversed(stood[place:]):
            sampler.cache.rewind(each.undo)
        stood[place].latents = latents
        for each in stood[place:]:
            each.undo = sampler.cache.undo()
            sampler.push(each.latents[None, None])
        return True

    def clear(self) -> None:
        """Forget all chunks: the context is another one."""
        self._stood.clear()

    def state(self) -> dict[str, Tensor]:
        """Everything that later replacements depend on."""
        state: dict[str, Tensor] = {"starts": torch.tensor([each.start for each in self._stood], dtype=torch.int64)}
        for i, each in enumerate(self._stood):
            state[f"{i}.latents"] = each.latents
            state |= {f"{i}.undo.{name}": tensor for name, tensor in each.undo.items()}
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._stood.clear()
        for i, start in enumerate(state["starts"].tolist()):
            prefix = f"{i}.undo."
            undo = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
            self._stood.append(_Stood(start, state[f"{i}.latents"], undo))
