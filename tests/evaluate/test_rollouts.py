"""Statistics of rollouts: windows stand where they say, and the numbers are right for distributions that are known."""

from __future__ import annotations

import pytest
import torch

from duotone.audio.waveform import Waveform
from duotone.errors import UsageError
from duotone.evaluate.rollouts import Row, roll, shuffled, spectral_centroid, statistics, to_dict
from duotone.flow import Sampler
from flow_toys import TOY, stirred


def walks(r: int, w: int, seed: int, rho: float = 0.9) -> torch.Tensor:
    """Stationary AR(1) of unit deviation whose channels go together in pairs, `[R, W, 2, 4]`."""
    g = torch.Generator().manual_seed(seed)
    x = [torch.randn(r, 2, 2, generator=g)]
    for _ in range(w - 1):
        x.append(rho * x[-1] + (1 - rho**2) ** 0.5 * torch.randn(r, 2, 2, generator=g))
    return torch.stack(x, 1).repeat_interleave(2, -1)


def test_windows_are_the_chunks_around_their_positions() -> None:
    model = stirred()
    seen: list[tuple[int, int]] = []
    found = roll(model, 3, (2, 9), window=4, batch=2, progress=lambda done, total: seen.append((done, total)))
    sampler = Sampler(model, range(3))
    whole = torch.stack([sampler.next().latents for _ in range(11)], 1)
    assert list(found) == [2, 9]
    for position, first in ((2, 0), (9, 7)):
        torch.testing.assert_close(found[position], whole[:, first : first + 4], atol=1e-4, rtol=1e-3)
    assert seen[-1] == (33, 33) and len(seen) == 22 and seen == sorted(seen)
    assert torch.equal(
        roll(model, 1, (0,), window=4)[0], roll(model, 1, (1,), window=4)[1]
    )  # none before the first chunk


def test_rollouts_continue_their_own_prompts() -> None:
    model = stirred()
    prompts = torch.randn(3, 2, TOY.tokens, TOY.channels, generator=torch.Generator().manual_seed(1))
    found = roll(model, 3, (2,), window=4, prompts=prompts, batch=2)[2]
    sampler = Sampler(model, [2])
    sampler.push(prompts[2:])
    torch.testing.assert_close(found[2, 0], sampler.next().latents[0], atol=1e-4, rtol=1e-3)


def test_numbers_of_known_distributions() -> None:
    real = 3 * walks(256, 16, 0) + 1
    windows = {8: 3 * walks(128, 16, 1) + 1, 16: 1.5 * walks(128, 16, 2) + 4, 24: 3 * walks(128, 16, 3, rho=0.0) + 1}
    same, faded, restless, half, mixed = statistics(windows, real)
    assert [row.position for row in (same, faded, restless, half, mixed)] == [8, 16, 24, None, None]
    assert [row.name for row in (same, half, mixed)] == ["generated", "real", "shuffled"]
    assert half.deviation == pytest.approx(1, abs=0.02) and half.chunks == 128 * 16
    assert same.deviation == pytest.approx(1, abs=0.05) and same.mean < 0.1
    assert faded.deviation == pytest.approx(0.5, abs=0.05) and faded.mean == pytest.approx(1, abs=0.1)
    assert faded.worst_mean >= faded.mean
    # 8 values: the mean's gap of 1 each, and deviations (in pairs: variance 2 and 0) that are halved
    assert faded.frechet == pytest.approx(8 * 1 + 8 * 0.25, rel=0.1)
    assert same.frechet < 0.5 and restless.frechet < 0.5  # chunk for chunk the same distribution
    # differences of a pair have variances 0.4 and 0 here, 4 and 0 without memory, and 2 and 2 where pairs are torn apart
    assert same.frechet_steps < 0.05 and half.frechet_steps < 0.05
    assert restless.frechet_steps == pytest.approx(4 * (2 - 0.4**0.5) ** 2, rel=0.1)
    assert mixed.frechet_steps == pytest.approx(4 * ((2**0.5 - 0.4**0.5) ** 2 + 2), rel=0.1)
    assert mixed.frechet == pytest.approx(4 * ((2**0.5 - 1) ** 2 + 1), rel=0.15)
    assert mixed.deviation == pytest.approx(half.deviation, abs=1e-3)
    assert mixed.mean == pytest.approx(half.mean, abs=1e-3)
    assert to_dict([same])[0]["frechet"] == same.frechet and set(to_dict([same])[0]) == set(Row.__dataclass_fields__)


def test_shuffling_keeps_each_value_of_each_place() -> None:
    x = walks(6, 5, 0)
    mixed = shuffled(x)
    torch.testing.assert_close(mixed.flatten(0, 1).sort(0).values, x.flatten(0, 1).sort(0).values)
    assert not torch.equal(mixed, x) and torch.equal(mixed, shuffled(x)) and not torch.equal(mixed, shuffled(x, 1))


def test_what_cannot_be_measured_is_refused() -> None:
    model, real = stirred(), walks(8, 4, 0)
    for arguments, hint in (((0,), "at least one rollout"), ((1, ()), "one position"), ((1, (4,), 1), "2 chunks")):
        with pytest.raises(UsageError, match=hint):
            roll(model, *arguments)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="2 prompts for 3 rollouts"):
        roll(model, 3, prompts=torch.zeros(2, 1, 4, 6))
    with pytest.raises(UsageError, match="at least 4 crops"):
        statistics({}, real[:3])
    for windows in (real[:, :1], real[..., :2]):
        with pytest.raises(UsageError, match="W of 2 or more, and the same M and C"):
            statistics({16: windows}, real)


def test_crops_of_other_lengths_are_pooled() -> None:
    real = walks(256, 16, 0)
    rows = statistics(
        {16: walks(64, 64, 1)}, real, others={"half": walks(512, 8, 2), "restless": walks(512, 8, 3, rho=0.0)}
    )
    long, *_, short, restless = rows
    assert (short.name, restless.name, short.chunks) == ("half", "restless", 4096)
    assert short.frechet < 0.3 and short.frechet_steps < 0.05 and long.frechet_steps < 0.05
    assert restless.frechet < 0.3 and restless.frechet_steps > 5


def test_centroids_are_those_of_the_decoded_windows() -> None:
    def decode(x: torch.Tensor) -> Waveform:  # a tone whose frequency is 1000 Hz for each unit of the first value
        time = torch.arange(24_000) / 48_000
        return Waveform(torch.sin(2 * torch.pi * 1000 * float(x[0, 0, 0]) * time)[None].float().contiguous(), 48_000)

    assert spectral_centroid(decode(torch.full((1, 1, 1), 3.0))) == pytest.approx(3000, abs=100)
    real = 2 + 0.1 * walks(8, 4, 0)
    rows = statistics({16: torch.full((4, 4, 2, 4), 5.0) + 0.001 * walks(4, 4, 1)}, real, decode=decode, heard=2)
    assert rows[0].centroid == pytest.approx(5000, abs=100)
    wanted = float(real[1::2][:2, 0, 0, 0].mean()) * 1000
    assert rows[1].centroid == pytest.approx(wanted, abs=100)
    assert all(row.centroid is None for row in statistics({}, real))


def test_rollouts_that_ran_away_are_reported() -> None:
    broken = walks(4, 4, 1)
    broken[0, 2] = float("nan")
    found = to_dict(statistics({16: broken}, walks(8, 4, 0)))
    assert found[0]["frechet"] is None and found[0]["deviation"] is None and found[1]["frechet"] is not None
