"""A recording and what a flow makes of it: the prompt as the codec decodes it, and its continuation, in one go."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.evaluate.listening import RATE
from duotone.flow import weights
from duotone.flow.model import FlowModel
from duotone.flow.session import session

PROMPT_SECONDS = 8.0  #: of a recording are continued, at most
SECONDS = 12.0  #: of the continuation, at least; it ends with a chunk


@dataclass(frozen=True)
class Continued:
    """A sound whose first `joint` seconds are the prompt. `title` names the prompt, `flow` the model."""

    title: str
    flow: str
    fingerprint: str
    seed: int
    wave: Waveform
    joint: float

    @property
    def seconds(self) -> float:
        """Duration of both."""
        return self.wave.seconds


def long_enough(codec: Codec, wave: Waveform) -> bool:
    """Whether a recording has the chunk that a prompt needs at least."""
    spec = codec.spec
    return int(wave.seconds * spec.rate) >= spec.chunk + spec.ahead


def continue_sound(
    model: FlowModel, codec: Codec, wave: Waveform, title: str, flow: str, seed: int = 0, seconds: float = SECONDS
) -> Continued:
    """Continue the first seconds of a recording. Raises `AudioError` where they are less than a chunk, `CodecMismatchError` for a pair that does not fit."""
    prompt = Waveform.of_checked(wave.samples[:, : round(PROMPT_SECONDS * wave.rate)].contiguous(), wave.rate)
    with session(model, codec, prompt, seed=seed, lookahead=1, include_prompt=True) as playing:
        joint = playing.prompt_chunks * codec.spec.chunk_seconds
        pieces: list[Waveform] = []
        while sum(piece.length for piece in pieces) < (joint + seconds) * playing.rate:
            pieces.append(next(playing))
        whole = Waveform.of_checked(torch.cat([piece.samples for piece in pieces], 1).contiguous(), playing.rate)
    return Continued(title, flow, weights.fingerprint(model), seed, whole.resample(RATE), joint)
