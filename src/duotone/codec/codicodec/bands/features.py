"""What the encoder of the bands frontend sees of a waveform: logarithmic magnitudes.

Windows of a chunk (n_fft = W, here two frames a time step)::

    long windows   [-------- 2 W --------]           one a time step: the lowest bins of mid
    frames              [--- W ---]                  one a hop: all bins of mid, mel bands of left, right and side
                           [--- W ---]

A chunk's windows reach `spare` samples beyond its advance. Legend: B chunks or crops, n frames, F bins, J bins of the long
window, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from duotone.codec.codicodec.bands.layout import MEL_BANDS
from duotone.config import BandsConfig
from duotone.represent.mel import mel_filterbank
from duotone.represent.stft import transform_device, window


@dataclass(frozen=True)
class Features:
    """Natural logarithms of magnitudes plus the configuration's floor, float32; a sine at full scale has magnitude 1."""

    mid: Tensor  #: `[B, n, F]`
    mels: Tensor  #: `[B, n, 3, M]` of left, right and side
    low: Tensor  #: `[B, n / frames a time step, J]` of mid in the long window

    def chunks(self, config: BandsConfig) -> Features:
        """`[B, N chunks]` as `[B * N]` features of one chunk each."""
        return Features(
            self.mid.reshape(-1, config.frames, *self.mid.shape[2:]),
            self.mels.reshape(-1, config.frames, *self.mels.shape[2:]),
            self.low.reshape(-1, config.tokens, *self.low.shape[2:]),
        )


class Analysis:
    """Waves -> `Features`; holds the windows and filters of a configuration for a device."""

    def __init__(self, config: BandsConfig, device: torch.device | None = None) -> None:
        self.config = config
        self.place = transform_device(device or torch.device("cpu"))
        self.device = device or torch.device("cpu")
        self.window, self.long = window(config.n_fft, self.place), window(2 * config.n_fft, self.place)
        self.mel = mel_filterbank(config.rate, config.n_fft, MEL_BANDS).T.contiguous().to(self.place)

    def spectra(self, samples: Tensor) -> Tensor:
        """Samples `[B, 2, N * chunk + spare]` -> complex spectra of mid and side of each chunk `[B, N, 2, n, F]`."""
        left, right = self._frames(samples.float().to(self.place)).unbind(1)
        both: Tensor = torch.stack([(left + right) / 2, (left - right) / 2], 1).unflatten(2, (-1, self.config.frames))
        return both.transpose(1, 2).to(self.device)

    def _frames(self, x: Tensor) -> Tensor:
        """Samples `[B, 2, N * chunk + spare]` -> complex spectra `[B, 2, N * n, F]`."""
        config = self.config
        count = (x.shape[-1] - config.spare) // config.hop
        frames = x[..., config.lead :].unfold(-1, config.n_fft, config.hop)[..., :count, :]
        found: Tensor = torch.fft.rfft(frames * self.window)
        return found

    def __call__(self, samples: Tensor) -> Features:
        """Samples `[B, 2, N * chunk + spare]` -> the features of N chunks."""
        config, x = self.config, samples.float().to(self.place)
        spectra = self._frames(x)
        count = spectra.shape[-2]
        left, right = spectra.unbind(1)
        scale = 2 / self.window.sum()
        mid, side = _magnitude(left + right) * (scale / 2), _magnitude(left - right) * (scale / 2)
        mels = torch.stack(
            [(_magnitude(left) * scale) @ self.mel, (_magnitude(right) * scale) @ self.mel, side @ self.mel], 2
        )
        steps = x.mean(1).unfold(-1, 2 * config.n_fft, config.per_token * config.hop)[:, : count // config.per_token]
        low = _magnitude(torch.fft.rfft(steps * self.long)[..., : config.low_bins]) * (2 / self.long.sum())
        return Features(*(torch.log(magnitude + config.floor).to(self.device) for magnitude in (mid, mels, low)))


def _magnitude(spectrum: Tensor) -> Tensor:
    """``|x|`` of complex numbers; five times as fast as `torch.abs`, which guards against overflow."""
    magnitude: Tensor = torch.linalg.vector_norm(torch.view_as_real(spectrum), dim=-1)
    return magnitude
