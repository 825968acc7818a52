"""Samples of chunks -> companded mid/side spectra.

How a chunk of 112 frames of 2048 samples, 640 apart, lies in the sound::

    frame 0    [-1408 ......... 640)        a frame's last 640 samples are new
    frame 111            [69632 .... 71680)
    chunk      [-1408 | 0 ......... 71680)  the 1408 samples before its own are those that frames share

The frames of consecutive chunks follow one another without a gap, as those of one long STFT: their overlap-add gives the
sound back exactly, also where chunks meet.

Legend: B rows, N chunks, F bins, T frames; channels are real and imaginary part of mid, then of side.
"""

from __future__ import annotations

from torch import Tensor

from duotone.config import LycodecConfig
from duotone.represent.midside import to_mid_side
from duotone.represent.stft import Stft, to_spectrum


def stft_of(config: LycodecConfig) -> Stft:
    """The STFT whose spectra are the network's input; its Nyquist bin is dropped."""
    return Stft(config.n_fft, config.hop, config.bins, config.compand_scale, config.compand_power)


def chunk_spectra(samples: Tensor, config: LycodecConfig) -> Tensor:
    """Left and right `[B, 2, overlap + N * chunk]` -> companded spectra `[B * N, 4, F, T]`, float32, each from its own samples."""
    length, step = config.overlap + config.chunk_samples, config.chunk_samples
    each = samples.unfold(-1, length, step).transpose(1, 2).flatten(0, 1)
    return to_spectrum(to_mid_side(each), stft_of(config))
