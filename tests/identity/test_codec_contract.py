"""The contract holds for every shape of codec, and `verify_codec` finds the ones that break it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from duotone.codec.batches import Batch
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.contract import Codec
from duotone.codec.verify import ContractError, verify_codec
from toys import TOYS, Features, Grouped, Pcm, Toy


def test_codicodec_keeps_the_contract(codec: CoDiCodec) -> None:
    rules = verify_codec(codec)
    assert len(rules) >= 11 and any("NaN" in rule for rule in rules) and any("Live" in rule for rule in rules)


@pytest.mark.parametrize("toy", TOYS, ids=lambda toy: toy.__name__)
def test_every_shape_keeps_the_contract(toy: type[Toy]) -> None:
    assert len(verify_codec(toy())) >= 9


class Leaks(Features):
    """Declares less of its past than it sees."""

    def encode_batch(self, samples: Tensor) -> Batch:
        found = super().encode_batch(samples)
        assert found.latents is not None
        return Batch(latents=found.latents + samples.mean(dim=(1, 2))[:, None, None, None])


class DependsOnTheBatch(Pcm):
    def encode_batch(self, samples: Tensor) -> Batch:
        return super().encode_batch(samples * (1 if len(samples) == 1 else 0.5))


class OutOfRange(Pcm):
    def encode_batch(self, samples: Tensor) -> Batch:
        found = super().encode_batch(samples)
        assert found.codes is not None
        return Batch(codes=found.codes + 3)


class Forgetful(Grouped):
    """Drops the last chunk."""

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        return super().decode_batch(codes[:, :-1], scale) * torch.nan


class Random(Grouped):
    """Decodes something else each time."""

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        return super().decode_batch(codes, scale) + 0.1 * torch.rand(())


class TakesAnything(Grouped):
    def decoder(self, source: Any, seed: int = 0, **options: Any) -> Any:
        return super().decoder(source, seed)

    def check(self, spec: Any) -> None:
        pass


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        (Leaks(), "independent|blocks|encode_many"), (DependsOnTheBatch(), "singles"), (OutOfRange(), "in range"),
        (Forgetful(), "finite"), (Random(), "whole|one seed"), (TakesAnything(), "refused"),
        (Pcm(chunk=50), "a chunk for each chunk|number of chunks"), (Pcm(space=""), "both hashes"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Codec) else "",
)  # fmt: skip
def test_what_breaks_the_contract_is_found(broken: Codec, rule: str) -> None:
    with pytest.raises(ContractError, match=rule):
        verify_codec(broken)
