"""`CoDiCodec`: encodes a waveform to latents or codes, and decodes them; whole, in streams, or live.

Legend: N chunks, L latents a chunk, d dimensions, C F T spectrum of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from duotone.codec.batches import Batch, Window, whole_number
from duotone.codec.codicodec.decoding import Autoregressive, Engine, Parallel, Wavefront
from duotone.codec.codicodec.identity import fingerprint, space
from duotone.codec.codicodec.network import CoDiCodecNetwork, initialise_dead_ends, stft_of
from duotone.codec.codicodec.noise import seeded_noise
from duotone.codec.contract import as_dtype, resolve_device
from duotone.codec.noise import Noise
from duotone.codec.own import OwnCodec
from duotone.codec.precision import best_dtype
from duotone.codec.sessions import EncodeSession
from duotone.codec.values import Codes, Latents
from duotone.config import CoDiCodecConfig
from duotone.errors import UsageError
from duotone.quant.fsq import FSQ
from duotone.represent.stft import OverlapAdd, to_frames, to_spectrum
from duotone.spec import CodecSpec, Framing, Source

Strategy = Literal["parallel", "autoregressive", "wavefront"]
STRATEGIES: tuple[Strategy, ...] = ("parallel", "autoregressive", "wavefront")


class CoDiCodec(OwnCodec):
    """CoDiCodec (arXiv 2509.09836), a codec with latents and codes. It holds weights but no state."""

    def __init__(
        self,
        network: CoDiCodecNetwork,
        *,
        name: str = "",
        provenance: dict[str, Any] | None = None,
        extras: dict[str, Tensor] | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config: CoDiCodecConfig = network.config
        self.provenance = provenance or {}
        self.extras = extras or {}  # tensors of an imported checkpoint that are not used, kept for export
        self.fsq = FSQ(self.config.levels)
        self.spec = spec_of(network, name)

    @classmethod
    def random(cls, config: CoDiCodecConfig, seed: int = 0) -> CoDiCodec:
        """An untrained codec with seeded random weights, for tests and benchmarks; its output is noise."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = CoDiCodecNetwork(config)
        initialise_dead_ends(network, seed=seed)
        return cls(network, name="random", provenance={"weights": f"random, seed {seed}"})

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> CoDiCodec:
        """See `OwnCodec.to`; constants of the decoder take its format."""
        target = self.device if device is None else resolve_device(device)
        if dtype == "auto":
            self.network.encoder.to(device=target, dtype=torch.float32)
            self.network.to(device=target)
            for part in (self.network.upsampler, self.network.denoiser):
                part.to(dtype=best_dtype(target))
        else:
            self.network.to(device=target, dtype=as_dtype(dtype))
        return self

    @property
    def _parts(self) -> tuple[nn.Module, nn.Module, nn.Module]:
        return self.network, self.network.encoder, self.network.denoiser

    def encode_spectrum(self, spectrum: Tensor) -> Tensor:
        """Companded spectra `[N, C, F, T]` -> bounded latents `[N, L, d]`, float32, on the CPU."""
        with torch.no_grad():
            return self.fsq.bound(self.network.encode_pre(spectrum.to(self.device))).cpu()

    def encode_batch(self, samples: Tensor) -> Batch:
        """Samples `[B, 2, n * chunk + hop]` -> latents `[B, n, L, d]`."""
        return self._encode_masked(samples, None)

    def _encode_masked(self, samples: Tensor, real: int | None) -> Batch:
        """`encode_batch`; with `real`, the frames from this index on (counted over the whole batch) are set to zero."""
        b, hop, chunk = len(samples), self.config.hop, self.config.chunk_samples
        each = samples.unfold(-1, chunk + hop, chunk).transpose(1, 2).flatten(0, 1)  # [B * n, 2, T of a chunk]
        spectrum = to_spectrum(each.to(self.device), stft_of(self.config))
        if real is not None:
            frame = torch.arange(len(each) * self.config.frames, device=spectrum.device)
            spectrum = spectrum * (frame.view(len(each), 1, 1, -1) < real)
        latents = self.encode_spectrum(spectrum)
        return Batch(latents=latents.reshape(b, -1, *latents.shape[1:]))

    def encode_stream(
        self,
        rate: int,
        channels: int,
        framing: Framing = "exact",
        *,
        window: Window | None = None,
        batch: int | None = None,
    ) -> EncodeSession:
        """Open a session that takes blocks of audio and returns chunks as soon as they are complete."""
        if framing == "published":
            return _Published(self, self.source(rate, channels, None, framing), batch)
        return super().encode_stream(rate, channels, framing, window=window, batch=batch)

    def decoder(
        self,
        source: Source,
        seed: int = 0,
        *,
        strategy: str | None = None,
        steps: int | None = None,
        time_prompt: float | None = None,
        noise: Noise | None = None,
        **unknown: Any,
    ) -> _Decoder:
        """A decoder from noise at sigma_max. `noise(chunk, draw) -> [4, F, T]` replaces the seeded default.

        Raises `UsageError` for steps or a time prompt out of range, or an unknown option.
        """
        if unknown:
            names = ", ".join(unknown)
            raise UsageError(f"Decoding got {names}, expected steps, time_prompt or noise. Leave {names} out.")
        strategy = strategy or "parallel"
        noise = noise or seeded_noise(seed, self.config)
        count = self._steps(strategy, steps)
        engine: Engine
        if strategy == "autoregressive":
            prompt = self.config.decode.time_prompt if time_prompt is None else time_prompt
            if not 0 <= prompt <= 1:
                raise UsageError(f"time_prompt got {prompt}, expected a noise position from 0 to 1 (default 0.4).")
            return _LiveDecoder(Autoregressive(self.network, count, noise, prompt), self.config, source.framing)
        if time_prompt is not None:
            raise UsageError(f"time_prompt is for the autoregressive strategy; {strategy} has none. Leave it out.")
        if strategy == "parallel":
            engine = Parallel(self.network, count, noise)
        else:
            engine = Wavefront(self.network, count, noise)
        return _Decoder(engine, self.config, source.framing)

    def _steps(self, strategy: str, steps: int | None) -> int:
        defaults = self.config.decode
        if steps is None:
            return defaults.autoregressive_steps if strategy == "autoregressive" else defaults.parallel_steps
        steps = whole_number(steps, "steps")
        if not 1 <= steps <= 1000:
            raise UsageError(f"steps got {steps}, expected 1 to 1000 (defaults: {defaults.parallel_steps} parallel).")
        return steps

    def _strategy(self, use: Literal["whole", "stream", "live"]) -> str | None:
        return {"whole": "parallel", "stream": "wavefront", "live": "autoregressive"}[use]


def spec_of(network: CoDiCodecNetwork, name: str = "") -> CodecSpec:
    """The spec of a network with *exact* framing: each chunk also sees one hop before it."""
    config = network.config
    return CodecSpec(
        family=config.family,
        model=name,
        fingerprint=fingerprint(config, network),
        space=space(config, network),
        rate=config.rate,
        rate_out=config.rate,
        channels=config.audio_channels,
        chunk=config.chunk_samples,
        behind=config.hop,
        extra=config.hop,  # the last sample is in two frames
        steps=config.latents,
        codebooks=(config.codebook_size,),
        latent=(config.latents, len(config.levels)),
        levels=config.levels,
        independent=True,
        strategies=STRATEGIES,
        seeded=True,
        live=True,
    )


class _Published(EncodeSession):
    """Encoding in the published package's framing: frames after the last complete one are zero."""

    def __init__(self, codec: CoDiCodec, source: Source, batch: int | None) -> None:
        super().__init__(codec.spec, codec._encode, source, None, batch)
        self._codec = codec
        self._first = 0  # index of the next row's chunk

    def _rows(self, samples: Tensor, final: bool) -> Batch:
        first, self._first = self._first, self._first + len(samples)
        if not final:
            return super()._rows(samples, final)
        config = self._codec.config
        whole = max(1, self._cutter.samples // config.hop - 1)
        return self._codec._encode(samples, partial(self._codec._encode_masked, real=whole - first * config.frames))


class _Decoder:
    """An engine's spectra -> samples."""

    def __init__(self, engine: Engine, config: CoDiCodecConfig, framing: Framing) -> None:
        self._engine, self._config, self._framing = engine, config, framing
        self._stft = stft_of(config)
        self._add = OverlapAdd(config.n_fft, config.hop, config.audio_channels)
        self._drop = config.hop if framing == "exact" else 0  # zeros that were put before the waveform

    def push(self, value: Latents | Codes) -> Tensor:
        latents = value.latents() if isinstance(value, Codes) else value
        return self._join(self._engine.push(latents.values))

    def finish(self) -> Tensor:
        rest = self._join(self._engine.finish())
        if self._framing == "exact":
            return rest
        return torch.cat([rest, self._add.finish().cpu()], dim=1)

    def _join(self, spectra: list[Tensor]) -> Tensor:
        pieces = [torch.zeros(self._config.audio_channels, 0, dtype=torch.float32)]
        for spectrum in spectra:
            samples = self._add.push(to_frames(spectrum[None], self._stft)[0]).cpu()
            pieces.append(samples[:, self._drop :])
            self._drop = 0
        return torch.cat(pieces, dim=1)


class _LiveDecoder(_Decoder):
    """The same, of an engine whose state can be taken out."""

    _engine: Autoregressive

    def state(self) -> dict[str, Tensor]:
        state = {f"engine.{name}": tensor for name, tensor in self._engine.state().items()}
        if self._add.tail is not None:
            state["tail"] = self._add.tail.cpu().clone()
        return {**state, "drop": torch.tensor(self._drop)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self._engine.restore({name[7:]: tensor for name, tensor in state.items() if name.startswith("engine.")})
        self._add.tail = state["tail"].to(self._engine.device) if "tail" in state else None
        self._drop = int(state["drop"])
