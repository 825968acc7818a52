"""What can be changed while a session runs, and the oscillators that move it on the audio clock.

Legend: M summary tokens of a chunk, C channels of a token.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, field_validator
from torch import Tensor

from duotone.config import Config, FlowConfig, NegativeBranch, SamplingConfig, Solver
from duotone.errors import UsageError

SLOTS = 8  #: oscillators of a session
LfoShape = Literal["sine", "triangle", "saw", "square", "sample-and-hold"]
#: Controls of one number that an oscillator can move, and the range to which the sum is limited.
RANGES: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 10.0),
    "guidance": (0.0, 20.0),
    "shift": (0.05, 20.0),
    "steps": (1.0, 64.0),
    "context": (0.0, math.inf),
    "gain": (0.0, 16.0),
}
#: Controls of one number a summary token, or a channel.
VECTORS = ("summary_scale", "summary_bias", "channel_scale", "channel_bias")
_TARGET = re.compile(rf"({'|'.join(RANGES)})|({'|'.join(VECTORS)})(\[(\d+)\])?")
_LARGEST = 100.0  # of scales and biases


class Lfo(Config):
    """A low-frequency oscillator: adds ``depth * wave(phase + rate * t)`` to a control, t in seconds of the session's sound.

    `target` is the name of a control, such as ``temperature`` or ``channel_bias``, or of one element, ``channel_bias[12]``. Waves
    lie within +-1; sample-and-hold has a new random value each period, which depends on the session's seed.
    """

    target: str
    shape: LfoShape = "sine"
    rate: float = Field(default=0.5, gt=0, le=50, allow_inf_nan=False)  # Hz
    depth: float = Field(default=0.5, ge=-_LARGEST, le=_LARGEST, allow_inf_nan=False)
    phase: float = Field(default=0.0, allow_inf_nan=False)  # in periods

    @field_validator("target")
    @classmethod
    def _known(cls, value: str) -> str:
        if not _TARGET.fullmatch(value):
            raise ValueError(
                f"no control is called {value!r}; there are {', '.join((*RANGES, *VECTORS))}, and elements such as channel_bias[12]"
            )
        return value

    @property
    def control(self) -> str:
        """The name of the control, without an element."""
        return self.target.partition("[")[0]

    @property
    def element(self) -> int | None:
        """Which element of the control is moved; None is all."""
        found = re.search(r"\d+", self.target)
        return int(found[0]) if found else None


def wave(lfo: Lfo, slot: int, seconds: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """The oscillator's value at these times, of its slot and the session's seed."""
    turns = lfo.phase + lfo.rate * seconds
    part = turns - np.floor(turns)
    if lfo.shape == "sine":
        found = np.sin(2 * np.pi * part)
    elif lfo.shape == "triangle":  # from 0 upward, as the sine
        found = 4 * np.abs((part + 0.75) % 1 - 0.5) - 1
    elif lfo.shape == "saw":
        found = 2 * part - 1
    elif lfo.shape == "square":
        found = np.where(part < 0.5, 1.0, -1.0)
    else:
        periods, place = np.unique(np.floor(turns).astype(np.int64), return_inverse=True)
        found = np.array([_held(f"lfo/{seed}/{slot}/{period}") for period in periods])[place].reshape(turns.shape)
    return np.asarray(lfo.depth * found)


def _held(key: str) -> float:
    """A number within +-1 that depends on a text alone."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=6).digest(), "little") / 2**47 - 1


Vector = float | tuple[float, ...] | dict[int, float]


class Changes(Config):
    """Controls to change; those that are left out stay. Vectors take one number for all elements, all of them, or some by index."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(default=1.0, ge=0, le=10, description="scale of the noise that chunks are made from")
    steps: int = Field(default=8, ge=1, le=64, description="steps of the solver a chunk")
    solver: Solver = Field(default="euler", description="how the velocity is integrated")
    shift: float = Field(default=1.0, ge=0.05, le=20, description="above 1, more steps are spent near the noise")
    guidance: float = Field(default=1.0, ge=0, le=20, description="weight of the history; 1 is none, and costs half")
    guidance_interval: tuple[float, float] = Field(
        default=(0.2, 0.8), description="times between which guidance is used"
    )
    guidance_branch: NegativeBranch = Field(default="empty", description="the worse history to go away from")
    guidance_noise: float = Field(default=0.5, ge=0, lt=1, description="noise level of the noisy history")
    guidance_chunks: int = Field(default=1, ge=1, description="chunks of the short history")
    context_noise: float = Field(
        default=0.0, ge=0, lt=1, description="noise level at which finished chunks enter the context"
    )
    context: int | None = Field(
        default=None, ge=0, description="chunks of the past that are seen; null is all there are"
    )
    summary_scale: Vector = Field(default=1.0, description="factor of each summary token of what is heard")
    summary_bias: Vector = Field(default=0.0, description="offset of each summary token, in deviations of the latents")
    channel_scale: Vector = Field(default=1.0, description="factor of each channel of what is heard")
    channel_bias: Vector = Field(default=0.0, description="offset of each channel, in deviations of the latents")
    feedback: bool = Field(default=False, description="whether scaled and offset chunks enter the context so")
    gain: float = Field(default=1.0, ge=0, le=16, description="factor of the samples")
    lfos: dict[int, Lfo | None] = Field(
        default_factory=dict, description="oscillators by slot, 0 to 7; null takes one away"
    )

    @field_validator("lfos")
    @classmethod
    def _slots(cls, value: dict[int, Lfo | None]) -> dict[int, Lfo | None]:
        if any(not 0 <= slot < SLOTS for slot in value):
            raise ValueError(f"slots go from 0 to {SLOTS - 1}, got {sorted(value)}")
        return value

    def named(self) -> dict[str, Any]:
        """The changes alone, as plain JSON values."""
        return self.model_dump(mode="json", include=self.model_fields_set)


class Controls(Config):
    """Everything that decides the next chunk, apart from seed and context."""

    sampling: SamplingConfig
    context: int | None = None
    summary_scale: tuple[float, ...]
    summary_bias: tuple[float, ...]
    channel_scale: tuple[float, ...]
    channel_bias: tuple[float, ...]
    feedback: bool = False
    gain: float = 1.0
    lfos: tuple[Lfo | None, ...] = (None,) * SLOTS

    @classmethod
    def of(cls, config: FlowConfig, sampling: SamplingConfig | None = None) -> Controls:
        """The controls of a model at rest."""
        ones, zeros = ((value,) * config.tokens for value in (1.0, 0.0))
        return cls(
            sampling=sampling or config.sampling,
            summary_scale=ones,
            summary_bias=zeros,
            channel_scale=(1.0,) * config.channels,
            channel_bias=(0.0,) * config.channels,
        )

    def changed(self, changes: Changes) -> Controls:
        """With these changes. Raises `UsageError` for elements that do not exist, `ConfigError` for values that do not fit together."""
        values = {name: getattr(changes, name) for name in changes.model_fields_set}
        update: dict[str, Any] = {}
        for name in VECTORS:
            if name in values:
                update[name] = _vector(name, values.pop(name), getattr(self, name))
        lfos = list(self.lfos)
        for slot, lfo in values.pop("lfos", {}).items():
            if lfo is not None and lfo.element is not None:
                _vector(lfo.control, {lfo.element: 0.0}, getattr(self, lfo.control))
            lfos[slot] = lfo
        own: dict[str, Any] = {name: values.pop(name) for name in ("context", "feedback", "gain") if name in values}
        sampling = self.sampling
        if values:
            sampling = SamplingConfig.parse({**sampling.to_dict(), **values}, "The sampling")
        return self.model_copy(update={**update, **own, "lfos": tuple(lfos), "sampling": sampling})

    def at(self, seconds: float, seed: int) -> Controls:
        """The controls as the oscillators move them at a time; those of gain are left to `gains`, sample by sample."""
        moved = self
        for slot, lfo in enumerate(self.lfos):
            if lfo is None or lfo.control == "gain":
                continue
            value = float(wave(lfo, slot, np.array([seconds]), seed)[0])
            moved = moved._plus(lfo, value)
        return moved

    def _plus(self, lfo: Lfo, value: float) -> Controls:
        name = lfo.control
        if name in VECTORS:
            own = getattr(self, name)
            where = range(len(own)) if lfo.element is None else (lfo.element,)
            return self.model_copy(update={name: tuple(x + value if i in where else x for i, x in enumerate(own))})
        low, high = RANGES[name]
        if name == "context":
            if self.context is None:  # all there are: nothing to add to
                return self
            return self.model_copy(update={"context": round(max(low, self.context + value))})
        found = min(high, max(low, getattr(self.sampling, name) + value))
        changed = {name: round(found) if name == "steps" else found}
        return self.model_copy(update={"sampling": self.sampling.model_copy(update=changed)})

    def gains(self, first: int, count: int, rate: int, seed: int) -> Tensor | None:
        """What oscillators add to the gain of samples `first` on, `[count]`; None without any."""
        moving = [(slot, lfo) for slot, lfo in enumerate(self.lfos) if lfo is not None and lfo.control == "gain"]
        if not moving:
            return None
        seconds = np.arange(first, first + count) / rate
        total = np.sum([wave(lfo, slot, seconds, seed) for slot, lfo in moving], axis=0)
        return torch.from_numpy(total.astype(np.float32))

    @property
    def shapes(self) -> bool:
        """Whether scale or bias change what is heard."""
        neutral = (1.0, 0.0, 1.0, 0.0)
        return any(x != rest for name, rest in zip(VECTORS, neutral, strict=True) for x in getattr(self, name))

    def shape(self, x: Tensor) -> Tensor:
        """Normalised latents `[..., M, C]` -> scaled and offset, a factor and an offset a token and a channel."""
        ss, sb, cs, cb = (torch.tensor(getattr(self, name), dtype=x.dtype, device=x.device) for name in VECTORS)
        return x * ss[:, None] * cs + sb[:, None] + cb


def _vector(name: str, value: Vector, old: tuple[float, ...]) -> tuple[float, ...]:
    """The new elements of a control. Raises `UsageError` for others than there are, or beyond +-100."""
    if isinstance(value, dict):
        if any(not 0 <= i < len(old) for i in value):
            raise UsageError(f"{name} got the elements {sorted(value)}, expected 0 to {len(old) - 1}.")
        new = tuple(value.get(i, x) for i, x in enumerate(old))
    elif isinstance(value, tuple):
        if len(value) != len(old):
            raise UsageError(f"{name} got {len(value)} numbers, expected {len(old)}, or one for all, or some by index.")
        new = value
    else:
        new = (value,) * len(old)
    if any(abs(x) > _LARGEST for x in new):
        raise UsageError(
            f"{name} got numbers up to {max(map(abs, new)):.4g}, expected at most {_LARGEST:.0f} either way."
        )
    return new
