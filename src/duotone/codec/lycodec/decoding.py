"""Decoding: values of chunks -> spectra, denoised from noise -> samples, overlap-added across chunks.

Legend: N chunks of a push, F bins, T frames of a chunk (or samples), n tokens of a chunk, V values of a token.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from duotone.codec import consistency
from duotone.codec.batches import whole_number
from duotone.codec.lycodec.frontend import stft_of
from duotone.codec.lycodec.network import LycodecNetwork
from duotone.codec.lycodec.rephasing import Rephasing
from duotone.codec.noise import Noise, drawn
from duotone.codec.values import Codes, Latents
from duotone.config import LycodecConfig
from duotone.errors import UsageError
from duotone.represent.midside import from_mid_side
from duotone.represent.stft import OverlapAdd, to_frames

#: Chunks that are computed together.
TOGETHER = 4
#: Steps at most.
MOST_STEPS = 1000


def noise_shape(config: LycodecConfig) -> tuple[int, int, int]:
    """Shape of a chunk's spectrum: ``(4, F, T)``."""
    return (4, config.bins, config.frames)


def noise_levels(config: LycodecConfig, steps: int | None = None, sigma: float | None = None) -> list[float]:
    """The noise level of each step, from `sigma` (default sigma_max) down. Raises `UsageError` for values out of range."""
    steps = whole_number(config.decode.steps if steps is None else steps, "steps", 1)
    if steps > MOST_STEPS:
        raise UsageError(f"steps got {steps}, expected 1 to {MOST_STEPS} (default {config.decode.steps}).")
    limits = config.noise
    sigma = limits.sigma_max if sigma is None else float(sigma)
    if not limits.sigma_min < sigma <= limits.sigma_max:
        raise UsageError(
            f"sigma got {sigma}, expected above {limits.sigma_min} and up to {limits.sigma_max} (the default), the level of the noise that "
            f"decoding starts from: at {limits.sigma_min} the decoder returns that noise."
        )
    return consistency.schedule(steps, limits.model_copy(update={"sigma_max": sigma}))


class Decoding:
    """Values of chunks -> samples: denoised from noise, and overlap-added with the frames of the chunk before."""

    def __init__(
        self,
        network: LycodecNetwork,
        noise: Noise,
        levels: list[float],
        groups: int,
        phases: Rephasing | None = None,
    ) -> None:
        self._network, self._noise, self._levels, self._groups = network, noise, levels, groups
        config, self._phases = network.config, phases
        self._stft = stft_of(config)
        self._add = OverlapAdd(config.n_fft, config.hop, config.audio_channels)
        self._drop = config.overlap  # zeros that were put before the sound
        self._chunk = 0

    @property
    def _device(self) -> torch.device:
        return self._network.decoder.out.weight.device

    def push(self, value: Latents | Codes) -> Tensor:
        """Values of the next chunks -> the samples `[2, T]` that are final."""
        latents = value.latents() if isinstance(value, Codes) else value
        # Phases follow magnitudes in steps that have no slope: a chunk has to be the same number for number in any push.
        together = TOGETHER if self._phases is None else 1
        pieces = [torch.zeros(2, 0, dtype=torch.float32)]
        for values in torch.split(latents.values, together) if len(latents) else ():
            kept = self._network.keep(values.to(self._device), torch.tensor([self._groups]))
            pieces.append(self.push_tokens(self._network.fuse(kept)))
        return torch.cat(pieces, 1)

    def push_tokens(self, tokens: Tensor) -> Tensor:
        """Fused tokens of the next chunks `[N, n, V]` -> samples `[2, T]`."""
        spectra = self._spectra(self._network.listen(tokens)[1])
        self._chunk += len(tokens)
        return torch.cat([self._samples(spectrum) for spectrum in spectra], 1)

    def finish(self) -> Tensor:
        """Nothing: each chunk gives all the samples that it completes."""
        return torch.zeros(2, 0, dtype=torch.float32)

    def _spectra(self, tokens: Tensor) -> Tensor:
        """What the next chunks are conditioned on `[N, n, V]` -> clean spectra `[N, 4, F, T]`."""
        network, clean = self._network, torch.zeros(())
        for step, level in enumerate(self._levels):
            noise = torch.stack([self._draw(self._chunk + i, step) for i in range(len(tokens))])
            at = torch.tensor([level], dtype=torch.float32, device=noise.device)
            scale = at if step == 0 else consistency.renoise_scale(at, network.config.noise)
            x = noise * scale if step == 0 else clean + noise * scale
            clean = network.denoise(x, at, tokens)
        return clean

    def _draw(self, chunk: int, draw: int) -> Tensor:
        return drawn(self._noise, chunk, draw, noise_shape(self._network.config), self._device)

    def _samples(self, spectrum: Tensor) -> Tensor:
        """The clean spectrum of a chunk `[4, F, T]` -> the samples that it completes `[2, T]`."""
        made = to_frames(spectrum[None], self._stft)[0] if self._phases is None else self._phases.push(spectrum)
        frames = from_mid_side(made, dim=0)
        samples = self._add.push(frames).cpu()
        dropped = min(self._drop, samples.shape[1])
        self._drop -= dropped
        return samples[:, dropped:]

    def state(self) -> dict[str, Tensor]:
        """Everything that later samples depend on, as copies."""
        counters = torch.tensor([self._drop, self._chunk])
        tail = self._add.tail
        phases = {} if self._phases is None else {f"phases.{k}": v for k, v in self._phases.state().items()}
        return {"counters": counters, **phases, **({} if tail is None else {"tail": tail.cpu().clone()})}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave."""
        if self._phases is not None:
            self._phases.restore({name[7:]: t for name, t in state.items() if name.startswith("phases.")})
        place = self._device if self._phases is None else "cpu"
        self._add.tail = state["tail"].to(place) if "tail" in state else None
        self._drop, self._chunk = (int(n) for n in state["counters"])
