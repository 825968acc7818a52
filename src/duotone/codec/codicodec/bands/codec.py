"""`BandCodec`: CoDiCodec with the bands frontend, behind the contract of all codecs.

Legend: B rows, N chunks, L latents a chunk, d dimensions of a latent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from duotone.codec.batches import Batch, whole_number
from duotone.codec.codicodec.bands.features import Analysis
from duotone.codec.codicodec.bands.network import BandNetwork
from duotone.codec.codicodec.bands.synthesis import Synthesis
from duotone.codec.codicodec.identity import fingerprint, space
from duotone.codec.codicodec.precision import best_dtype
from duotone.codec.contract import Codec, as_dtype, resolve_device
from duotone.codec.values import Codes, Latents
from duotone.config import BandsConfig
from duotone.errors import UsageError
from duotone.nn.transformer import KeyValue
from duotone.quant.fsq import FSQ
from duotone.spec import CodecSpec, Source

#: Chunks that the estimator computes together.
TOGETHER = 16


class BandCodec(Codec):
    """CoDiCodec with the bands frontend. It holds weights but no state.

    The strategies of CoDiCodec differ in denoising steps; this codec makes none, so they all give its estimate.
    """

    equal_strategies = ("parallel", "autoregressive", "wavefront")

    def __init__(self, network: BandNetwork, *, name: str = "", provenance: dict[str, Any] | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config: BandsConfig = network.config
        self.provenance = provenance or {}
        self.fsq = FSQ(self.config.levels)
        self.spec = spec_of(network, name)
        self._analysis = Analysis(self.config)

    @classmethod
    def random(cls, config: BandsConfig, seed: int = 0) -> BandCodec:
        """An untrained codec with seeded random weights, for tests and benchmarks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = BandNetwork(config)
        return cls(network, name="random", provenance={"weights": f"random, seed {seed}"})

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> BandCodec:
        """Move this codec to a device and number format, in place; its fingerprint does not change.

        ``dtype="auto"`` keeps the encoder in float32, so that codes are the same everywhere, and decodes in the fastest
        format of the device. Any other format applies to encoder and decoder.
        """
        target = self.device if device is None else resolve_device(device)
        if dtype == "auto":
            _move(self.network.encoder, target, torch.float32)
            _move(self.network.estimator, target, best_dtype(target))
        else:
            _move(self.network, target, as_dtype(dtype))
        self._analysis = Analysis(self.config, target)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.estimator.lift.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the decoder's weights."""
        return self.network.estimator.lift.weight.dtype

    @property
    def encoding_format(self) -> str:
        """The number format of the encoder's weights."""
        return str(self.network.encoder.head.weight.dtype).removeprefix("torch.")

    def encode_batch(self, samples: Tensor) -> Batch:
        """Samples `[B, 2, N * chunk + spare]` -> latents `[B, N, L, d]`."""
        with torch.no_grad():
            features = self._analysis(samples.to(self.device)).chunks(self.config)
            bounded = self.fsq.bound(self.network.encoder(features)).cpu()
        return Batch(latents=bounded.unflatten(0, (len(samples), -1)))

    def decoder(
        self,
        source: Source,
        seed: int = 0,
        *,
        strategy: str | None = None,
        iterations: int | None = None,
        **unknown: Any,
    ) -> _Decoder:
        """A decoder from the estimate, with `iterations` of Griffin-Lim (default: the configuration's).

        Raises `UsageError` for an unknown option, or iterations out of range.
        """
        if unknown or strategy is not None:
            names = ", ".join([*unknown, *(["strategy"] if strategy is not None else [])])
            raise UsageError(
                f"Decoding with {self.spec.model or 'the bands frontend'} got {names}, expected no option but iterations. Leave {names} out."
            )
        if iterations is None:
            iterations = self.config.synthesis.iterations
        iterations = whole_number(iterations, "iterations", 0)
        return _Decoder(self, seed, iterations)


def _move(module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> None:
    """Move parameters to a device and a number format; constants (means, scales, filters) stay in float32."""
    module.to(device=device)
    if dtype is not None:
        for p in module.parameters():
            p.data = p.data.to(dtype)


def spec_of(network: BandNetwork, name: str = "") -> CodecSpec:
    """The spec of a network: chunks are encoded alone, and decoded as soon as they are there."""
    config = network.config
    overlap = config.n_fft - config.hop
    return CodecSpec(
        family=config.family,
        model=name,
        fingerprint=fingerprint(config, network),
        space=space(config, network),
        rate=config.rate,
        rate_out=config.rate,
        channels=config.audio_channels,
        chunk=config.chunk_samples,
        behind=config.lead + overlap,  # the first frame ends a hop after the first sample
        ahead=config.spare - config.lead - overlap,
        extra=overlap,  # the last sample is in all the frames that cover it
        steps=config.latents,
        codebooks=(FSQ(config.levels).size,),
        latent=(config.latents, len(config.levels)),
        levels=config.levels,
        independent=True,
        seeded=True,
        live=True,
    )


class _Decoder:
    """Latents of chunks -> samples: the estimator's state, and that of the synthesis."""

    def __init__(self, codec: BandCodec, seed: int, iterations: int) -> None:
        self._codec = codec
        self._state: list[KeyValue] | None = None
        self._synthesis = Synthesis(codec.config, seed, iterations)
        self._drop = codec.config.n_fft - codec.config.hop  # zeros that were put before the waveform

    def push(self, value: Latents | Codes) -> Tensor:
        latents = value.latents() if isinstance(value, Codes) else value
        pieces = [torch.zeros(2, 0, dtype=torch.float32)]
        for values in torch.split(latents.values, TOGETHER) if len(latents) else ():
            with torch.no_grad():
                maps, self._state = self._codec.network.estimator(values[None].to(self._codec.device), self._state)
            pieces.append(self._synthesis.push(maps))
        samples = torch.cat(pieces, 1)
        dropped = min(self._drop, samples.shape[1])
        self._drop -= dropped
        return samples[:, dropped:]

    def finish(self) -> Tensor:
        return torch.zeros(2, 0, dtype=torch.float32)

    def state(self) -> dict[str, Tensor]:
        state = {f"synthesis.{name}": tensor for name, tensor in self._synthesis.state().items()}
        for i, (k, v) in enumerate(self._state or ()):
            state[f"keys.{i}"], state[f"values.{i}"] = k.cpu().clone(), v.cpu().clone()
        return {**state, "drop": torch.tensor(self._drop)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._synthesis.restore({name[10:]: t for name, t in state.items() if name.startswith("synthesis.")})
        device, layers = self._codec.device, sum(name.startswith("keys.") for name in state)
        both = [tuple(state[f"{kind}.{i}"].to(device) for kind in ("keys", "values")) for i in range(layers)]
        self._state = [(k, v) for k, v in both] or None
        self._drop = int(state["drop"])
