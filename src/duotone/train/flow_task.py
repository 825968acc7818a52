"""The task of training a flow model on stores of latents: statistics, initial weights, validation, export to RUN/flow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.codec.values import Latents
from duotone.config import FlowConfig
from duotone.errors import ConfigError
from duotone.flow import weights as flow_weights
from duotone.flow.model import FlowModel
from duotone.nn.state import fill
from duotone.train import checkpoint
from duotone.train.flow_objective import FlowObjective
from duotone.train.flow_sections import FlowModelSection, FlowSettings
from duotone.train.flow_validation import Decode, FlowValidation
from duotone.train.latents import LatentCollection, LatentsSection, open_latents
from duotone.train.provenance import provenance
from duotone.train.sections import Parts
from duotone.train.task import Task

#: Fields that weights depend on; the others of `FlowConfig` may change when a model is fine-tuned.
SIZES = ("dim", "layers", "heads", "head", "condition", "rank", "tokens", "channels")
#: Parameters that a model with spans has and one without lacks; they start without effect.
SPANS = "span_mlp."


def flow_task(objective: FlowSettings, model: FlowModelSection, data: LatentsSection, parts: Parts) -> Task:
    """The task of training a flow model.

    Raises `ConfigError` for a store of another codec or layout than the model's, `FormatError` for folders that are no stores.
    """
    collection = open_latents(data, parts.sources, parts.train.seed)
    decode = _decoder(data, collection, parts) if parts.train.listen_every else None
    began = None if model.start_from is None else _start(model.start_from, parts)
    config = _config(model, collection, began)
    made = FlowObjective(config, objective)
    _initialise(made.model, collection, began, model.new_statistics)

    validation = None
    if collection.validation is not None:
        validation = FlowValidation(
            made, collection.validation, parts.run, parts.train.validation_batches, objective.rollout_chunks,
            parts.train.listen_every, parts.train.clips, decode, parts.picture,
        )  # fmt: skip
    target = parts.run / "flow"

    def export(weights: dict[str, Tensor], state: checkpoint.State) -> None:
        about = {
            **provenance(parts, state),
            "hours_of_sound": round(collection.training.hours, 3),
            "codec": collection.stored.spec.to_dict(short=True),
            "began_from": began and {"fingerprint": flow_weights.fingerprint(began), "provenance": began.provenance},
        }
        flow_weights.save(made.with_weights(weights), target, torch.bfloat16, about)

    return Task(collection.training, made, export, target, validation, collection.about(), collection.skipped)


def _config(model: FlowModelSection, collection: LatentCollection, began: FlowModel | None) -> FlowConfig:
    """The recipe's configuration for these latents. Raises `ConfigError` where they, the recipe and the first weights differ."""
    config, (tokens, channels) = model.build(), collection.stored.shape
    told = (
        {"tokens": config.tokens, "channels": config.channels} if model.replace.keys() & {"tokens", "channels"} else {}
    )
    if told and (told["tokens"], told["channels"]) != (tokens, channels):
        raise ConfigError(
            f"model.replace says {told['tokens']} tokens of {told['channels']} channels, but a chunk of the store has {tokens} of "
            f"{channels}. Leave them out to take the store's, or prepare the store with --channels {told['channels']}."
        )
    space = collection.stored.spec.space
    config = config.model_copy(
        update={"tokens": tokens, "channels": channels, "codec": space, "trained_chunks": max(2, collection.chunks)}
    )
    if began is None:
        return config
    theirs, own = began.config.to_dict(), config.to_dict()
    differ = [f"{k} {theirs[k]} there, {own[k]} here" for k in SIZES if theirs[k] != own[k]]
    if began.config.spans and not config.spans:
        differ.append("spans true there, false here")
    if differ:
        raise ConfigError(
            f"model.start_from has another network than the recipe: {', '.join(differ)}. Make model.preset and model.replace equal."
        )
    if began.config.codec not in (None, space):
        raise ConfigError(
            f"model.start_from was trained on latents of the codec space {began.config.codec}, the store holds {space} "
            f"({collection.stored.spec.model or collection.stored.spec.family}). Prepare the collection with the model's codec, or "
            f"leave model.start_from out."
        )
    return config


def _initialise(model: FlowModel, collection: LatentCollection, began: FlowModel | None, new_statistics: bool) -> None:
    """Set weights and statistics before the first step; a checkpoint of the run replaces them later."""
    statistics = collection.stored.statistics()
    if began is not None:
        state = {**began.state_dict()}
        own = model.state_dict()
        state |= {name: own[name] for name in own if name.startswith(SPANS) and name not in state}
        fill(model, state, "model.start_from")
    if began is None or new_statistics:
        model.set_statistics(*statistics)


def _start(name: str, parts: Parts) -> FlowModel:
    """The flow that training starts from. Raises `ConfigError` for something else."""
    if parts.load is not None:
        found: Any = parts.load(name)
    else:
        found = flow_weights.import_published(name) if Path(name).is_file() else flow_weights.load(name)
    if not isinstance(found, FlowModel):
        raise ConfigError(f"model.start_from got {name}, which holds {type(found).__name__}, expected a flow model.")
    return found


def _decoder(data: LatentsSection, collection: LatentCollection, parts: Parts) -> Decode | None:
    """Latents `[N, M, C]` in the codec's unit scale -> sound, by the codec of the recipe; None without one.

    Raises `ConfigError` for a codec whose latents the store does not hold.
    """
    if data.listen_with is None or parts.load is None:
        return None
    codec: Any = parts.load(data.listen_with)
    spec = collection.stored.spec
    if not isinstance(codec, Codec) or codec.spec.space != spec.space:
        what = f"the codec space {codec.spec.space}" if isinstance(codec, Codec) else type(codec).__name__
        raise ConfigError(
            f"data.listen_with got {data.listen_with}, which has {what}; the store holds latents of the space {spec.space} "
            f"({spec.model or spec.family}). Give the codec that the store was made with, or data.listen_with=null."
        )

    def decode(latents: Tensor) -> Waveform:
        return codec.decode(Latents.from_channels(latents, codec.spec), seed=0)

    return decode
