"""Small codecs of every shape behind the contract, without weights: for tests of what is written once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from duotone.codec.batches import Batch
from duotone.codec.contract import Codec
from duotone.spec import CodecSpec


class Toy(Codec):
    """What toys share: they live on the CPU."""

    def __init__(self, **changes: Any) -> None:
        self.spec = replace(self.spec, **changes)
        self.provenance = {}

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def to(self, device: Any = None, dtype: Any = None) -> Toy:  # type: ignore[override]
        return self


class Pcm(Toy):
    """16-bit samples as four codebooks of 16, mono; 100 steps a chunk: whole recordings, like EnCodec at 24 kHz."""

    spec = CodecSpec(
        family="pcm", model="pcm16", fingerprint="0a" * 8, space="0b" * 8, rate=16_000, rate_out=16_000, channels=1,
        chunk=100, steps=100, codebooks=(16,) * 4,
    )  # fmt: skip

    def encode_batch(self, samples: Tensor) -> Batch:
        v = ((samples[:, 0] * 32768).round().long() + 32768).clamp(0, 65535)
        return Batch(codes=torch.stack([v >> 12 & 15, v >> 8 & 15, v >> 4 & 15, v & 15], dim=1))

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        k = codes
        v = (k[:, 0] << 12) + (k[:, 1] << 8) + (k[:, 2] << 4) + k[:, 3]
        return ((v - 32768).float() / 32768)[:, None]


class Scaled(Toy):
    """Stereo, a loudness for each chunk of 200 samples that overlaps the next by 20, codebooks of different sizes."""

    spec = CodecSpec(
        family="scaled", model="scaled", fingerprint="1a" * 8, space="1b" * 8, rate=24_000, rate_out=24_000, channels=2,
        chunk=200, ahead=20, steps=2, codebooks=(11, 7, 300), scaled=True, independent=True,
    )  # fmt: skip

    def encode_batch(self, samples: Tensor) -> Batch:
        blocks = samples.unfold(-1, 220, 200)  # [B, 2, N, 220]
        scale = blocks.abs().amax(dim=(1, 3)) + 1e-3
        level = (blocks.mean(dim=(1, 3)) / scale * 0.5 + 0.5).clamp(0, 1).nan_to_num(0.5)
        codes = torch.stack([(level * (size - 1)).round().long() for size in (11, 7, 300)], dim=1)
        return Batch(codes=codes.repeat_interleave(2, dim=2), scale=scale)

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        assert scale is not None
        level = codes[:, 2, ::2].float() / 299 * 2 - 1
        return (level * scale).repeat_interleave(200, dim=1)[:, None].expand(-1, 2, -1)


class Features(Toy):
    """Mono, unbounded latents of 8 numbers for 80 samples, no tokens; the decoder runs at half the rate."""

    spec = CodecSpec(
        family="features", model="features", fingerprint="2a" * 8, space="2b" * 8, rate=16_000, rate_out=8_000, channels=1,
        chunk=80, behind=16, ahead=16, latent=(1, 8), bounded=False, independent=True,
    )  # fmt: skip

    def encode_batch(self, samples: Tensor) -> Batch:
        windows = samples[:, 0].unfold(-1, 112, 80)  # [B, N, 112]
        return Batch(latents=(100 * windows[..., 16:96]).reshape(*windows.shape[:2], 8, 10).mean(-1)[:, :, None])

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        return (codes[:, :, 0] / 100).repeat_interleave(5, dim=-1).reshape(len(codes), 1, -1)


class Grouped(Toy):
    """Lycodec-shaped: 18 steps of 8 dimensions, as two codebooks of 11**4 that are rounded latents; stereo."""

    spec = CodecSpec(
        family="grouped", model="grouped", fingerprint="3a" * 8, space="3b" * 8, rate=48_000, rate_out=48_000, channels=2,
        chunk=720, steps=18, codebooks=(11**4,) * 2, latent=(18, 8), levels=(11,) * 4, independent=True,
    )  # fmt: skip

    def encode_batch(self, samples: Tensor) -> Batch:
        b = len(samples)
        parts = samples.mean(1).reshape(b, -1, 18, 8, 5).mean(-1)
        return Batch(latents=torch.tanh(5 * parts))

    def decode_batch(self, codes: Tensor, scale: Tensor | None) -> Tensor:
        wave = torch.atanh(codes.clamp(-0.999, 0.999)) / 5
        return wave.repeat_interleave(5, dim=-1).reshape(len(codes), 1, -1).expand(-1, 2, -1)


TOYS: tuple[type[Toy], ...] = (Pcm, Scaled, Features, Grouped)
