"""Averages of two codecs: the ends, the middle, what stays equal, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.weights import load_codec, save_codec
from duotone.errors import UsageError
from duotone.train.average import average, main
from small_bands import random_bands


def pair() -> tuple[BandCodec, BandCodec]:
    """A codec, and one with another decoder."""
    first, second = random_bands(), random_bands()
    with torch.no_grad():
        for parameter in second.network.estimator.parameters():
            parameter.mul_(1.5)
    return first, BandCodec(second.network)


def test_the_ends_are_the_codecs_and_the_middle_lies_between() -> None:
    first, second = pair()
    states = [average(first, second, share).network.state_dict() for share in (0, 0.5, 1)]
    for name, tensor in first.network.state_dict().items():
        other = second.network.state_dict()[name]
        assert torch.equal(states[0][name], tensor) and torch.equal(states[2][name], other)
        assert torch.allclose(states[1][name], (tensor + other) / 2)
        if name.startswith("encoder."):
            assert torch.equal(states[1][name], tensor)


def test_the_command_writes_a_codec_of_the_same_latents_that_tells_of_it(tmp_path: Path) -> None:
    first, second = pair()
    for name, codec in (("a", first), ("b", second)):
        save_codec(codec, tmp_path / name, torch.bfloat16)
    first, second = load_codec(tmp_path / "a"), load_codec(tmp_path / "b")  # type: ignore[assignment]
    assert main([str(tmp_path / "a"), str(tmp_path / "b"), "--share", "0.7", "-o", str(tmp_path / "c")]) == 0
    made = load_codec(tmp_path / "c")
    assert made.spec.space == first.spec.space
    assert len({first.fingerprint, second.fingerprint, made.fingerprint}) == 3
    assert made.provenance["averaged"] == {"with": first.fingerprint, "share": 0.7}


def test_other_latents_and_shares_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, second = pair()
    with torch.no_grad():
        second.network.encoder.scale.mul_(2)
    with pytest.raises(UsageError, match="one network and latent space"):
        average(first, BandCodec(second.network), 0.5)
    with pytest.raises(UsageError, match=r"share got 1\.5"):
        average(first, first, 1.5)
    assert main([str(tmp_path), str(tmp_path), "-o", str(tmp_path / "c")]) != 0
    assert "error:" in capsys.readouterr().err
