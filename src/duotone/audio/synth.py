"""A dependency-free synthesizer: seeded pieces of additive, FM, plucked, swept and noise voices, in stereo.

For tests and generated training data. Legend: T samples of a note or of the piece; t times `[T]` in seconds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError

Voice = Callable[[Tensor, float, int, random.Random], Tensor]
_SCALES = ((0, 2, 4, 7, 9), (0, 3, 5, 7, 10), (0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10))


def _envelope(t: Tensor, attack: float, decay: float, length: float) -> Tensor:
    """Attack, exponential decay, and a 20 ms release at the end of the note."""
    return (t / attack).clamp(0, 1) * torch.exp(-t / decay) * ((length - t) / 0.02).clamp(0, 1)


def _partials(frequency: float, rate: int, most: int) -> range:
    """The partials below 0.45 of the rate, at least one."""
    return range(1, max(1, min(most, int(0.45 * rate / frequency))) + 1)


def _additive(t: Tensor, frequency: float, rate: int, rng: random.Random) -> Tensor:
    """Slightly detuned partials whose levels fall by a power law."""
    tilt, odd, stretch = rng.uniform(0.8, 2.2), rng.random() < 0.3, rng.choice((0.0, 1e-4, 6e-4))
    out = torch.zeros_like(t)
    for k in _partials(frequency, rate, 12)[:: 2 if odd else 1]:
        out += torch.sin(2 * math.pi * frequency * k * math.sqrt(1 + stretch * k * k) * t + rng.uniform(0, 6)) / k**tilt
    return out


def _fm(t: Tensor, frequency: float, rate: int, rng: random.Random) -> Tensor:
    """Frequency modulation with decaying depth."""
    ratio, depth = rng.choice((1, 2, 3, 1.41, 3.5)), rng.uniform(0.5, 4)
    index = depth * torch.exp(-t * rng.uniform(0.5, 6))
    return torch.sin(2 * math.pi * frequency * t + index * torch.sin(2 * math.pi * frequency * ratio * t))


def _vibrato(t: Tensor, frequency: float, rate: int, rng: random.Random) -> Tensor:
    """Two detuned strands under a slow vibrato of up to a third of a semitone."""
    speed, cents = rng.uniform(4, 7), rng.uniform(5, 33)
    swing = frequency * (2 ** (cents / 1200) - 1) / (2 * math.pi * speed) * torch.sin(2 * math.pi * speed * t)
    out = torch.zeros_like(t)
    for detune in (1.0, 2 ** (rng.uniform(3, 14) / 1200)):
        phase = 2 * math.pi * (frequency * detune * t + swing)
        out += torch.sin(phase) + 0.35 * torch.sin(2 * phase) + 0.15 * torch.sin(3 * phase)
    return 0.6 * out


def _swept(t: Tensor, frequency: float, rate: int, rng: random.Random) -> Tensor:
    """A sawtooth through a low-pass of four poles whose cutoff glides: the filter's response is applied to each partial."""
    start, end, speed = rng.uniform(2, 20), rng.uniform(1, 6), rng.uniform(1, 8)
    cutoff = frequency * (end + (start - end) * torch.exp(-t * speed))
    phase = 2 * math.pi * frequency * t
    twice, before, now = 2 * torch.cos(phase), torch.zeros_like(t), torch.sin(phase)
    slope = (frequency / cutoff).square().square()
    out = torch.zeros_like(t)
    for k in _partials(frequency, rate, 16):
        out += now / (k + k**5 * slope)
        before, now = now, twice * now - before  # sin (k+1)x = 2 cos x sin kx - sin (k-1)x
    return out


def _plucked(t: Tensor, frequency: float, rate: int, rng: random.Random) -> Tensor:
    """Karplus-Strong: a burst of noise in a delay line with a low-pass filter and a decay."""
    period = max(2, round(rate / frequency))
    loss, bright = rng.uniform(0.985, 0.999), rng.uniform(0.5, 0.95)
    line = torch.rand(period, generator=torch.Generator().manual_seed(rng.randrange(2**31))) * 2 - 1
    # Round k of the line has gone through the loop's filter k times: a power of its response, all rounds at once.
    rounds = torch.arange(len(t) // period + 1)[:, None]
    turn = torch.polar(torch.ones(period // 2 + 1), -2 * math.pi * torch.arange(period // 2 + 1) / period)
    response = loss * (bright + (1 - bright) * turn)
    powers = torch.polar(response.abs() ** rounds, response.angle() * rounds)
    powers[:, 0] = 0  # no constant part
    tone: Tensor = torch.fft.irfft(torch.fft.rfft(line) * powers, period).flatten()[: len(t)]
    return tone


def _drum(t: Tensor, rate: int, rng: random.Random) -> Tensor:
    """A kick (a falling sine), a snare or a hat (noise, plain or differentiated)."""
    noise = torch.randn(len(t), generator=torch.Generator().manual_seed(rng.randrange(2**31)))
    kind = rng.choice(("kick", "snare", "hat"))
    if kind == "kick":
        drop = rng.uniform(3, 9)
        return torch.sin(2 * math.pi * (45 * t - drop * torch.exp(-t * 30))) + 0.1 * noise * torch.exp(-t * 60)
    if kind == "snare":
        return 0.6 * noise * torch.exp(-t * rng.uniform(12, 30)) + 0.5 * torch.sin(2 * math.pi * 190 * t)
    return 0.5 * torch.diff(noise, prepend=noise[:1]) * torch.exp(-t * rng.uniform(20, 60))


def _reverb(dry: Tensor, rate: int, rng: random.Random) -> Tensor:
    """Add reverberation: exponentially decaying noise, different for each channel. `[2, T]` -> `[2, T]`."""
    wet, decay = rng.uniform(0.05, 0.35), rng.uniform(0.15, 0.9)
    length = max(1, round(1.5 * decay * rate))
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    room = torch.randn(2, length, generator=generator) * torch.exp(-6.9 / (1.5 * decay) * torch.arange(length) / rate)
    room /= room.square().sum(1, keepdim=True).sqrt().clamp_min(1e-6)
    size = 2 ** math.ceil(math.log2(dry.shape[1] + length))
    echo: Tensor = torch.fft.irfft(torch.fft.rfft(dry, size) * torch.fft.rfft(room, size), size)[:, : dry.shape[1]]
    return dry + wet * echo


def _place(out: Tensor, note: Tensor, start: int, pan: float) -> None:
    """Add a note at equal power between left (0) and right (1)."""
    angle = pan * math.pi / 2
    out[0, start : start + len(note)] += math.cos(angle) * note
    out[1, start : start + len(note)] += math.sin(angle) * note


def synthesize(seed: int, seconds: float, rate: int = 48_000) -> Waveform:
    """A piece of `seconds` determined by its seed, length and rate: stereo, peak at most 0.9.

    Raises `UsageError` for a length that is not above 0.
    """
    if not 0 < seconds < math.inf:
        raise UsageError(f"{seconds} seconds of sound were asked for; give a length above 0.")
    rng = random.Random(f"duotone/synth/{seed}")
    total = max(1, round(seconds * rate))
    clock = torch.arange(total) / rate
    out = torch.zeros(2, total)
    scale, tonic, beat = rng.choice(_SCALES), rng.uniform(45, 57), rng.uniform(0.2, 0.6)
    voices: list[Voice] = rng.choices((_additive, _fm, _vibrato, _swept, _plucked), k=3)
    settings = [(rng.uniform(0.001, 0.06), rng.uniform(0.15, 1.5), rng.uniform(0.1, 0.9)) for _ in voices]
    drums, now = rng.random() < 0.7, 0.0
    while (start := round(now * rate)) < total:
        for i, voice in enumerate(voices):
            if rng.random() < 0.45 or (start == 0 and i == 0):
                attack, decay, pan = settings[i]
                length = min(rng.choice((0.5, 1, 2, 3)) * beat, seconds - now)
                t = clock[: min(max(1, round(length * rate)), total - start)]
                frequency = 440 * 2 ** ((tonic + 12 * rng.randint(0, 3) + rng.choice(scale) - 69) / 12)
                note = voice(t, frequency, rate, rng) * _envelope(t, attack, decay, length)
                _place(out, note * rng.uniform(0.15, 0.6), start, pan)
        if drums and rng.random() < 0.5:
            t = clock[: min(round(0.25 * rate), total - start)]
            _place(out, _drum(t, rate, rng) * _envelope(t, 0.001, 0.2, 0.25), start, rng.uniform(0.3, 0.7))
        now += beat / 2
    out = _reverb(out, rate, rng)
    return Waveform(out * min(1.0, 0.9 / max(1e-9, float(out.abs().max()))), rate)
