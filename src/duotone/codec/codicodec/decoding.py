"""Decoding strategies: latents of chunks in, clean spectra of chunks out, in order.

Each engine takes chunks with `push` and gives back the spectra that are finished; `finish` gives the rest.

- `Autoregressive`: chunk by chunk, each paired with the clean previous one (live decoding uses this).
- `Wavefront`: the parallel schedule as a sliding window: step s of a pair needs only its two chunks at step s-1, so
  memory does not grow with the file, and the delay is about S chunks.
- `parallel`: the parallel schedule over a whole file at once, step by step.

Parallel schedule (arXiv 2509.09836, section 3.3): even steps pair (0,1)(2,3).., odd steps (0)(1,2)(3,4)...
The left half of a pair does not attend to the right half. So the left runs first and passes its keys and values on;
a chunk without partner is computed as a left half, and nothing is computed for the missing partner.

Legend: N chunks, C F T spectrum of a chunk, L latents of d dimensions, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from duotone.codec import consistency
from duotone.codec.codicodec.network import CoDiCodecNetwork, Condition
from duotone.codec.codicodec.noise import TIME_PROMPT, noise_shape
from duotone.codec.noise import Noise, drawn
from duotone.nn.transformer import KeyValue

#: A parallel decode longer than this many chunks runs as a wavefront (the same numbers) to bound its memory.
WHOLE_LIMIT = 32


class Engine:
    """Base of the strategies: the network, the schedule of noise levels, and the noise."""

    def __init__(self, network: CoDiCodecNetwork, steps: int, noise: Noise) -> None:
        self.network, self.steps, self.noise = network, steps, noise
        self.config = network.config
        self.device = network.denoiser.registers.device
        self.levels = consistency.schedule(steps, self.config.noise)
        self._conditions: dict[float, Condition] = {}

    def condition(self, level: float) -> Condition:
        """The denoiser's conditioning on one noise level, computed once."""
        if level not in self._conditions:
            self._conditions[level] = self.network.denoiser.condition(
                torch.tensor([level], dtype=torch.float32, device=self.device)
            )
        return self._conditions[level]

    def draw(self, chunk: int, index: int) -> Tensor:
        """Unit noise `[C, F, T]` on the network's device."""
        return drawn(self.noise, chunk, index, noise_shape(self.config), self.device)

    def start(self, chunk: int) -> Tensor:
        """A chunk of pure noise at sigma_max."""
        return self.draw(chunk, 0) * self.config.noise.sigma_max

    def renoise(self, clean: Tensor, chunk: int, index: int, level: float) -> Tensor:
        """Add noise to a clean estimate, up to a noise level: ``x + sqrt(sigma^2 - sigma_min^2) noise``."""
        scale = float(
            consistency.renoise_scale(torch.tensor(level, dtype=torch.float32, device="cpu"), self.config.noise)
        )
        return torch.add(clean, self.draw(chunk, index), alpha=scale)

    def after(self, clean: Tensor, chunk: int, step: int) -> Tensor:
        """A chunk after step k: noised again for step k+1, or the clean estimate after the last step."""
        if step + 1 == self.steps:
            return clean
        return self.renoise(clean, chunk, step + 1, self.levels[step + 1])

    def push(self, values: Tensor) -> list[Tensor]:
        """Bounded latents `[k, L, d]` -> the clean spectra `[C, F, T]` that have become final."""
        raise NotImplementedError

    def finish(self) -> list[Tensor]:
        """Return the remaining spectra."""
        raise NotImplementedError


class Autoregressive(Engine):
    """Decodes each chunk as the right half after the previous clean one, which is noised once to `sigma(time_prompt)`."""

    def __init__(self, network: CoDiCodecNetwork, steps: int, noise: Noise, time_prompt: float) -> None:
        super().__init__(network, steps, noise)
        self.prompt_level = float(
            consistency.sigma(torch.tensor(time_prompt, dtype=torch.float64, device="cpu"), self.config.noise)
        )
        self._last: tuple[Tensor, Tensor, list[Tensor]] | None = None  # clean spectrum, latents, pyramid
        self._chunk = 0

    def push(self, values: Tensor) -> list[Tensor]:
        """Bounded latents `[k, L, d]` -> k clean spectra `[C, F, T]`."""
        return [self._one(v[None].to(self.device)) for v in values]

    def _one(self, values: Tensor) -> Tensor:
        denoiser = self.network.denoiser
        pyramid = self.network.upsample(values)
        past: list[KeyValue] | None = None
        if self._last is not None:
            clean, left_values, left_pyramid = self._last
            prompt = self.renoise(clean[0], self._chunk, TIME_PROMPT, self.prompt_level)[None]
            past = denoiser.left_context(prompt, left_values, self.condition(self.prompt_level), left_pyramid)
        x = self.start(self._chunk)[None]
        for step, level in enumerate(self.levels):
            clean, _ = denoiser.denoise(x, values, self.condition(level), pyramid, past)
            x = self.after(clean[0], self._chunk, step)[None]
        self._last = (x, values, pyramid)
        self._chunk += 1
        return x[0]

    def finish(self) -> list[Tensor]:
        """Returns nothing: no spectra are held back."""
        return []

    def state(self) -> dict[str, Tensor]:
        """Everything that later spectra depend on, as copies on the CPU; the pyramid follows from the latents."""
        state = {"chunk": torch.tensor(self._chunk)}
        if self._last is not None:
            state["clean"], state["latents"] = (x.cpu().clone() for x in self._last[:2])
        return state

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave, of the same network, steps, noise and time prompt."""
        self._chunk, self._last = int(state["chunk"]), None
        if "clean" in state:
            clean, values = (state[name].to(self.device) for name in ("clean", "latents"))
            self._last = (clean, values, self.network.upsample(values))


@dataclass
class _Chunk:
    """A chunk being denoised."""

    values: Tensor
    pyramid: list[Tensor]
    x: Tensor
    done: int = 0


class Wavefront(Engine):
    """The parallel schedule in constant memory. `batch` pairs are computed together."""

    def __init__(self, network: CoDiCodecNetwork, steps: int, noise: Noise, batch: int = 8) -> None:
        super().__init__(network, steps, noise)
        self.batch = batch
        self._chunks: dict[int, _Chunk] = {}
        self._count = 0  # chunks pushed so far
        self._given = 0  # chunks returned so far

    def push(self, values: Tensor) -> list[Tensor]:
        """Bounded latents `[k, L, d]` -> the clean spectra `[C, F, T]` that have become final."""
        for part in torch.split(values.to(self.device), self.batch):
            pyramid = self.network.upsample(part)
            for i, v in enumerate(part):
                # clone: a slice would keep the whole batch's feature maps in memory
                single = [p[i : i + 1].clone(memory_format=torch.preserve_format) for p in pyramid]
                self._chunks[self._count] = _Chunk(v[None], single, self.start(self._count))
                self._count += 1
        return self._advance(ended=False)

    def finish(self) -> list[Tensor]:
        """Return the spectra that still waited for a right partner."""
        return self._advance(ended=True)

    def _advance(self, ended: bool) -> list[Tensor]:
        for step in range(self.steps):
            tasks = self._ready(step, ended)
            for i in range(0, len(tasks), self.batch):
                self._run(tasks[i : i + self.batch], step)
        out: list[Tensor] = []
        while self._given in self._chunks and self._chunks[self._given].done == self.steps:
            out.append(self._chunks.pop(self._given).x)
            self._given += 1
        return out

    def _ready(self, step: int, ended: bool) -> list[tuple[int, int | None]]:
        """Pairs (left, right or None) whose chunks are due for this step, and whose right is present or will never come."""
        tasks: list[tuple[int, int | None]] = []
        for left, chunk in sorted(self._chunks.items()):
            if chunk.done != step:
                continue
            if left == 0 and step % 2 == 1:
                tasks.append((0, None))
            elif left % 2 == step % 2:
                right = self._chunks.get(left + 1)
                if right is not None and right.done == step:
                    tasks.append((left, left + 1))
                elif right is None and ended:
                    tasks.append((left, None))
        return tasks

    def _run(self, tasks: list[tuple[int, int | None]], step: int) -> None:
        """Compute one step of some pairs: all left halves together, then all right halves."""
        tasks = sorted(tasks, key=lambda task: task[1] is None)  # those with a right partner first
        rights = [right for _, right in tasks if right is not None]
        past = self._half([left for left, _ in tasks], step, None)
        if rights:
            self._half(rights, step, [(k[: len(rights)], v[: len(rights)]) for k, v in past])

    def _half(self, indices: list[int], step: int, past: list[KeyValue] | None) -> list[KeyValue]:
        chunks = [self._chunks[i] for i in indices]
        x = torch.stack([c.x for c in chunks])
        values = torch.cat([c.values for c in chunks])
        pyramid = [torch.cat(level) for level in zip(*(c.pyramid for c in chunks), strict=True)]
        clean, kept = self.network.denoiser.denoise(x, values, self.condition(self.levels[step]), pyramid, past)
        for index, chunk, estimate in zip(indices, chunks, clean, strict=True):
            chunk.x, chunk.done = self.after(estimate, index, step), step + 1
        return kept


def _take(tensor: Tensor, indices: list[int]) -> Tensor:
    """``tensor[indices]``, as a view if the indices are equally spaced (all but the first few are)."""
    step = indices[1] - indices[0] if len(indices) > 1 else 1
    if indices == list(range(indices[0], indices[-1] + 1, step)):
        return tensor[indices[0] : indices[-1] + 1 : step]
    return tensor[indices]


def parallel(network: CoDiCodecNetwork, values: Tensor, steps: int, noise: Noise, batch: int = 8) -> Tensor:
    """The parallel schedule over a whole file: bounded latents `[N, L, d]` -> clean spectra `[N, C, F, T]`.

    Its memory grows with N (every chunk's pyramid is kept); `Wavefront` gives the same numbers in constant memory.
    """
    engine = Engine(network, steps, noise)
    values = values.to(engine.device)
    n = len(values)
    pyramid = [torch.cat(p) for p in zip(*(network.upsample(v) for v in torch.split(values, batch)), strict=True)]
    x = torch.stack([engine.start(i) for i in range(n)])
    for step, level in enumerate(engine.levels):
        condition = engine.condition(level)
        lefts = list(range(step % 2, n, 2))
        if step % 2 == 1:
            lefts = [0, *lefts]
        for i in range(0, len(lefts), batch):
            left = lefts[i : i + batch]
            right = [j + 1 for j in left if j + 1 < n and j + 1 not in left]
            # a left half without partner is the first (chunk 0 of an odd step) or the last (the last chunk)
            paired = [k for k, j in enumerate(left) if j + 1 in right]
            estimate, kept = network.denoiser.denoise(
                x[left], values[left], condition, [_take(p, left) for p in pyramid]
            )
            updates = dict(zip(left, estimate, strict=True))
            if right:
                past = [(_take(k, paired), _take(v, paired)) for k, v in kept]
                estimate, _ = network.denoiser.denoise(
                    x[right], values[right], condition, [_take(p, right) for p in pyramid], past
                )
                updates |= dict(zip(right, estimate, strict=True))
            for j, clean in updates.items():
                x[j] = engine.after(clean, j, step)
    return x


class Parallel(Engine):
    """The parallel schedule over a whole file, run at its end; for more than `WHOLE_LIMIT` chunks as a wavefront (same numbers)."""

    def __init__(self, network: CoDiCodecNetwork, steps: int, noise: Noise) -> None:
        super().__init__(network, steps, noise)
        self._waiting: list[Tensor] = []
        self._front: Wavefront | None = None

    def push(self, values: Tensor) -> list[Tensor]:
        """Bounded latents `[k, L, d]` -> nothing yet, or what the wavefront gives."""
        if self._front is None:
            self._waiting.append(values)
            if sum(map(len, self._waiting)) <= WHOLE_LIMIT:
                return []
            self._front = Wavefront(self.network, self.steps, self.noise)
            values, self._waiting = torch.cat(self._waiting), []
        return self._front.push(values)

    def finish(self) -> list[Tensor]:
        """Return all spectra, or the wavefront's last ones."""
        if self._front is not None:
            return self._front.finish()
        if not self._waiting:
            return []
        return list(parallel(self.network, torch.cat(self._waiting), self.steps, self.noise))
