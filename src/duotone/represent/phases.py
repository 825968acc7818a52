"""Phases from magnitudes alone, in a stream: phase gradients integrated in time and frequency, then fast Griffin-Lim.

A phase is carried on from frame to frame by a frequency, and spread over the bins of a frame by a group delay; both are
read off the magnitudes (Prusa and Sondergaard, "Real-time spectrogram inversion using phase gradient heap
integration", DAFx 2016; here "RTPGHI"). Blocks of a fixed number of frames are computed one after another: a frame sees
the frame after it within its block, and no frame sees another block's future. So a stream needs no more than a block,
and however frames are pushed, the same phases come out, bit for bit. What was tried and measured: LOG.md, 2026-11-26.

Legend: n frames, F = n_fft / 2 + 1 bins. Frame i covers samples ``[i*hop, i*hop + n_fft)`` under a periodic Hann window,
as in `stft`. Magnitudes are those of the transform of samples within +-1. Phases are counted in turns of 2**32 units
(int32, called "turns"): their sums are exact, wrap by themselves, and lose nothing in hours.

Phases are computed on the CPU for every device: bins and frames depend on one another, and a frame has few numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from duotone.errors import AudioError, ConfigError
from duotone.represent.stft import window

#: Time-frequency ratio of the Gaussian nearest to a Hann window, in squares of its length (Prusa, Balazs and
#: Sondergaard, "A noniterative method for reconstruction of phase from STFT magnitude", 2017, table I).
HANN_RATIO = 0.25645
#: Share of the estimated group delay that is used, and its bound in radians a bin: estimates are noisy, and pi is a
#: delay of half a window. Chosen on generated music and speech, with exact and with disturbed magnitudes (LOG.md).
DELAY_SHARE, DELAY_BOUND = 0.8, 2.0
#: Magnitudes below this count as this in logarithms.
FLOOR = 1e-7
MOMENTUM = 0.99


def to_radians(turns: Tensor) -> Tensor:
    """Turns (int32) -> float32 radians, -pi to pi."""
    return turns.float() * (2 * math.pi / 2**32)


def polar(magnitudes: Tensor, turns: Tensor) -> Tensor:
    """Magnitudes and turns `[n, F]`, on one device -> complex spectra `[n, F]`."""
    return torch.polar(magnitudes, to_radians(turns))


def logarithms(magnitudes: Tensor) -> Tensor:
    """Natural logarithms of magnitudes, those below `FLOOR` raised to it."""
    return magnitudes.clamp_min(FLOOR).log_()


def delay_slope(n_fft: int, hop: int) -> float:
    """Radians a bin for a difference of 1 between the logarithms of the frames after and before (RTPGHI, equation 12)."""
    return -DELAY_SHARE * HANN_RATIO * n_fft / hop / 2


def to_turns(cycles: NDArray[np.float32]) -> NDArray[np.uint32]:
    """Cycles (float32) -> turns modulo 2**32."""
    wrapped = (cycles - np.rint(cycles)) * np.float32(2**32)
    largest = np.float32(2**31 - 128)  # the float32 below half a turn, which int32 lacks
    turns: NDArray[np.uint32] = np.minimum(wrapped, largest).astype(np.int32).view(np.uint32)
    return turns


def deviations(magnitudes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Distance in bins from each bin's centre to its frequency `[n, F]`, at most 2; 0 at both ends of the spectrum.

    From the magnitudes a, b, c of a bin and its neighbours, ``2 (c - a) / (a + 2 b + c)``: exact for a sinusoid less
    than one bin away under a Hann window (Agrez, "Weighted multipoint interpolated DFT", 2002, equation 14).
    """
    a, b, c = magnitudes[:, :-2], magnitudes[:, 1:-1], magnitudes[:, 2:]
    total = (a / 4 + b / 2) + c / 4  # of quarters, which cannot overflow
    found = (c - a) / 2 / np.maximum(total, np.float32(1e-30))
    return np.pad(found, ((0, 0), (1, 1)))


def delays(before: NDArray[np.float32], after: NDArray[np.float32], n_fft: int, hop: int) -> NDArray[np.float32]:
    """Phase difference between adjacent bins by group delay, in radians `[n, F]`.

    `before` and `after` are the logarithms of the magnitudes one frame earlier and later. RTPGHI, equation 12; the
    phase's origin is the middle of the frame.
    """
    slope, bound = np.float32(delay_slope(n_fft, hop)), np.float32(DELAY_BOUND)
    found: NDArray[np.float32] = np.clip((after - before) * slope, -bound, bound)
    return found


def sources(before: NDArray[np.float32], now: NDArray[np.float32]) -> NDArray[np.int64]:
    """The bin `[n, F]` of the frame before from which each bin's phase is taken.

    RTPGHI's heap visits bins of the frame before and of this frame in descending magnitude; each sets the phase of the
    same bin of this frame, or of its neighbours in this frame. So bin k takes the source j for which the smallest
    magnitude on the way, ``before[j]`` and ``now[j]`` to the neighbour of k, is largest. On a line of bins that needs no
    heap: one pass upward and one downward, for all frames at once.
    """
    up_level, up = _pass(before.T, now.T)
    down_level, down = _pass(before.T[::-1], now.T[::-1])
    down_level, down = down_level[::-1], len(down) - 1 - down[::-1]
    found: NDArray[np.int64] = np.where(up_level >= down_level, up, down).T
    return found


def _pass(before: NDArray[np.float32], now: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Levels and sources `[F, n]` when phases spread from lower to higher bins only."""
    levels = np.array(before)
    found = np.tile(np.arange(len(before))[:, None], before.shape[1])
    for k in range(1, len(before)):
        arriving = np.minimum(now[k - 1], levels[k - 1])
        spread = arriving >= before[k]
        levels[k] = np.where(spread, arriving, before[k])
        found[k] = np.where(spread, found[k - 1], k)
    return levels, found


def integrate(magnitudes: Tensor, turns: Tensor, n_fft: int, hop: int) -> Tensor:
    """Turns `[n, F]` of n frames, from magnitudes `[n + 2, F]` (with the frames before and after) and the turns `[F]` before.

    Float32 and int32 on the CPU. Each bin takes its source's phase, one hop later at the mean of the frequencies before
    and now, and the group delays between the source and itself (RTPGHI, algorithm 1, trapezoidal rule).
    """
    m = magnitudes.numpy()
    log = logarithms(magnitudes).numpy()
    deviation = deviations(m[:-1])
    bins = np.arange(m.shape[1], dtype=np.int64)
    centre = ((bins * hop % n_fft << 32) // n_fft).astype(np.uint32)
    advance = to_turns((deviation[:-1] + deviation[1:]) * np.float32(hop / n_fft / 2)) + centre
    delay = delays(log[:-2], log[2:], n_fft, hop)
    step = to_turns((delay[:, :-1] + delay[:, 1:]) * np.float32(0.25 / math.pi)) + np.uint32(2**31)
    spread = np.pad(np.cumsum(step, axis=1, dtype=np.uint32), ((0, 0), (1, 0)))
    own = sources(m[:-2], m[1:-1])
    out = np.empty(own.shape, np.uint32)
    phase = turns.numpy().view(np.uint32)
    for i in range(len(out)):
        phase = (phase + advance[i] - spread[i])[own[i]] + spread[i]
        out[i] = phase
    return torch.from_numpy(out.view(np.int32))


class Kernels(NamedTuple):
    """What computes `integrate` and `polar`: these functions, or faster ones that give the same (`nn.phase_kernels`)."""

    integrate: Callable[[Tensor, Tensor, int, int], Tensor] = integrate
    polar: Callable[[Tensor, Tensor], Tensor] = polar


PLAIN = Kernels()


class PhaseGradient:
    """Phases of a stream of magnitudes, by RTPGHI with one frame of look-ahead inside each block of `block` frames.

    The first frame's phases are drawn from `seed`, the same on every machine. Raises `ConfigError` for sizes that make no transform.
    """

    def __init__(self, n_fft: int, hop: int, block: int, seed: int, kernels: Kernels = PLAIN) -> None:
        if n_fft < 4 or n_fft % 2 or not 0 < hop <= n_fft // 2 or block < 1:
            raise ConfigError(
                f"Phases got n_fft {n_fft}, hop {hop} and blocks of {block} frames, expected an even n_fft of at least 4, "
                "a hop of at most half of it and at least one frame a block."
            )
        self.n_fft, self.hop, self.block, self.seed, self.kernels = n_fft, hop, block, seed, kernels
        self.bins = n_fft // 2 + 1
        self._start()

    def _start(self) -> None:
        drawn = np.random.Philox(key=self.seed).random_raw(self.bins) >> np.uint64(32)
        self._turns = torch.from_numpy(drawn.astype(np.uint32).view(np.int32))
        self._before = torch.zeros(0, self.bins, dtype=torch.float32)  # the last frame with phases
        self._waiting = torch.zeros(0, self.bins, dtype=torch.float32)  # a frame whose successor is not there yet
        self._place = 0  # of the next frame without phases, in its block

    def push(self, magnitudes: Tensor) -> Tensor:
        """Magnitudes `[n, F]` -> turns `[m, F]` (int32, CPU) of all frames so far whose phases are settled.

        A frame is settled with the frame after it, or when it ends a block; so at most one frame waits. Raises
        `AudioError` for another shape, for negative, infinite and NaN magnitudes.
        """
        waiting = torch.cat([self._waiting, self._checked(magnitudes)])
        settled = [torch.zeros(0, self.bins, dtype=torch.int32)]
        while len(waiting):
            count = min(len(waiting) - 1, self.block - self._place)
            if self._place + len(waiting) == self.block:  # the last one ends the block
                count = len(waiting)
            if count == 0:
                break
            settled.append(self._settle(waiting, count))
            waiting = waiting[count:]
        self._waiting = waiting.clone()
        return torch.cat(settled)

    def finish(self) -> Tensor:
        """Turns `[0 or 1, F]` of the frame that waits; the next push starts a new stream."""
        settled = self._settle(self._waiting, 1) if len(self._waiting) else torch.zeros(0, self.bins, dtype=torch.int32)
        self._start()
        return settled

    def state(self) -> dict[str, Tensor]:
        """Everything that later phases depend on; for `restore`."""
        place = torch.tensor(self._place)
        return {"turns": self._turns.clone(), "before": self._before, "waiting": self._waiting, "place": place}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave. Raises `ConfigError` for a state of another number of bins."""
        if state["turns"].shape != (self.bins,):
            raise ConfigError(f"The state of phases has shape {list(state['turns'].shape)}, expected [{self.bins}].")
        self._turns, self._place = state["turns"].clone(), int(state["place"])
        self._before, self._waiting = state["before"], state["waiting"]

    def _settle(self, frames: Tensor, count: int) -> Tensor:
        """Turns of the first `count` frames; at a block's end, the frame after counts as equal to the last."""
        place = self._place + count
        after = frames[count : count + 1] if place < self.block and count < len(frames) else frames[count - 1 : count]
        before = self._before if len(self._before) else frames[:1]
        context = torch.cat([before, frames[:count], after])
        turns = self.kernels.integrate(context, self._turns, self.n_fft, self.hop)
        self._turns, self._before, self._place = (
            turns[-1].clone(),
            frames[count - 1 : count].clone(),
            place % self.block,
        )
        return turns

    def _checked(self, magnitudes: Tensor) -> Tensor:
        if magnitudes.ndim != 2 or magnitudes.shape[1] != self.bins:
            raise AudioError(f"Magnitudes have shape {list(magnitudes.shape)}, expected [frames, {self.bins}].")
        plain = magnitudes.detach().to("cpu", torch.float32).contiguous()
        if not bool(((plain >= 0) & (plain < math.inf)).all()):
            raise AudioError("Magnitudes are negative, infinite or not a number; expected finite ones from 0 on.")
        return plain


class Reconstruction:
    """Spectra of a stream of magnitudes: phases of `PhaseGradient`, then `iterations` of fast Griffin-Lim on each block.

    Each block's iterations see the frames before it, which no longer change, and none after it (Perraudin, Balazs and
    Sondergaard, "A fast Griffin-Lim algorithm", 2013). Parameters and errors are those of `PhaseGradient`.
    """

    def __init__(self, n_fft: int, hop: int, block: int, seed: int, iterations: int, kernels: Kernels = PLAIN) -> None:
        if iterations < 0:
            raise ConfigError(f"Griffin-Lim got {iterations} iterations, expected 0 or more.")
        self.phases = PhaseGradient(n_fft, hop, block, seed, kernels)
        self.n_fft, self.hop, self.block, self.iterations = n_fft, hop, block, iterations
        self.pieces = -(-n_fft // hop)  # frames that cover a sample
        self._start()

    def _start(self) -> None:
        bins = self.phases.bins
        self._magnitudes = torch.zeros(0, bins, dtype=torch.float32)  # of frames that were not returned yet
        self._turns = torch.zeros(0, bins, dtype=torch.int32)
        self._fixed = torch.zeros(0, bins, dtype=torch.complex64)  # spectra of the frames that overlap the next block

    def push(self, magnitudes: Tensor) -> Tensor:
        """Magnitudes `[n, F]` -> complex spectra `[m, F]` (complex64) of the next frames that are settled.

        Without iterations all but at most one frame are settled, with iterations those of complete blocks. CPU, or CUDA
        for magnitudes there.
        """
        self._turns = torch.cat([self._turns, self.phases.push(magnitudes)])
        place = magnitudes.device if magnitudes.device.type == "cuda" else torch.device("cpu")
        self._magnitudes = torch.cat([self._magnitudes.to(place), magnitudes.detach().to(place, torch.float32)])
        count = len(self._turns)
        return self._take(count if self.iterations == 0 else count - count % self.block)

    def finish(self) -> Tensor:
        """Spectra of the remaining frames `[m, F]`; the next push starts a new stream."""
        self._turns = torch.cat([self._turns, self.phases.finish()])
        rest = self._take(len(self._turns))
        self._start()
        return rest

    def state(self) -> dict[str, Tensor]:
        """Everything that later spectra depend on; for `restore`."""
        own = {"magnitudes": self._magnitudes, "phases": self._turns, "fixed": torch.view_as_real(self._fixed)}
        return {**self.phases.state(), **own}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave. Raises `ConfigError` for a state of another number of bins."""
        self.phases.restore(state)
        self._magnitudes, self._turns = state["magnitudes"], state["phases"]
        self._fixed = torch.view_as_complex(state["fixed"].contiguous())

    def _take(self, count: int) -> Tensor:
        magnitudes, self._magnitudes = self._magnitudes[:count], self._magnitudes[count:].clone()
        turns, self._turns = self._turns[:count], self._turns[count:].clone()
        spectra = self.phases.kernels.polar(magnitudes, turns.to(magnitudes.device))
        if self.iterations == 0:
            return spectra
        for first in range(0, count, self.block):
            block = slice(first, first + self.block)
            spectra[block] = self._improve(spectra[block], magnitudes[block])
            self._fixed = torch.cat([self._fixed.to(spectra.device), spectra[block]])[1 - self.pieces :]
        return spectra

    def _improve(self, spectra: Tensor, magnitudes: Tensor) -> Tensor:
        """One block `[n, F]`, its phases made consistent (Perraudin et al., algorithm 2)."""
        hann = window(self.n_fft, spectra.device)
        lead = len(self._fixed)
        weight = self._add((hann**2).expand(lead + len(spectra), -1)).clamp_min(1e-3)
        past = spectra.real.new_zeros((self.pieces - 1) * self.hop)
        if lead:
            past = self._add(torch.fft.irfft(self._fixed, n=self.n_fft) * hann)
        past = F.pad(past, (0, len(spectra) * self.hop))
        previous: Tensor | None = None
        for _ in range(self.iterations):
            wave = self._add(torch.fft.irfft(spectra, n=self.n_fft) * hann)
            wave = (past + F.pad(wave, (past.shape[0] - wave.shape[0], 0))) / weight
            frames = wave.unfold(0, self.n_fft, self.hop)[lead:]
            found = torch.fft.rfft(frames * hann)
            ahead = found if previous is None else torch.lerp(previous, found, 1 + MOMENTUM)
            previous = found
            spectra = ahead * (magnitudes / ahead.abs().clamp_min(1e-9))
        return spectra

    def _add(self, frames: Tensor) -> Tensor:
        """Overlap-add: frames `[n, n_fft]` -> `[(n + pieces - 1) * hop]`, with zeros at the end if hops do not divide n_fft."""
        n = len(frames)
        parts = F.pad(frames, (0, self.pieces * self.hop - self.n_fft)).view(n, self.pieces, self.hop)
        sums = frames.new_zeros(n + self.pieces - 1, self.hop)
        for i in range(self.pieces):
            sums[i : i + n] += parts[:, i]
        return sums.flatten()
