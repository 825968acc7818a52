"""The task of training a codec on audio: initial weights, validation, export."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from duotone.codec.contract import Codec
from duotone.errors import ConfigError
from duotone.train import checkpoint
from duotone.train.codec_objective import CodecObjective
from duotone.train.data import Collection, open_sound
from duotone.train.provenance import provenance
from duotone.train.sections import Parts, SoundSection
from duotone.train.task import Task
from duotone.train.validation import CodecValidation

#: Examples that set the scales before the first step.
CALIBRATION = 32


def codec_task(objective: CodecObjective, data: SoundSection, parts: Parts, began: object) -> Task:
    """The task of training a codec: crops of audio, validation on clips, and export to RUN/codec.

    `began` is the codec whose weights training starts from (None: random weights). Raises `ConfigError` when it is no
    codec or has another network, `AudioError` when there is no usable sound.
    """
    start = None if began is None else _codec(began)
    if start is not None:
        objective.begin_from(start)
    settings = parts.train
    sound = open_sound(data, parts.sources, objective.rate, objective.crop, settings.seed, parts.progress)
    if parts.fresh:
        objective.calibrate(sound.training.plain(CALIBRATION, "calibration"), latents=start is None)
    validation = None
    if sound.validation is not None:
        validation = CodecValidation(
            objective, sound.validation, parts.run, settings.validation_batches, settings.listen_every, settings.clips,
            parts.measure, parts.picture, settings.decoded_clips,
        )  # fmt: skip

    target = parts.run / "codec"

    def export(weights: dict[str, Tensor], state: checkpoint.State) -> None:
        averaged = objective.with_weights(weights)
        averaged.save(averaged.export(_provenance(parts, sound, state, start)), target)

    return Task(sound.training, objective, export, target, validation, sound.about(), sound.skipped)


def _codec(found: object) -> Codec:
    if not isinstance(found, Codec):
        raise ConfigError(f"model.start_from got a {type(found).__name__}, expected a codec: tiny, or RUN/codec.")
    return found


def _provenance(parts: Parts, sound: Collection, state: checkpoint.State, began: Codec | None) -> dict[str, Any]:
    """The provenance of the weights: what the run did, its data, and the initial codec."""
    return {
        **provenance(parts, state),
        "hours_of_sound": round(sound.hours, 3),
        "files": len(sound.training.sounds),
        "began_from": began and {"fingerprint": began.fingerprint, "provenance": began.provenance},
    }
