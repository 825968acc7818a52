"""`BandCodec`: CoDiCodec with the bands frontend, behind the contract of all codecs.

Legend: B rows, N chunks, L latents a chunk, d dimensions of a latent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from duotone.codec.batches import Batch, whole_number
from duotone.codec.codicodec.bands.decoding import Autoregressive, Parallel, Refinement, key_state, restored_keys
from duotone.codec.codicodec.bands.features import Analysis
from duotone.codec.codicodec.bands.network import BandNetwork, Maps
from duotone.codec.codicodec.bands.synthesis import Magnitudes, Synthesis
from duotone.codec.codicodec.identity import fingerprint, space
from duotone.codec.codicodec.noise import seeded_noise
from duotone.codec.noise import Noise
from duotone.codec.own import OwnCodec
from duotone.codec.values import Codes, Latents
from duotone.config import BandsConfig
from duotone.errors import UsageError
from duotone.nn.transformer import KeyValue
from duotone.quant.fsq import FSQ
from duotone.spec import CodecSpec, Source

#: Chunks that the estimator computes together.
TOGETHER = 16
#: Names of the strategies; `wavefront` computes what `parallel` does (see `decoding`).
STRATEGIES = ("parallel", "autoregressive", "wavefront")
#: Steps of refinement at most.
MOST_STEPS = 1000


class BandCodec(OwnCodec):
    """CoDiCodec with the bands frontend. It holds weights but no state.

    The strategies of CoDiCodec differ in denoising steps. Without a refinement this codec makes none, so they all give its estimate.
    """

    def __init__(self, network: BandNetwork, *, name: str = "", provenance: dict[str, Any] | None = None) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config: BandsConfig = network.config
        self.provenance = provenance or {}
        self.fsq = FSQ(self.config.levels)
        self.spec = spec_of(network, name)
        self._analysis = Analysis(self.config)
        if network.refiner is None:
            self.equal_strategies = STRATEGIES
        elif self._steps("parallel", None) == self._steps("autoregressive", None) == 0:
            self.alike_by_default = STRATEGIES[1:]

    @classmethod
    def random(cls, config: BandsConfig, seed: int = 0) -> BandCodec:
        """An untrained codec with seeded random weights, for tests and benchmarks."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = BandNetwork(config)
        return cls(network, name="random", provenance={"weights": f"random, seed {seed}"})

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> BandCodec:
        """See `OwnCodec.to`."""
        super().to(device, dtype)
        self._analysis = Analysis(self.config, self.device)
        return self

    @property
    def _parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.network, self.network.encoder, self.network.estimator

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
        steps: int | None = None,
        time_prompt: float | None = None,
        iterations: int | None = None,
        noise: Noise | None = None,
        **unknown: Any,
    ) -> _Decoder:
        """A decoder from the estimate, with `iterations` of Griffin-Lim, then `steps` of refinement (defaults: the configuration's).

        `noise(chunk, draw) -> [4, F, n]` replaces the seeded default. Raises `UsageError` for an unknown option, for values out
        of range, and for steps of refinement that the weights do not have.
        """
        if unknown:
            names = ", ".join(unknown)
            raise UsageError(
                f"Decoding got {names}, expected steps, time_prompt, iterations or noise. Leave {names} out."
            )
        if iterations is None:
            iterations = self.config.synthesis.iterations
        iterations = whole_number(iterations, "iterations", 0)
        count = self._steps(strategy, steps)
        refinement: Refinement | None = None
        if time_prompt is not None and (strategy != "autoregressive" or count == 0):
            raise UsageError("time_prompt is for the autoregressive strategy of a refinement. Leave it out.")
        if count and self.network.refiner is not None and self.config.refinement is not None:
            drawn = noise or seeded_noise(seed, self.config)
            if strategy == "autoregressive":
                prompt = self.config.refinement.decode.time_prompt if time_prompt is None else time_prompt
                if not 0 <= prompt <= 1:
                    raise UsageError(f"time_prompt got {prompt}, expected a noise position from 0 to 1.")
                refinement = Autoregressive(self.network.refiner, count, drawn, prompt)
            else:
                refinement = Parallel(self.network.refiner, count, drawn)
        return _Decoder(self, seed, iterations, refinement)

    def _steps(self, strategy: str | None, steps: int | None) -> int:
        """How many steps of refinement; 0 is the estimate alone."""
        refinement = self.config.refinement
        if steps is None:
            if refinement is None:
                return 0
            defaults = refinement.decode
            return defaults.autoregressive_steps if strategy == "autoregressive" else defaults.parallel_steps
        steps = whole_number(steps, "steps", 0)
        if refinement is None and steps:
            raise UsageError(
                f"steps got {steps}, but {self.spec.model or 'this codec'} has no refinement: its weights give an estimate alone. "
                f"Leave steps out, or train a refinement (duotone train tiny-2-refinement)."
            )
        if refinement is not None and refinement.start == "noise" and steps == 0:
            raise UsageError(
                "steps got 0, but these weights have no estimate to give: they begin with noise. Use 1 to 4."
            )
        if steps > MOST_STEPS:
            raise UsageError(f"steps got {steps}, expected 0 (the estimate) to {MOST_STEPS}; 1 to 4 are usual.")
        return steps

    def _strategy(self, use: Literal["whole", "stream", "live"]) -> str | None:
        if self.network.refiner is None:
            return None
        return {"whole": "parallel", "stream": "wavefront", "live": "autoregressive"}[use]


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
        strategies=() if network.refiner is None else STRATEGIES,
        seeded=True,
        live=True,
    )


class _Decoder:
    """Latents of chunks -> samples: the states of the estimator, of the synthesis and of the refinement."""

    def __init__(self, codec: BandCodec, seed: int, iterations: int, refinement: Refinement | None) -> None:
        self._codec = codec
        self._state: list[KeyValue] | None = None
        self._synthesis = Synthesis(codec.config, seed, iterations)
        self._refinement = refinement
        self._magnitudes = Magnitudes(codec.config, codec.device)
        self._drop = codec.config.n_fft - codec.config.hop  # zeros that were put before the waveform

    def push(self, value: Latents | Codes) -> Tensor:
        latents = value.latents() if isinstance(value, Codes) else value
        pieces = [torch.zeros(2, 0, dtype=torch.float32)]
        for values in torch.split(latents.values, TOGETHER) if len(latents) else ():
            with torch.no_grad():
                pieces.append(self._decoded(values[None].to(self._codec.device)))
        return self._trimmed(torch.cat(pieces, 1))

    def _trimmed(self, samples: Tensor) -> Tensor:
        """Without the zeros that were put before the waveform."""
        dropped = min(self._drop, samples.shape[1])
        self._drop -= dropped
        return samples[:, dropped:]

    def together(self, decoders: Sequence[_Decoder], values: Sequence[Latents | Codes]) -> list[Tensor | Exception]:
        """What `push` of each decoder gives for its value: the estimate of all in one batch, the rest for each alone.

        Decoders that begin, and values of other than one chunk, are pushed alone.
        """
        found: list[Tensor | Exception] = [torch.zeros(2, 0)] * len(decoders)
        batch = [i for i, each in enumerate(decoders) if each._state is not None and len(values[i]) == 1]
        for i in set(range(len(decoders))) - set(batch) if len(batch) > 1 else range(len(decoders)):
            try:
                found[i] = decoders[i].push(values[i])
            except Exception as error:  # it belongs to this decoder alone
                found[i] = error
        if len(batch) > 1:
            own = [decoders[i] for i in batch]
            for i, samples in zip(batch, self._estimated(own, [values[i] for i in batch]), strict=True):
                found[i] = samples
        return found

    def _estimated(self, decoders: Sequence[_Decoder], values: Sequence[Latents | Codes]) -> list[Tensor | Exception]:
        """The same, of decoders that have begun, and one chunk each."""
        estimator = self._codec.network.estimator
        found: list[Tensor | Exception] = []
        rows = torch.cat([(v.latents() if isinstance(v, Codes) else v).values for v in values])[:, None]
        states = [each._state or [] for each in decoders]
        past = [
            (torch.cat([k for k, _ in layer]), torch.cat([v for _, v in layer])) for layer in zip(*states, strict=True)
        ]
        with torch.no_grad():
            hidden, after = estimator.trunk(rows.to(self._codec.device), past)
            maps = estimator.heads(hidden.flatten(0, 1)) if self._codec.config.estimated else None
            for i, each in enumerate(decoders):
                part = slice(i, i + 1)
                each._state = [(k[part].clone(), v[part].clone()) for k, v in after]
                try:
                    found.append(each._trimmed(each._sounding(hidden[part], None if maps is None else maps.rows(part))))
                except Exception as error:  # it belongs to this decoder alone
                    found.append(error)
        return found

    def _decoded(self, values: Tensor) -> Tensor:
        """Latents `[1, N, L, d]` -> the next samples `[2, N * chunk]`."""
        config, network = self._codec.config, self._codec.network
        hidden, self._state = network.estimator.trunk(values, self._state)
        return self._sounding(hidden, network.estimator.heads(hidden.flatten(0, 1)) if config.estimated else None)

    def _sounding(self, hidden: Tensor, maps: Maps | None) -> Tensor:
        """Time steps `[1, N, T, D]` and their maps -> the next samples `[2, N * chunk]`."""
        spectra = None if maps is None else self._synthesis.spectra(maps)
        if self._refinement is not None:
            spectra = self._refined(self._refinement, hidden, maps, spectra)
        assert spectra is not None  # weights without an estimate are always refined
        return self._synthesis.join(*spectra)

    def _refined(
        self, refinement: Refinement, hidden: Tensor, maps: Maps | None, spectra: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Time steps `[1, N, T, D]`, maps and complex spectra of mid and side `[N * n, F]` -> refined spectra, on the CPU."""
        refiner, estimate = refinement.refiner, None
        given = refiner.given(hidden, None if maps is None else self._magnitudes(maps)[None])
        if spectra is not None:
            chunks = torch.stack(spectra).unflatten(1, (-1, self._codec.config.frames)).transpose(0, 1)
            estimate = refiner.relative(chunks[None].to(hidden.device), given)
        refined = refiner.absolute(refinement.push(estimate, given), given)
        mid, side = refined[0].cpu().transpose(0, 1).flatten(1, 2)
        return mid, side

    def finish(self) -> Tensor:
        return torch.zeros(2, 0, dtype=torch.float32)

    def state(self) -> dict[str, Tensor]:
        state = {f"synthesis.{name}": tensor for name, tensor in self._synthesis.state().items()} | key_state(
            self._state
        )
        if self._refinement is not None:
            state |= {f"refinement.{name}": tensor for name, tensor in self._refinement.state().items()}
        return {**state, "drop": torch.tensor(self._drop)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._synthesis.restore({name[10:]: t for name, t in state.items() if name.startswith("synthesis.")})
        self._state = restored_keys(state, self._codec.device)
        if self._refinement is not None:
            self._refinement.restore({name[11:]: t for name, t in state.items() if name.startswith("refinement.")})
        self._drop = int(state["drop"])
