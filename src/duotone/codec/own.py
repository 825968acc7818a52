"""`OwnCodec`: what codecs with a network of Duotone have in common: where its weights are, and in which number formats."""

from __future__ import annotations

from abc import abstractmethod
from typing import TypeVar

import torch
from torch import nn

from duotone.codec.contract import Codec, as_dtype, resolve_device
from duotone.codec.precision import best_dtype
from duotone.nn.state import move_parameters

Self = TypeVar("Self", bound="OwnCodec")


class OwnCodec(Codec):
    """A codec with one network, a part of which is the encoder."""

    @property
    @abstractmethod
    def _parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        """The network, its encoder, and a part of its decoder."""

    def to(self: Self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> Self:
        """Move this codec to a device and number format, in place; its fingerprint does not change.

        ``dtype="auto"`` keeps the encoder in float32, so that codes are the same everywhere, and decodes in the fastest
        format of the device. Any other format applies to encoder and decoder. Constants (means, scales, filters) keep their
        format.
        """
        network, encoder, _ = self._parts
        target = self.device if device is None else resolve_device(device)
        if dtype != "auto":
            move_parameters(network, target, as_dtype(dtype))
            return self
        network.to(device=target)
        encoding = {id(p) for p in encoder.parameters()}
        for p in network.parameters():
            p.data = p.data.to(torch.float32 if id(p) in encoding else best_dtype(target))
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self._parts[2].parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the decoder's weights."""
        return next(self._parts[2].parameters()).dtype

    @property
    def encoding_format(self) -> str:
        """The number format of the encoder's weights."""
        return str(next(self._parts[1].parameters()).dtype).removeprefix("torch.")
