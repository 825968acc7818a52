"""The consistency objective of the codec: one loss, end to end (arXiv 2509.09836; 2408.06500, section 3).

Legend: B examples, each two consecutive chunks (left, right); C F T spectrum; L latents of d dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from duotone.codec import consistency
from duotone.codec.codicodec import CoDiCodec
from duotone.codec.network import CoDiCodecNetwork
from duotone.config import CoDiCodecConfig, NoiseConfig
from duotone.quant.fsq import FSQ
from duotone.represent.stft import to_spectrum
from duotone.train.bottleneck import EPS, BottleneckNorm
from duotone.train.recipe import ObjectiveSection

@dataclass(frozen=True)
class Pair:
    """Noise levels `[B]` of student (high) and teacher (low) for one chunk of each example."""

    high: Tensor
    low: Tensor


def draw_pair(count: int, dt: float | None, noise: NoiseConfig, section: ObjectiveSection, g: torch.Generator) -> Pair:
    """Log-normal sigma mapped to the rho grid, and the level `dt` below it; `dt` None means the clean end (r = 0).

    Each draw is log-normal, but the draws of a batch are stratified: one in each of `count` equally likely bands, in
    random order. The gradient has the same mean and less variance.
    """
    band = torch.randperm(count, generator=g) + torch.rand(count, generator=g, dtype=torch.float64)
    normal = torch.special.ndtri((band / count).clamp(1e-9, 1 - 1e-9)).float()
    log_sigma = section.log_sigma_mean + section.log_sigma_deviation * normal
    u = consistency.position(log_sigma.exp().clamp(noise.sigma_min, noise.sigma_max), noise).clamp(1e-3, 1)
    lower = torch.zeros_like(u) if dt is None else (u - dt).clamp_min(0)
    return Pair(consistency.sigma(u, noise), consistency.sigma(lower, noise))


def step_size(progress: float, section: ObjectiveSection) -> float | None:
    """``dt = 0.1 ** e``, e linear in training progress; None during the denoising stage (ECT, arXiv 2406.14548)."""
    if progress < section.denoising_share:
        return None
    rest = (progress - section.denoising_share) / max(1e-9, 1 - section.denoising_share)
    exponent = section.dt_exponent_start + rest * (section.dt_exponent_end - section.dt_exponent_start)
    return float(0.1**exponent)


def consistency_loss(student: Tensor, teacher: Tensor, pair: Pair, power: float) -> Tensor:
    """Pseudo-Huber per example, weighted by ``1 / (sigma_hi - sigma_lo)``: mean over the batch."""
    weight = (pair.high - pair.low).clamp_min(1e-6) ** -power
    return (weight * consistency.pseudo_huber(student, teacher)).mean()


class CodecObjective(nn.Module):
    """Samples in, loss out. Owns the network and the normalisation of its bottleneck."""

    def __init__(self, config: CoDiCodecConfig, section: ObjectiveSection) -> None:
        super().__init__()
        self.config, self.section = config, section
        self.network = CoDiCodecNetwork(config)
        self.fsq = FSQ(config.levels)
        self.norm = BottleneckNorm(len(config.levels), config.latents if config.anchored else None)

    @property
    def crop(self) -> int:
        """Samples of one example: two chunks and the overlap of a window."""
        return 2 * self.config.chunk_samples + self.config.hop

    def bottleneck(self, pre: Tensor, skip: Tensor) -> Tensor:
        """Pre-tanh `[B, L, d]` -> bounded `[B, L, d]`; examples with `skip` `[B]` keep their unrounded values."""
        if self.section.bottleneck_norm:
            pre = self.section.bottleneck_scale * self.norm(pre)
        bounded = self.fsq.bound(pre)
        return torch.where(skip[:, None, None], bounded, self.fsq.round_straight_through(bounded))

    def forward(self, samples: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        """Samples `[B, 2, crop]`, training progress in [0, 1] -> loss; all randomness comes from the generator."""
        count, device = len(samples), samples.device
        with torch.no_grad():
            spectrum = to_spectrum(samples, self.config)
            clean = torch.cat(torch.split(spectrum, self.config.frames, dim=-1))  # [2B, C, F, T]: lefts, then rights
        skip = torch.rand(count, generator=generator) < self.section.continuous_share
        dt = step_size(progress, self.section)
        pairs = [draw_pair(count, dt, self.config.noise, self.section, generator) for _ in range(2)]
        noise = torch.randn(clean.shape, generator=generator).to(device)

        values = self.bottleneck(self.network.encode_pre(clean), skip.repeat(2).to(device))
        pyramid = self.network.upsample(values)
        high = torch.cat([p.high for p in pairs]).to(device)
        low = torch.cat([p.low for p in pairs]).to(device)
        student = self._denoise(clean + high[:, None, None, None] * noise, high, values, pyramid)
        with torch.no_grad():  # the same weights at the lower level, with the same noise
            if dt is None:
                teacher = clean
            else:
                teacher = self._denoise(clean + low[:, None, None, None] * noise, low, values, pyramid)
        return consistency_loss(student, teacher, Pair(high, low), self.section.weight_power)

    def _denoise(self, noisy: Tensor, level: Tensor, values: Tensor, pyramid: list[Tensor]) -> Tensor:
        left = [t.chunk(2)[0] for t in (noisy, level, values)]
        right = [t.chunk(2)[1] for t in (noisy, level, values)]
        halves = [p.chunk(2) for p in pyramid]
        out = self.network.denoise_pair(
            left[0], right[0], left[1], right[1], left[2], right[2], [h[0] for h in halves], [h[1] for h in halves]
        )
        return torch.cat(out)

    @torch.no_grad()
    def health(self, samples: Tensor, seed: int = 0) -> dict[str, float]:
        """The bottleneck's health, and the one-step denoising error at sigma 1, 10, 80, continuous and rounded."""
        training = self.training
        self.eval()
        generator = torch.Generator().manual_seed(seed)
        spectrum = to_spectrum(samples, self.config)
        clean = torch.cat(torch.split(spectrum, self.config.frames, dim=-1))
        pre = self.network.encode_pre(clean)
        keep = torch.ones(len(clean), dtype=torch.bool, device=clean.device)
        bounded, rounded = self.bottleneck(pre, keep), self.bottleneck(pre, ~keep)
        noise = torch.randn(clean.shape, generator=generator).to(clean.device)
        figures = {
            "pre_tanh_deviation": float(torch.atanh(bounded.clamp(-0.9989, 0.9989)).std()),
            "saturated_share": float((bounded.abs() > 0.97).float().mean()),
            **_code_use(self.fsq, bounded),
        }
        for face, values in (("continuous", bounded), ("rounded", rounded)):
            pyramid = self.network.upsample(values)
            for sigma in (1.0, 10.0, 80.0):
                level = torch.full((len(clean),), sigma, device=clean.device)
                estimate = self._denoise(clean + sigma * noise, level, values, pyramid)
                error = (estimate - clean).pow(2).mean() / clean.pow(2).mean()
                figures[f"error_{face}_{sigma:g}"] = float(error)
        self.train(training)
        return figures

    @torch.no_grad()
    def export(self, provenance: dict[str, object]) -> CoDiCodec:
        """A codec of these weights, the bottleneck's normalisation folded into the encoder's head."""
        network = CoDiCodecNetwork(self.config)
        network.load_state_dict({k: v.detach().cpu() for k, v in self.network.state_dict().items()})
        if self.section.bottleneck_norm:
            network.fold_bottleneck_norm(self.norm.mean.cpu(), self.norm.var.cpu(), self.section.bottleneck_scale, EPS)
        return CoDiCodec(network, provenance=dict(provenance))


def _code_use(fsq: FSQ, bounded: Tensor) -> dict[str, float]:
    """Entropy of the levels as a share of its maximum (mean over dimensions), and the perplexity of the codebook."""
    shares = []
    for i, levels in enumerate(fsq.levels):
        code = torch.round(bounded[..., i] * (levels // 2)).long().flatten() + levels // 2
        p = torch.bincount(code, minlength=levels).float() / code.numel()
        shares.append(float(-(p[p > 0] * p[p > 0].log()).sum() / torch.log(torch.tensor(float(levels)))))
    p = torch.bincount(fsq.bounded_to_index(bounded).flatten(), minlength=fsq.size).float()
    p = p[p > 0] / p.sum()
    return {"level_entropy": sum(shares) / len(shares), "codebook_perplexity": float((-(p * p.log()).sum()).exp())}
