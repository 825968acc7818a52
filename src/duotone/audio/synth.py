"""A dependency-free synthesizer: seeded notes of additive, FM, plucked and noise voices, in stereo.

For tests and for training data made on the fly. Legend: T samples of a note or of the piece.
"""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform


def _envelope(t: Tensor, attack: float, decay: float, length: float) -> Tensor:
    """Attack, exponential decay, and a 20 ms release at the end of the note."""
    return (t / attack).clamp(0, 1) * torch.exp(-t / decay) * ((length - t) / 0.02).clamp(0, 1)


def _additive(t: Tensor, frequency: float, rng: random.Random) -> Tensor:
    tilt, odd = rng.uniform(0.8, 2.2), rng.random() < 0.3
    out = torch.zeros_like(t)
    for k in range(1, min(24, int(18_000 / frequency)) + 1, 2 if odd else 1):
        inharmonic = frequency * k * math.sqrt(1 + 1e-4 * k * k)
        out += torch.sin(2 * math.pi * inharmonic * t + rng.uniform(0, 2 * math.pi)) / k**tilt
    return out


def _fm(t: Tensor, frequency: float, rng: random.Random) -> Tensor:
    ratio, depth = rng.choice((1, 2, 3, 1.41, 3.5)), rng.uniform(0.5, 4)
    index = depth * torch.exp(-t * rng.uniform(0.5, 6))
    return torch.sin(2 * math.pi * frequency * t + index * torch.sin(2 * math.pi * frequency * ratio * t))


def _vibrato(t: Tensor, frequency: float, rng: random.Random) -> Tensor:
    phase = 2 * math.pi * frequency * t + rng.uniform(0, 4) * torch.sin(2 * math.pi * rng.uniform(4, 7) * t)
    return torch.sin(phase) + 0.3 * torch.sin(2 * phase) + 0.1 * torch.sin(3 * phase)


def _drum(t: Tensor, generator: torch.Generator, rng: random.Random) -> Tensor:
    noise = torch.randn(t.shape, generator=generator)
    if rng.random() < 0.5:
        return torch.sin(2 * math.pi * (50 * t - 25 * torch.exp(-t * 30) / 30 * 8)) + 0.1 * noise * torch.exp(-t * 60)
    bright = torch.diff(noise, prepend=noise[:1]) if rng.random() < 0.5 else noise
    return bright * torch.exp(-t * rng.uniform(15, 60))


def synthesize(seed: int, seconds: float, rate: int = 48_000) -> Waveform:
    """A piece of `seconds` determined by its seed: stereo, peak at most 0.9."""
    rng = random.Random(f"duotone/synth/{seed}")
    generator = torch.Generator().manual_seed(seed % 2**31)
    total = max(1, round(seconds * rate))
    out = torch.zeros(2, total)
    scale = rng.choice(((0, 2, 4, 7, 9), (0, 3, 5, 7, 10), (0, 2, 4, 5, 7, 9, 11)))
    tonic, beat = rng.uniform(45, 57), rng.uniform(0.18, 0.6)
    voices = [rng.choice((_additive, _fm, _vibrato)) for _ in range(3)]
    settings = [(rng.uniform(0.002, 0.08), rng.uniform(0.15, 1.5), rng.uniform(0.15, 0.85)) for _ in voices]
    now = 0.0
    while now < seconds:
        for i, voice in enumerate(voices):
            if rng.random() < 0.45:
                attack, decay, pan = settings[i]
                length = min(rng.choice((0.5, 1, 2, 4)) * beat, seconds - now)
                t = torch.arange(min(int(length * rate), total - int(now * rate))) / rate
                pitch = tonic + 12 * rng.randint(0, 3) + rng.choice(scale)
                note = voice(t, 440 * 2 ** ((pitch - 69) / 12), rng) * _envelope(t, attack, decay, length)
                _place(out, note * rng.uniform(0.2, 0.6), int(now * rate), pan)
        if rng.random() < 0.5:
            t = torch.arange(min(int(0.25 * rate), total - int(now * rate))) / rate
            _place(
                out,
                0.4 * _drum(t, generator, rng) * _envelope(t, 0.001, 0.2, 0.25),
                int(now * rate),
                rng.uniform(0.3, 0.7),
            )
        now += beat / 2
    peak = float(out.abs().max())
    return Waveform(out * (0.9 / peak) if peak > 0.9 else out, rate)


def _place(out: Tensor, note: Tensor, start: int, pan: float) -> None:
    """Add a note at equal power between left (0) and right (1)."""
    end = min(out.shape[1], start + len(note))
    out[0, start:end] += math.cos(pan * math.pi / 2) * note[: end - start]
    out[1, start:end] += math.sin(pan * math.pi / 2) * note[: end - start]
