"""A prompt as latents for a flow: encoded so that its last chunk ends where the sound ends.

Legend: N chunks, M tokens a chunk, C channels of a token.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from duotone.audio.files import read
from duotone.audio.waveform import Waveform
from duotone.codec.batches import ENCODE_BATCH
from duotone.codec.container import read_duo
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, CodecMismatchError, UsageError
from duotone.flow.model import FlowModel

Encodable: TypeAlias = Waveform | Latents
Prompt: TypeAlias = str | Path | Encodable | None  # a name is that of a sound file or .duo


@dataclass(frozen=True)
class Given:
    """A prompt as a host hands it over: of one that is too long the end."""

    prompt: Encodable | None = None
    left_out: float = 0.0  #: seconds at its beginning that are not used


def check_pair(model: FlowModel, codec: Codec) -> None:
    """Raise unless a codec can play live what a model makes: `UsageError`, or `CodecMismatchError` if it was trained on others."""
    spec, config = codec.spec, model.config
    name = spec.model or spec.family
    if config.codec is not None and config.codec != spec.space:
        raise CodecMismatchError(
            f"This flow was trained on latents of codec {config.codec}, but the codec at hand is {spec.space} ({name}). Load the codec "
            f"that made its latents."
        )
    size = math.prod(spec.latent or (0,))
    if spec.latent is None or size != config.tokens * config.channels:
        raise UsageError(
            f"This flow makes chunks of {config.tokens} x {config.channels} values, and a chunk of {name} has {size}. Load the codec that "
            f"made its latents."
        )
    if not spec.live or spec.channels != 2:
        raise UsageError(f"{name} cannot decode chunk by chunk in stereo, as a session needs. Load another codec.")


def encoded(codec: Codec, model: FlowModel, prompt: Prompt) -> Tensor:
    """A prompt as latents `[N, M, C]` in the codec's unit scale; N is 0 without one.

    Only whole chunks are used, aligned at the sound's end: up to a chunk of its beginning is left out, and of its end the samples that
    a chunk sees after its own. Raises `AudioError` for less than a chunk, `CodecMismatchError` for another codec's latents.
    """
    config = model.config
    if isinstance(prompt, str | Path):
        prompt = read_prompt(str(prompt), codec)
    if prompt is None:
        return torch.zeros(0, config.tokens, config.channels)
    if isinstance(prompt, Latents):
        codec.check(prompt.spec)
        return prompt.channels(config.channels).detach()
    found = aligned(codec, prompt)
    assert isinstance(found, Latents)
    return found.channels(config.channels)


def aligned(codec: Codec, prompt: Waveform) -> Latents | Codes:
    """The whole chunks of a sound, aligned at its end. Raises `AudioError` for less than a chunk."""
    whole = _whole(codec, prompt)
    with codec.encode_stream(whole.rate, whole.channels) as stream:
        return stream.push(whole)


def aligning(codec: Codec, prompt: Waveform) -> Iterator[Latents | Codes]:
    """The same values, bit for bit, a few chunks at a time; for codecs with independent chunks."""
    whole, spec = _whole(codec, prompt), codec.spec
    with codec.encode_stream(whole.rate, whole.channels) as stream:
        at, size = 0, spec.ahead + ENCODE_BATCH * spec.chunk  # batches of the same chunks as in one go
        while at < whole.length:
            yield stream.push(Waveform.of_checked(whole.samples[:, at : at + size].contiguous(), whole.rate))
            at, size = at + size, ENCODE_BATCH * spec.chunk


def _whole(codec: Codec, prompt: Waveform) -> Waveform:
    """What of a prompt is encoded, at the codec's rate."""
    if not isinstance(prompt, Waveform):
        raise UsageError(
            f"The prompt got {type(prompt).__name__}, expected a Waveform, an encoding, the name of a file or None."
        )
    spec = codec.spec
    wave = prompt.to_channels(spec.channels).resample(spec.rate)
    usable = wave.length - spec.ahead
    if usable < spec.chunk:
        raise AudioError(
            f"The prompt has {prompt.seconds:.3f} s, expected at least {(spec.chunk + spec.ahead) / spec.rate:.3f} s, one chunk. Give a "
            f"longer one, or none."
        )
    return Waveform.of_checked(wave.samples[:, usable % spec.chunk :].contiguous(), spec.rate)


def read_prompt(name: str | None, codec: Codec) -> Encodable | None:
    """A prompt from a sound file, or from the latents or codes of a .duo. Raises `CodecMismatchError` for another codec's."""
    if name is None:
        return None
    if Path(name).suffix.lower() != ".duo":
        return read(name)
    value = read_duo(name)
    codec.check(value.spec)
    return value if isinstance(value, Latents) else value.latents()
