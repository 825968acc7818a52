"""`Codec`: the interface of every codec, ours and those of other projects.

A codec implements two methods: `encode_batch`, and `decode_batch` (or `decoder`, if it can decode a stream).
This class implements the rest: recordings of any rate, channels and length, exact lengths, batches, streams, checks.

Legend: B rows of a batch, C channels of a stream (1 or 2), K codebooks, N chunks, S steps, T samples.
"""

from __future__ import annotations

import os
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.codec.batches import ENCODE_BATCH, Batch, Encode, Window, encode_recordings, whole_number, window_for
from duotone.codec.sessions import EMPTY, Batched, Decoder, DecodeSession, EncodeSession, Resumable
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, CodecMismatchError, UsageError
from duotone.spec import ENCODING_FORMAT, CodecSpec, Framing, Source

Self = TypeVar("Self", bound="Codec")

FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_DEVICES = ("cpu", "cuda", "mps")
#: Spaces of codecs that earlier versions bundled, whose encodings can be read but no longer decoded.
RETIRED = {
    "953e3f4a2b72cae3": "the codec `tiny` that Duotone 0.1 bundled",
    "720bf51fd1364b6d": "the codec `tiny` as it was on the way to Duotone 0.2 (weights 18822b518bedca92)",
}


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A number format from its name. Raises `UsageError` for one that codecs do not use."""
    if dtype is None:
        return None
    found = FORMATS.get(dtype) if isinstance(dtype, str) else dtype
    if found not in FORMATS.values():
        raise UsageError(f"dtype got {dtype!r}, expected auto, float32, bfloat16 or float16.")
    return found


def resolve_device(device: str | torch.device | None) -> torch.device:
    """The device of that name. Raises `UsageError` if it is unknown or not present."""
    name = str(device).removeprefix("torch.")
    if name in FORMATS:
        raise UsageError(f"device got {name!r}, which is a number format. Write dtype={name!r}.")
    try:
        target: torch.device | None = torch.device("cpu" if device is None else device)
    except (RuntimeError, TypeError):
        target = None
    if target is None or target.type not in _DEVICES:
        raise UsageError(f"device got {str(device)!r}, expected cpu, cuda, cuda:N or mps.")
    if target.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device got {device}, but PyTorch sees no CUDA device here. Use device='cpu'.")
    if target.type == "cuda" and (target.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device got {device}, but there are {torch.cuda.device_count()} CUDA devices, from cuda:0 on."
        )
    if target.type == "mps" and not torch.backends.mps.is_available():
        raise UsageError("device got mps, but PyTorch sees no Metal device here. Use device='cpu'.")
    return target


class Codec(ABC):
    """A codec. It holds weights but no state: the state of a stream belongs to its session."""

    spec: CodecSpec
    provenance: dict[str, Any]
    #: Names of strategies that are accepted and all give what decoding without one gives.
    equal_strategies: tuple[str, ...] = ()
    #: Names of strategies that give what the first one gives, unless steps are asked for.
    alike_by_default: tuple[str, ...] = ()

    # --- to be implemented by each codec

    @abstractmethod
    def encode_batch(self, samples: Tensor) -> Batch:
        """Samples `[B, C, behind + n * chunk + ahead]` at `spec.rate` -> latents or codes of n chunks (or more), each row.

        Chunk i of a row sees the samples from ``i * chunk`` to ``i * chunk + behind + chunk + ahead`` of it.
        """

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        """Codes `[B, K, S]` (or latents `[B, N, *latent]`) -> samples `[B, C, T]` at `spec.rate_out`, on the CPU.

        `scale` `[B, N]` is the loudness, for codecs that code it separately.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither decode_batch nor decoder")

    def decoder(self, source: Source, seed: int = 0, **options: Any) -> Decoder:
        """A decoder for one stream of values; `options` are those of the codec. Raises `UsageError` for unknown ones.

        By default everything is decoded at once at the end, by `decode_batch`.
        """
        if options.pop("strategy", None) is not None or options:
            names = ", ".join(sorted(options)) or "a strategy"
            raise UsageError(f"{self.spec.model or self.spec.family} has no decoding options; it takes no {names}.")
        return _Whole(self)

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device of the weights."""

    @abstractmethod
    def to(self: Self, device: str | torch.device | None = None, dtype: torch.dtype | str | None = None) -> Self:
        """Move this codec to a device and number format, in place; its fingerprint does not change.

        Raises `UsageError` for a device that is not there, or a format that the codec does not compute in.
        """

    # --- the same for all codecs

    @property
    def fingerprint(self) -> str:
        """Hash of the configuration and all weights."""
        return self.spec.fingerprint

    def parameter_count(self) -> int:
        """Number of parameters in all networks of the codec."""
        networks = [value for value in vars(self).values() if isinstance(value, torch.nn.Module)]
        return sum(parameter.numel() for network in networks for parameter in network.parameters())

    @property
    def rate(self) -> int:
        """Sample rate of the encoder, in Hz."""
        return self.spec.rate

    @property
    def encoding_format(self) -> str:
        """The number format of the encoder."""
        return ENCODING_FORMAT

    def source(
        self, rate: int | None = None, channels: int = 2, samples: int | None = None, framing: Framing = "exact"
    ) -> Source:
        """A source for an encoding by this codec; by default with the codec's rate, in stereo, of unknown length."""
        self.spec.framed(framing)  # refuses a framing that the codec does not have
        return Source(self.spec.rate_out if rate is None else rate, channels, samples, framing, self.encoding_format)

    def codes(self, indices: Any, source: Source | None = None, scale: Any = None) -> Codes:
        """Codes `[K, S]` (K codebooks or the first of them, S steps) from integers in an array or a tensor, as a value of this codec.

        `scale` `[N, streams]` is the loudness of N chunks, for codecs that code it apart. Raises `UsageError` for another
        shape, or indices that a codebook does not have.
        """
        rows = len(indices) if hasattr(indices, "__len__") else 0
        few = 0 < rows < len(self.spec.codebooks)
        spec = replace(self.spec, codebooks=self.spec.codebooks[:rows]) if few else self.spec
        return Codes(indices, spec, source, scale)  # type: ignore[arg-type]

    def latents(self, values: Any, source: Source | None = None) -> Latents:
        """Latents `[N, *latent]` of N chunks from an array or a tensor, as a value of this codec.

        Raises `UsageError` for another shape, values that are not finite, or values out of the codec's bounds.
        """
        return Latents(values, self.spec, source)  # type: ignore[arg-type]

    def particulars(self, rate: int | None = None, channels: int = 2, **options: Any) -> CodecSpec:
        """Former name of `spec`; the rate and channels of the audio are in `source`."""
        return self.spec

    def check(self, spec: CodecSpec) -> None:
        """Raise `CodecMismatchError` unless this codec can decode values of this spec; warn if its decoder differs.

        Values are checked by their `space` (encoder, quantiser, options), so a codec whose decoder was trained further
        decodes earlier encodings.
        """
        own = self.spec
        if not _equal_space(spec, own):
            if spec.space in RETIRED:
                raise CodecMismatchError(
                    f"This encoding was made by {RETIRED[spec.space]}, whose decoder is no longer part of Duotone; the codec at hand "
                    f"is {own.space} ({own.model or own.family}). Its tokens and latents can be read; to decode them, install that version."
                )
            there, here = (_described(s, spec.codebooks != own.codebooks) for s in (spec, own))
            raise CodecMismatchError(
                f"This encoding was made by codec {there}, but the codec at hand is {here}. Load the codec that made it (duotone info FILE names it), or "
                f"encode the audio again."
            )
        a, b = spec.grid(), own.grid()
        k = len(spec.codebooks)
        differ = [name for name in a if name != "codebooks" and a[name] != b[name]]
        if not differ and k > len(own.codebooks) and spec.codebooks[: len(own.codebooks)] == own.codebooks:
            raise CodecMismatchError(
                f"This encoding has {k} codebooks, and the codec was loaded with {len(own.codebooks)}. Load it with n_quantizers={k}, or with all, by leaving n_quantizers out."
            )
        if differ or own.codebooks[:k] != spec.codebooks:
            stated, wanted = ({name: grid[name] for name in differ or ["codebooks"]} for grid in (a, b))
            raise CodecMismatchError(
                f"This encoding states {stated}, but its codec {own.fingerprint} has {wanted}. "
                f"The encoding was altered; encode the audio again."
            )
        if spec.fingerprint and spec.fingerprint != own.fingerprint:
            warnings.warn(
                f"This encoding was made with weights {spec.fingerprint}, the loaded codec has {own.fingerprint}: the "
                f"encoder is the same, the decoder differs. The decoded audio will sound different.",
                stacklevel=3,
            )

    def encode(
        self, wave: Waveform, framing: Framing = "exact", *, window: Window | None = None, batch: int | None = None
    ) -> Any:
        """Encode audio of any rate, mono or stereo: `Latents` `[N, *latent]` if the codec has them, else `Codes` `[K, S]`.

        N is ``spec.chunks(samples at spec.rate)``. `window` sets how audio is cut for codecs whose chunks are not independent;
        `batch` is the number of segments encoded together. Raises `AudioError` when the wave is empty, `UsageError` for
        what is no `Waveform`, or a framing that the codec does not have.
        """
        _want_wave(wave, "encode")
        if wave.length == 0:
            raise AudioError(EMPTY)
        with self.encode_stream(wave.rate, wave.channels, framing, window=window, batch=batch) as stream:
            parts = [stream.push(wave), stream.finish()]
            return type(parts[0]).join(parts, stream.source)  # type: ignore[arg-type]

    def encode_stream(
        self,
        rate: int,
        channels: int,
        framing: Framing = "exact",
        *,
        window: Window | None = None,
        batch: int | None = None,
    ) -> EncodeSession:
        """Open a session that takes blocks of audio, and returns `Latents` or `Codes` of the chunks that are complete.

        `rate` (Hz) and `channels` are those of the blocks. Joined, the parts equal what `encode` returns. Raises
        `UsageError` for a framing that the codec does not have.
        """
        return EncodeSession(self.spec, self._encode, self.source(rate, channels, None, framing), window, batch)

    def encode_many(
        self, waves: Iterable[Waveform], *, window: Window | None = None, batch: int = ENCODE_BATCH
    ) -> Iterator[Any]:
        """Encode many recordings, `batch` segments at a time; yields what `encode` returns for each wave, in the same order.

        Raises `AudioError` when a wave is empty, `UsageError` for what is no `Waveform`.
        """

        def recordings() -> Iterator[tuple[Tensor, Source]]:
            if isinstance(waves, (Waveform, str, os.PathLike)) or not isinstance(waves, Iterable):
                raise UsageError(f"encode_many got {type(waves).__name__}, expected a list of Waveforms: [wave].")
            for wave in waves:
                _want_wave(wave, "encode_many")
                if wave.length == 0:
                    raise AudioError(EMPTY)
                samples = wave.resample(self.spec.rate).samples.detach()
                yield samples, self.source(wave.rate, wave.channels, wave.length)

        yield from encode_recordings(recordings(), self._encode, self.spec, window_for(self.spec, window), batch)

    def decode(
        self,
        value: Latents | Codes,
        strategy: str | None = None,
        *,
        seed: int = 0,
        restore: bool = True,
        grad: bool = False,
        **options: Any,
    ) -> Waveform:
        """Decode latents or codes to audio `[C, T]`, float32.

        With `restore` the audio has the rate, channels and length of the source; without, the codec's own. With `grad`, gradients
        flow from the samples to the latents (no resampling then: pass ``restore=False`` where rates differ).
        Raises `UsageError` for an unknown strategy or option, `CodecMismatchError` for another codec's encoding.
        """
        if not isinstance(value, (Latents, Codes)):
            raise UsageError(
                f"decode got {type(value).__name__}, expected Latents or Codes. Make them with codec.latents(values) or "
                f"codec.codes(indices)."
            )
        if len(value) == 0:
            raise UsageError("Decoding got no chunks; encode at least one sample first.")
        if grad and restore and value.source.rate != self.spec.rate_out:
            raise UsageError(
                f"decode(grad=True) cannot resample from {self.spec.rate_out} to {value.source.rate} Hz, which stops "
                f"gradients. Pass restore=False."
            )
        strategy = strategy or self._strategy("whole")
        session = self._decode_session(value.spec, value.source, strategy, seed, restore, False, options)
        with session, _gradients(grad):
            pieces = [session.push(value).samples, session.finish().samples]
            samples = torch.cat(pieces, dim=-1)
            if _wants_grad(value) and not samples.requires_grad:
                raise UsageError(
                    f"decode(grad=True) got latents of {self.spec.model or self.spec.family}, whose decoder gives no gradients. "
                    f"Leave grad out."
                )
            return Waveform.of_checked(samples, session.rate)

    def decode_stream(
        self,
        source: Source | Latents | Codes | CodecSpec,
        strategy: str | None = None,
        *,
        seed: int = 0,
        restore: bool = True,
        **options: Any,
    ) -> DecodeSession:
        """Open a session that takes chunks (`Latents` or `Codes`) and returns `Waveform`s of the samples that are final.

        `source` gives the rate, channels and length to restore; a value means its own source, a spec the codec's own rate.
        Raises as `decode` does.
        """
        strategy = strategy or self._strategy("stream")
        if isinstance(source, (Latents, Codes)):
            return self._decode_session(source.spec, source.source, strategy, seed, restore, False, options)
        if isinstance(source, CodecSpec):
            return self._decode_session(source, self.source(), strategy, seed, restore, False, options)
        return self._decode_session(self.spec, source, strategy, seed, restore, False, options)

    def stream(self, seed: int = 0, **options: Any) -> DecodeSession:
        """Open a session for live decoding: push one chunk, get its samples at once, at the codec's rate.

        Raises `UsageError` if the codec cannot decode live.
        """
        if not self.spec.live:
            raise UsageError(f"{self.spec.model or self.spec.family} cannot decode live; use decode or decode_stream.")
        source = self.source(channels=2)
        return self._decode_session(self.spec, source, self._strategy("live"), seed, False, True, options)

    def _strategy(self, use: Literal["whole", "stream", "live"]) -> str | None:
        """The strategy to use: `strategy`, or the codec's default for whole values, streams or live decoding."""
        return None

    def _decode_session(
        self,
        spec: CodecSpec,
        source: Source,
        strategy: str | None,
        seed: int,
        restore: bool,
        live: bool,
        options: dict[str, Any],
    ) -> DecodeSession:
        self.check(spec)
        seed = whole_number(seed, "seed")
        if strategy in self.equal_strategies:
            strategy = None
        if strategy is not None:
            if strategy not in self.spec.strategies:
                known = ", ".join(self.spec.strategies)
                what = (
                    f"expected one of {known}"
                    if known
                    else f"but {self.spec.model} has only one strategy; leave it out"
                )
                raise UsageError(f"strategy got {strategy!r}, {what}.")
            options = {**options, "strategy": strategy}
        inner = self.decoder(source, seed, **options)
        decoder = _GuardedResumable(self, inner) if isinstance(inner, Resumable) else _Guarded(self, inner)
        return DecodeSession(self.spec, decoder, source, restore=restore, live=live)

    def _encode(self, samples: Tensor, encode: Encode | None = None) -> Batch:
        """`encode_batch` (or another way of encoding rows) in the codec's own arithmetic, as ordinary tensors."""
        with torch.inference_mode(), plain_arithmetic(self.device):
            found = (encode or self.encode_batch)(samples)
        return found.ordinary()

    def __repr__(self) -> str:
        spec = self.spec
        return f"{type(self).__name__}({spec.model or spec.family}, space {spec.space}, {self.device})"


@contextmanager
def plain_arithmetic(device: torch.device) -> Iterator[None]:
    """Compute in the codec's own number format: without the caller's autocast, without TF32 convolutions on CUDA."""
    with ExitStack() as stack:
        stack.enter_context(torch.autocast(device.type, enabled=False))
        if device.type == "cuda":
            stack.enter_context(torch.backends.cudnn.flags(enabled=True, allow_tf32=False))
        yield


class _Guarded:
    """Wraps a decoder: checks that values belong to the codec, and computes in the codec's own number format."""

    def __init__(self, codec: Codec, decoder: Decoder) -> None:
        self._codec, self._decoder = codec, decoder
        self._grad: bool | None = None  # whether gradients flow through this stream; known from its first value on

    def push(self, value: Latents | Codes) -> Tensor:
        self._admit(value)
        with self._arithmetic():
            samples = self._decoder.push(value)
        return self._ordinary(samples)

    def together(self, decoders: Sequence[_Guarded], values: Sequence[Latents | Codes]) -> list[Tensor | Exception]:
        """What `push` of each gives or raises: in one batch where the decoder can, and nothing needs gradients."""
        found: list[Tensor | Exception] = [torch.zeros(0)] * len(decoders)
        batch = []
        for i, (each, value) in enumerate(zip(decoders, values, strict=True)):
            try:
                each._admit(value)
                if isinstance(each._decoder, Batched) and not each._grad:
                    batch.append(i)
                else:
                    found[i] = each.push(value)
            except Exception as error:  # it belongs to this stream alone
                found[i] = error
        if batch:
            inner = [decoders[i]._decoder for i in batch]
            assert isinstance(inner[0], Batched)
            with self._arithmetic():
                made = inner[0].together(inner, [values[i] for i in batch])
            for i, each_made in zip(batch, made, strict=True):
                found[i] = each_made if isinstance(each_made, Exception) else each_made.clone()
        return found

    def _admit(self, value: Latents | Codes) -> None:
        """Raise unless the stream takes this value."""
        if value.spec is not self._codec.spec:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the warning was given when the stream was opened
                self._codec.check(value.spec)
        if self._grad is None:
            self._grad = _wants_grad(value)
        elif _wants_grad(value) and not self._grad:
            raise UsageError(
                "This stream began with latents that need no gradient, and got ones that do. Open a new stream."
            )

    def finish(self) -> Tensor:
        with self._arithmetic():
            samples = self._decoder.finish()
        return self._ordinary(samples)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        with plain_arithmetic(self._codec.device), _gradients(bool(self._grad), torch.inference_mode()):
            yield

    def _ordinary(self, samples: Tensor) -> Tensor:
        """Samples that can be changed and trained on; inference mode gives others."""
        return samples if self._grad else samples.clone()


class _GuardedResumable(_Guarded):
    """The same, of a decoder whose state can be taken out."""

    _decoder: Resumable

    def state(self) -> dict[str, Tensor]:
        return self._decoder.state()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        with self._arithmetic():
            self._decoder.restore(state)


def _gradients(wanted: bool, otherwise: AbstractContextManager[Any] | None = None) -> AbstractContextManager[Any]:
    return torch.enable_grad() if wanted else otherwise or torch.no_grad()


def _wants_grad(value: Latents | Codes) -> bool:
    return torch.is_grad_enabled() and isinstance(value, Latents) and value.values.requires_grad


class _Whole:
    """Collects values, and decodes them all at the end."""

    def __init__(self, codec: Codec) -> None:
        self.codec = codec
        self.parts: list[Latents] | list[Codes] = []

    def push(self, value: Latents | Codes) -> Tensor:
        self.parts.append(value)  # type: ignore[arg-type]
        return torch.zeros(2 if self.codec.spec.channels == 2 else value.streams, 0, dtype=torch.float32)

    def finish(self) -> Tensor:
        if not self.parts:
            return torch.zeros(self.codec.spec.channels, 0, dtype=torch.float32)
        value = type(self.parts[0]).join(self.parts)  # type: ignore[arg-type]
        if self.codec.spec.latent is not None:
            latents = value if isinstance(value, Latents) else value.latents()
            rows = torch.stack(latents.values.chunk(latents.streams, dim=-1))
            out = self.codec.decode_batch(rows, None)
        else:
            codes = value.codes()
            if self.codec.spec.scaled and codes.scale is None:
                raise UsageError(
                    f"{self.codec.spec.model} codes loudness separately, and the codes have no scale. Pass the scale "
                    f"from encoding, or one number for all chunks (about 0.1 is the loudness of music)."
                )
            k = len(codes.spec.codebooks)
            out = self.codec.decode_batch(codes.indices.reshape(-1, k, codes.indices.shape[1]), codes.scale)
        return out.float().flatten(0, -2)


def _described(spec: CodecSpec, codebooks: bool) -> str:
    """A codec in a message: its space and model, and the number of its codebooks where that matters."""
    books = f" with {len(spec.codebooks)} codebooks" if codebooks and spec.codebooks else ""
    return f"{spec.space or spec.fingerprint} ({spec.model or spec.family}{books})"


def _equal_space(a: CodecSpec, b: CodecSpec) -> bool:
    """Whether two specs have the same latent space; files of version 1 have only the fingerprint."""
    return a.space == b.space if a.space and b.space else a.fingerprint == b.fingerprint


def _want_wave(wave: Any, call: str) -> None:
    if isinstance(wave, Waveform):
        return
    if isinstance(wave, (str, os.PathLike)):
        raise UsageError(f"{call} got a path, expected a Waveform: {call}(duotone.read({os.fspath(wave)!r})).")
    raise UsageError(
        f"{call} got {type(wave).__name__}, expected a Waveform, which knows its rate: "
        f"{call}(duotone.Waveform(array, rate))."
    )
