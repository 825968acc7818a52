"""Validation of a flow model in training: fixed crops, times and noise, averaged weights.

A chunk's *next-chunk loss* is the mean squared error of its velocity. It is measured given a clean past, and given a generated
past: the crop's own chunks, each noised to `REGENERATED` and finished by the model after the ones that it finished before. So
the past has the model's errors, accumulated as when streaming, and the true next chunk still belongs to it.

Legend: B crops, T times, N chunks, M tokens a chunk, C channels.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotone.atomic import write_bytes, write_json
from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.flow.cache import FlowCache
from duotone.flow.model import FlowModel
from duotone.flow.path import interpolate, velocity
from duotone.flow.sampler import Sampler
from duotone.flow.solvers import driven, euler
from duotone.train.draws import Draws
from duotone.train.flow_objective import FlowObjective
from duotone.train.latents import LatentCrops
from duotone.train.task import Validation

#: Latents `[N, M, C]` in the codec's unit scale -> sound.
Decode = Callable[[Tensor], Waveform]
Picture = Callable[[Waveform], bytes]

TIMES = (0.1, 0.3, 0.5, 0.7, 0.9)
REGENERATED = 0.5  # noise level from which a generated past is finished
REGENERATION_STEPS = 4
CROPS = 4  # of a validation batch


class FlowValidation(Validation):
    """Losses on a grid of times and contexts, statistics of short rollouts, and occasionally sound in RUN/samples."""

    def __init__(
        self,
        objective: FlowObjective,
        held: LatentCrops,
        run: Path,
        batches: int,
        rollout_chunks: int = 32,
        listen_every: int = 0,
        clips: int = 2,
        decode: Decode | None = None,
        picture: Picture | None = None,
    ) -> None:
        self.objective, self.run, self.rollout_chunks = objective, run, rollout_chunks
        self.listen_every, self.clips, self.decode, self.picture = listen_every, clips, decode, picture
        self.crops = held.plain(CROPS * batches, "validation")

    def __call__(self, done: int, weights: dict[str, Tensor]) -> dict[str, Any]:
        """The metrics of a validation.

        `validation_t_*` and `validation_context_*`: loss by time, and by chunks of clean past; `validation_clean_past`: given at
        least half a crop of clean past, which is also `validation_loss`; `validation_generated_past`: the same chunks, times and
        noise, given a generated past; `rollout_deviation`, `rollout_mean`: see `rollout_statistics`.
        """
        model = self.objective.with_weights(weights)
        x = model.normalize(self.crops)
        metrics = {f"validation_{name}": value for name, value in next_chunk_metrics(model, x).items()}
        metrics["validation_loss"] = metrics["validation_clean_past"]
        if self.rollout_chunks:
            half = self.crops[:, : max(1, self.crops.shape[1] // 2)]
            metrics |= rollout_statistics(model.normalize(continued(model, half, self.rollout_chunks)), x)
            if self.decode is not None and self.listen_every and done % self.listen_every == 0:
                self.listen(model, self.decode, done)
        return metrics

    def listen(self, model: FlowModel, decode: Decode, done: int) -> None:
        """Write sound: each clip as it is, its first half continued, and a rollout from nothing; and their statistics."""
        folder = self.run / "samples" / f"step-{done:09d}"
        folder.mkdir(parents=True, exist_ok=True)
        clips = self.crops[: self.clips]
        half = clips[:, : max(1, clips.shape[1] // 2)]
        prompt = half.to(model.device).float()
        found = {
            "original": clips,
            "continued": torch.cat([prompt, continued(model, half, self.rollout_chunks)], 1),
            "from-nothing": continued(model, half[:, :0], self.rollout_chunks),
        }
        rows: list[dict[str, Any]] = []
        for i in range(len(clips)):
            for name, latents in found.items():
                wave = decode(latents[i].cpu())
                write(folder / f"clip-{i}-{name}.wav", wave, force=True)
                if self.picture:
                    write_bytes(folder / f"clip-{i}-{name}.png", self.picture(wave))
                x = model.normalize(latents[i])
                rows.append({"clip": i, "kind": name, "seconds": wave.seconds, "deviation": float(x.std())})
        write_json(folder / "metrics.json", rows)


def next_chunk_metrics(model: FlowModel, x: Tensor) -> dict[str, float]:
    """Next-chunk losses of normalised crops `[B, N, M, C]` on the fixed grid; `clean_past` and `generated_past` are comparable."""
    clean = next_chunk_losses(model, x, x)
    after = slice(x.shape[1] // 2, None)
    out = {f"t_{t}": float(row[after].mean()) for t, row in zip(TIMES, clean, strict=True)}
    for low, high in _doubling(x.shape[1]):
        name = f"context_{low}" if high == low + 1 else f"context_{low}_to_{high - 1}"
        out[name] = float(clean[:, low:high].mean())
    out["clean_past"] = float(clean[:, after].mean())
    out["generated_past"] = float(next_chunk_losses(model, x, regenerated(model, x))[:, after].mean())
    return out


@torch.no_grad()
def next_chunk_losses(model: FlowModel, x: Tensor, past: Tensor, seed: int = 0) -> Tensor:
    """Mean squared error of the velocity of each chunk of x given the chunks of `past` before it, `[T, N]`.

    Both are normalised, `[B, N, M, C]`; the noise is a function of the seed, and the same at all times. The past enters at the
    level of noise with which the model is streamed.
    """
    (b, n), level = x.shape[:2], model.config.sampling.context_noise
    draws = Draws.whole(b, seed)
    eps = draws.noise("validation", tuple(x.shape[1:]), x.device)[:, None]
    t = torch.tensor(TIMES, device=x.device)[None, :, None].expand(b, len(TIMES), n)
    s = torch.full((b, n), level, device=x.device)
    if level:
        past = interpolate(past, draws.noise("validation context", tuple(x.shape[1:]), x.device), level)
    noisy = interpolate(x[:, None], eps, t[..., None, None])
    rows = []
    for i in range(0, b, CROPS):
        part = slice(i, i + CROPS)
        found = model.streams(past[part], s[part], noisy[part], t[part])
        rows.append((found - velocity(x[part, None], eps[part])).square().mean((-1, -2)))
    return torch.cat(rows).mean(0)


@torch.no_grad()
def regenerated(model: FlowModel, x: Tensor, seed: int = 0) -> Tensor:
    """Normalised crops `[B, N, M, C]` with every chunk noised to `REGENERATED` and finished by the model, one after the other.

    Each chunk is finished given the finished ones before it.
    """
    (b, n), settings = x.shape[:2], model.config.sampling
    draws = Draws.whole(b, seed)
    eps, context = (draws.noise(name, tuple(x.shape[1:]), x.device) for name in ("regenerated", "regenerated context"))
    low = settings.t_min
    nodes = [low + (REGENERATED - low) * (1 - i / REGENERATION_STEPS) for i in range(REGENERATION_STEPS + 1)]
    cache = FlowCache(model, b)
    out = []
    for i in range(n):
        start = interpolate(x[:, i], eps[:, i], REGENERATED)
        out.append(driven(euler(start, nodes), lambda point: cache.velocity(*point)))
        if i + 1 < n:
            cache.append(out[-1][:, None], settings.context_noise, context[:, i : i + 1])
    return torch.stack(out, 1)


def continued(model: FlowModel, prompt: Tensor, chunks: int) -> Tensor:
    """Latents `[B, chunks, M, C]` after a prompt `[B, n, M, C]` (n may be 0), both in the codec's unit scale, seeds 0 to B - 1."""
    sampler = Sampler(model, range(len(prompt)))
    if prompt.shape[1]:
        sampler.push(prompt)
    return torch.stack([sampler.next().latents for _ in range(chunks)], 1)


def rollout_statistics(rollouts: Tensor, x: Tensor) -> dict[str, float]:
    """Generated and real normalised latents `[B, N, M, C]` -> how the second half of the generated chunks differs.

    `rollout_deviation`: their standard deviation as a share of the data's (1 is right; below, the music fades into its mean);
    `rollout_mean`: root mean square of the gaps between the means of the channels, in deviations of the data.
    """
    late = rollouts[:, rollouts.shape[1] // 2 :]
    gap = late.mean((0, 1, 2)) - x.mean((0, 1, 2))
    ratio = late.std((0, 1, 2)).square().mean().sqrt() / x.std((0, 1, 2)).square().mean().sqrt()
    return {"rollout_deviation": float(ratio), "rollout_mean": float(gap.square().mean().sqrt())}


def _doubling(n: int) -> list[tuple[int, int]]:
    """0, 1, 2 to 3, 4 to 7, ... as half-open ranges below n."""
    edges = [0, 1]
    while edges[-1] < n:
        edges.append(2 * edges[-1])
    edges[-1] = min(edges[-1], n)
    return [(low, high) for low, high in itertools.pairwise(edges) if high > low]
