"""The state of a live stream: taken out, written to bytes, and gone on with elsewhere."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load, save

from duotone.codec.codicodec import CoDiCodec
from duotone.codec.contract import Codec
from duotone.codec.values import Latents
from duotone.errors import UsageError
from small import SMALL
from small_bands import random_bands
from toys import Grouped


def codecs() -> list[Codec]:
    return [random_bands(), CoDiCodec.random(SMALL, seed=1)]


def chunks(codec: Codec, count: int) -> Latents:
    shape = (count, *(codec.spec.latent or ()))
    return codec.latents(torch.randn(shape, generator=torch.Generator().manual_seed(2)).tanh())


@pytest.mark.parametrize("codec", codecs(), ids=lambda codec: type(codec).__name__)
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_restored_stream_gives_the_same_samples_bit_for_bit(codec: Codec, before: int) -> None:
    values = chunks(codec, before + 3)
    whole = codec.stream(seed=5)
    assert whole.resumable
    for i in range(before):
        whole.push(values[i])
    state = load(save({name: tensor.contiguous() for name, tensor in whole.state().items()}))
    other = codec.stream(seed=5)
    other.resume(state)
    kept = {name: tensor.clone() for name, tensor in state.items()}
    for i in range(before, before + 3):
        assert torch.equal(whole.push(values[i]).samples, other.push(values[i]).samples)
    assert all(torch.equal(state[name], kept[name]) for name in kept)  # going on changes no state that was taken out


def test_streams_that_cannot_be_taken_out_say_so() -> None:
    codec = random_bands()
    resampled = codec.decode_stream(codec.source(rate=24_000))
    whole = Grouped().decode_stream(Grouped.spec)
    for stream in (resampled, whole, CoDiCodec.random(SMALL).decode_stream(CoDiCodec.random(SMALL).spec)):
        assert not stream.resumable
        with pytest.raises(UsageError, match="cannot be taken out"):
            stream.state()
    live = codec.stream()
    with pytest.raises(UsageError, match="no decoding session"):
        live.resume({"held": torch.zeros(1, 0)})
