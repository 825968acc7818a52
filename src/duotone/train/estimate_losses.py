"""Losses of the estimate of the bands frontend: magnitudes of mid, and mel bands of left, right, mid and side.

Legend: B chunks, n frames, F bins, M mel bands, S stereo bands. All in float32 but for products with filterbanks.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from duotone.codec.codicodec.bands import layout
from duotone.codec.codicodec.bands.features import Features
from duotone.codec.codicodec.bands.network import Maps
from duotone.config import BandsConfig
from duotone.represent.bands import tent
from duotone.represent.mel import mel_filterbank

#: Beyond this error (in nepers) the likelihood of a magnitude goes on linearly.
_LINEAR_FROM = 2.0
#: Added to mel magnitudes before their logarithm.
_MEL_FLOOR = 1e-5
#: Magnitude below which errors of a band count less (-74 dB).
_QUIET = 2e-4
#: Added to the norm of a chunk's magnitudes: chunks much quieter than this hardly count in the spectral convergence.
_QUIET_CHUNK = 1e-2
#: Added to mel magnitudes of patches before the logarithm of their stereo level, and above which a patch is heard (-80, -60 dB).
_PATCH_FLOOR, _HEARD = 1e-4, 1e-3
#: Names of the mel distances.
CHANNELS = ("left", "right", "mid", "side")


def exponential_likelihood(error: Tensor) -> Tensor:
    """``e^r - r - 1`` of r = ln |X| - ln A, linear beyond r = 2.

    Up to a constant the negative logarithm of the likelihood of a magnitude |X| that has an exponential distribution with
    mean A. A missed peak costs much; the irregular magnitudes of noise little.
    """
    capped = error.clamp(max=_LINEAR_FROM)
    beyond = math.exp(_LINEAR_FROM) * (error - capped)
    return capped.exp() + beyond - error - 1


def spectral_convergence(real: Tensor, made: Tensor, floor: float) -> Tensor:
    """``|X - A| / (|X| + floor)`` (Frobenius norms) of magnitudes `[B, n, F]`, real and made -> `[B]`.

    Parallel WaveGAN, arXiv 1910.11480, equation 5. The gradient is finite where both are equal.
    """
    error, norm = ((x.square().sum((1, 2)) + 1e-12).sqrt() for x in (real - made, real))
    return error / (norm + floor)


class EstimateLosses(nn.Module):
    """The terms of the loss, by name; holds filterbanks and weights of bins."""

    weights: Tensor
    mel: Tensor
    to_mel: Tensor

    def __init__(self, config: BandsConfig) -> None:
        super().__init__()
        self.edges = layout.band_edges(config)
        self.register_buffer("weights", layout.bin_weights(config), persistent=False)
        mel = mel_filterbank(config.rate, config.n_fft, layout.MEL_BANDS).T.contiguous()
        self.register_buffer("mel", mel, persistent=False)
        positions = torch.arange(layout.MEL_BANDS) * (config.stereo_bands - 1) / (layout.MEL_BANDS - 1)
        self.register_buffer("to_mel", tent(config.stereo_bands, positions), persistent=False)

    def forward(self, maps: Maps, features: Features) -> tuple[dict[str, Tensor], Tensor]:
        """Maps and features of B chunks -> the terms (scalars), and the mel distances of left, right, mid, side `[4]` in nepers."""
        error = features.mid - maps.mid
        estimate, truth = maps.mid.exp(), features.mid.exp()
        bands, target = self.mel_magnitudes(maps, estimate, features, truth)
        distances = (torch.log(bands + _MEL_FLOOR) - torch.log(target + _MEL_FLOOR)).abs().mean((0, 1, 3))
        terms = {
            "likelihood": (exponential_likelihood(error) * self.weights).mean(),
            "absolute": (error.abs() * self.weights).mean(),
            "mel": (distances * distances.new_tensor([1, 1, 1, 0.5])).sum() / 3.5,
            "convergence": spectral_convergence(truth, estimate, _QUIET_CHUNK).mean(),
            "local": self.local(estimate, truth),
            "stereo": self.stereo(bands, target),
        }
        return terms, distances

    def mel_magnitudes(self, maps: Maps, estimate: Tensor, features: Features, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Mel magnitudes of left, right, mid, side `[B, n, 4, M]`: the estimate's, and the true ones.

        Left and right are mid plus and minus a side of level r and correlation c with it: ``|m| sqrt(1 + r^2 +- 2 r c)``.
        """
        mel, r, c = _full(estimate @ self.mel), _full(maps.ratio @ self.to_mel).exp(), maps.share @ self.to_mel
        left, right = ((1 + r * r + sign * 2 * r * c).clamp_min(1e-6).sqrt() for sign in (1, -1))
        bands = torch.stack([mel * left, mel * right, mel, mel * r], 2)
        with torch.no_grad():
            sides = features.mels.exp()
            target = torch.cat([sides[:, :, :2], _full(truth @ self.mel)[:, :, None], sides[:, :, 2:]], 2)
        return bands, target

    def stereo(self, bands: Tensor, target: Tensor) -> Tensor:
        """Distance of stereo levels in nepers, from mel magnitudes of left, right, mid, side `[B, n, 4, M]`; where there is sound.

        The level of left against right in patches of 4 bands and 4 frames, and half that of side against mid in a chunk, whose
        ratio of energies counts from -60 dB on.
        """
        b, n, _, m = bands.shape
        patches = [x.reshape(b, n // 4, 4, 4, m // 4, 4).mean((2, 5)) for x in (bands, target)]  # [B, n / 4, 4, M / 4]
        gaps = [torch.log(x[:, :, 0] + _PATCH_FLOOR) - torch.log(x[:, :, 1] + _PATCH_FLOOR) for x in patches]
        heard = (patches[1][:, :, :2].amax(2) > _HEARD).float()
        balance = ((gaps[0] - gaps[1]).abs() * heard).sum() / heard.sum().clamp_min(1)
        energies = [x.square().sum((1, 3)) for x in (bands, target)]  # [B, 4]
        widths = [torch.log(e[:, 3] / (e[:, 2] + _PATCH_FLOOR**2) + 1e-6) / 2 for e in energies]
        loud = (energies[1][:, 2] > _HEARD**2).float()
        width = ((widths[0] - widths[1]).abs() * loud).sum() / loud.sum().clamp_min(1)
        return balance + width / 2

    def local(self, estimate: Tensor, truth: Tensor) -> Tensor:
        """Root of the error's energy over root of the energy, in each band and two frames; at most 4; the mean over all."""
        error, energy = (x.unflatten(1, (-1, 2)).sum(2) for x in ((estimate - truth).square(), truth.square()))
        parts = []
        for a, b in itertools.pairwise(self.edges):
            top = (error[..., a:b].sum(-1) + 1e-12).sqrt()
            bottom = energy[..., a:b].sum(-1).sqrt() + _QUIET * (b - a) ** 0.5
            parts.append((top / bottom).clamp(max=4).mean())
        return torch.stack(parts).mean()


def _full(x: Tensor) -> Tensor:
    """What autocast made bfloat16, as float32."""
    return x if x.dtype is torch.float64 else x.float()
