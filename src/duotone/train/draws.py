"""All randomness of a training step, as a function of (seed, step, position in the batch) alone.

So a step gives the same gradient with one process, several processes or several passes; and a resumed run equals an
uninterrupted one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Draws:
    """The draws of examples ``first .. first + count - 1`` out of a step's batch of `total`."""

    seed: int
    step: int
    first: int
    count: int
    total: int

    @classmethod
    def whole(cls, total: int, seed: int = 0, step: int = 0) -> Draws:
        """The draws of a whole batch."""
        return cls(seed, step, 0, total, total)

    def chosen(self, name: str, share: float) -> Tensor:
        """Bools `[count]`, each true with probability `share`."""
        return self._mine(torch.rand(self.total, generator=self._generator(name)) < share)

    def stratified_normal(self, name: str) -> Tensor:
        """Standard normal numbers `[count]`, one in each of `total` equally likely bands, in random order.

        Each number is normally distributed; their mean varies less than that of independent ones, and so do gradients.
        """
        g = self._generator(name)
        band = torch.randperm(self.total, generator=g) + torch.rand(self.total, generator=g, dtype=torch.float64)
        return self._mine(torch.special.ndtri((band / self.total).clamp(1e-9, 1 - 1e-9)).float())

    def drawn(self, name: str, draw: Callable[[int, torch.Generator], Tensor]) -> Tensor:
        """The rows `[count, ...]` of these examples out of ``draw(total, generator)``, the values of the whole batch."""
        return self._mine(draw(self.total, self._generator(name)))

    def shared(self, name: str) -> float:
        """A number in [0, 1) that is the same for all examples of the step."""
        return float(torch.rand((), generator=self._generator(name)))

    def noise(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Standard normal noise `[count, *shape]`, drawn on the device, with a separate generator for each example."""
        out = torch.empty(self.count, *shape, device=device)
        for i in range(self.count):
            out[i].normal_(generator=self._generator(f"{name}/{self.first + i}", device))
        return out

    def _mine(self, values: Tensor) -> Tensor:
        return values[self.first : self.first + self.count]

    def _generator(self, name: str, device: torch.device | str = "cpu") -> torch.Generator:
        digest = hashlib.blake2b(f"{self.seed}/{self.step}/{name}".encode(), digest_size=8).digest()
        return torch.Generator(device).manual_seed(int.from_bytes(digest, "little") >> 1)
