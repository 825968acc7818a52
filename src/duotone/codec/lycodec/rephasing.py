"""Phases from magnitudes: the decoder's estimate keeps its magnitudes and the place of side against mid, mid gets new phases.

A network that gives a spectrum in one step from noise cannot know phases that no code carries; magnitudes alone decide
phases well (`represent.phases`), also where chunks meet.

Legend: F bins, T frames of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from duotone.codec.lycodec.frontend import stft_of
from duotone.config import LycodecConfig
from duotone.nn.noise import key_of
from duotone.nn.phase_kernels import KERNELS
from duotone.represent.phases import Reconstruction
from duotone.represent.stft import dual_window, expand


class Rephasing:
    """State of one stream: the phases so far. `seed` decides what magnitudes do not."""

    def __init__(self, config: LycodecConfig, seed: int, iterations: int) -> None:
        self._stft = stft_of(config)
        self._mid = Reconstruction(config.n_fft, config.hop, config.frames, key_of(seed), iterations, KERNELS)
        self._dual = dual_window(config.n_fft, config.hop)

    def push(self, spectrum: Tensor) -> Tensor:
        """Companded spectrum of the next chunk `[4, F, T]` -> windowed frames of mid and side `[2, T, n_fft]`, on the CPU.

        Gradients flow through magnitudes; the new phases are constants of the gradient.
        """
        parts = expand(spectrum.float().cpu(), self._stft).unflatten(0, (2, 2)).permute(0, 3, 2, 1)  # [2, T, F, 2]
        whole = torch.view_as_complex(parts.contiguous())
        mid, side = torch.nn.functional.pad(whole, (0, 1))  # and the Nyquist bin
        turned = torch.sgn(self._mid.push(mid.abs()))
        both = torch.stack([mid.abs() * turned, side * torch.sgn(mid).conj() * turned])
        both[1] = torch.where(mid.abs() > 0, both[1], side)
        frames: Tensor = torch.fft.irfft(both, n=self._stft.n_fft) * self._dual
        return frames

    def state(self) -> dict[str, Tensor]:
        """Everything that later frames depend on, as copies."""
        return {name: tensor.clone() for name, tensor in self._mid.state().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave, of the same configuration and seed."""
        self._mid.restore({name: tensor.clone() for name, tensor in state.items()})
