"""`Lycodec`: the hybrid codec behind the contract of all codecs.

Latents are the bounded values z_cont; codes are their rounding. Fusion is the decoder's work: latents are decoded with their
residual, codes without.

Legend: B rows, N chunks, F bins, T frames, n tokens of a chunk, V values of a token, G groups of values.
"""

from __future__ import annotations

from typing import Any, get_args

import torch
from torch import Tensor, nn

from duotone.codec.batches import Batch, whole_number
from duotone.codec.lycodec.decoding import Decoding, noise_levels, noise_shape
from duotone.codec.lycodec.frontend import chunk_spectra
from duotone.codec.lycodec.identity import fingerprint, space
from duotone.codec.lycodec.network import LycodecNetwork
from duotone.codec.lycodec.rephasing import Rephasing
from duotone.codec.noise import Noise, seeded_noise
from duotone.codec.own import OwnCodec
from duotone.config import LycodecConfig, LycodecPhases
from duotone.errors import UsageError
from duotone.spec import CodecSpec, Source


class Lycodec(OwnCodec):
    """Lycodec, a codec with latents and codes. It holds weights but no state.

    With `groups` it is a rung of the ladder of rates: it encodes the first groups of values alone, into as many fewer codebooks.
    """

    def __init__(
        self,
        network: LycodecNetwork,
        *,
        name: str = "",
        provenance: dict[str, Any] | None = None,
        groups: int | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config: LycodecConfig = network.config
        self.provenance = provenance or {}
        self.groups = _groups(groups, self.config)
        self.spec = spec_of(network, name, self.groups)

    @classmethod
    def random(cls, config: LycodecConfig, seed: int = 0) -> Lycodec:
        """An untrained codec with seeded random weights, for tests and benchmarks; its output is noise."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = LycodecNetwork(config)
        return cls(network, name="random", provenance={"weights": f"random, seed {seed}"})

    def with_groups(self, groups: int) -> Lycodec:
        """This codec at another rate: the same weights, the first `groups` groups. Raises `UsageError` out of range."""
        return Lycodec(self.network, name=self.spec.model, provenance=self.provenance, groups=groups)

    @property
    def _parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.network, self.network.encoder, self.network.decoder

    def encode_batch(self, samples: Tensor) -> Batch:
        """Samples `[B, 2, overlap + N * chunk]` -> latents `[B, N, n, V]`."""
        with torch.no_grad():
            values = self.network.encode(chunk_spectra(samples.to(self.device), self.config))
            values = self.network.keep(values, torch.tensor([self.groups]))
        return Batch(latents=values.cpu().unflatten(0, (len(samples), -1)))

    def decoder(
        self,
        source: Source,
        seed: int = 0,
        *,
        strategy: str | None = None,
        steps: int | None = None,
        sigma: float | None = None,
        groups: int | None = None,
        phases: LycodecPhases | None = None,
        iterations: int | None = None,
        noise: Noise | None = None,
        **unknown: Any,
    ) -> Decoding:
        """A decoder from noise at level `sigma` (default sigma_max) in `steps` steps (default: the configuration's).

        `groups` decodes the first groups of values alone. `phases` are those of the network's estimate (*network*), or made from its
        magnitudes (*magnitudes*), with `iterations` of Griffin-Lim; defaults are the configuration's. `noise(chunk, draw) -> [4, F, T]` replaces the seeded default. Raises
        `UsageError` for an unknown option, or one out of range.
        """
        if unknown or strategy is not None:
            names = ", ".join([*unknown, *(["strategy"] if strategy is not None else [])])
            raise UsageError(
                f"Decoding with {self.spec.model or 'lycodec'} got {names}, expected steps, sigma, groups, phases, iterations or noise. Leave {names} out."
            )
        levels = noise_levels(self.config, steps, sigma)
        return Decoding(
            self.network,
            noise or seeded_noise(seed, noise_shape(self.config)),
            levels,
            _groups(groups, self.config),
            self._rephasing(seed, phases, iterations),
        )

    def _rephasing(self, seed: int, phases: LycodecPhases | None, iterations: int | None) -> Rephasing | None:
        default = self.config.decode
        phases = default.phases if phases is None else phases
        if phases not in get_args(LycodecPhases):
            raise UsageError(f"phases got {phases!r}, expected one of {', '.join(get_args(LycodecPhases))}.")
        if phases == "network":
            if iterations is not None:
                raise UsageError(
                    "iterations are for phases='magnitudes'; the network's phases have none. Leave them out."
                )
            return None
        count = whole_number(default.iterations if iterations is None else iterations, "iterations", 0)
        return Rephasing(self.config, seed, count)


def _groups(groups: int | None, config: LycodecConfig) -> int:
    if groups is None:
        return config.groups
    groups = whole_number(groups, "groups", 1)
    if groups > config.groups:
        raise UsageError(f"groups got {groups}, expected 1 to {config.groups}.")
    return groups


def spec_of(network: LycodecNetwork, name: str = "", groups: int | None = None) -> CodecSpec:
    """The spec of a network (or of its first groups): each chunk is encoded and decoded alone, with the samples that frames share."""
    config = network.config
    books = config.codebook_levels
    kept = len(books) // config.groups * (groups or config.groups)
    return CodecSpec(
        family=config.family,
        model=name,
        fingerprint=fingerprint(config, network),
        space=space(config, network),
        rate=config.rate,
        rate_out=config.rate,
        channels=config.audio_channels,
        chunk=config.chunk_samples,
        behind=config.overlap,
        extra=config.overlap,  # the last sample is in all the frames that cover it
        steps=config.tokens,
        codebooks=network.fsq.sizes[:kept],
        latent=(config.tokens, config.values),
        levels=books[0] if len(set(books)) == 1 else network.fsq.levels,
        independent=True,
        seeded=True,
        live=True,
    )
