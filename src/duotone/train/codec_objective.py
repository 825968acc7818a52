"""What the tasks that train a codec on sound ask of their objectives."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path

import torch
from torch import Tensor

from duotone.codec.contract import Codec
from duotone.train.task import Objective


class CodecObjective(Objective):
    """An objective over crops of sound, ``{"samples": [B, 2, crop]}``, that leaves a codec."""

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
        """Another objective of the same configuration; its weights do not matter."""

    @abstractmethod
    def begin_from(self, codec: Codec) -> None:
        """Take over a codec's weights. Raises `ConfigError` when it has another network."""

    @abstractmethod
    def export(self, provenance: dict[str, object]) -> Codec:
        """A codec of these weights."""

    @abstractmethod
    def save(self, codec: Codec, folder: Path) -> None:
        """Write what `export` gave, for `duotone.load` to read."""

    def calibrate(self, samples: Tensor, latents: bool = True) -> None:
        """Set scales from some examples before the first step; without `latents`, only of what is not exported."""
        return

    @torch.no_grad()
    def with_weights(self, weights: dict[str, Tensor]) -> CodecObjective:
        """An objective of its own with the averaged weights (see `averaged`), on their device, to be evaluated."""
        out = self.fresh()
        missing, _ = out.load_state_dict({**dict(self.named_buffers()), **weights}, strict=False)
        lost = set(missing) & set(self.averaged())
        assert not lost, lost
        return out.to(next(iter(weights.values())).device).eval()
