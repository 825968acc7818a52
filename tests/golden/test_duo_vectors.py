"""Files written before stay right: version 1 as it was written then, versions 2 and 3 by their test vectors, byte for byte."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from make_duo_vectors import FOLDER, compact_vectors, vectors

import duotone
from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.container import read_duo, write_duo
from duotone.codec.duofile import describe
from duotone.codec.header import SPACES
from duotone.codec.values import Codes, Latents
from duotone.errors import CodecMismatchError


@pytest.fixture(scope="module")
def tiny() -> BandCodec:
    codec: BandCodec = duotone.load("tiny", dtype="float32")
    return codec


def test_the_bundled_codec_has_the_identities_that_files_name(tiny: BandCodec) -> None:
    """A new field of the configuration must not change them: every file that was written names them."""
    assert (tiny.spec.fingerprint, tiny.spec.space) == ("f6a453721e091685", "e89b0a15a1569156")


def test_encodings_of_the_former_bundled_codec_are_refused_by_name_when_decoded(tiny: BandCodec) -> None:
    former = read_duo(FOLDER / "version-1-tokens.duo")
    assert SPACES["e8c608f7f1106d66"] == former.spec.space == "953e3f4a2b72cae3"
    with pytest.raises(CodecMismatchError, match=r"`tiny` that Duotone 0\.1 bundled"):
        tiny.decode(former)


def test_version_1() -> None:
    known = np.load(FOLDER / "version-1-values.npz")
    codes = read_duo(FOLDER / "version-1-tokens.duo")
    assert isinstance(codes, Codes) and np.array_equal(codes.numpy(), known["codes"])
    assert (codes.source.rate, codes.source.channels, codes.source.samples) == (44_100, 2, 220_500)
    latents = read_duo(FOLDER / "version-1-latents.duo")
    assert isinstance(latents, Latents) and latents.source.framing == "published"
    assert np.abs(latents.numpy() - known["latents"] / 32767).max() < 1e-4
    assert len(codes) == 8 and len(latents) > 0
    told = describe(FOLDER / "version-1-tokens.duo")
    assert (told.version, told.chunks, told.seconds, told.damage) == (1, 8, 5.0, ())


@pytest.mark.parametrize("name", vectors())
def test_version_2(name: str) -> None:
    value = vectors()[name]
    found = read_duo(FOLDER / f"{name}.duo")
    assert type(found) is type(value) and found.source == value.source and found.spec == value.spec
    if isinstance(value, Codes) and isinstance(found, Codes):
        assert found == value
    elif isinstance(value, Latents) and isinstance(found, Latents):
        assert torch.allclose(found.values, value.values, atol=2e-5)
    again = io.BytesIO()
    write_duo(again, value)
    assert again.getvalue() == (FOLDER / f"{name}.duo").read_bytes()
    assert describe(FOLDER / f"{name}.duo").chunks == len(value)


@pytest.mark.parametrize("name", compact_vectors())
def test_version_3(name: str) -> None:
    value, again = compact_vectors()[name], io.BytesIO()
    assert read_duo(FOLDER / f"{name}.duo") == value
    write_duo(again, value, compact=True)
    assert again.getvalue() == (FOLDER / f"{name}.duo").read_bytes()
    assert describe(FOLDER / f"{name}.duo").version == 3
