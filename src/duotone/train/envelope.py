"""An auxiliary loss for short runs: predict log magnitudes from the upsampler's finest feature map.

The consistency loss gives the encoder little gradient while the decoder cannot use its latents yet, and short runs end
before it can. A linear head on the feature map, which is not exported, gives encoder and upsampler a direct target from
the first step.

Legend: B chunks, C channels of the feature map, F bins, T frames; the feature map is on the stem's grid (F/f, T/t).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from duotone.config import CoDiCodecConfig

#: Added to magnitudes before the logarithm; about -80 dB of full scale.
FLOOR = 0.05


class Envelope(nn.Module):
    """Feature map `[B, C, F/f, T/t]` -> mean squared error of the log magnitudes predicted from it."""

    def __init__(self, config: CoDiCodecConfig) -> None:
        super().__init__()
        self.stem = config.stem
        values = config.audio_channels * config.stem[0] * config.stem[1]
        self.weight = nn.Conv2d(config.channels[0], values, 1, bias=False)
        self.mean = nn.Parameter(torch.zeros(1, values, config.stem_grid[0], 1))
        nn.init.zeros_(self.weight.weight)

    def target(self, spectrum: Tensor) -> Tensor:
        """Companded spectrum `[B, 4, F, T]` -> log magnitudes `[B, 2*f*t, F/f, T/t]`."""
        b, c, bins, frames = spectrum.shape
        magnitude = spectrum.float().reshape(b, c // 2, 2, bins, frames).norm(dim=2)
        f, t = self.stem
        patches = torch.log(magnitude + FLOOR).reshape(b, c // 2, bins // f, f, frames // t, t)
        return patches.permute(0, 1, 3, 5, 2, 4).reshape(b, -1, bins // f, frames // t)

    def forward(self, feature_map: Tensor, spectrum: Tensor) -> Tensor:
        """The error, a number."""
        predicted = self.weight(feature_map).float() + self.mean
        error: Tensor = (predicted - self.target(spectrum)).square().mean()
        return error

    @torch.no_grad()
    def calibrate(self, spectrum: Tensor) -> None:
        """Set the head's offset to the mean log magnitude of each bin over these chunks."""
        self.mean.copy_(self.target(spectrum).mean((0, 3), keepdim=True))
