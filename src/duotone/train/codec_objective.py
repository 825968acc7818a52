"""The interface of objectives that train a codec on audio."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotone.codec.contract import Codec
from duotone.errors import ConfigError
from duotone.train.task import Objective


class CodecObjective(Objective):
    """An objective over crops of audio, ``{"samples": [B, 2, crop]}``, whose result is a codec."""

    @property
    @abstractmethod
    def rate(self) -> int:
        """Samples a second of the examples."""

    @property
    @abstractmethod
    def crop(self) -> int:
        """Samples of an example."""

    @abstractmethod
    def fresh(self) -> CodecObjective:
        """Another objective of the same configuration, with any weights."""

    @abstractmethod
    def begin_from(self, codec: Codec) -> None:
        """Start from a codec's weights. Raises `ConfigError` if it has another network."""

    @abstractmethod
    def export(self, provenance: dict[str, object]) -> Codec:
        """A codec with these weights."""

    @abstractmethod
    def save(self, codec: Codec, folder: Path) -> None:
        """Write the exported codec, for `duotone.load`."""

    def calibrate(self, samples: Tensor, latents: bool = True) -> None:
        """Set scales from examples before the first step; without `latents`, only those of parts that are not exported."""
        return

    @torch.no_grad()
    def with_weights(self, weights: dict[str, Tensor]) -> CodecObjective:
        """A copy of the objective with the averaged weights (see `averaged`), on their device, for evaluation.

        Parameters that are not averaged, such as those of a frozen encoder, are as they are now.
        """
        out, now = self.fresh(), {**dict(self.named_buffers()), **dict(self.named_parameters())}
        lost = set(self.averaged()) - set(weights)
        assert not lost, lost
        out.load_state_dict({**now, **weights}, strict=False)  # buffers that are not stored are extra
        return out.to(next(iter(weights.values())).device).eval()


def require_equal(begun: dict[str, Any], own: dict[str, Any]) -> None:
    """Compare the network that a training starts from with its own, in the fields that both have. Raises `ConfigError`."""
    differ = ", ".join(f"{k} {begun[k]} there, {own[k]} here" for k in own if k in begun and begun[k] != own[k])
    if differ:
        raise ConfigError(f"model.start_from has another network than the recipe: {differ}. Make them equal.")
