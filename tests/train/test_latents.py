"""Crops of stores for training: positions, lengths for small collections, statistics of several stores, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from duotone.errors import ConfigError, FormatError
from duotone.store.split import split
from duotone.train.crops import crop_length
from duotone.train.latents import LatentsSection, open_latents
from latent_toys import SPEC, make_store, process


def test_crops_are_chunks_of_the_recordings_and_a_function_of_step_and_position(tmp_path: Path) -> None:
    make_store(tmp_path / "s", {"a": 30, "b": 9})
    crops = open_latents(LatentsSection(chunks=4), [str(tmp_path / "s")], seed=1).training
    batch = crops.batch(3, range(6))["latents"]
    assert batch.shape == (6, 4, 4, 6)
    assert torch.equal(batch[2:4], crops.batch(3, range(2, 4))["latents"])
    assert not torch.equal(batch, crops.batch(4, range(6))["latents"])
    whole = [torch.from_numpy(process(seed, chunks)) for seed, chunks in ((0, 30), (1, 9))]
    for crop in batch:
        assert any(torch.equal(crop, x[i : i + 4]) for x in whole for i in range(len(x) - 3))


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    wanted=st.integers(1, 64),
    share=st.sampled_from([0.0, 0.05, 0.5]),
)
def test_any_one_to_five_recordings_are_enough(lengths: list[int], wanted: int, share: float) -> None:
    chunks, held = crop_length(wanted, share, lengths)
    assert 1 <= chunks <= wanted and held in (0.0, share)
    parts = split([(str(i), n) for i, n in enumerate(lengths)], chunks, held)
    assert len(parts.training) and bool(len(parts.validation)) == bool(held)
    if share and max(lengths) >= 4:
        assert held  # then there is something to validate on
    if max(lengths) >= 2 * wanted:
        assert chunks == wanted


@pytest.mark.parametrize(("lengths", "expected"), [([2], (2, 0.0)), ([3], (3, 0.0)), ([4], (2, 0.1)), ([1], (1, 0.0)),
                                                   ([100], (50, 0.1)), ([40, 50], (40, 0.1)), ([200], (64, 0.1))])  # fmt: skip
def test_crops_are_shorter_where_recordings_are(lengths: list[int], expected: tuple[int, float]) -> None:
    assert crop_length(64, 0.1, lengths) == expected


def test_statistics_of_several_stores_are_those_of_all_their_latents(tmp_path: Path) -> None:
    make_store(tmp_path / "s", {"a": 30})
    make_store(tmp_path / "t", {"a": 5, "b": 8}, rho=0.1)
    found = open_latents(LatentsSection(chunks=4), [str(tmp_path / "s"), str(tmp_path / "t")], 0)
    rows = torch.cat([torch.from_numpy(x) for x in (process(0, 30), process(0, 5, 0.1), process(1, 8, 0.1))]).reshape(
        -1, 6
    )
    mean, deviation = found.stored.statistics()
    torch.testing.assert_close(mean, rows.mean(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(deviation, rows.std(0, correction=0), atol=1e-5, rtol=1e-5)
    assert [name for name, _ in found.stored.recordings] == ["a", "a", "b"]


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "s", {"a": 30})
    make_store(tmp_path / "other", {"a": 30}, spec=replace(SPEC, space="s2"))
    make_store(tmp_path / "layout", {"a": 30}, channels=12)
    make_store(tmp_path / "empty", {})
    for name, hint in (("other", "space s2"), ("layout", "12 channels")):
        with pytest.raises(ConfigError, match=hint):
            open_latents(LatentsSection(), [str(tmp_path / "s"), str(tmp_path / name)], 0)
    with pytest.raises(ConfigError, match="no recordings"):
        open_latents(LatentsSection(), [str(tmp_path / "empty")], 0)
    with pytest.raises(FormatError, match="is no store"):
        open_latents(LatentsSection(), [str(tmp_path)], 0)
