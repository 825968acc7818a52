"""Arguments of public calls that cannot be right get a sentence, whatever their type."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import duotone
from duotone import Codes, Latents, UsageError, Waveform
from duotone.codec.batches import Window

WAVE = Waveform(0.1 * np.sin(np.arange(40_000) / 20), 48_000)


@pytest.fixture(scope="session")
def latents(codec: Any) -> Any:
    return codec.encode(WAVE)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda c, v: c.encode(WAVE, batch=0), "batch got 0, expected at least 1"),
        (lambda c, v: c.encode(WAVE, batch=1.5), "batch got 1.5, expected a whole number"),
        (lambda c, v: c.encode(WAVE, window=3), "expected a Window"),
        (lambda c, v: list(c.encode_many([WAVE], batch="8")), "batch got '8'"),
        (lambda c, v: list(c.encode_many(WAVE)), "expected a list of Waveforms"),
        (lambda c, v: list(c.encode_many(None)), "expected a list of Waveforms"),
        (lambda c, v: c.decode(v, seed=1.5), "seed got 1.5"),
        (lambda c, v: c.decode(v, seed="a"), "seed got 'a'"),
        (lambda c, v: c.decode(v, steps=1.5), "steps got 1.5"),
        (lambda c, v: c.decode(v, noise=lambda chunk, draw: np.zeros(3)), "noise gave shape"),
        (lambda c, v: c.to("gpu"), "expected cpu, cuda, cuda:N or mps"),
        (lambda c, v: c.to("float32"), "Write dtype='float32'"),
        (lambda c, v: c.to(torch.bfloat16), "Write dtype='bfloat16'"),
        (lambda c, v: Latents.join([v, v.codes()]), "Codes among its parts"),
        (lambda c, v: Codes.join([v]), "Latents among its parts"),
        (lambda c, v: Latents.from_channels(v.channels(), c), "expected a CodecSpec"),
        (lambda c, v: Latents.from_channels(v.channels() * float("inf"), c.spec), "not finite"),
        (lambda c, v: Window.of(c.spec, float("nan")), "finite"),
        (lambda c, v: Window.of(c.spec, 1.0, float("inf")), "finite"),
        (lambda c, v: duotone.load(""), "load got ''"),
        (lambda c, v: duotone.load(None), "load got None"),
        (lambda c, v: duotone.save(c, ""), "expected the name of a folder"),
        (lambda c, v: duotone.write_duo(b"a.duo", v), "Got bytes"),
        (lambda c, v: duotone.read_duo(None), "Got NoneType"),
    ],
)
def test_a_sentence_names_what_was_expected(codec: Any, latents: Any, call: Callable[..., Any], says: str) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        call(codec, latents)


def test_seeds_of_any_integer_type_are_one_seed(codec: Any, latents: Any) -> None:
    expected = codec.decode(latents, seed=1).samples
    for seed in (True, np.int64(1), np.uint8(1), torch.tensor(1)):
        assert torch.equal(codec.decode(latents, seed=seed).samples, expected)


def test_noise_may_come_as_arrays(codec: Any, latents: Any) -> None:
    config = codec.config
    draws = np.random.default_rng(0).standard_normal((2 * config.audio_channels, config.bins, config.frames))
    as_array = codec.decode(latents, noise=lambda chunk, draw: draws)
    as_tensor = codec.decode(latents, noise=lambda chunk, draw: torch.from_numpy(draws))
    assert torch.equal(as_array.samples, as_tensor.samples)


def test_parts_may_come_from_an_iterator(latents: Any) -> None:
    assert torch.equal(Latents.join(iter([latents[:1], latents[1:]])).values, latents.values)


def test_write_duo_replaces_only_when_told_to(latents: Any, tmp_path: Path) -> None:
    target = tmp_path / "song.wav"
    target.write_bytes(b"a song")
    with pytest.raises(UsageError, match="force=True"):
        duotone.write_duo(target, latents)
    assert target.read_bytes() == b"a song"
    duotone.write_duo(target, latents, force=True)
    assert duotone.read_duo(target).spec == latents.spec


def test_save_refuses_the_name_of_a_file(codec: Any, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    with pytest.raises(UsageError, match="expected the name of a folder"):
        duotone.save(codec, tmp_path / "a")


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(2, 5).to_sparse(),
        torch.zeros(2, 5, device="meta"),
        torch.nested.nested_tensor([torch.zeros(3)], layout=torch.jagged),
    ],
)
def test_tensors_without_dense_values_are_refused(values: torch.Tensor) -> None:
    with pytest.raises(duotone.AudioError, match="expected a dense one"):
        Waveform(values, 48_000)


def test_a_file_that_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    target = tmp_path / "song.wav"
    target.write_bytes(b"RIFF")
    with pytest.raises(duotone.WeightsError, match="is no PyTorch file"):
        duotone.load(target)
