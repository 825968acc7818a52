"""Several seeds continue one prompt side by side: their chunks are sampled in one batch.

Legend: B takes, M tokens a chunk, C channels of a token, c channels of the sound, T samples.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.config import SamplingConfig
from duotone.errors import AudioError
from duotone.flow.model import FlowModel
from duotone.flow.prompt import Prompt, check_pair, encoded
from duotone.flow.sampler import Sampler
from duotone.flow.voice import REPLAY, Voice


class Takes:
    """Iterate over the next pieces of all takes, a list of B waveforms, without end; the parameters are those of `flow.session`.

    A take sounds as a session of its seed does, up to rounding. Raises `AudioError` where the model gives what is not finite.
    """

    def __init__(
        self,
        model: FlowModel,
        codec: Codec,
        prompt: Prompt = None,
        seeds: Sequence[int] = (0,),
        settings: SamplingConfig | None = None,
        context: int | None = None,
        exact: bool = False,
        include_prompt: bool = False,
        see: int | None = None,
    ) -> None:
        check_pair(model, codec)
        self.model, self.codec = model, codec
        self._sampler = Sampler(model, seeds, settings, context, exact)
        self._sampler.cache.see(see)
        self._voices = [Voice(Sampler(model, [seed], settings, 1), codec, seed) for seed in self._sampler.seeds]
        self.rate, self.channels = codec.spec.rate_out, self._voices[0].stream.channels
        self.steps = self.evaluations = self.chunks = (
            0  #: so far; those of all takes count once, since they are one batch
        )
        latents = encoded(codec, model, prompt)
        self._first: list[list[Waveform]] = []
        if len(latents):
            self._sampler.push(latents)
        self.lead = 0  #: samples of the prompt that come first
        for chunk in latents if include_prompt else latents[-REPLAY:]:
            pieces = self._decode(chunk.expand(len(self._voices), *chunk.shape))
            if include_prompt:
                self._first.append(pieces)
                self.lead += pieces[0].length

    def __iter__(self) -> Iterator[list[Waveform]]:
        yield from self._first
        while True:
            chunk = self._sampler.next()
            self.steps += chunk.steps
            self.evaluations += chunk.evaluations
            self.chunks += 1
            if not bool(torch.isfinite(chunk.latents).all()):
                raise AudioError(
                    f"Chunk {chunk.index} is not finite: the settings or the flow's weights are unusable. Try the default settings."
                )
            yield self._decode(chunk.latents)

    def _decode(self, latents: torch.Tensor) -> list[Waveform]:
        return [
            Waveform.of_checked(voice.decode(own[None]), self.rate)
            for voice, own in zip(self._voices, latents, strict=True)
        ]
