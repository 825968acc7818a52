"""The maps of the estimate -> samples, in a stream: phases from magnitudes, noise, side from mid, overlap-add.

Legend: n frames, F bins, S stereo bands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from duotone.codec.codicodec.bands import layout
from duotone.codec.codicodec.bands.network import Maps
from duotone.config import BandsConfig
from duotone.nn.noise import key_of, normal
from duotone.nn.phase_kernels import KERNELS
from duotone.represent.phases import Reconstruction
from duotone.represent.stft import OverlapAdd, dual_window, window

#: Width of the band, in Hz, in which magnitudes with phases give way to noise.
_FADE = 1000.0
#: A chunk whose side has less than this share of the energy of mid (-45 dB) is mono; the estimate knows no less than -52 dB.
_MONO = 10**-4.5
#: Neighbouring stereo bands in which the uncorrelated part of side turns the same way. Where the way changes, bins of a peak cancel in
#: part: with every band, side lost 1.0 to 1.5 dB of its energy; with groups of four it loses .2.
_TOGETHER = 4
#: Magnitudes of side below this (-82 dB of a sine at full scale) are silent: there, mid is as quiet as its floor and the ratio says nothing.
_SILENT = 8e-5


class Magnitudes:
    """Maps -> magnitudes of the transform."""

    def __init__(self, config: BandsConfig, device: torch.device | None = None) -> None:
        self.config = config
        self._scale = float(window(config.n_fft).sum()) / 2  # magnitude of a sine at full scale
        self.to_bins = layout.mel_tent(config.stereo_bands, config).to(device or torch.device("cpu"))

    def __call__(self, maps: Maps) -> Tensor:
        """Maps of B chunks -> the magnitudes of mid and side `[B, 2, n, F]`, on their device."""
        mid = self.of_mid(maps.mid)
        return torch.stack([mid, mid * self.level(mid, maps.ratio)], 1)

    def of_mid(self, log: Tensor) -> Tensor:
        """Logarithms of magnitudes of mid plus the floor -> magnitudes."""
        return (log.exp() - self.config.floor).clamp_min(0) * self._scale

    def level(self, mid: Tensor, ratio: Tensor) -> Tensor:
        """Magnitudes of mid `[B, n, F]`, logarithms of the level of side in bands `[B, n, S]` of B chunks -> its level in bins `[B, n, F]`.

        Side is silent where it is too quiet to be heard, and in chunks that are nearly mono: mono stays mono.
        """
        level = (ratio @ self.to_bins.to(ratio.dtype)).exp()
        level = torch.where(mid * level < _SILENT * self._scale, 0.0, level)
        side, whole = ((mid * part).square().sum((-2, -1), keepdim=True) for part in (level, 1.0))
        return torch.where(side < _MONO * whole, 0.0, level)


class Synthesis:
    """State of one stream: phases so far, and the overlap of frames. `seed` decides what magnitudes do not.

    Gradients flow from the samples to all maps. The phases are constants of the gradient: they are integers that are made from
    magnitudes in steps which have no slope.
    """

    def __init__(self, config: BandsConfig, seed: int, iterations: int) -> None:
        self.config = config
        self._mid = Reconstruction(config.n_fft, config.hop, config.frames, key_of(seed), iterations, KERNELS)
        self._add = OverlapAdd(config.n_fft, config.hop, config.audio_channels)
        self._dual = dual_window(config.n_fft, config.hop)
        self._magnitudes = Magnitudes(config)
        self._to_bins = self._magnitudes.to_bins
        self._noise = _Noise(config, seed)
        middles = self._to_bins.argmax(0)  # the stereo band that a bin belongs to
        self._apart = 1.0 - 2.0 * (middles // _TOGETHER % 2).float()

    def push(self, maps: Maps) -> Tensor:
        """Maps of consecutive chunks -> the next samples `[2, n * hop]`."""
        return self.join(*self.spectra(maps))

    def spectra(self, maps: Maps) -> tuple[Tensor, Tensor]:
        """Maps of consecutive chunks -> complex spectra of mid and side `[n, F]`, on the CPU."""
        mid, ratio, share = (x.cpu() for x in (maps.mid, maps.ratio, maps.share))
        chunks = self._magnitudes.of_mid(mid)
        level = self._magnitudes.level(chunks, ratio).flatten(0, 1)
        magnitudes = chunks.flatten(0, 1)
        noise = self._noise.push(maps)
        tonal = magnitudes if noise is None else magnitudes * (1 - noise[0])
        spectrum = self._mid.push(tonal)
        if tonal.requires_grad:
            spectrum = tonal * torch.sgn(spectrum)
        if noise is not None:
            spectrum = spectrum + magnitudes * noise[0] * noise[1]
        return spectrum, spectrum * self._side(level, share.flatten(0, 1))

    def join(self, mid: Tensor, side: Tensor) -> Tensor:
        """Complex spectra of mid and side `[n, F]` of the next frames -> samples `[2, n * hop]`."""
        frames = torch.fft.irfft(torch.stack([mid + side, mid - side]), n=self.config.n_fft) * self._dual
        return self._add.push(frames)

    def state(self) -> dict[str, Tensor]:
        """Everything that later samples depend on, as copies."""
        state = {f"mid.{name}": tensor.clone() for name, tensor in self._mid.state().items()}
        state |= {f"noise.{name}": tensor for name, tensor in self._noise.state().items()}
        return state if self._add.tail is None else {**state, "tail": self._add.tail.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave, of the same configuration and seed."""
        self._mid.restore({name[4:]: tensor.clone() for name, tensor in state.items() if name.startswith("mid.")})
        self._add.tail = state["tail"].clone() if "tail" in state else None
        self._noise.restore({name[6:]: tensor for name, tensor in state.items() if name.startswith("noise.")})

    def _side(self, level: Tensor, share: Tensor) -> Tensor:
        """Side over mid, complex `[n, F]`: ``r (c + i sqrt(1 - c^2))`` with level r `[n, F]` and correlation c in bands `[n, S]`.

        The uncorrelated part is a quarter turn from mid, so that left and right have the energies of uncorrelated sounds,
        ``|m|^2 (1 + r^2 +- 2 r c)``, in every bin. The sign of the turn alternates between groups of bands: neither channel leads.
        """
        correlation = (share @ self._to_bins.to(share.dtype)).clamp(-1, 1)
        apart = (1 - correlation.square()).clamp_min(0).sqrt() * self._apart
        return torch.complex(level * correlation, level * apart)


class _Noise:
    """White noise in frames, of which the noise of high frequencies is made: its frames fit together, as no phases made for
    smooth magnitudes do."""

    def __init__(self, config: BandsConfig, seed: int) -> None:
        self._config, self._seed, self._chunk = config, seed, 0
        self._overlap = normal(f"noise/{seed}/start", (config.n_fft - config.hop,))
        self._window = window(config.n_fft)
        # A magnitude of Gaussian noise has the mean sqrt(pi) / 2 times the root of its mean square, which the window gives.
        self._window = self._window / (self._window.square().sum().sqrt() * math.sqrt(math.pi) / 2)
        if config.synthesis.noise_from is not None:
            above = layout.bin_frequencies(config) - config.synthesis.noise_from
            self._weight = (above / _FADE).clamp(0, 1)

    def push(self, maps: Maps) -> tuple[Tensor, Tensor] | None:
        """What share of the magnitudes is noise `[n, F]`, and noise of mean magnitude 1, complex `[n, F]`; None for no noise."""
        if maps.noise is None or self._config.synthesis.noise_from is None:
            return None
        drawn = [self._overlap]
        for _ in range(len(maps.mid)):
            drawn.append(normal(f"noise/{self._seed}/{self._chunk}", (self._config.chunk_samples,)))
            self._chunk += 1
        samples = torch.cat(drawn)
        self._overlap = samples[len(samples) - len(self._overlap) :].clone()
        frames = samples.unfold(0, self._config.n_fft, self._config.hop) * self._window
        return maps.noise.flatten(0, 1).cpu() * self._weight, torch.fft.rfft(frames)

    def state(self) -> dict[str, Tensor]:
        """Everything that later noise depends on, as copies."""
        return {"overlap": self._overlap.clone(), "chunk": torch.tensor(self._chunk)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave."""
        self._overlap, self._chunk = state["overlap"].clone(), int(state["chunk"])
