"""Is a chunk's joint heard: jumps of sound at the joints of chunks, beside those at places inside chunks.

Legend: c channels, T samples, P places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError
from duotone.evaluate.report import Interval, bootstrap
from duotone.represent.mel import mel_filterbank

CLICK = 0.002  # seconds to both sides in which a click is looked for
AROUND = 0.05  # seconds to both sides that a click is compared with
LEVEL = 0.02  # seconds before and after a place whose levels are compared
WINDOW = 2048  # samples before and after a place whose spectra are compared
BANDS = 32
INSIDE = (0.25, 0.5, 0.75)  #: of a chunk, the places between joints
FIGURES = ("click, dB", "level, dB", "spectrum, dB")


def jumps(wave: Waveform, places: Sequence[int]) -> Tensor:
    """How much a sound jumps at some samples, `[3, P]` in dB.

    Click: the largest second difference within 2 ms, relative to the root mean square of second differences within 50 ms: a step or a
    kink in the waveform stands out of it. Level: the change between 20 ms before and after. Spectrum: the mean absolute change of 32 log-mel bands
    between 2048 samples before and after. Raises `UsageError` for places nearer to an end than these reach.
    """
    mono, rate = wave.to_channels(1).samples[0].double(), wave.rate
    reach = _reach(rate)
    if any(not reach <= place <= len(mono) - reach for place in places):
        raise UsageError(
            f"Places {list(places)[:3]}... of a sound of {len(mono)} samples, expected them {reach} samples from both ends."
        )
    second = mono[2:] - 2 * mono[1:-1] + mono[:-2]  # of sample i + 1
    bank = mel_filterbank(rate, WINDOW, BANDS).double()
    hann = torch.hann_window(WINDOW, dtype=torch.float64)
    out = torch.empty(3, len(places), dtype=torch.float64)
    click, around, level = (round(seconds * rate) for seconds in (CLICK, AROUND, LEVEL))
    for i, place in enumerate(places):
        near = second[place - 1 - click : place - 1 + click].abs().max()
        usual = second[place - 1 - around : place - 1 + around].square().mean().sqrt()
        out[0, i] = _decibel(near) - _decibel(usual)
        before, after = (
            part.square().mean().sqrt() for part in (mono[place - level : place], mono[place : place + level])
        )
        out[1, i] = (_decibel(after) - _decibel(before)).abs()
        spectra = [
            _decibel(bank @ (torch.fft.rfft(part * hann).abs() * 2 / hann.sum()))
            for part in (mono[place - WINDOW : place], mono[place : place + WINDOW])
        ]
        out[2, i] = (spectra[1] - spectra[0]).abs().mean()
    return out


def _reach(rate: int) -> int:
    return max(WINDOW, round(AROUND * rate)) + 2


def _decibel(x: Tensor) -> Tensor:
    return 20 * torch.log10(x.clamp_min(1e-5))


@dataclass(frozen=True)
class Joint:
    """A figure at the joints of chunks less the same inside chunks, in dB, with intervals over sounds; about 0 where no joint is heard."""

    joints: Interval
    inside: Interval
    excess: Interval


def joints(waves: Sequence[Waveform], chunk: int, only: int | None = None, seed: int = 0) -> dict[str, Joint]:
    """The figures of sounds that are decoded from chunks of `chunk` samples, the first one at sample 0.

    All joints but those at the ends are measured, or the one before chunk `only` (where a continuation begins).
    """
    at, between = [], []
    for wave in waves:
        count = wave.length // chunk
        chosen = range(1, count) if only is None else [only]
        at.append(jumps(wave, [i * chunk for i in chosen]).mean(1))
        places = [round((i + share) * chunk) for i in range(count) for share in INSIDE]
        inside = [place for place in places if _reach(wave.rate) <= place <= wave.length - _reach(wave.rate)]
        between.append(jumps(wave, inside).mean(1))
    out = {}
    for k, name in enumerate(FIGURES):
        a, b = ([float(row[k]) for row in rows] for rows in (at, between))
        gaps = [x - y for x, y in zip(a, b, strict=True)]
        out[name] = Joint(bootstrap(a, seed), bootstrap(b, seed), bootstrap(gaps, seed))
    return out
