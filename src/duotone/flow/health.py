"""Is the music still alive: loudness, self-similarity and onset periodicity of a running session.

Legend: M tokens of a chunk, C channels of a token, c channels of the sound, T samples.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from duotone.represent.stft import window

LAGS = 16  #: distances, in chunks, at which a repetition is looked for
SPAN = 8  #: chunks over which it has to last
ALIKE = 0.98  #: cosine similarity from which chunks count as repeated
SILENT = -60.0  #: dBFS below which a chunk counts as silent
_N_FFT, _HOP = 1024, 512
_PERIODS = (0.2, 2.0)  # seconds between onsets
_MEMORY = 8.0  # seconds of onsets


@dataclass(frozen=True)
class Health:
    """Figures of the last chunks; `stuck` says why the session seems stuck: "silent", "repeats", or None."""

    loudness: float  #: root mean square of the last chunk before the gain, dBFS
    similarity: float  #: the largest mean cosine similarity of the last 8 chunks to those 1 to 16 chunks before them
    lag: int  #: the distance at which it is largest, in chunks; 0 while there are too few chunks
    deviation: (
        float  #: standard deviation of the last chunk's normalised latents; about 1 for music like the training's
    )
    periodicity: float  #: the largest autocorrelation of the onset strength at 0.2 to 2 s, 0 to 1
    period: float  #: where it is, in seconds
    stuck: str | None
    replaced: int  #: chunks so far that were not finite and were replaced

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


class Monitor:
    """Listens to a session's chunks in constant memory; `rate` is that of the sound."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.replaced = 0
        self._latents: deque[Tensor] = deque(maxlen=LAGS + SPAN)
        self._loudness: deque[float] = deque(maxlen=SPAN)
        self._onsets = torch.zeros(0)
        self._tail = torch.zeros(0)  # samples that no frame began with yet
        self._magnitude = torch.zeros(0)  # of the last frame

    def push(self, latents: Tensor, samples: Tensor) -> None:
        """A chunk's normalised latents `[M, C]` and the piece `[c, T]` that was made with it."""
        self._latents.append(latents.detach().float().cpu().flatten())
        power = float(samples.square().mean()) if samples.numel() else 0.0
        self._loudness.append(10 * math.log10(max(power, 1e-12)))
        self._listen(samples.mean(0))

    def _listen(self, mono: Tensor) -> None:
        """Onset strength: the rise of logarithmic magnitudes from frame to frame, added over frequencies."""
        self._tail = torch.cat([self._tail, mono])
        if len(self._tail) < _N_FFT:
            return
        frames = self._tail.unfold(0, _N_FFT, _HOP)
        self._tail = self._tail[len(frames) * _HOP :].clone()
        log = torch.log1p(100 * torch.fft.rfft(frames * window(_N_FFT)).abs())
        before = self._magnitude[None] if len(self._magnitude) else log[:1]
        rises = torch.diff(torch.cat([before, log]), dim=0).clamp_min(0).sum(1)
        self._magnitude = log[-1].clone()
        self._onsets = torch.cat([self._onsets, rises])[-round(_MEMORY * self.rate / _HOP) :].clone()

    def report(self) -> Health:
        """The figures now."""
        similarity, lag = self._repetition()
        periodicity, period = self._periodicity()
        loudness = self._loudness[-1] if self._loudness else -120.0
        stuck = None
        if len(self._loudness) == SPAN and max(self._loudness) < SILENT:
            stuck = "silent"
        elif lag and similarity > ALIKE:
            stuck = "repeats"
        deviation = float(self._latents[-1].std()) if self._latents else 0.0
        return Health(loudness, similarity, lag, deviation, periodicity, period, stuck, self.replaced)

    def _repetition(self) -> tuple[float, int]:
        count = len(self._latents)
        if count < SPAN + 1:
            return 0.0, 0
        rows = F.normalize(torch.stack(list(self._latents)), dim=1)
        last = rows[-SPAN:]
        found = [
            (float((last * rows[count - SPAN - lag : count - lag]).sum(1).mean()), lag)
            for lag in range(1, count - SPAN + 1)
        ]
        return max(found)

    def _periodicity(self) -> tuple[float, float]:
        low, high = (round(seconds * self.rate / _HOP) for seconds in _PERIODS)
        onsets = self._onsets - self._onsets.mean() if len(self._onsets) else self._onsets
        if len(onsets) < 2 * high or not float(onsets.abs().max()):
            return 0.0, 0.0
        spectrum = torch.fft.rfft(onsets, n=2 * len(onsets)).abs().square()
        correlation = torch.fft.irfft(spectrum)[: high + 1]
        counts = len(onsets) - torch.arange(high + 1)
        correlation = correlation / counts * len(onsets) / correlation[0]
        best = int(correlation[low:].argmax()) + low
        return min(1.0, max(0.0, float(correlation[best]))), best * _HOP / self.rate

    def state(self) -> dict[str, Tensor]:
        """Everything that later figures depend on, as copies."""
        state = {"onsets": self._onsets.clone(), "tail": self._tail.clone(), "magnitude": self._magnitude.clone()}
        if self._latents:
            state["latents"] = torch.stack(list(self._latents))
        state["loudness"] = torch.tensor(list(self._loudness), dtype=torch.float64)
        return {**state, "replaced": torch.tensor(self.replaced)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self._onsets, self._tail, self._magnitude = (state[name].clone() for name in ("onsets", "tail", "magnitude"))
        self._latents.clear()
        self._latents.extend(state.get("latents", ()))
        self._loudness.clear()
        self._loudness.extend(state["loudness"].tolist())
        self.replaced = int(state["replaced"])
