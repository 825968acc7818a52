"""Waves <-> companded complex spectra: the representation that CoDiCodec's network sees.

Legend: B batch, c wave channels (2), C spectrum channels (4: L re, L im, R re, R im), F bins, T frames, S samples.
Frame i covers samples ``[i*hop, i*hop + 2*hop)``; nothing is centred or padded here (see `framing`).
"""

from __future__ import annotations

import torch
from torch import Tensor

from duotone.config import CoDiCodecConfig


def window(n: int, like: Tensor) -> Tensor:
    """Periodic Hann window `[n]` on the device of `like`."""
    return torch.hann_window(n, periodic=True, device=like.device, dtype=torch.float32)


def dual_window(n: int, like: Tensor) -> Tensor:
    """Synthesis window `[n]` at hop n/2: ``hann / sum of the shifted hann**2``; the products overlap-add to 1."""
    hann = window(n, like)
    return hann / (hann**2 + hann.roll(n // 2) ** 2)


def compand(x: Tensor, config: CoDiCodecConfig) -> Tensor:
    """``0.34 sign(x) |x|**0.65``, each real number on its own."""
    return config.compand_scale * x.sign() * x.abs() ** config.compand_power


def expand(y: Tensor, config: CoDiCodecConfig) -> Tensor:
    """The inverse of `compand`."""
    return y.sign() * (y.abs() / config.compand_scale) ** (1 / config.compand_power)


def to_spectrum(samples: Tensor, config: CoDiCodecConfig) -> Tensor:
    """Samples `[B, 2, (T+1)*hop]` -> companded spectrum `[B, 4, F, T]`, float32."""
    frames = samples.float().unfold(-1, config.n_fft, config.hop) * window(config.n_fft, samples)
    spectrum = torch.view_as_real(torch.fft.rfft(frames, dim=-1)[..., : config.bins])  # [B, c, T, F, 2]
    b, c, t, f, _ = spectrum.shape
    return compand(spectrum.permute(0, 1, 4, 3, 2).reshape(b, 2 * c, f, t), config)


def to_frames(spectrum: Tensor, config: CoDiCodecConfig) -> Tensor:
    """Companded spectrum `[B, 4, F, T]` -> windowed time frames `[B, 2, T, 2*hop]`, ready to overlap-add."""
    b, c, f, t = spectrum.shape
    pairs = expand(spectrum.float(), config).reshape(b, c // 2, 2, f, t).permute(0, 1, 4, 3, 2)
    full = torch.nn.functional.pad(torch.view_as_complex(pairs.contiguous()), (0, 1))  # the Nyquist bin is zero
    frames: Tensor = torch.fft.irfft(full, n=config.n_fft, dim=-1) * dual_window(config.n_fft, spectrum)
    return frames


class OverlapAdd:
    """Frames in, finished samples out; holds the half frame that still waits for its neighbour."""

    def __init__(self, config: CoDiCodecConfig) -> None:
        self.config = config
        self.tail: Tensor | None = None

    def push(self, frames: Tensor) -> Tensor:
        """Frames `[2, T, 2*hop]` -> the next `[2, T*hop]` samples, clamped to +-1."""
        hop = self.config.hop
        c, t, _ = frames.shape
        out = frames[..., :hop].clone()
        out[:, 1:] += frames[:, :-1, hop:]
        if self.tail is not None:
            out[:, 0] += self.tail
        self.tail = frames[:, -1, hop:].clone()
        return out.reshape(c, t * hop).clamp_(-1, 1)

    def finish(self) -> Tensor:
        """The last half frame `[2, hop]` (it fades out), or `[2, 0]` if nothing was pushed."""
        if self.tail is None:
            return torch.zeros(self.config.audio_channels, 0)
        tail, self.tail = self.tail, None
        return tail.clamp(-1, 1)


def to_samples(spectrum: Tensor, config: CoDiCodecConfig) -> Tensor:
    """Companded spectrum `[4, F, T]` -> samples `[2, (T+1)*hop]`, clamped to +-1; the first and last hop fade."""
    add = OverlapAdd(config)
    body = add.push(to_frames(spectrum[None], config)[0])
    return torch.cat([body, add.finish().to(body.device)], dim=-1)
