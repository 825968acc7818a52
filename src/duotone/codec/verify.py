"""`verify_codec` tests that a codec, ours or your own, satisfies the contract of `Codec`.

The idea is from `verify_contract` in google/sequence-layers. It encodes and decodes short noise, and reports by how much
results differ.

Legend: N chunks, T samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from duotone.audio.waveform import Waveform
from duotone.codec.batches import Batch, Window
from duotone.codec.contract import Codec
from duotone.codec.values import Codes, Latents
from duotone.errors import AudioError, CodecMismatchError, DuotoneError, UsageError
from duotone.spec import CodecSpec


class ContractError(DuotoneError):
    """A codec breaks the contract; the message says which rule, and how."""


@dataclass(frozen=True)
class Tolerance:
    """Allowed differences between two computations: of latents and samples (absolute), and the share of codes that differ."""

    latents: float = 1e-4
    samples: float = 1e-4
    codes: float = 0.005


def verify_codec(codec: Codec, *, chunks: int = 3, tolerance: Tolerance | None = None, seed: int = 0) -> list[str]:
    """Check every rule of the contract on noise of about `chunks` chunks; returns the rules that were checked.

    Raises `ContractError` at the first that does not hold.
    """
    proof = _Proof(codec, chunks, tolerance or Tolerance(), seed)
    done = []
    for rule in _RULES:
        if rule(proof):
            done.append((rule.__doc__ or rule.__name__).split("\n")[0].rstrip("."))
    return done


class _Proof:
    """A codec, noise at its sample rate, and comparisons."""

    def __init__(self, codec: Codec, chunks: int, tolerance: Tolerance, seed: int) -> None:
        self.codec, self.spec, self.tolerance = codec, codec.spec, tolerance
        self.generator = torch.Generator().manual_seed(seed)
        self.count = chunks
        self.length = max(1, chunks * self.spec.chunk - self.spec.extra - self.spec.chunk // 3)

    def noise(self, samples: int, channels: int = 2) -> Tensor:
        """Noise of varying loudness."""
        noise = torch.randn(channels, samples, generator=self.generator)
        envelope = 0.05 + 0.1 * torch.sin(torch.linspace(0, 9, samples)) ** 2
        return (noise * envelope).clamp(-1, 1)

    def wave(self, samples: int | None = None, channels: int = 2, rate: int | None = None) -> Waveform:
        """A sound."""
        return Waveform(self.noise(samples or self.length, channels), rate or self.spec.rate)

    def fail(self, rule: str, what: str) -> None:
        """Raise `ContractError` for a rule."""
        raise ContractError(f"{self.spec.model or self.spec.family} breaks the contract: {rule}: {what}.")

    def equal(self, rule: str, a: Latents | Codes, b: Latents | Codes) -> None:
        """Check that two encodings of the same audio are equal."""
        if type(a) is not type(b) or len(a) != len(b):
            self.fail(rule, f"{a} against {b}")
        if isinstance(a, Latents) and isinstance(b, Latents):
            scale = max(1.0, float(a.values.abs().max())) if a.values.numel() else 1.0
            worst = float((a.values - b.values).abs().max()) if a.values.numel() else 0.0
            if worst > self.tolerance.latents * scale:
                self.fail(rule, f"latents differ by up to {worst:.2g}")
        elif isinstance(a, Codes) and isinstance(b, Codes):
            share = float((a.indices != b.indices).float().mean()) if a.indices.numel() else 0.0
            if share > self.tolerance.codes:
                self.fail(rule, f"{100 * share:.2f}% of the codes differ")

    def same_sound(self, rule: str, a: Waveform, b: Waveform) -> None:
        """Check that two decodings of the same value are equal."""
        if (a.rate, a.channels, a.length) != (b.rate, b.channels, b.length):
            self.fail(rule, f"{a.channels} channels of {a.length} samples against {b.channels} of {b.length}")
        worst = float((a.samples - b.samples).abs().max()) if a.length else 0.0
        if worst > self.tolerance.samples * max(1.0, float(a.samples.abs().max())):
            self.fail(rule, f"samples differ by up to {worst:.2g}")

    def refused(self, rule: str, kind: type[Exception], call: Callable[[], Any]) -> None:
        """Check that a call raises the expected error."""
        try:
            call()
        except kind:
            return
        self.fail(rule, f"it was accepted, expected {kind.__name__}")

    def batch(self, samples: Tensor) -> Batch:
        """`encode_batch` as sessions call it."""
        return self.codec._encode(samples)


def _face(batch: Batch, spec: CodecSpec) -> Tensor:
    found = batch.latents if spec.latent is not None else batch.codes
    if found is None:
        raise ContractError(
            f"{spec.model or spec.family}: encode_batch gave no latents or no codes although its spec declares them."
        )
    return found


def _spec_is_right(proof: _Proof) -> bool:
    """The spec survives JSON, and says what the values are."""
    spec = proof.spec
    if CodecSpec.from_dict(spec.to_dict()) != spec or CodecSpec.from_dict(spec.to_dict(short=True)) != spec:
        proof.fail("the spec survives JSON", "it differs after a round trip")
    if not spec.fingerprint or not spec.space:
        proof.fail("the spec has both hashes", f"fingerprint {spec.fingerprint!r}, space {spec.space!r}")
    return True


def _batches_have_their_shape(proof: _Proof) -> bool:
    """Batches have the declared shape, kind and range."""
    spec, rows = proof.spec, 2
    n = proof.count
    samples = torch.stack([proof.noise(spec.behind + n * spec.chunk + spec.ahead, spec.channels) for _ in range(rows)])
    found = proof.batch(samples)
    face = _face(found, spec)
    if found.chunks(spec.steps) < n:
        proof.fail("batches hold a chunk for each chunk of sound", f"{found.chunks(spec.steps)} for {n}")
    if spec.latent is not None:
        if face.dtype != torch.float32 or tuple(face.shape[2:]) != spec.latent or not bool(torch.isfinite(face).all()):
            proof.fail("latents are float32 of the declared shape", f"{face.dtype} {tuple(face.shape)}")
        if spec.bounded and float(face.abs().max()) > 1:
            proof.fail("latents are bounded", f"they reach {float(face.abs().max()):.3g}")
    else:
        sizes = torch.tensor(spec.codebooks)[:, None]
        if (
            face.dtype != torch.int64
            or face.shape[1] != len(spec.codebooks)
            or bool(((face < 0) | (face >= sizes)).any())
        ):
            proof.fail(
                "codes are int64 in range", f"{face.dtype} {tuple(face.shape)}, {int(face.min())}..{int(face.max())}"
            )
    if spec.scaled and (found.scale is None or found.scale.shape[:2] != (rows, found.chunks(spec.steps))):
        proof.fail("loudness is [B, N]", f"{None if found.scale is None else tuple(found.scale.shape)}")
    if any(t is not None and t.device.type != "cpu" for t in (found.latents, found.codes, found.scale)):
        proof.fail("batches are on the CPU", "they are not")
    return True


def _batch_is_its_singles(proof: _Proof) -> bool:
    """A batch equals its rows encoded one by one."""
    spec = proof.spec
    samples = torch.stack([proof.noise(spec.behind + 2 * spec.chunk + spec.ahead, spec.channels) for _ in range(3)])
    together = _face(proof.batch(samples), spec)
    singles = torch.cat([_face(proof.batch(samples[i : i + 1]), spec) for i in range(3)])
    differ = together != singles
    if spec.latent is not None:
        differ = (together - singles).abs() > proof.tolerance.latents * max(1.0, float(singles.abs().max()))
    if float(differ.float().mean()) > (0 if spec.latent is not None else proof.tolerance.codes):
        proof.fail("a batch is its singles", f"{100 * float(differ.float().mean()):.2f}% of the numbers differ")
    return True


def _many_are_each(proof: _Proof) -> bool:
    """Recordings encoded together equal those encoded alone, in the same order."""
    lengths = [proof.length, max(1, proof.length // 3), proof.length, proof.spec.chunk]
    waves = [proof.wave(length, channels) for length, channels in zip(lengths, (2, 1, 1, 2), strict=True)]
    many = list(proof.codec.encode_many(waves, batch=3))
    if len(many) != len(waves):
        proof.fail("encode_many gives a value for each wave", f"{len(many)} for {len(waves)}")
    for wave, value in zip(waves, many, strict=True):
        if value.source.samples != wave.length or value.source.channels != wave.channels:
            proof.fail("encode_many keeps the order", f"{value.source} for {wave.length} samples")
        proof.equal("encode_many is encode", proof.codec.encode(wave), value)
    return True


def _blocks_are_the_whole(proof: _Proof) -> bool:
    """Audio pushed in blocks of any size gives the encoding of the whole."""
    wave = proof.wave()
    whole = proof.codec.encode(wave)
    parts: list[Any] = []
    with proof.codec.encode_stream(wave.rate, wave.channels) as stream:
        start = 0
        for size in _sizes(wave.length, proof.spec.chunk):
            parts.append(stream.push(Waveform(wave.samples[:, start : start + size], wave.rate)))
            start += size
        parts.append(stream.finish())
        if stream.source != whole.source:
            proof.fail("a session knows its source at the end", f"{stream.source} against {whole.source}")
    proof.equal("blocks are the whole", whole, type(whole).join(parts, whole.source))
    return True


def _sizes(length: int, chunk: int) -> Iterator[int]:
    sizes, i = (chunk // 3 + 1, 1, 2 * chunk, chunk), 0
    while length > 0:
        size = min(sizes[i % len(sizes)], length)
        yield size
        length, i = length - size, i + 1


def _nothing_beyond_the_borders(proof: _Proof) -> bool:
    """Samples outside `behind` and `ahead` do not affect independent chunks: NaN there has no influence."""
    spec = proof.spec
    if not spec.independent:
        return False
    n = 3
    samples = proof.noise(spec.behind + n * spec.chunk + spec.ahead, spec.channels)[None]
    middle = samples[..., spec.chunk : 2 * spec.chunk + spec.behind + spec.ahead]
    alone = _face(proof.batch(middle), spec)
    spoilt = samples.clone()
    spoilt[..., : spec.chunk] = torch.nan
    spoilt[..., 2 * spec.chunk + spec.behind + spec.ahead :] = torch.nan
    found = _face(proof.batch(spoilt), spec)
    if spec.latent is not None:
        among, own = found[:, 1], alone[:, 0]
        gap = float((among - own).abs().nan_to_num(torch.inf).max())
        if gap > proof.tolerance.latents * max(1.0, float(own.abs().max())):
            proof.fail("chunks are independent", f"NaN in the neighbours changes latents by {gap:.2g}")
    else:
        among, own = found[:, :, spec.steps : 2 * spec.steps], alone[:, :, : spec.steps]
        share = float((among != own).float().mean())
        if share > proof.tolerance.codes:
            proof.fail("chunks are independent", f"NaN in the neighbours changes {100 * share:.2f}% of the codes")
    return True


def _windows_keep_the_grid(proof: _Proof) -> bool:
    """A recording encoded in windows has as many chunks as encoded whole."""
    if proof.spec.independent:
        return False
    wave = proof.wave(2 * proof.length)
    whole = proof.codec.encode(wave)
    size = max(1, len(whole) // 2)
    cut = proof.codec.encode(wave, window=Window(size, context=1))
    if len(cut) != len(whole):
        proof.fail("windows keep the grid", f"{len(cut)} chunks in windows, {len(whole)} whole")
    return True


def _lengths_are_exact(proof: _Proof) -> bool:
    """Rate, channels and length of any sound come back, from one sample on."""
    spec = proof.spec
    for length, channels, rate in ((1, 1, spec.rate), (proof.length, 2, spec.rate), (proof.length, 1, 44_100),
                                   (spec.chunk, 2, 22_050), (spec.chunk + 1, 1, 96_000)):  # fmt: skip
        wave = proof.wave(length, channels, rate)
        value = proof.codec.encode(wave)
        wanted = spec.chunks(value.source.at(spec.rate) or 0)
        if len(value) != wanted:
            proof.fail(
                "the spec gives the number of chunks", f"{len(value)} for {length} samples, the spec says {wanted}"
            )
        out = proof.codec.decode(value)
        if (out.rate, out.channels, out.length) != (rate, channels, length):
            proof.fail("lengths are exact", f"{length} samples at {rate} Hz came back as {out.length} at {out.rate} Hz")
        if not bool(torch.isfinite(out.samples).all()):
            proof.fail("decoded sound is finite", "it is not")
    return True


def _chunks_decode_as_the_whole(proof: _Proof) -> bool:
    """Chunks pushed one by one decode to the same samples as the whole; empty values are accepted."""
    value = proof.codec.encode(proof.wave())
    strategies: list[str | None] = list(proof.spec.strategies) or [None]
    for strategy in strategies:
        whole = proof.codec.decode(value, strategy)
        with proof.codec.decode_stream(value.source, strategy) as stream:
            parts = [stream.push(value[0:0])]
            parts += [stream.push(value[i]) for i in range(len(value))]
            parts.append(stream.finish())
        joined = Waveform(torch.cat([part.samples for part in parts], dim=1), parts[0].rate)
        proof.same_sound(f"chunks decode as the whole ({strategy or 'its one way'})", whole, joined)
    return True


def _faces_agree(proof: _Proof) -> bool:
    """Codes -> latents -> codes is the identity, and both decode."""
    if len(proof.spec.faces) < 2:
        return False
    latents = proof.codec.encode(proof.wave())
    codes = latents.codes()
    if codes.latents().codes() != codes:
        proof.fail("codes survive their latents", "they come back as others")
    a, b = proof.codec.decode(codes), proof.codec.decode(codes.latents())
    proof.same_sound("codes decode as their latents", a, b)
    return True


def _seeds_repeat(proof: _Proof) -> bool:
    """Equal seeds give equal samples, different seeds different ones if decoding draws noise."""
    value = proof.codec.encode(proof.wave())
    first, again = proof.codec.decode(value, seed=1), proof.codec.decode(value, seed=1)
    if not torch.equal(first.samples, again.samples):
        proof.fail("one seed gives one sound", "the samples differ")
    if proof.spec.seeded and torch.equal(first.samples, proof.codec.decode(value, seed=2).samples):
        proof.fail("another seed gives another sound", "the samples are equal")
    return True


def _live_gives_at_once(proof: _Proof) -> bool:
    """Live decoding returns a chunk's samples as soon as the chunk is pushed."""
    if not proof.spec.live:
        return False
    value = proof.codec.encode(proof.wave())
    step = round(proof.spec.chunk * proof.spec.rate_out / proof.spec.rate)
    with proof.codec.stream(seed=3) as stream:
        lengths = [stream.push(value[i]).length for i in range(len(value))]
    if any(length != step for length in lengths[1:]):
        proof.fail("live decoding gives a chunk at once", f"{lengths} samples for chunks of {step}")
    return True


def _others_are_refused(proof: _Proof) -> bool:
    """Closed sessions, other codecs' values, empty audio and unknown options raise errors."""
    from dataclasses import replace

    codec, wave = proof.codec, proof.wave()
    value = codec.encode(wave)
    foreign = replace(value, spec=replace(value.spec, space="0" * 16, fingerprint="0" * 16))
    proof.refused("other codecs' values are refused", CodecMismatchError, lambda: codec.decode(foreign))
    empty = Waveform(torch.zeros(1, 0), codec.rate)
    proof.refused("an empty wave is refused", AudioError, lambda: codec.encode(empty))
    proof.refused("unknown strategies are refused", UsageError, lambda: codec.decode(value, "sideways"))
    proof.refused("unknown options are refused", UsageError, lambda: codec.decode(value, sidewards=1))
    encoder = codec.encode_stream(wave.rate, wave.channels)
    encoder.push(wave)
    encoder.finish()
    proof.refused("closed sessions refuse", UsageError, lambda: encoder.push(wave))
    decoder = codec.decode_stream(value.source)
    decoder.push(value)
    decoder.finish()
    proof.refused("closed sessions refuse", UsageError, lambda: decoder.push(value))
    return True


_RULES: tuple[Callable[[_Proof], bool], ...] = (
    _spec_is_right, _batches_have_their_shape, _batch_is_its_singles, _many_are_each, _blocks_are_the_whole,
    _nothing_beyond_the_borders, _windows_keep_the_grid, _lengths_are_exact, _chunks_decode_as_the_whole, _faces_agree,
    _seeds_repeat, _live_gives_at_once, _others_are_refused,
)  # fmt: skip
