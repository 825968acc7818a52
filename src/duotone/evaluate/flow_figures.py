"""All figures of a generative model's continuations, as plain values: what the flow's card shows. They claim continuity, not taste.

Legend: R rollouts, P prompts, N chunks, M tokens a chunk, C channels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError
from duotone.evaluate import drift, rollouts
from duotone.evaluate.continuations import Recording, Source, Tell, crops, pick, roll_out
from duotone.evaluate.copying import copying
from duotone.evaluate.joints import joints
from duotone.evaluate.pitch_and_beat import Heard, matches
from duotone.evaluate.rollouts import POSITIONS, WINDOW, Decode
from duotone.flow.model import FlowModel
from duotone.train.flow_validation import next_chunk_metrics

#: In the order in which they are measured; `losses` are of flows only.
PARTS = ("losses", "match", "joints", "distances", "copying", "drift")
CROP = 16  # chunks of a real crop that distances are pooled over; the shortest recordings of a collection have more
SAMPLE = 2048  # chunks whose nearest training chunk is looked for


@dataclass(frozen=True)
class Plan:
    """How much is measured; the defaults are those of the card."""

    prompts: int = 32
    prompt: int = 12  # chunks that are continued
    continuation: int = 16  # chunks whose pitch, beat and joints are measured
    rollouts: int = 64
    positions: tuple[int, ...] = POSITIONS
    window: int = WINDOW  # chunks around each position
    batch: int = 32  # rollouts at a time
    heard: int = 4  # rollouts that are decoded for drift
    crops: int = 32  # held-out crops for the losses
    crop: int = 32  # chunks of one

    def length(self, parts: Sequence[str]) -> int:
        """Chunks of the rollouts that these parts need."""
        far = max(self.positions) - self.window // 2 + self.window
        return max(self.continuation, far) if {"distances", "copying", "drift"} & set(parts) else self.continuation


@dataclass(frozen=True)
class Reality:
    """What a model is compared with: held-out recordings, and the chunks `[N, M, C]` of each recording of its training collection.

    Without a training collection, distances are to the held-out recordings, and copying is not measured.
    """

    held_out: Sequence[Recording]
    training: Sequence[Tensor] | None
    decode: Decode
    chunk_seconds: float


class Measuring:
    """Measures the parts of a plan; rollouts are made once, and kept in `rollouts` for all parts."""

    def __init__(self, source: Source, reality: Reality, plan: Plan, tell: Tell = lambda _: None) -> None:
        self.source, self.reality, self.plan, self.tell = source, reality, plan, tell
        real, self.names = pick(reality.held_out, plan.prompts, plan.prompt + plan.continuation)
        self.prompts, self.real = real[:, : plan.prompt], real[:, plan.prompt :]
        self.rollouts: Tensor | None = None  #: `[R, N, M, C]`
        self._sounds: tuple[list[Waveform], list[Waveform]] | None = None

    def run(self, parts: Sequence[str], model: FlowModel | None = None) -> dict[str, Any]:
        """The figures by part, and `seconds` of each. Raises `UsageError` for parts that are unknown or cannot be measured."""
        unknown = [part for part in parts if part not in PARTS]
        if unknown or ("losses" in parts and model is None) or ("copying" in parts and self.reality.training is None):
            raise UsageError(
                f"Got the parts {', '.join(parts)}, expected some of {', '.join(PARTS)}; losses need a flow, and copying the store that it "
                f"was trained on."
            )
        out: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        steps: dict[str, Callable[[], Any]] = {"rollouts": lambda: self._roll(self.plan.length(parts))}
        if "losses" in parts and model is not None:
            steps["losses"] = lambda: self.losses(model)
        steps |= {part: getattr(self, part) for part in PARTS if part in parts and part != "losses"}
        for name, step in steps.items():
            self.tell(f"measuring {name}")
            began = time.perf_counter()
            found = step()
            seconds[name] = round(time.perf_counter() - began, 1)
            if name != "rollouts":
                out[name] = plain(found)
        return {**out, "seconds": seconds}

    def _roll(self, length: int) -> None:
        """Make the rollouts, or those that are missing in number or length."""
        wanted = max(self.plan.rollouts, self.plan.prompts)
        if self.rollouts is None or self.rollouts.shape[1] < length or len(self.rollouts) < wanted:
            self.rollouts = roll_out(self.source, self.prompts, wanted, length, self.plan.batch)
        broken = int((~torch.isfinite(self.rollouts).flatten(1).all(1)).sum())
        if broken:
            raise AudioError(
                f"{broken} of {len(self.rollouts)} rollouts are not finite, so there is nothing to measure. The weights or the settings are "
                f"unusable: try the settings that are stored with the model, or an earlier checkpoint."
            )

    def _rolled(self) -> Tensor:
        assert self.rollouts is not None
        return self.rollouts

    def _heard(self) -> tuple[list[Waveform], list[Waveform]]:
        """Prompts with the generated and with the real continuation, as sound; both decoded by the codec."""
        if self._sounds is None:
            made = self._rolled()[: self.plan.prompts, : self.plan.continuation]
            self._sounds = tuple(  # type: ignore[assignment]
                [self.reality.decode(torch.cat(pair)) for pair in zip(self.prompts, after, strict=True)]
                for after in (made, self.real)
            )
        assert self._sounds is not None
        return self._sounds

    def _chunk(self, wave: Waveform) -> int:
        return round(self.reality.chunk_seconds * wave.rate)

    def losses(self, model: FlowModel) -> dict[str, float]:
        """Next-chunk losses on held-out crops, see `train.flow_validation`."""
        windows, _ = pick(self.reality.held_out, self.plan.crops, min(self.plan.crop, self._longest()), seed=1)
        return next_chunk_metrics(model, model.normalize(windows))

    def _longest(self) -> int:
        """The length that at least half of the held-out recordings have."""
        return sorted(len(recording.latents) for recording in self.reality.held_out)[len(self.reality.held_out) // 2]

    def match(self) -> dict[str, Any]:
        """Pitch classes and onset periods of generated, and of real continuations, against their own and others' prompts."""
        out = {}
        for name, waves in zip(("generated", "real"), self._heard(), strict=True):
            cut = [self._chunk(wave) * self.plan.prompt for wave in waves]
            before, after = (
                [Heard.of(Waveform.of_checked(wave.samples[:, part(at)].contiguous(), wave.rate)) for wave, at in zip(waves, cut, strict=True)]
                for part in (lambda at: slice(0, at), lambda at: slice(at, None))
            )  # fmt: skip
            out[name] = {key: asdict(match) for key, match in matches(after, before, self.names).items()}
        return out

    def joints(self) -> dict[str, Any]:
        """Jumps at the joints of chunks beside those inside chunks, and where the continuation begins."""
        out = {}
        for name, waves in zip(("generated", "real"), self._heard(), strict=True):
            chunk = self._chunk(waves[0])
            out[name] = {key: asdict(joint) for key, joint in joints(waves, chunk).items()}
            begins = joints(waves, chunk, self.plan.prompt)
            out[f"{name}, where it begins"] = {key: asdict(joint) for key, joint in begins.items()}
        return out

    def _reference(self) -> list[Tensor]:
        held = [recording.latents for recording in self.reality.held_out]
        return held if self.reality.training is None else list(self.reality.training)

    def _real(self) -> Tensor:
        """Real crops, as many chunks in each half as the rollouts have at a position."""
        count = math.ceil(2 * self.plan.rollouts * self.plan.window / CROP)
        return crops(self._reference(), CROP, max(4, count))

    def distances(self) -> list[dict[str, Any]]:
        """Rows of `rollouts.statistics` around each position, of the real halves, of shuffled ones, and of held-out recordings."""
        made, real = self._rolled()[: self.plan.rollouts], self._real()
        windows = {
            position: made[:, start : start + self.plan.window]
            for position in self.plan.positions
            for start in [max(0, position - self.plan.window // 2)]
        }
        half = real[1::2]
        order = torch.randperm(len(half) * CROP, generator=torch.Generator().manual_seed(0))
        others = {"shuffled in time": half.flatten(0, 1)[order].reshape(half.shape)}
        if self.reality.training is not None:
            others["held out"] = crops([each.latents for each in self.reality.held_out], CROP, len(half))
        return rollouts.to_dict(rollouts.statistics(windows, real, others=others))

    def _scale(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation `[C]` of real chunks."""
        real = self._real()
        return real.mean((0, 1, 2)), real.std((0, 1, 2)).clamp_min(1e-6)

    def copying(self) -> dict[str, Any]:
        """Distances to the nearest training chunk, of generated and of held-out chunks."""
        assert self.reality.training is not None
        mean, deviation = self._scale()
        held = torch.cat([recording.latents for recording in self.reality.held_out])
        ours, real = (((_some(x, SAMPLE) - mean) / deviation).flatten(1) for x in (self._rolled().flatten(0, 1), held))
        parts: Iterable[Tensor] = (((x - mean) / deviation).flatten(1) for x in self.reality.training)
        return copying(ours, real, parts).to_dict()

    def drift(self) -> dict[str, Any]:
        """Each whole minute of the rollouts, and the change a minute of level and centroid."""
        made = self._rolled()
        mean, deviation = self._scale()
        minutes = drift.latent_minutes(made, mean, deviation, self.reality.chunk_seconds)
        heard = drift.heard_minutes([self.reality.decode(x) for x in made[: self.plan.heard]])
        rows = [
            {**minute.to_dict(), "level": asdict(level), "centroid": asdict(centroid)}
            for minute, (level, centroid) in zip(
                minutes, heard, strict=False
            )  # the codec's last samples end a minute early
        ]
        slopes = {key: drift.slope([row[key]["mean"] for row in rows]) for key in ("level", "centroid")}
        return {"minutes": rows, "a_minute": slopes, "heard": min(self.plan.heard, len(made)), "rollouts": len(made)}


def plain(value: Any) -> Any:
    """JSON values, with null in place of numbers that are not finite (figures that are not defined)."""
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _some(x: Tensor, count: int) -> Tensor:
    """At most `count` of the chunks, at random."""
    if len(x) <= count:
        return x
    return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:count]]
