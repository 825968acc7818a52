"""Variants of a finished piece: band-limited, reverberant, mono and narrow; each is drawn from a seed.

Legend: C channels, T samples.
"""

from __future__ import annotations

import math
import random
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform

#: Share of the pieces, by kind, that get each variant; several may meet in one piece. The rest keeps its full sound.
CHANCES: dict[str, dict[str, float]] = {
    "music": {"limit": 0.12, "room": 0.15, "mono": 0.08, "narrow": 0.10},
    "speech": {"limit": 0.25, "room": 0.30, "mono": 0.35, "narrow": 0.0},
    "synth": {"limit": 0.12, "room": 0.0, "mono": 0.05, "narrow": 0.05},
}
#: Speech is limited as by recordings of 8 and 16 kHz (telephones also cut below 300 Hz), other sound to a dull band. Hz.
TELEPHONE, WIDEBAND, DULL = (300.0, 3400.0), 7500.0, (3500.0, 14_000.0)
#: Width of the slope that ends at the upper limit, as a share of it.
_SLOPE = 0.08
#: Decay times (to -60 dB, seconds) and shares of reverberation in the mix.
_DECAY, _WET = (0.15, 1.4), (0.1, 0.6)
_NARROW = (0.1, 0.5)


@dataclass(frozen=True)
class Variant:
    """What is done to a piece; the defaults change nothing.

    `low`, `high`: band in Hz; `decay`: reverberation time in s, `wet` its share; `width`: factor of the side signal; `seed`: of the room.
    """

    low: float = 0.0
    high: float = 0.0
    decay: float = 0.0
    wet: float = 0.0
    width: float = 1.0
    seed: int = 0

    def describe(self) -> dict[str, Any]:
        """The values that differ from the defaults, for the note of a piece."""
        return {k: v for k, v in asdict(self).items() if v != getattr(Variant, k) and (k != "seed" or self.decay)}


def draw(rng: random.Random, kind: str) -> Variant:
    """The variant of a piece of `kind`; most pieces stay as they are."""
    chances = CHANCES[kind]
    limited, room, width = rng.random() < chances["limit"], rng.random() < chances["room"], rng.random()
    low, high = 0.0, 0.0
    if limited and kind == "speech":
        low, high = rng.choice(((TELEPHONE), (0.0, TELEPHONE[1]), (0.0, WIDEBAND), (0.0, WIDEBAND)))
    elif limited:
        high = round(math.exp(rng.uniform(math.log(DULL[0]), math.log(DULL[1]))))
    decay = round(rng.uniform(*_DECAY), 3) if room else 0.0
    wet = round(rng.uniform(*_WET), 3) if room else 0.0
    sides = 1.0
    if width < chances["mono"]:
        sides = 0.0
    elif width < chances["mono"] + chances["narrow"]:
        sides = round(rng.uniform(*_NARROW), 3)
    return Variant(low, high, decay, wet, sides, rng.randrange(2**31))


def apply(wave: Waveform, variant: Variant) -> Waveform:
    """The piece `[C, T]` as its variant, in the order room, width, band; length and rate stay."""
    samples = wave.samples
    if variant.decay:
        samples = reverberate(samples, wave.rate, variant.decay, variant.wet, variant.seed)
    if variant.width != 1.0 and wave.channels == 2:
        middle, side = samples.mean(0), variant.width * (samples[0] - samples[1]) / 2
        samples = torch.stack([middle + side, middle - side])
    if variant.high:
        samples = band_limit(samples, wave.rate, variant.low, variant.high)
    return Waveform(samples, wave.rate)


def band_limit(samples: Tensor, rate: int, low: float, high: float) -> Tensor:
    """Remove everything above `high` Hz and (unless 0) below `low` Hz; raised-cosine slopes lie inside the band. `[C, T]` -> `[C, T]`."""
    length = samples.shape[1]
    size = 2 ** math.ceil(math.log2(length + rate // 4))  # the padding takes up what rings over the ends
    hertz = torch.arange(size // 2 + 1) * (rate / size)
    gain = 0.5 - 0.5 * torch.cos(math.pi * ((high - hertz) / (_SLOPE * high)).clamp(0, 1))
    if low:
        gain = gain * (0.5 - 0.5 * torch.cos(math.pi * ((hertz - low) / low).clamp(0, 1)))
    limited: Tensor = torch.fft.irfft(torch.fft.rfft(samples, size) * gain, size)[:, :length]
    return limited


def room(rate: int, decay: float, seed: int) -> Tensor:
    """A synthetic impulse response `[2, T]` of a room: some early echoes, then noise that decays by 60 dB in `decay` s.

    High frequencies die away faster, as in rooms; each channel has energy 1.
    """
    generator = torch.Generator().manual_seed(seed)
    length = max(64, round(decay * rate))
    fall = torch.exp(-math.log(1000) * torch.arange(length) / (decay * rate))
    noise = torch.randn(2, length, generator=generator)
    dull = torch.nn.functional.avg_pool1d(noise[None], 9, 1, 4, count_include_pad=False)[0]
    late = fall * (dull * 3 + (noise - dull) * fall)  # the part above about 3 kHz falls twice as fast
    late[:, : min(length, round(0.012 * rate))] *= 0.1
    times = (torch.rand(2, 7, generator=generator) * min(0.04, decay) * rate).long().clamp(1, length - 1)
    echoes = torch.zeros(2, length).scatter_add_(1, times, 6 * (torch.rand(2, 7, generator=generator) - 0.4))
    response = late + echoes * fall
    return response / response.square().sum(1, keepdim=True).sqrt()


def reverberate(samples: Tensor, rate: int, decay: float, wet: float, seed: int) -> Tensor:
    """Mix `[2, T]` with its sound in a synthetic room, `wet` of it by amplitude; the tail is cut at the piece's end."""
    response = room(rate, decay, seed)
    length = samples.shape[1]
    size = 2 ** math.ceil(math.log2(length + response.shape[1]))
    echo = torch.fft.irfft(torch.fft.rfft(samples, size) * torch.fft.rfft(response, size), size)[:, :length]
    mixed: Tensor = (1 - wet) * samples + wet * echo
    return mixed
