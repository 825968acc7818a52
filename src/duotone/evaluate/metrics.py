"""Distances between audio and its decoded version.

Every function takes two waves of one rate, number of channels and length, the original first, computes its value for
each channel, and returns the mean over the channels.

Legend: C channels, T samples, F frequency bins, M mel bands, N frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform, check_finite
from duotone.errors import AudioError
from duotone.evaluate.comb import comb_excess
from duotone.evaluate.harmonics import harmonics
from duotone.evaluate.speech import pesq, stoi
from duotone.represent.mel import mel_filterbank

#: Magnitudes are measured against a full-scale sine (0 dB) and floored here, so that digital silence has a logarithm.
FLOOR_DB = -100.0
FLOOR = 10 ** (FLOOR_DB / 20)
#: SI-SDR is limited to +- this many dB: beyond lies the rounding of float32.
SI_SDR_LIMIT = 100.0
#: A channel whose mean square lies under this (-160 dBFS) is taken for silent: it has no direction to project on.
SILENT = 1e-16
N_FFT, HOP, MEL_BANDS = 2048, 512, 128
RESOLUTIONS = (512, 1024, 2048)
#: Windows and numbers of mel bands of DAC's mel loss, windows of its STFT loss, and their floor.
DAC_MEL = ((32, 5), (64, 10), (128, 20), (256, 40), (512, 80), (1024, 160), (2048, 320))
DAC_STFT = (2048, 512)
DAC_FLOOR = 1e-5


def check_pair(reference: Waveform, estimate: Waveform) -> None:
    """Raise `AudioError` unless both waves have one rate, number of channels and length, and hold finite samples."""
    if reference.rate != estimate.rate:
        raise AudioError(
            f"The waves have rates {reference.rate} and {estimate.rate} Hz, expected one rate. "
            f"Resample one of them first: wave.resample({reference.rate})."
        )
    if reference.channels != estimate.channels:
        raise AudioError(
            f"The waves have {reference.channels} and {estimate.channels} channels, expected the same number. "
            f"Convert one of them first: wave.to_channels({reference.channels})."
        )
    if reference.length != estimate.length:
        raise AudioError(
            f"The waves have {reference.length} and {estimate.length} samples, expected the same number. "
            f"Align them first; cutting the longer one is right only if nothing is shifted (see delay)."
        )
    if reference.length == 0:
        raise AudioError("The waves have no samples, so there is nothing to compare. Give at least one sample.")
    check_finite(reference.samples, reference.rate, "The original")
    check_finite(estimate.samples, estimate.rate, "The decoded wave")


def si_sdr(reference: Waveform, estimate: Waveform) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, higher is better (Le Roux et al., arXiv 1811.02508, eq. 3).

    Means are removed first; values are limited to +-100 dB. Channels where the original or the estimate is silent have
    no ratio and are left out; with no channel left the result is NaN. Raises `AudioError` for waves that do not match.
    """
    check_pair(reference, estimate)
    s, e = reference.samples.double(), estimate.samples.double()
    s, e = s - s.mean(-1, keepdim=True), e - e.mean(-1, keepdim=True)
    heard = (s.square().mean(-1) > SILENT) & (e.square().mean(-1) > SILENT)
    if not bool(heard.any()):
        return math.nan
    s, e = s[heard], e[heard]
    target = (e * s).sum(-1, keepdim=True) / s.square().sum(-1, keepdim=True) * s
    ratio = 10 * torch.log10(target.square().sum(-1) / (e - target).square().sum(-1))
    return float(ratio.clamp(-SI_SDR_LIMIT, SI_SDR_LIMIT).mean())


def log_mel_distance(reference: Waveform, estimate: Waveform) -> float:
    """Mean absolute difference of log-mel spectra in dB, lower is better.

    Hann window of 2048, hop 512, magnitudes through 128 Slaney mel bands from 0 Hz to Nyquist, ``20*log10`` floored at
    -100 dB, L1 over bands and frames: ten times the ``log10(mel**2)`` distance of DAC (Kumar et al., arXiv 2306.06546)
    at one window. Raises `AudioError` for waves that do not match.
    """
    check_pair(reference, estimate)
    bands = mel_filterbank(reference.rate, N_FFT, MEL_BANDS)
    mel_r, mel_e = (_decibel(bands @ magnitudes(w.samples, N_FFT, HOP)) for w in (reference, estimate))
    return float((mel_r - mel_e).abs().mean())


def multi_resolution_stft(reference: Waveform, estimate: Waveform) -> float:
    """Spectral convergence plus log magnitude distance, mean over three resolutions, lower is better.

    Yamamoto et al., *Parallel WaveGAN*, arXiv 1910.11480, eqs. 4-6, averaged over resolutions as in auraloss; Hann
    windows of 512, 1024 and 2048 samples with hops of a quarter. Raises `AudioError` for waves that do not match.
    """
    check_pair(reference, estimate)
    total = torch.zeros(reference.channels)
    for window in RESOLUTIONS:
        r, e = (magnitudes(w.samples, window, window // 4) for w in (reference, estimate))
        total += _spectral_convergence(r, e) + _log_magnitude(r, e)
    return float(total.mean() / len(RESOLUTIONS))


def dac_mel_loss(reference: Waveform, estimate: Waveform) -> float:
    """DAC's mel loss, lower is better: L1 of ``log10`` mel magnitudes, summed over seven windows.

    Kumar et al., arXiv 2306.06546, section 3.4, with the values of descript-audio-codec's ``conf/final/44khz.yml`` (MIT): windows of 32
    to 2048 samples with hops of a quarter, 5 to 320 Slaney mel bands from 0 Hz to Nyquist, magnitudes of the unnormalised STFT floored at
    1e-5. Raises `AudioError` for waves that do not match.
    """
    check_pair(reference, estimate)
    total = 0.0
    for window, count in DAC_MEL:
        # filters of unit area in Hz, as librosa makes them: a band sums magnitudes and does not average them
        bands = mel_filterbank(reference.rate, window, count) * (window / reference.rate)
        r, e = (
            (bands @ _dac_magnitudes(w.samples, window)).clamp_min(DAC_FLOOR).log10() for w in (reference, estimate)
        )
        total += float((r - e).abs().mean())
    return total


def dac_stft_distance(reference: Waveform, estimate: Waveform) -> float:
    """DAC's STFT distance, lower is better: L1 of magnitudes plus L1 of ``log10`` powers, summed over two windows.

    ``MultiScaleSTFTLoss`` of descript-audio-codec (MIT) with its default values (Engel et al., DDSP, arXiv 2001.04643, eq. 4): windows of
    2048 and 512 samples, hops of a quarter, floored at 1e-5. Raises `AudioError` for waves that do not match.
    """
    check_pair(reference, estimate)
    total = 0.0
    for window in DAC_STFT:
        r, e = (_dac_magnitudes(w.samples, window) for w in (reference, estimate))
        logs = [2 * part.clamp_min(DAC_FLOOR).log10() for part in (r, e)]
        total += float((r - e).abs().mean() + (logs[0] - logs[1]).abs().mean())
    return total


def _dac_magnitudes(samples: Tensor, window: int) -> Tensor:
    """`[C, T]` -> STFT magnitudes `[C, F, N]`, not normalised, periodic Hann, hop of a quarter, padded by reflection."""
    short = max(0, window // 2 + 1 - samples.shape[-1])  # reflection needs more samples than it adds
    padded = torch.nn.functional.pad(samples, (0, short))
    return torch.stft(
        padded, window, window // 4, window=_hann(window), center=True, pad_mode="reflect", return_complex=True
    ).abs()


def harmonics_change(reference: Waveform, estimate: Waveform) -> float:
    """By how many dB harmonics stand out more (above 0) or less in the estimate; 0 is best. See `harmonics`.

    NaN where nothing in the reference has a pitch. Raises `AudioError` for waves that do not match.
    """
    check_pair(reference, estimate)
    return harmonics(reference, estimate).difference


def comb_change(reference: Waveform, estimate: Waveform) -> float:
    """By how many dB lines at multiples of the hop rate stand out more in the estimate; 0 is best. See `comb_excess`.

    Raises `AudioError` for waves that do not match.
    """
    check_pair(reference, estimate)
    return comb_excess(reference, estimate)


def log_spectral_distance(reference: Waveform, estimate: Waveform) -> float:
    """Root mean square difference of log spectra over frequency in dB, mean over frames, lower is better.

    Gray and Markel 1976 (IEEE TASSP 24, eq. 3 with p = 2); Hann window of 2048, hop 512, floored at -100 dB.
    Raises `AudioError` for waves that do not match.
    """
    check_pair(reference, estimate)
    r, e = (_decibel(magnitudes(w.samples, N_FFT, HOP)) for w in (reference, estimate))
    return float((r - e).square().mean(-2).sqrt().mean())


def delay(reference: Waveform, estimate: Waveform, limit: float = 0.05) -> int:
    """Samples by which the estimate lags (positive) or leads, at the peak of the cross-correlation within `limit` s.

    The channels are summed, so that one delay holds for all; without any positive correlation (silence) it is 0.
    Raises `AudioError` for waves that do not match.
    """
    check_pair(reference, estimate)
    reach = min(int(limit * reference.rate), reference.length - 1)
    size = 2 * reference.length
    r, e = (torch.fft.rfft(w.samples.double(), n=size) for w in (reference, estimate))
    correlation = torch.fft.irfft(e * r.conj(), n=size).sum(0)
    near = torch.cat([correlation[size - reach :], correlation[: reach + 1]])
    return int(near.argmax()) - reach if float(near.max()) > 0 else 0


def magnitudes(samples: Tensor, window: int, hop: int) -> Tensor:
    """`[C, T]` -> STFT magnitudes `[C, F, N]`, periodic Hann, centred with zeros; a full-scale sine has about 1."""
    hann = _hann(window)
    spectrum = torch.stft(samples, window, hop, window=hann, center=True, pad_mode="constant", return_complex=True)
    return spectrum.abs() * (2 / hann.sum())


@lru_cache(maxsize=16)
def _hann(window: int) -> Tensor:
    return torch.hann_window(window)


def _decibel(magnitude: Tensor) -> Tensor:
    return 20 * torch.log10(magnitude.clamp_min(FLOOR))


def _spectral_convergence(reference: Tensor, estimate: Tensor) -> Tensor:
    """`[C, F, N]` twice -> `[C]`: ``||R - E|| / ||R||`` in the Frobenius norm (eq. 5), the divisor floored as well."""
    size = math.sqrt(reference[0].numel())
    scale = reference.square().sum((-2, -1)).sqrt().clamp_min(FLOOR * size)
    return (reference - estimate).square().sum((-2, -1)).sqrt() / scale


def _log_magnitude(reference: Tensor, estimate: Tensor) -> Tensor:
    """`[C, F, N]` twice -> `[C]`: mean ``|log R - log E|``, natural logarithm (eq. 6)."""
    return (reference.clamp_min(FLOOR).log() - estimate.clamp_min(FLOOR).log()).abs().mean((-2, -1))


@dataclass(frozen=True)
class Metric:
    """A metric: its key in JSON, its heading, its unit, which way is better; call it with a pair of waves.

    A `signed` metric is best at 0: two systems are compared by its absolute value, and lower is better.
    """

    key: str
    label: str
    unit: str
    higher_is_better: bool
    function: Callable[[Waveform, Waveform], float]
    signed: bool = False

    @property
    def arrow(self) -> str:
        """Which way is better: ↑, ↓, or →0."""
        return "→0" if self.signed else "↑" if self.higher_is_better else "↓"

    def __call__(self, reference: Waveform, estimate: Waveform) -> float:
        return self.function(reference, estimate)


def side_level_error(reference: Waveform, estimate: Waveform) -> float:
    """Error of the stereo width: difference of the side-to-mid level ratios in dB, lower is better.

    Levels are over the whole wave, the ratio floored at -60 dB. NaN unless both waves are stereo.
    """
    check_pair(reference, estimate)
    if reference.channels != 2:
        return math.nan

    def width(wave: Waveform) -> float:
        left, right = wave.samples.double()
        mid, side = (left + right).square().mean(), (left - right).square().mean()
        return float(10 * torch.log10((side / mid.clamp_min(1e-12)).clamp(1e-6, 1e6)))

    return abs(width(reference) - width(estimate))


def ild_error(reference: Waveform, estimate: Waveform) -> float:
    """Mean difference of the level difference between left and right, in dB, lower is better.

    Over 24 mel bands and frames of 2048 samples in which the original has more than -60 dB in a channel; each level is
    floored at -80 dB. NaN for mono, and if nothing is that loud.
    """
    check_pair(reference, estimate)
    if reference.channels != 2:
        return math.nan
    bands = mel_filterbank(reference.rate, N_FFT, 24)
    mel_r, mel_e = (bands @ magnitudes(w.samples, N_FFT, HOP) for w in (reference, estimate))
    heard = mel_r.amax(0) > 1e-3
    if not bool(heard.any()):
        return math.nan
    level_r, level_e = (20 * torch.log10(m.clamp_min(1e-4)) for m in (mel_r, mel_e))
    gap = ((level_r[0] - level_r[1]) - (level_e[0] - level_e[1])).abs()
    return float(gap[heard].mean())


_ALL = (
    Metric("si_sdr", "SI-SDR", "dB", True, si_sdr),
    Metric("log_mel", "log-mel", "dB", False, log_mel_distance),
    Metric("mr_stft", "MR-STFT", "", False, multi_resolution_stft),
    Metric("log_spectral", "log-spectral", "dB", False, log_spectral_distance),
    Metric("side_level", "side level", "dB", False, side_level_error),
    Metric("ild", "ILD", "dB", False, ild_error),
    Metric("harmonics", "harmonics", "dB", False, harmonics_change, signed=True),
    Metric("comb", "comb", "dB", False, comb_change, signed=True),
    Metric("dac_mel", "DAC mel", "", False, dac_mel_loss),
    Metric("dac_stft", "DAC STFT", "", False, dac_stft_distance),
    Metric("stoi", "STOI", "", True, stoi),
    Metric("pesq", "PESQ", "", True, pesq),
)
#: Metrics that mean something for speech alone.
SPEECH = ("stoi", "pesq")
#: Every metric by its key.
METRICS: dict[str, Metric] = {metric.key: metric for metric in _ALL}


def measure(reference: Waveform, estimate: Waveform, speech: bool = False) -> dict[str, float]:
    """All metrics of a pair, by key; speech metrics are NaN unless `speech` is true."""
    return {
        key: metric(reference, estimate) if speech or key not in SPEECH else math.nan for key, metric in METRICS.items()
    }
