"""What a run sounds like on sound it never trained on: fixed clips, fixed noise, averaged weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.codec.codicodec import CoDiCodec
from duotone.train.data import Crops
from duotone.train.draws import Draws
from duotone.train.objective import CodecObjective

SIGMAS = (1.0, 10.0, 80.0)
STRATEGIES: tuple[Literal["parallel", "autoregressive"], ...] = ("parallel", "autoregressive")

Measure = Callable[[Waveform, Waveform], dict[str, float]]
Picture = Callable[[Waveform], bytes]


class Validation:
    """Called by the loop with steps done and averaged weights; gives figures and, at times, writes clips to RUN/samples."""

    def __init__(
        self,
        objective: CodecObjective,
        held: Crops,
        run: Path,
        batches: int,
        listen_every: int = 0,
        clips: int = 2,
        measure: Measure | None = None,
        picture: Picture | None = None,
        decoded: int = 0,
    ) -> None:
        self.objective, self.run = objective, run
        self.listen_every, self.clips, self.measure, self.picture = listen_every, clips, measure, picture
        self.decoded = decoded
        self.batches = [held.plain(4, f"validation/{i}") for i in range(batches)]

    def __call__(self, done: int, weights: dict[str, Tensor]) -> dict[str, Any]:
        """The figures of a validation; `validation_loss` is what chooses the best checkpoint.

        `validation_one_step`: mean relative error of one denoising step over sigma 1, 10, 80, both faces; and its parts.
        With `decoded` clips and something to measure them, `validation_log_mel` and `validation_mr_stft`: their distances
        after rounding and parallel decoding, from noise. The loss is then the log-mel distance, in dB: one-step error
        grows again when consistency tightens, since one plausible sound is further from the truth than a blurred mean.
        """
        averaged = average(self.objective, weights)
        totals: dict[str, float] = {}
        for i, samples in enumerate(self.batches):
            for name, value in denoising_errors(averaged, samples, seed=i).items():
                totals[name] = totals.get(name, 0.0) + value / len(self.batches)
        figures: dict[str, Any] = {f"validation_{name}": value for name, value in totals.items()}
        figures["validation_one_step"] = figures["validation_loss"] = sum(totals.values()) / len(totals)
        if self.decoded and self.measure:
            figures |= self._decoded(self._codec(averaged), self.measure)
            figures["validation_loss"] = figures["validation_log_mel"]
        if self.listen_every and done % self.listen_every == 0:
            figures |= self.listen(self._codec(averaged), done)
        return figures

    @staticmethod
    def _codec(averaged: CodecObjective) -> CoDiCodec:
        """A codec of these weights, on their device."""
        return averaged.export({"note": "validation"}).to(next(averaged.parameters()).device)

    def _decoded(self, codec: CoDiCodec, measure: Measure) -> dict[str, float]:
        """Mean distances of the rounded clips, decoded in parallel."""
        totals = dict.fromkeys(("log_mel", "mr_stft"), 0.0)
        clips = torch.cat(self.batches)[: self.decoded]
        for samples in clips:
            wave = Waveform(samples.cpu().contiguous(), codec.rate)
            found = measure(wave, codec.decode(codec.encode(wave).codes(), "parallel", seed=0))
            for name in totals:
                totals[name] += found[name] / len(clips)
        return {f"validation_{name}": value for name, value in totals.items()}

    def listen(self, codec: CoDiCodec, done: int) -> dict[str, float]:
        """Reconstruct the clips from both faces in both ways: WAV, spectrogram, metrics; returns mean metrics."""
        folder = self.run / "samples" / f"step-{done:09d}"
        folder.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = []
        for i, samples in enumerate(torch.cat(self.batches)[: self.clips]):
            wave = Waveform(samples.cpu().contiguous(), codec.rate)
            self._write(folder, f"clip-{i}-original", wave)
            latents = codec.encode(wave)
            for face, value in (("continuous", latents), ("discrete", latents.codes())):
                for strategy in STRATEGIES:
                    decoded = codec.decode(value, strategy, seed=0)
                    self._write(folder, f"clip-{i}-{face}-{strategy}", decoded)
                    figures = self.measure(wave, decoded) if self.measure else {}
                    rows.append({"clip": i, "face": face, "strategy": strategy, **figures})
        (folder / "metrics.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")
        keys = [k for k in rows[0] if k not in ("clip", "face", "strategy")]
        return {f"listen_{k}": sum(r[k] for r in rows) / len(rows) for k in keys}

    def _write(self, folder: Path, name: str, wave: Waveform) -> None:
        write(folder / f"{name}.wav", wave, force=True)
        if self.picture:
            (folder / f"{name}.png").write_bytes(self.picture(wave))


@torch.no_grad()
def denoising_errors(objective: CodecObjective, samples: Tensor, seed: int = 0) -> dict[str, float]:
    """Relative squared error of one denoising step at sigma 1, 10 and 80, from continuous and rounded latents.

    Samples `[B, 2, crop]`; the noise is a function of the seed; the noise level is the same left and right.
    """
    clean = objective.clean(samples.to(next(objective.parameters()).device))
    keep = torch.ones(len(clean), dtype=torch.bool, device=clean.device)
    pre = objective.network.encode_pre(clean)
    noise = Draws.whole(len(clean), seed).noise("validation", tuple(clean.shape[1:]), clean.device)
    out = {}
    for face, choice in (("continuous", keep), ("rounded", ~keep)):
        values = objective.bottleneck(pre, choice)
        pyramid = objective.network.upsample(values)
        for sigma in SIGMAS:
            level = torch.full((len(clean),), sigma, device=clean.device)
            estimate = objective.denoise(clean + sigma * noise, level, values, pyramid)
            out[f"error_{face}_{sigma:g}"] = float((estimate - clean).pow(2).mean() / clean.pow(2).mean())
    return out


@torch.no_grad()
def average(objective: CodecObjective, weights: dict[str, Tensor]) -> CodecObjective:
    """An objective of its own with the averaged weights."""
    out = CodecObjective(objective.config, objective.section)
    out.load_state_dict({**dict(objective.named_buffers()), **weights})
    return out.to(next(iter(weights.values())).device).eval()
