"""What a listener would hear of the estimate in training: samples, with phases made from the magnitudes.

Legend: B examples of N chunks of n frames, F bins, S samples, W samples of a window.
"""

from __future__ import annotations

import torch
from torch import Tensor

from duotone.codec.codicodec.bands.network import Maps
from duotone.codec.codicodec.bands.synthesis import Synthesis
from duotone.config import BandsConfig
from duotone.represent.mel import mel_filterbank
from duotone.train.discriminators import spectrum
from duotone.train.estimate_losses import spectral_convergence

#: Added to mel magnitudes before their logarithm.
_MEL_FLOOR = 1e-5
#: Bins of a window for each mel band.
_BINS = 8
#: Added to the norm of a sound's magnitudes: errors of silence do not count (the norm of -80 dB over a second).
_QUIET = 1e-2


def decoded(maps: Maps, config: BandsConfig, seeds: Tensor) -> Tensor:
    """Maps of B examples `[B * N, ...]`, a seed for each `[B]` -> samples `[B, 2, S]`, as decoding makes them.

    `S` is N chunks less the first samples, which too few frames cover. Gradients flow to the maps (see `Synthesis`).
    """
    return sounds_of(estimated_spectra(maps, config, seeds), config).to(maps.mid.device)


def estimated_spectra(maps: Maps, config: BandsConfig, seeds: Tensor) -> Tensor:
    """Maps of B examples `[B * N, ...]`, a seed for each `[B]` -> complex spectra of mid and side `[B, 2, N * n, F]`, on the CPU."""
    rows = []
    count = len(seeds)
    parts = [None if m is None else m.unflatten(0, (count, -1)) for m in (maps.mid, maps.ratio, maps.share, maps.noise)]
    mid, ratio, share, noise = parts
    assert mid is not None and ratio is not None and share is not None
    for i, seed in enumerate(seeds.tolist()):
        one = Maps(mid[i], ratio[i], share[i], None if noise is None else noise[i])
        rows.append(torch.stack(Synthesis(config, seed, config.synthesis.iterations).spectra(one)))
    return torch.stack(rows)


def sounds_of(found: Tensor, config: BandsConfig) -> Tensor:
    """Complex spectra of mid and side of B examples `[B, 2, n, F]` -> samples `[B, 2, S]`, without those that too few frames cover."""
    rows = [Synthesis(config, 0, 0).join(mid, side) for mid, side in found.cpu()]
    return torch.stack(rows)[..., config.n_fft - config.hop :].to(found.device)


def original(samples: Tensor, config: BandsConfig) -> Tensor:
    """Samples `[B, 2, crop]` -> those that `decoded` stands for, `[B, 2, S]`."""
    count = (samples.shape[-1] - config.spare) // config.hop
    return samples[..., config.lead + config.n_fft - config.hop : config.lead + count * config.hop]


def channel(sound: Tensor, which: Tensor) -> Tensor:
    """Left and right `[B, 2, S]` -> of each example mid (0), left (1) or right (2), `[B, S]`."""
    mixes = torch.tensor([[0.5, 0.5], [1.0, 0.0], [0.0, 1.0]], dtype=sound.dtype, device=sound.device)
    return (sound * mixes[which][..., None]).sum(1)


def spectra(sound: Tensor, windows: tuple[int, ...]) -> list[Tensor]:
    """Sounds `[B, S]` -> magnitudes with each window."""
    return [spectrum(sound, size) for size in windows]


def heard_convergence(real: list[Tensor], made: list[Tensor]) -> Tensor:
    """Spectral convergence of sounds, the mean over sounds and windows; a scalar. Magnitudes `[B, n, F]` with each window."""
    return torch.stack([
        spectral_convergence(x, a, _QUIET).mean() for x, a in zip(real, made, strict=True)
    ]).mean()  # fmt: skip


class HeardDistance:
    """Distance of logarithmic mel magnitudes of sounds with several windows, in nepers; holds filterbanks, on the device of the sounds."""

    def __init__(self, rate: int, windows: tuple[int, ...]) -> None:
        self._mels = [mel_filterbank(rate, size, size // 2 // _BINS).T.contiguous() for size in windows]

    def __call__(self, real: list[Tensor], made: list[Tensor]) -> Tensor:
        """Magnitudes with each window, real and decoded -> a scalar: the mean over windows."""
        self._mels = [m.to(s.device) for m, s in zip(self._mels, real, strict=True)]
        logs = [[torch.log(s @ m.to(s) + _MEL_FLOOR) for s, m in zip(x, self._mels, strict=True)] for x in (real, made)]
        return torch.stack([(r - m).abs().mean() for r, m in zip(*logs, strict=True)]).mean()
