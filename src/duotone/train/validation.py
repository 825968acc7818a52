"""Validation of a codec in training on held-out audio: fixed clips, fixed noise, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from duotone.atomic import write_bytes, write_json
from duotone.audio.files import write
from duotone.audio.waveform import Waveform
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.train.codec_objective import CodecObjective
from duotone.train.data import Crops
from duotone.train.task import Validation

#: Of the strategies that a codec declares, so many are listened to (CoDiCodec's third gives the numbers of its first).
LISTENED = 2

Measure = Callable[[Waveform, Waveform], dict[str, float]]
Picture = Callable[[Waveform], bytes]


class CodecValidation(Validation):
    """One-step errors of the objective, distances of decoded clips, and occasionally clips to listen to in RUN/samples."""

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
        """The metrics of a validation; `validation_loss` chooses the best checkpoint.

        `validation_one_step`: the mean of the objective's one-step errors; and its parts. With `decoded` clips and
        something to measure them, `validation_log_mel` and `validation_mr_stft`: their distances after rounding and
        decoding, from noise. The loss is then the log-mel distance, in dB: one-step errors rise again when the consistency
        steps become smaller, because a plausible sample is further from the target than a blurred mean.
        """
        averaged = self.objective.with_weights(weights)
        totals: dict[str, float] = {}
        for i, samples in enumerate(self.batches):
            for name, value in averaged.errors({"samples": samples}, seed=i).items():
                totals[name] = totals.get(name, 0.0) + value / len(self.batches)
        metrics: dict[str, Any] = {f"validation_{name}": value for name, value in totals.items()}
        if totals:
            metrics["validation_one_step"] = metrics["validation_loss"] = sum(totals.values()) / len(totals)
        listen = self.listen_every > 0 and done % self.listen_every == 0
        if (self.decoded and self.measure) or listen:
            codec = averaged.export({"note": "validation"}).to(next(averaged.parameters()).device)
            if self.decoded and self.measure:
                metrics |= self._decoded(codec, self.measure)
                metrics["validation_loss"] = metrics["validation_log_mel"]
            if listen:
                metrics |= self.listen(codec, done)
        return metrics

    def _decoded(self, codec: Codec, measure: Measure) -> dict[str, float]:
        """Mean distances of the clips after encoding (to tokens if the codec has them) and decoding."""
        totals = dict.fromkeys(("log_mel", "mr_stft"), 0.0)
        clips = torch.cat(self.batches)[: self.decoded]
        for samples in clips:
            wave = Waveform(samples.cpu().contiguous(), self.objective.rate)
            _, value = faces(codec, wave)[-1]
            found = measure(wave, codec.decode(value, seed=0))
            for name in totals:
                totals[name] += found[name] / len(clips)
        return {f"validation_{name}": value for name, value in totals.items()}

    def listen(self, codec: Codec, done: int) -> dict[str, float]:
        """Reconstruct the clips from latents and codes with each strategy: WAV, spectrogram, metrics; returns mean metrics."""
        folder = self.run / "samples" / f"step-{done:09d}"
        folder.mkdir(parents=True, exist_ok=True)
        rows: list[dict[str, Any]] = []
        for i, samples in enumerate(torch.cat(self.batches)[: self.clips]):
            wave = Waveform(samples.cpu().contiguous(), self.objective.rate)
            self._write(folder, f"clip-{i}-original", wave)
            for face, value in faces(codec, wave):
                for strategy in codec.spec.strategies[:LISTENED] or (None,):
                    decoded = codec.decode(value, strategy, seed=0)
                    self._write(folder, "-".join(filter(None, (f"clip-{i}", face, strategy))), decoded)
                    metrics = self.measure(wave, decoded) if self.measure else {}
                    rows.append({"clip": i, "face": face, "strategy": strategy, **metrics})
        finite = [{k: None if _lost(v) else v for k, v in row.items()} for row in rows]
        write_json(folder / "metrics.json", finite)
        keys = [k for k in rows[0] if k not in ("clip", "face", "strategy")]
        return {f"listen_{k}": sum(r[k] for r in rows) / len(rows) for k in keys}

    def _write(self, folder: Path, name: str, wave: Waveform) -> None:
        write(folder / f"{name}.wav", wave, force=True)
        if self.picture:
            write_bytes(folder / f"{name}.png", self.picture(wave))


def faces(codec: Codec, wave: Waveform) -> list[tuple[str, Latents | Codes]]:
    """The encodings of a recording that the codec has: continuous (latents), then discrete (tokens)."""
    value = codec.encode(wave)
    found: list[tuple[str, Latents | Codes]] = [("continuous", value)] if "latents" in codec.spec.faces else []
    return [*found, ("discrete", value.codes())] if "tokens" in codec.spec.faces else found


def _lost(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
