"""Measures the device before the first session: how long batches of each size take, for admission."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from duotone.codec.contract import Codec
from duotone.flow.cache import FlowCache
from duotone.flow.model import FlowModel
from duotone.flow.together import Evaluation
from duotone.serve.asks import Decode, Evaluate, kind_of
from duotone.serve.load import Meter, bucket
from duotone.serve.models import Models
from duotone.serve.tasks import Ask, Call

_REPEATS = 3  # after a first time, which is not counted


def calibrate(models: Models, meter: Meter, now: Callable[[], float]) -> None:
    """Let the meter see batches of 1, 2, 4, ... rows of everything that sessions ask for."""
    sizes = sorted({bucket(n, meter.settings.batch) for n in range(1, meter.settings.batch + 1)})
    for codec in models.codecs.values():
        _time([encoding(codec)], meter, now)
        if codec.spec.live and codec.spec.latent is not None:
            for size in sizes:
                _time(decoding(codec, size), meter, now)
    if models.flow is not None:
        for size in sizes:
            _time(evaluating(models.flow, size), meter, now)


def _time(asks: Sequence[Ask], meter: Meter, now: Callable[[], float]) -> None:
    for repeat in range(_REPEATS + 1):
        began = now()
        for answer in asks[0].together(asks):
            if isinstance(answer, Exception):
                raise answer
        if repeat:
            meter.took(asks[0].kind, len(asks), now() - began)


def encoding(codec: Codec) -> Ask:
    """A chunk of silence to encode."""
    spec = codec.spec
    silence = torch.zeros(1, spec.channels, max(1, spec.behind + spec.chunk + spec.ahead))
    return Call(lambda: codec.encode_batch(silence), kind_of("encode", spec))


def decoding(codec: Codec, size: int) -> list[Ask]:
    """A chunk to decode in each of so many streams."""
    value = codec.latents(torch.zeros(1, *(codec.spec.latent or ())))
    return [Decode(codec.stream(seed), value) for seed in range(size)]


def evaluating(model: FlowModel, size: int) -> list[Ask]:
    """An evaluation after each of so many full contexts."""
    config: Any = model.config
    found: list[Ask] = []
    for _ in range(size):
        cache = FlowCache(model)
        cache.append(torch.zeros(1, config.context, config.tokens, config.channels))
        found.append(Evaluate(Evaluation(cache, torch.zeros(1, config.tokens, config.channels), 0.5, 0.0, 1)))
    return found
