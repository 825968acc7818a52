"""Intelligibility and quality of speech: STOI and PESQ, computed by the packages pystoi and pesq."""

from __future__ import annotations

import math
from importlib.util import find_spec

from duotone.audio.waveform import Waveform

RATE = 16_000
PACKAGES = {"stoi": "pystoi", "pesq": "pesq"}


def missing() -> list[str]:
    """The packages of these metrics that are not installed; without its package, a metric is NaN."""
    return [package for package in PACKAGES.values() if find_spec(package) is None]


def stoi(reference: Waveform, estimate: Waveform) -> float:
    """Short-time objective intelligibility, 0 to 1 (Taal et al. 2011), of the mean of the channels.

    NaN where the package pystoi is missing or the speech is too short for it (about 0.4 s without pauses).
    """
    if find_spec("pystoi") is None:
        return math.nan
    import warnings

    import pystoi

    a, b = (wave.to_channels(1).resample(RATE).samples[0].numpy() for wave in (reference, estimate))
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # pystoi warns in this way if too few frames are left
        try:
            return float(pystoi.stoi(a, b, RATE, extended=False))
        except RuntimeWarning:
            return math.nan


def pesq(reference: Waveform, estimate: Waveform) -> float:
    """Wide-band PESQ, 1 to 4.6 (ITU-T P.862.2), of the mean of the channels at 16 kHz.

    NaN where the package pesq is missing or it finds no utterance.
    """
    if find_spec("pesq") is None:
        return math.nan
    from pesq import PesqError
    from pesq import pesq as compute

    a, b = (wave.to_channels(1).resample(RATE).samples[0].numpy() for wave in (reference, estimate))
    try:
        return float(compute(RATE, a, b, "wb"))
    except PesqError:
        return math.nan
