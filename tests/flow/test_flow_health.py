"""Health of a session: the period of its onsets, silence, loops of any length, and states that go on with the same figures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from duotone.flow.health import ALIKE, LAGS, SPAN, Monitor

RATE, CHUNK = 48_000, 32_768


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def listened(sound: Tensor, latents: Tensor | None = None, size: int = CHUNK) -> Monitor:
    """A monitor that heard a sound `[c, T]` in pieces, each with latents `[8, 64]` of its own."""
    monitor = Monitor(RATE)
    for i, piece in enumerate(sound.split(size, 1)):
        monitor.push(drawn(8, 64, seed=i) if latents is None else latents[i % len(latents)], piece)
    return monitor


def bursts(period: float, seconds: float) -> Tensor:
    """Short bursts of noise at equal distances, in a quiet noise `[2, T]`."""
    sound = 1e-3 * drawn(2, round(seconds * RATE))
    for k in range(int(seconds / period)):
        at = round(k * period * RATE)
        sound[:, at : at + 2400] += 0.3 * drawn(2, 2400, seed=k)[:, : sound.shape[1] - at]
    return sound


@pytest.mark.parametrize("period", [0.32, 0.5, 0.9])
@pytest.mark.parametrize("size", [CHUNK, 5000])
def test_the_period_of_onsets_is_found_however_pieces_are_cut(period: float, size: int) -> None:
    health = listened(bursts(period, 10.0), size=size).report()
    assert health.periodicity > 0.5
    turns = health.period / period  # a whole number of periods is one, too
    assert abs(turns - round(turns)) < 0.06 and round(turns) >= 1


def test_sound_without_onsets_has_no_period() -> None:
    noise, silence = listened(0.1 * drawn(2, 10 * RATE)).report(), listened(torch.zeros(2, 10 * RATE)).report()
    assert noise.periodicity < 0.4 and (silence.periodicity, silence.period) == (0.0, 0.0)
    assert Monitor(RATE).report().stuck is None


def test_silence_is_noticed_after_eight_chunks_and_not_before() -> None:
    faint = 1e-4 * drawn(2, (SPAN - 1) * CHUNK)
    assert listened(faint).report().stuck is None
    monitor = listened(torch.cat([faint, torch.zeros(2, CHUNK)], 1))
    assert monitor.report().stuck == "silent" and monitor.report().loudness == -120.0
    monitor.push(drawn(8, 64, seed=99), 0.1 * drawn(2, CHUNK))
    assert monitor.report().stuck is None and abs(monitor.report().loudness + 20) < 0.1


@pytest.mark.parametrize("lag", [1, 3, LAGS])
def test_a_loop_is_noticed_with_its_length(lag: int) -> None:
    loop = drawn(lag, 8, 64, seed=5)
    health = listened(0.1 * drawn(2, (LAGS + SPAN) * 512), loop, 512).report()
    assert health.stuck == "repeats" and health.similarity > ALIKE and health.lag % lag == 0
    free = listened(0.1 * drawn(2, (LAGS + SPAN) * 512), None, 512).report()
    assert free.stuck is None and free.similarity < 0.5 and abs(free.deviation - 1) < 0.1


def test_a_state_goes_on_with_the_same_figures() -> None:
    sound = bursts(0.5, 9.0)
    monitor, other = listened(sound), Monitor(RATE)
    other.restore(monitor.state())
    for each in (monitor, other):
        each.push(drawn(8, 64, seed=77), sound[:, :CHUNK])
    assert monitor.report() == other.report() and monitor.report().periodicity > 0
