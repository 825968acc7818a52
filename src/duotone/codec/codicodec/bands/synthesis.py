"""The maps of the estimate -> samples, in a stream.

Legend: n frames, F bins, S stereo bands.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from duotone.codec.codicodec.bands import layout
from duotone.codec.codicodec.bands.features import FLOOR
from duotone.codec.codicodec.bands.network import Maps
from duotone.config import BandsConfig
from duotone.represent.stft import OverlapAdd, dual_window, window


class Synthesis:
    """State of one stream: phases of the last frame, and the overlap of frames."""

    def __init__(self, config: BandsConfig, seed: int) -> None:
        self.config = config
        self.add = OverlapAdd(config.n_fft, config.hop, config.audio_channels)
        self.dual = dual_window(config.n_fft, config.hop)
        self.scale = float(window(config.n_fft).sum()) / 2
        self.to_bins = layout.mel_tent(config.stereo_bands, config)
        random = np.random.default_rng(seed)
        self.phase = torch.from_numpy(random.random(config.bins, dtype=np.float32)) * (2 * math.pi)
        self.turn = torch.from_numpy(random.random(config.bins, dtype=np.float32)) * (2 * math.pi)
        self.random = random

    def push(self, maps: Maps) -> Tensor:
        """Maps of consecutive chunks -> the next samples `[2, n * hop]`."""
        mid, ratio, share = (x.flatten(0, 1).cpu() for x in (maps.mid, maps.ratio, maps.share))
        magnitude = (mid.exp() - FLOOR).clamp_min(0) * self.scale
        x = torch.polar(magnitude, self._phases(magnitude))
        level, correlation = (ratio @ self.to_bins).exp(), (share @ self.to_bins).clamp(-1, 1)
        steps = torch.from_numpy(self.random.standard_normal(x.shape, dtype=np.float32)) * 0.15
        turns = self.turn + steps.cumsum(0)
        self.turn = turns[-1].remainder(2 * math.pi)
        decorrelated = (1 - correlation.square()).clamp_min(0).sqrt() * torch.polar(torch.ones_like(turns), turns)
        side = level * (correlation * x + decorrelated * x)
        frames = torch.fft.irfft(torch.stack([x + side, x - side]), n=self.config.n_fft) * self.dual
        return self.add.push(frames)

    def _phases(self, magnitudes: Tensor) -> Tensor:
        """Magnitudes `[n, F]` -> phases `[n, F]` (SPSI, Beauregard et al. 2015)."""
        n, bins = magnitudes.shape
        log, out, k = torch.log(magnitudes + 1e-7), torch.zeros(n, bins), torch.arange(bins)
        for t in range(n):
            m = log[t]
            at = torch.nonzero((m[1:-1] > m[:-2]) & (m[1:-1] >= m[2:]))[:, 0] + 1
            if len(at):
                a, b, c = m[at - 1], m[at], m[at + 1]
                f = (at + (0.5 * (a - c) / (a - 2 * b + c - 1e-9)).clamp(-0.5, 0.5)) * (2 * math.pi / self.config.n_fft)
                own = torch.searchsorted((at[1:] + at[:-1] + 1) // 2, k, right=True)
                self.phase = ((self.phase[at] + f * self.config.hop)[own] + math.pi * (k - at[own])).remainder(
                    2 * math.pi
                )
            out[t] = self.phase
        return out
