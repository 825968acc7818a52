"""What shows the encoder early what matters: the summary's fine picture has to tell the sound's log magnitudes.

The consistency loss says little to an encoder whose decoder cannot use its latents yet; short runs are over before the
two have met. A linear head on the upsampler's finest picture, thrown away at export, gives both a plain target at once.

Legend: B chunks, C channels of the picture, F bins, T frames; the picture stands on the stem's grid (F/f, T/t).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from duotone.config import CoDiCodecConfig

#: Added to magnitudes before the logarithm; about -80 dB of full scale.
FLOOR = 0.05


class Envelope(nn.Module):
    """Picture `[B, C, F/f, T/t]` -> mean squared error of the log magnitudes that it tells."""

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

    def forward(self, picture: Tensor, spectrum: Tensor) -> Tensor:
        """The error, a number."""
        told = self.weight(picture).float() + self.mean
        error: Tensor = (told - self.target(spectrum)).square().mean()
        return error

    @torch.no_grad()
    def calibrate(self, spectrum: Tensor) -> None:
        """Begin at the mean over these chunks, of every bin."""
        self.mean.copy_(self.target(spectrum).mean((0, 3), keepdim=True))
