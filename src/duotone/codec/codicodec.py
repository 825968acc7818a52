"""`CoDiCodec`: a wave in, latents or codes out, and back; whole, in streams, or live.

Legend: N chunks, L latents a chunk, d dimensions, C F T spectrum of a chunk.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.codec.decoding import Autoregressive, Wavefront, parallel
from duotone.codec.network import CoDiCodecNetwork, initialise_dead_ends
from duotone.codec.noise import Noise, seeded_noise
from duotone.codec.streams import DecodeStream, EncodeStream
from duotone.codec.values import Codes, Latents, Particulars
from duotone.config import CoDiCodecConfig, Framing
from duotone.errors import AudioError, CodecMismatchError, UsageError
from duotone.quant.fsq import FSQ

Strategy = Literal["parallel", "autoregressive", "wavefront"]
STRATEGIES: tuple[Strategy, ...] = ("parallel", "autoregressive", "wavefront")

#: A parallel decode longer than this many chunks runs as a wavefront (the same numbers) to bound its memory.
WHOLE_LIMIT = 32


def best_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where matrix units for it exist (CUDA, AMX, AVX512-BF16), else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    if device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()):
        return torch.bfloat16
    return torch.float32


class CoDiCodec:
    """A codec of two faces (arXiv 2509.09836). Holds weights and no state: streams are values of their sessions."""

    def __init__(
        self,
        network: CoDiCodecNetwork,
        *,
        provenance: dict[str, Any] | None = None,
        extras: dict[str, Tensor] | None = None,
        fingerprint: str | None = None,
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.config: CoDiCodecConfig = network.config
        self.provenance = provenance or {}
        self.extras = extras or {}  # tensors of a foreign checkpoint that take no part, kept for export
        self.fsq = FSQ(self.config.levels)
        self.fingerprint = fingerprint or _fingerprint(network)

    @classmethod
    def random(cls, config: CoDiCodecConfig, seed: int = 0) -> CoDiCodec:
        """An untrained codec of seeded random weights, for tests and benchmarks; it makes noise."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = CoDiCodecNetwork(config)
        initialise_dead_ends(network, seed=seed)
        return cls(network, provenance={"weights": f"random, seed {seed}"})

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> CoDiCodec:
        """This codec moved to a device and number format (in place; the fingerprint stays)."""
        self.network.to(device=device, dtype=dtype)
        return self

    @property
    def rate(self) -> int:
        """Samples a second that the codec works at."""
        return self.config.rate

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.denoiser.registers.device

    @property
    def dtype(self) -> torch.dtype:
        """The number format of the weights."""
        return self.network.denoiser.registers.dtype

    @torch.inference_mode()
    def encode_spectrum(self, spectrum: Tensor) -> Tensor:
        """Companded spectra `[N, C, F, T]` -> bounded latents `[N, L, d]`, float32, on the CPU."""
        return self.fsq.bound(self.network.encode_pre(spectrum.to(self.device))).cpu()

    def encode(self, wave: Waveform, framing: Framing = "exact") -> Latents:
        """Encode a wave of any rate, mono or stereo, to `Latents` of N chunks.

        Raises `AudioError` when the wave is empty, not finite, or has more than two channels.
        """
        if wave.length == 0:
            raise AudioError("Encoding got a wave of zero samples; there is nothing to encode. Give at least one.")
        with self.encode_stream(wave.rate, wave.channels, framing) as stream:
            first, rest = stream.push(wave), stream.finish()
            return Latents(torch.cat([first.values, rest.values]), stream.about)

    def encode_stream(self, rate: int, channels: int, framing: Framing = "exact") -> EncodeStream:
        """A session that takes blocks of a wave and gives latents as soon as their chunk is complete."""
        return EncodeStream(self, rate, channels, framing)

    def particulars(
        self, rate: int | None = None, channels: int = 2, framing: Framing = "exact", samples: int = 0
    ) -> Particulars:
        """Particulars of an encoding by this codec; `samples` at the codec's rate, 0 when not known yet."""
        about = Particulars(
            fingerprint=self.fingerprint,
            rate=self.rate,
            samples=0,
            framing=framing,
            chunk_samples=self.config.chunk_samples,
            latents=self.config.latents,
            levels=self.config.levels,
            source_rate=rate or self.rate,
            source_channels=channels,
            source_samples=0,
        )
        return about.with_samples(samples)

    def check(self, about: Particulars) -> None:
        """Raise `CodecMismatchError` unless this codec made the encoding."""
        if about.fingerprint != self.fingerprint:
            raise CodecMismatchError(
                f"This encoding was made by codec {about.fingerprint}, but the codec at hand is {self.fingerprint}. "
                f"Load the codec that made it (duotone info FILE names it), or encode the audio again."
            )

    def decode(
        self,
        value: Latents | Codes,
        strategy: Strategy = "parallel",
        steps: int | None = None,
        seed: int = 0,
        time_prompt: float | None = None,
        noise: Noise | None = None,
        restore: bool = True,
    ) -> Waveform:
        """Decode latents or codes to a wave, from noise at sigma_max.

        With `restore` the wave has the rate, channels and length that came in; without, the codec's own rate and two
        channels. `noise(chunk, draw) -> [4, F, T]` replaces the seeded default.
        Raises `UsageError` for an unknown strategy, `CodecMismatchError` for another codec's encoding.
        """
        if len(value) == 0:
            raise UsageError("Decoding got no chunks; encode at least one sample first.")
        if strategy == "parallel" and len(value) <= WHOLE_LIMIT:
            return self._decode_whole(value, steps, noise or seeded_noise(seed, self.config), restore)
        stream = self.decode_stream(
            value.about, strategy, steps=steps, seed=seed, time_prompt=time_prompt, noise=noise, restore=restore
        )
        with stream:
            first, rest = stream.push(value), stream.finish()
        return Waveform(torch.cat([first.samples, rest.samples], dim=-1), first.rate)

    @torch.inference_mode()
    def _decode_whole(self, value: Latents | Codes, steps: int | None, noise: Noise, restore: bool) -> Waveform:
        self.check(value.about)
        latents = value.latents() if isinstance(value, Codes) else value
        count = self._steps("parallel", steps)
        spectra = list(parallel(self.network, latents.values, count, noise))
        sink = DecodeStream(self, None, value.about, restore=restore)
        first, rest = sink.join(spectra), sink.finish()
        return Waveform(torch.cat([first.samples, rest.samples], dim=-1), first.rate)

    def decode_stream(
        self,
        about: Particulars,
        strategy: Strategy = "wavefront",
        *,
        steps: int | None = None,
        seed: int = 0,
        time_prompt: float | None = None,
        noise: Noise | None = None,
        restore: bool = True,
    ) -> DecodeStream:
        """A session that takes latents or codes of some chunks and gives the samples that are final; constant memory."""
        self.check(about)
        noise = noise or seeded_noise(seed, self.config)
        count = self._steps(strategy, steps)
        if strategy == "autoregressive":
            prompt = self.config.decode.time_prompt if time_prompt is None else time_prompt
            if not 0 <= prompt <= 1:
                raise UsageError(f"time_prompt got {prompt}, expected a noise position from 0 to 1 (default 0.4).")
            return DecodeStream(self, Autoregressive(self.network, count, noise, prompt), about, restore=restore)
        return DecodeStream(self, Wavefront(self.network, count, noise), about, restore=restore)

    def stream(
        self, seed: int = 0, *, steps: int | None = None, time_prompt: float | None = None, noise: Noise | None = None
    ) -> DecodeStream:
        """Live decoding: push the latents of one chunk, get its samples at once, at the codec's rate in stereo."""
        live = self.decode_stream(
            self.particulars(), "autoregressive", steps=steps, seed=seed, time_prompt=time_prompt, noise=noise,
            restore=False,
        )  # fmt: skip
        return live.without_holding()

    def _steps(self, strategy: str, steps: int | None) -> int:
        if strategy not in STRATEGIES:
            raise UsageError(f"strategy got {strategy!r}, expected one of {', '.join(STRATEGIES)}.")
        defaults = self.config.decode
        if steps is None:
            return defaults.autoregressive_steps if strategy == "autoregressive" else defaults.parallel_steps
        if not 1 <= steps <= 1000:
            raise UsageError(f"steps got {steps}, expected 1 to 1000 (defaults: {defaults.parallel_steps} parallel).")
        return steps

    def __repr__(self) -> str:
        return f"CoDiCodec({self.fingerprint}, {self.device}, {self.dtype})"


def _fingerprint(network: CoDiCodecNetwork) -> str:
    """16 hexadecimal digits of a hash over the configuration and every weight in float32."""
    digest = hashlib.blake2b(network.config.to_json().encode(), digest_size=8)
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy())
    return digest.hexdigest()
