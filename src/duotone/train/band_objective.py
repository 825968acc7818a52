"""What the objectives that train a CoDiCodec with the bands frontend have in common: crops of consecutive chunks, their features.

Legend: B examples of N consecutive chunks, L latents of d dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from duotone.codec.codicodec.bands.codec import BandCodec
from duotone.codec.codicodec.bands.features import Analysis, Features
from duotone.codec.codicodec.bands.network import BandNetwork
from duotone.codec.contract import Codec
from duotone.config import BandsConfig
from duotone.quant.fsq import FSQ
from duotone.train.codicodec_objective import CoDiCodecObjective


class BandObjective(CoDiCodecObjective):
    """Owns the network, and the windows and filters of its features."""

    made = BandCodec
    frontend = "bands"
    config: BandsConfig
    network: BandNetwork

    def __init__(self, config: BandsConfig, chunks: int) -> None:
        super().__init__()
        self.config, self.chunks = config, chunks
        self.network = BandNetwork(config)
        self.fsq = FSQ(config.levels)
        self._analysis: Analysis | None = None

    def begin_from(self, codec: Codec) -> None:
        """See `CoDiCodecObjective`. A frozen encoder hears as it has learnt to: the floor of magnitudes is then the codec's."""
        super().begin_from(codec)
        if not any(p.requires_grad for p in self.network.encoder.parameters()):
            assert isinstance(codec, BandCodec)
            self.config = self.config.model_copy(update={"floor": codec.config.floor})

    @property
    def crop(self) -> int:
        """Samples of one example: its chunks, and what their windows reach beyond."""
        return self.chunks * self.config.chunk_samples + self.config.spare

    def before_bound(self, samples: Tensor) -> Tensor:
        """See `CoDiCodecObjective`."""
        pre: Tensor = self.network.encoder(self.features(samples))
        return pre

    def features(self, samples: Tensor) -> Features:
        """Samples `[B, 2, crop]` -> features of their chunks, `[B * N, ...]`."""
        with torch.no_grad(), torch.autocast(samples.device.type, enabled=False):
            return self.analysis(samples.device)(samples).chunks(self.config)

    def analysis(self, device: torch.device) -> Analysis:
        """The windows and filters for a device."""
        if self._analysis is None or self._analysis.device != device:
            self._analysis = Analysis(self.config, device)
        return self._analysis
