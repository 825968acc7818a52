"""The objective of language models: the cross-entropy of each token given those before it in a crop.

A codebook of finite scalar quantization has thousands of codes, and most of them are rare; but their digits are not. With
`shared_digits` the embedding of a token (which is also its row of the output) is trained as a sum::

    row of the token  +  row of (place 0, digit 0)  +  row of (place 1, digit 1)  + ...     over the digits of its first code

The sum is what is exported: an ordinary embedding.

Legend: B examples, T tokens, V tokens of the vocabulary, D width, P places.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.codec.codicodec import best_dtype
from duotone.lm.model import LanguageModel, make_network
from duotone.train.draws import Draws
from duotone.train.lm_sections import LMSettings
from duotone.train.task import Batch, Objective

NAT = 1 / math.log(2)  # bits


class LMObjective(Objective):
    """``{"ids": [B, T]}`` in, loss out; owns the network of a model."""

    def __init__(self, model: LanguageModel, section: LMSettings) -> None:
        super().__init__()
        self.about, self.section = model, section
        self.model = model.network.base_model  # its output is the embedding again
        places, self.digits = digits_of(model), nn.ParameterList()
        self.register_buffer("places", torch.from_numpy(places), persistent=False)
        self.places: Tensor
        if section.shared_digits:
            own = self.model.get_input_embeddings().weight.detach()
            scale = float(own.std()) / max(1, len(places)) ** 0.5
            rows = [torch.randn(int(place.max()) + 1, own.shape[1]) * scale for place in places]
            self.digits.extend(nn.Parameter(row) for row in rows)

    def wanted_dtype(self, device: torch.device) -> torch.dtype:
        """bfloat16 if the device has matrix units for it, else float32."""
        return best_dtype(device)

    def save_memory(self) -> None:
        """Store only the inputs of layers, and compute the rest again in the backward pass."""
        self.model.gradient_checkpointing_enable()

    def table(self) -> Tensor:
        """The embeddings `[V, D]`: each token's own row, and those of its digits."""
        own: Tensor = self.model.get_input_embeddings().weight
        for rows, place in zip(self.digits, self.places, strict=False):
            own = own + F.pad(rows, (0, 0, 0, 1))[place]
        return own

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Ids `[B, T]` -> mean loss of a token in nats, and `nats` of each example's tokens, `count` of these."""
        ids, table = batch["ids"], self.table()
        hidden = self.model(inputs_embeds=F.embedding(ids[:, :-1], table)).last_hidden_state
        nats = F.cross_entropy(F.linear(hidden, table).float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
        real = (ids[:, 1:] != self.about.pad).float()
        nats = nats.view_as(real) * real
        return nats.sum() / real.sum(), {"nats": nats.detach().sum(1), "count": real.sum(1)}

    def summarise(self, values: dict[str, Tensor]) -> dict[str, float]:
        """`bits_per_token` over the examples."""
        return {"bits_per_token": float(values["nats"].sum() / values["count"].sum()) * NAT}

    @torch.no_grad()
    def with_weights(self, weights: dict[str, Tensor]) -> LanguageModel:
        """The model with averaged weights (see `averaged`), in evaluation mode, with an ordinary embedding."""
        about = self.about
        network = make_network(about.config, about.tokenizer, about.spec.steps)
        own = {name.removeprefix("model."): value for name, value in weights.items() if name.startswith("model.")}
        network.base_model.load_state_dict(own)
        embedding = network.get_input_embeddings().weight
        for i, place in enumerate(self.places.cpu()[: len(self.digits)]):
            embedding += F.pad(weights[f"digits.{i}"].cpu(), (0, 0, 0, 1))[place]
        return LanguageModel(network, about.tokenizer, about.spec, about.config, about.sampling)


def digits_of(model: LanguageModel) -> np.ndarray:
    """For each place of a code's digits, the digit that each id's first number has there, `[P, V]`; -1 where the id has none.

    A number of the tokenizer's has the digits of its part of the levels, in rows of their own for each codebook of a frame; without levels it
    has none, and P is 0.
    """
    spec, tokenizer, parts = model.spec, model.tokenizer, model.config.parts
    levels = list(spec.levels or ())
    each = len(levels) // parts
    places = np.full((len(levels) * len(spec.codebooks), int(model.network.config.vocab_size)), -1, np.int64)
    ends, spelt = tokenizer.spelling
    first = spelt[ends - tokenizer.lengths].astype(np.int64)
    book, value = first // tokenizer.alphabet.size, first % tokenizer.alphabet.size
    for i in range(len(places)):
        own, place = divmod(i, each) if each else (0, 0)
        group = levels[own % parts * each : own % parts * each + each]
        found = value // math.prod(group[:place]) % group[place]
        places[i, tokenizer.audio_ids] = np.where(book == own, found, -1)
    return places
