"""Sound from a language model: several seeds continue one prompt side by side, and each chunk is decoded as soon as it is drawn.

Legend: B takes, K rows of codes, S steps of a chunk, n chunks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.config import LMSampling
from duotone.errors import UsageError
from duotone.flow.prompt import aligned
from duotone.flow.voice import REPLAY
from duotone.lm.frames import Int
from duotone.lm.model import LanguageModel
from duotone.lm.sampler import LMSampler

Prompt = Waveform | Latents | Codes | None


def check_pair(model: LanguageModel, codec: Codec) -> None:
    """Raise unless a codec can play live what a model writes: `CodecMismatchError` for another codec's, else `UsageError`."""
    model.check(codec.spec)
    if not codec.spec.live or codec.spec.channels != 2:
        name = codec.spec.model or codec.spec.family
        raise UsageError(f"{name} cannot decode chunk by chunk in stereo, as takes need. Load another codec.")


def encoded(codec: Codec, prompt: Prompt) -> Int:
    """A prompt as codes `[K, n * S]`; n is 0 without one. Errors are those of `flow.prompt.aligned`."""
    if prompt is None:
        return Codes(torch.zeros(len(codec.spec.codebooks), 0, dtype=torch.int64), codec.spec).numpy()
    value = prompt if isinstance(prompt, Latents | Codes) else aligned(codec, prompt)
    codec.check(value.spec)
    return value.codes().numpy()


class LMTakes:
    """Iterate over the next pieces of all takes, a list of B waveforms, without end.

    `prompt` is a sound, latents, codes or None; with `include_prompt` it is heard first, as the codec decodes it. A take sounds the same
    whatever plays beside it, up to rounding.
    """

    def __init__(
        self,
        model: LanguageModel,
        codec: Codec,
        prompt: Prompt = None,
        seeds: Sequence[int] = (0,),
        sampling: LMSampling | None = None,
        context: int | None = None,
        include_prompt: bool = False,
    ) -> None:
        check_pair(model, codec)
        self.model, self.codec = model, codec
        self.sampler = LMSampler(model, seeds, sampling, context)
        self._streams = [codec.stream(seed) for seed in self.sampler.seeds]
        self.rate, self.channels = codec.spec.rate_out, self._streams[0].channels
        self.chunks = self.tokens = 0  #: drawn so far; tokens of all takes count
        codes = encoded(codec, prompt)
        self.sampler.push(codes)
        self._first: list[list[Waveform]] = []
        self.lead = 0  #: samples of the prompt that come first
        steps = codec.spec.steps
        for i in range(0 if include_prompt else max(0, codes.shape[1] - REPLAY * steps), codes.shape[1], steps):
            pieces = [self._decode(take, codes[:, i : i + steps]) for take in range(len(self._streams))]
            if include_prompt:
                self._first.append(pieces)
                self.lead += pieces[0].length

    def __iter__(self) -> Iterator[list[Waveform]]:
        yield from self._first
        while True:
            chunk = self.sampler.next()
            self.chunks += 1
            self.tokens += chunk.tokens
            yield [self._decode(take, codes) for take, codes in enumerate(chunk.codes)]

    def _decode(self, take: int, codes: Int) -> Waveform:
        """Codes `[K, S]` -> the samples of a take that are final now."""
        stream = self._streams[take]
        return stream.push(Codes(torch.from_numpy(codes), self.codec.spec, stream.source))
