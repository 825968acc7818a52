"""What sessions ask the device for that several can have in one batch: evaluations of the flow, chunks to decode."""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from typing import Any

from duotone.codec.sessions import DecodeSession, push_together
from duotone.codec.values import Codes, Latents
from duotone.flow.session import Asked
from duotone.flow.together import Appending, Evaluation, together
from duotone.flow.voice import Decoding
from duotone.serve.tasks import Ask, Work
from duotone.spec import CodecSpec

FLOW = "flow"  #: the kind of evaluations


def kind_of(what: str, spec: CodecSpec) -> str:
    """The kind of what a codec does, for the figures: ``decode tiny``."""
    return f"{what} {spec.model or spec.family}"


class Evaluate(Ask):
    """An evaluation of the flow, or a chunk that enters its context."""

    kind = FLOW

    def __init__(self, asked: Evaluation | Appending) -> None:
        self.asked = asked
        self.group: Hashable = ("flow", id(asked.cache.model))

    def together(self, asks: Sequence[Evaluate]) -> list[Any]:
        """Velocities, and None for chunks."""
        return together([ask.asked for ask in asks])


class Decode(Ask):
    """A chunk that is pushed into a stream of decoding."""

    def __init__(self, stream: DecodeSession, value: Latents | Codes) -> None:
        self.stream, self.value, self.kind = stream, value, kind_of("decode", stream.spec)
        self.group: Hashable = ("decode", stream.spec.fingerprint)

    def together(self, asks: Sequence[Decode]) -> list[Any]:
        """Waveforms."""
        return list(push_together([ask.stream for ask in asks], [ask.value for ask in asks]))


def asking(making: Generator[Asked, Any, None]) -> Work:
    """What making a chunk of a flow's session asks for, as asks of the device."""
    answer: Any = None
    failed: Exception | None = None
    while True:
        try:
            asked = next(making) if answer is None and failed is None else _given(making, answer, failed)
        except StopIteration:
            return
        answer = failed = None
        try:
            if isinstance(asked, Decoding):
                wave = yield Decode(asked.voice.stream, asked.value)
                answer = asked.taken(wave.samples)
            else:
                answer = yield Evaluate(asked)
        except GeneratorExit:
            making.close()
            raise
        except Exception as error:  # the session decides what it means
            failed = error


def _given(making: Generator[Asked, Any, None], answer: Any, failed: Exception | None) -> Asked:
    return making.send(answer) if failed is None else making.throw(failed)
