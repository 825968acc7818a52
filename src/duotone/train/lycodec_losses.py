"""Terms of Lycodec's objective apart from consistency: spectral distances, and what the stereo head should say.

Legend: B chunks, F bins, T frames, n tokens of a chunk, S stereo bands, M mel bands. All in float32.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.codec.lycodec.frontend import stft_of
from duotone.codec.lycodec.stem import log_magnitudes
from duotone.codec.lycodec.stereo import LEVEL_UNIT_DB, TIME_UNIT, Stereo
from duotone.config import LycodecConfig
from duotone.errors import ConfigError
from duotone.represent.mel import hertz_to_mel, mel_filterbank
from duotone.represent.spans import shares_of_parts
from duotone.represent.stft import expand, to_frames

#: Level differences beyond this many units are as this one: +-40 dB.
LEVEL_LIMIT = 2.0
_FLOOR = 1e-4  # of magnitudes before logarithms; full scale is about 1
_HEARD = 1e-6  # power of a token, relative to a sine at full scale, from which on it counts: -60 dB


class SpectralLosses(nn.Module):
    """Distances of logarithmic magnitudes: in mel bands of the chunk's own STFT, and in STFTs of several sizes.

    Raises `ConfigError` for a size that is longer than the sound of a chunk.
    """

    mel: Tensor

    def __init__(self, config: LycodecConfig, sizes: tuple[int, ...], mel_bands: int) -> None:
        super().__init__()
        longest = config.n_fft + (config.frames - 1) * config.hop
        if any(size > longest for size in sizes):
            raise ConfigError(
                f"objective.spectral_sizes got {sizes}, expected at most {longest}: a chunk has so many samples. Give smaller sizes."
            )
        self.config, self.sizes = config, sizes
        filters = mel_filterbank(config.rate, config.n_fft, mel_bands)[:, : config.bins]
        self.register_buffer("mel", filters.clone(), persistent=False)

    def mel_distance(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Companded spectra `[B, 4, F, T]` -> mean distance of mel magnitudes of mid and side, in nepers (scalar)."""
        levels = [torch.log(self.mel @ log_magnitudes(x, self.config).exp() + _FLOOR) for x in (found, wanted)]
        return (levels[0] - levels[1]).abs().mean()

    def multi_resolution(self, found: Tensor, wanted: Tensor) -> Tensor:
        """Companded spectra -> spectral convergence and distance of log magnitudes over STFTs (arXiv 1910.11480, section 2.2)."""
        waves = [self.samples(x) for x in (found, wanted)]
        total = found.new_zeros(())
        for size in self.sizes:
            hann = torch.hann_window(size, device=found.device, dtype=waves[0].dtype)
            parts = [torch.stft(w, size, size // 4, window=hann, center=False, return_complex=True) for w in waves]
            ours, true = (((p.real.square() + p.imag.square()) * (2 / size) ** 2 + _FLOOR**2).sqrt() for p in parts)
            total = total + (ours - true).norm() / true.norm() + (ours.log() - true.log()).abs().mean()
        return total / len(self.sizes)

    def samples(self, spectra: Tensor) -> Tensor:
        """Companded spectra `[B, 4, F, T]` -> mid and side of each `[2B, overlap + chunk]`, by overlap-add with gradients."""
        c = self.config
        frames = to_frames(spectra.float(), stft_of(c)).flatten(0, 1)  # [2B, T, n_fft]
        length = c.n_fft + (c.frames - 1) * c.hop
        joined: Tensor = F.fold(frames.transpose(1, 2), (1, length), (1, c.n_fft), stride=(1, c.hop))
        return joined[:, 0, 0]


class StereoTargets(nn.Module):
    """Spectra of a chunk -> the level and time differences of its tokens."""

    share: Tensor
    bands: Tensor

    def __init__(self, config: LycodecConfig) -> None:
        super().__init__()
        self.config = config
        edges = torch.arange(config.tokens + 1) * (config.frames / config.tokens)
        share = shares_of_parts(torch.stack([edges[:-1], edges[1:]], 1), torch.arange(config.frames + 1.0))
        self.register_buffer("share", share, persistent=False)  # of a token's time in each frame [n, T]
        mel = hertz_to_mel(torch.arange(config.bins) * (config.rate / config.n_fft))
        top = hertz_to_mel(torch.tensor(config.rate / 2))
        index = (mel / top * config.stereo_bands).long().clamp_max(config.stereo_bands - 1)
        self.register_buffer("bands", F.one_hot(index, config.stereo_bands).T.float(), persistent=False)  # [S, F]

    @torch.no_grad()
    def forward(self, spectra: Tensor) -> tuple[Stereo, Tensor, Tensor]:
        """Companded spectra `[B, 4, F, T]` -> targets, and where they count: bands `[B, n, S]`, and tokens `[B, n]`."""
        c = self.config
        parts = expand(spectra.float(), stft_of(c)).unflatten(1, (2, 2)) * (4 / c.n_fft)
        mid, side = (torch.complex(p[:, 0], p[:, 1]) for p in parts.unbind(1))  # [B, F, T]
        left, right = mid + side, mid - side
        powers = [self.bands @ x.abs().square() @ self.share.T for x in (left, right, mid, side)]  # [B, S, n]
        left_power, right_power, mid_power, side_power = (p.transpose(1, 2) for p in powers)
        sound = left_power + right_power
        targets = Stereo(_level(left_power, right_power), self.delay(left, right), _level(side_power, mid_power))
        return targets, sound > _HEARD, sound.sum(-1) > _HEARD

    def delay(self, left: Tensor, right: Tensor) -> Tensor:
        """Complex spectra `[B, F, T]` -> by how much left is later `[B, n]`, in units of 1 ms, within +-1 unit.

        The peak of the generalised cross-correlation with phase transform (Knapp and Carter 1976), to whole samples.
        """
        c = self.config
        cross = (left * right.conj()) @ self.share.T.to(left.dtype)  # [B, F, n]
        phases = cross / cross.abs().clamp_min(1e-12)
        correlation = torch.fft.irfft(phases, c.n_fft, dim=1)  # the Nyquist bin, which spectra lack, counts as 0
        reach = min(round(TIME_UNIT * c.rate), c.n_fft // 2 - 1)
        lags = torch.arange(-reach, reach + 1, device=left.device)
        return lags[correlation[:, lags].argmax(1)] / (TIME_UNIT * c.rate)


def _level(one: Tensor, other: Tensor) -> Tensor:
    """Powers -> the level of one above the other in units of 20 dB."""
    level: Tensor = 10 * torch.log10((one + 1e-12) / (other + 1e-12)) / LEVEL_UNIT_DB
    return level.clamp(-LEVEL_LIMIT, LEVEL_LIMIT)


def stereo_losses(found: Stereo, wanted: Stereo, bands: Tensor, tokens: Tensor) -> dict[str, Tensor]:
    """Smooth absolute errors of the head's three estimates, where there is sound (scalars by name)."""

    def mean(a: Tensor, b: Tensor, where: Tensor) -> Tensor:
        error = F.smooth_l1_loss(a, b, reduction="none", beta=0.1)
        return (error * where).sum() / where.sum().clamp_min(1)

    return {
        "level": mean(found.level, wanted.level, bands),
        "time": mean(found.time, wanted.time, tokens),
        "side": mean(found.side, wanted.side, bands),
    }
