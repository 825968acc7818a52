"""Decoding by refinement: estimates of chunks in, refined spectra of the same chunks out, at once.

The refiner is causal over chunks, so a chunk needs none after it, at any number of steps. What the steps of a chunk see of the chunk
before it (through keys and values) makes the strategy:

- `Parallel`: the chunk before it at the same step, as noisy as it is. All chunks of a push are computed together, step by step. As
  no step needs a later chunk, a sliding wavefront is the same computation: both names of strategies are accepted.
- `Autoregressive`: the finished chunk before it, noised once to `sigma(time_prompt)`; chunk by chunk.

Noise is a function of (seed, chunk, draw) as in `codicodec.noise`: draw 0 for the start, k after step k, -1 for the time prompt.

Legend: N chunks of a push, n frames, F bins; z as in `relative`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from duotone.codec import consistency
from duotone.codec.codicodec.bands.refiner import Given, Refiner
from duotone.codec.codicodec.noise import TIME_PROMPT, noise_shape
from duotone.codec.noise import Noise, drawn
from duotone.nn.transformer import KeyValue


class Refinement(ABC):
    """A strategy: the refiner, the schedule of noise levels, the noise, and the state of one stream."""

    def __init__(self, refiner: Refiner, steps: int, noise: Noise) -> None:
        self.refiner, self.noise = refiner, noise
        self.device = refiner.network.lift.weight.device
        self.levels = consistency.schedule(steps, refiner.sizes.decoded_noise)
        self._chunk = 0

    @abstractmethod
    def push(self, estimate: Tensor | None, given: Given) -> Tensor:
        """The estimate of the next N chunks as z `[1, N, 2, 2, n, F]`, None without one -> their refined z."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Everything that later chunks depend on, as copies on the CPU."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave, of the same weights, steps and noise."""

    def draw(self, count: int, index: int) -> Tensor:
        """Unit noise of the next chunks `[1, count, 2, 2, n, F]`."""
        shape, chunks = noise_shape(self.refiner.config), range(self._chunk, self._chunk + count)
        noise: Tensor = torch.stack(
            [drawn(self.noise, chunk, index, shape, self.device) for chunk in chunks]
        ).unflatten(1, (2, 2))
        return noise.transpose(3, 4)[None]

    def start(self, estimate: Tensor | None, count: int) -> Tensor:
        """The estimate with noise of the first level, or that noise alone."""
        noise = self.draw(count, 0) * self.levels[0]
        return noise if estimate is None else estimate + noise

    def renoised(self, clean: Tensor, index: int, level: float, given: Given) -> Tensor:
        """Clean z of the next chunks, noised again to a level."""
        return self.refiner.noised(clean, self.level(level), self.draw(clean.shape[1], index), given)

    def level(self, level: float) -> Tensor:
        """A noise level for all chunks `[1, 1]`."""
        return torch.full((1, 1), level, dtype=torch.float32, device=self.device)


class Parallel(Refinement):
    """Each step sees the chunk before at the same step."""

    def __init__(self, refiner: Refiner, steps: int, noise: Noise) -> None:
        super().__init__(refiner, steps, noise)
        self._past: list[list[KeyValue] | None] = [None] * steps

    def push(self, estimate: Tensor | None, given: Given) -> Tensor:
        """See `Refinement`."""
        count = given.hidden.shape[1]
        x = self.start(estimate, count)
        for step, level in enumerate(self.levels):
            x, self._past[step] = self.refiner.denoise(x, self.level(level), given, self._past[step])
            if step + 1 < len(self.levels):
                x = self.renoised(x, step + 1, self.levels[step + 1], given)
        self._chunk += count
        return x

    def state(self) -> dict[str, Tensor]:
        """See `Refinement`."""
        out = {"chunk": torch.tensor(self._chunk)}
        for step, past in enumerate(self._past):
            out |= {f"{step}.{name}": tensor for name, tensor in key_state(past).items()}
        return out

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Refinement`."""
        self._chunk = int(state["chunk"])
        for step in range(len(self._past)):
            own = {name.partition(".")[2]: t for name, t in state.items() if name.startswith(f"{step}.")}
            self._past[step] = restored_keys(own, self.device)


class Autoregressive(Refinement):
    """All steps of a chunk see the finished chunk before it, which is noised once to `sigma(time_prompt)`."""

    def __init__(self, refiner: Refiner, steps: int, noise: Noise, time_prompt: float) -> None:
        super().__init__(refiner, steps, noise)
        position = torch.tensor(time_prompt, dtype=torch.float64, device="cpu")
        self.prompt_level = float(consistency.sigma(position, refiner.sizes.decoded_noise))
        self._past: list[KeyValue] | None = None

    def push(self, estimate: Tensor | None, given: Given) -> Tensor:
        """See `Refinement`."""
        done = [self._one(None if estimate is None else estimate[:, i : i + 1], given.part(slice(i, i + 1)))
                for i in range(given.hidden.shape[1])]  # fmt: skip
        return torch.cat(done, 1)

    def _one(self, estimate: Tensor | None, given: Given) -> Tensor:
        x = self.start(estimate, 1)
        for step, level in enumerate(self.levels):
            x, _ = self.refiner.denoise(x, self.level(level), given, self._past)
            if step + 1 < len(self.levels):
                x = self.renoised(x, step + 1, self.levels[step + 1], given)
        prompt = self.renoised(x, TIME_PROMPT, self.prompt_level, given)
        _, self._past = self.refiner.denoise(prompt, self.level(self.prompt_level), given, self._past)
        self._chunk += 1
        return x

    def state(self) -> dict[str, Tensor]:
        """See `Refinement`."""
        return {"chunk": torch.tensor(self._chunk), **key_state(self._past)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """See `Refinement`."""
        self._chunk, self._past = int(state["chunk"]), restored_keys(state, self.device)


def key_state(past: Sequence[KeyValue] | None) -> dict[str, Tensor]:
    """Keys and values of layers as named copies on the CPU."""
    out: dict[str, Tensor] = {}
    for i, (k, v) in enumerate(past or ()):
        out[f"keys.{i}"], out[f"values.{i}"] = k.cpu().clone(), v.cpu().clone()
    return out


def restored_keys(state: Mapping[str, Tensor], device: torch.device) -> list[KeyValue] | None:
    """The inverse of `key_state`; other names are left out."""
    layers = sum(name.startswith("keys.") for name in state)
    both = [tuple(state[f"{kind}.{i}"].to(device) for kind in ("keys", "values")) for i in range(layers)]
    return [(k, v) for k, v in both] or None
