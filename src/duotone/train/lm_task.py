"""The task of training a language model on stores of codes: tokenizer, initial weights, validation, export to RUN/lm."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from duotone.errors import ConfigError
from duotone.lm import model as lm
from duotone.lm.frames import Int
from duotone.lm.model import LanguageModel
from duotone.lm.rollouts import continued
from duotone.tokens.tokenizer import AudioTokenizer
from duotone.train import checkpoint
from duotone.train.codes import CodeCollection, CodeCrops, CodesSection, open_codes
from duotone.train.lm_objective import NAT, LMObjective
from duotone.train.lm_sections import LMModelSection, LMSettings
from duotone.train.provenance import provenance
from duotone.train.sections import OBJECTIVES, Parts
from duotone.train.task import Task, Validation

CROPS = 4  # of a validation batch


@OBJECTIVES.register
class LMObjectiveSection(LMSettings):
    """Next-token prediction on crops of codes."""

    def task(self, parts: Parts) -> Task:
        """Train a language model on crops of codes. Raises `ConfigError` for another model or data."""
        model, data = parts.of_kinds(self.kind, LMModelSection, CodesSection)
        collection = open_codes(data, parts.sources, parts.train.seed)
        began = None if model.start_from is None else _start(model.start_from, parts)
        made = _model(model, collection, self, parts, began)
        for crops in (collection.training, collection.validation):
            if crops is not None:
                crops.model = made
        torch.manual_seed(parts.train.seed)
        objective, target = LMObjective(made, self), parts.run / "lm"
        validation = None
        if collection.validation is not None:
            validation = LMValidation(
                objective, collection.validation, CROPS * parts.train.validation_batches, self.rollout_chunks
            )

        def export(weights: dict[str, Tensor], state: checkpoint.State) -> None:
            about = {
                **provenance(parts, state),
                "hours_of_sound": round(collection.training.hours, 3),
                "began_from": began and {"fingerprint": lm.fingerprint(began), "provenance": began.provenance},
            }
            lm.save(objective.with_weights(weights), target, torch.bfloat16, about)

        return Task(collection.training, objective, export, target, validation, collection.about(), collection.skipped)


def _model(
    section: LMModelSection, collection: CodeCollection, settings: LMSettings, parts: Parts, began: LanguageModel | None
) -> LanguageModel:
    """The model before the first step. A run's tokenizer is learned once and kept in RUN/tokenizer."""
    spec, config = collection.stored.spec, section.build()
    config = config.model_copy(update={"context_chunks": collection.chunks})
    folder = parts.run / "tokenizer"
    if began is not None:
        began.check(spec)
        sizes = ("dim", "layers", "heads", "mlp", "parts", "vocabulary")
        theirs, own = began.config.to_dict(), config.to_dict()
        differ = [f"{k} {theirs[k]} there, {own[k]} here" for k in sizes if theirs[k] != own[k]]
        if differ:
            raise ConfigError(
                f"model.start_from has another network than the recipe: {', '.join(differ)}. Make model.preset and model.replace equal."
            )
        tokenizer = began.tokenizer
    elif (folder / "tokenizer.json").is_file():
        tokenizer = AudioTokenizer.load(folder)
    else:
        chunks = () if config.vocabulary is None else collection.training.some_chunks(settings.bpe_chunks)
        tokenizer = lm.make_tokenizer(config, spec, chunks)
        tokenizer.save(folder)
    network = lm.make_network(config, tokenizer, spec.steps, parts.train.seed)
    if began is not None:
        network.load_state_dict(began.network.state_dict())
    return LanguageModel(network, tokenizer, spec, config)


def _start(name: str, parts: Parts) -> LanguageModel:
    """The model that training starts from. Raises `ConfigError` for something else."""
    found: Any = lm.load(name) if parts.load is None else parts.load(name)
    if not isinstance(found, LanguageModel):
        raise ConfigError(
            f"model.start_from got {name}, which holds {type(found).__name__}, expected a language model."
        )
    return found


class LMValidation(Validation):
    """Bits a code on fixed crops by the length of the context, and the entropy of short continuations."""

    def __init__(self, objective: LMObjective, held: CodeCrops, crops: int, rollout_chunks: int) -> None:
        self.objective, self.held, self.rollout_chunks = objective, held, rollout_chunks
        self.crops = held.plain(crops, "validation")

    def __call__(self, done: int, weights: dict[str, Tensor]) -> dict[str, Any]:
        """The metrics of a validation.

        `validation_bits_context_N`: bits a code of chunks after N chunks; `validation_loss`: bits a code given at least half a crop.
        `rollout_entropy`: entropy of the codes of continuations in bits, as a share of that of as many real ones; below 1, the model
        repeats itself.
        """
        model = self.objective.with_weights(weights)
        rows = torch.tensor([chunk_bits(model, crop) for crop in self.crops])
        rows = rows.mean(0) / (model.spec.steps * len(model.spec.codebooks))
        metrics = {f"validation_bits_context_{n}": float(value) for n, value in enumerate(rows)}
        metrics["validation_loss"] = float(rows[len(rows) // 2 :].mean())
        if self.rollout_chunks:
            metrics["rollout_entropy"] = self._entropy(model)
        return metrics

    def _entropy(self, model: LanguageModel) -> float:
        spec, half = model.spec, self.held.crops.chunks // 2 * model.spec.steps
        prompts = [model.codes(crop[:, :half]) for crop in self.crops]
        made = continued(model, prompts, self.rollout_chunks)
        real = np.concatenate([crop[:, half:] for crop in self.crops], 1)
        found = np.concatenate([codes.numpy() for codes in made], 1)
        count = min(real.shape[1], found.shape[1])
        return entropy(found[:, :count], spec.codebooks[0]) / max(1e-9, entropy(real[:, :count], spec.codebooks[0]))


@torch.no_grad()
def chunk_bits(model: LanguageModel, codes: Int) -> list[float]:
    """Bits of each chunk of codes `[K, N * S]`, given those before it."""
    parts = model.encode(codes)
    ids = model.context(parts).to(model.device)[None]
    logits = model.network(input_ids=ids[:, :-1]).logits[0].float()
    nats = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return [float(part.sum()) * NAT for part in nats.split([len(part) for part in parts])]


def entropy(codes: Int, size: int) -> float:
    """Mean over the rows of codes `[K, T]` of their entropy in bits."""
    shares = (np.bincount(row, minlength=size) / len(row) for row in codes)
    return float(np.mean([-(p[p > 0] * np.log2(p[p > 0])).sum() for p in shares]))
