"""The consistency objective of the codec: a single end-to-end loss (arXiv 2509.09836; 2408.06500, section 3).

Legend: B examples, each two consecutive chunks (left, right); C F T spectrum; L latents of d dimensions.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from duotone.codec.codicodec import CoDiCodec
from duotone.codec.codicodec.network import CoDiCodecNetwork, stft_of
from duotone.config import BandsConfig, CoDiCodecConfig, Config
from duotone.errors import ConfigError
from duotone.nn.conv import Frontend
from duotone.nn.transformer import Transformer
from duotone.quant.fsq import FSQ
from duotone.represent.stft import to_spectrum
from duotone.train.band_consistency import BandConsistencyObjective
from duotone.train.bottleneck import spread_loss
from duotone.train.codec_objective import CodecObjective
from duotone.train.codicodec_objective import CoDiCodecObjective
from duotone.train.draws import Draws
from duotone.train.envelope import Envelope
from duotone.train.noise_pairs import ConsistencyFields, Pair, consistency_loss, draw_pair, step_size
from duotone.train.sections import (
    OBJECTIVES,
    CoDiCodecSection,
    Parts,
    Warn,
)
from duotone.train.task import Batch, Task

#: Noise levels at which validation measures one denoising step.
SIGMAS = (1.0, 10.0, 80.0)
#: Bands of the noise level whose errors are shown apart: from, below, name.
BANDS = (
    (0.0, 0.1, "error_below_0.1"), (0.1, 1.0, "error_0.1_to_1"), (1.0, 10.0, "error_1_to_10"),
    (10.0, float("inf"), "error_from_10"),
)  # fmt: skip


@OBJECTIVES.register
class ConsistencySection(ConsistencyFields):
    """The consistency objective; defaults are the published values if there are any."""

    warnings: ClassVar[tuple[Warn, ...]] = (
        Warn("saturated_share", lambda v: v > 0.2, "latents saturate: lower objective.deviation or optim.rate"),
        Warn(
            "pre_tanh_deviation",
            lambda v: v < 0.15,
            "latents collapse to the zero level: raise objective.spread_weight",
        ),
        Warn("level_entropy", lambda v: v < 0.6, "few of the FSQ levels are used"),
    )

    network: ClassVar[tuple[type[Config], ...]] = (CoDiCodecConfig, BandsConfig)

    kind: Literal["consistency"] = "consistency"

    def objective(self, config: CoDiCodecConfig | BandsConfig) -> CodecObjective:
        """The objective of a network with random weights. Raises `ConfigError` for fields that its frontend does not have."""
        bands = isinstance(config, BandsConfig)
        heard = {"heard_weight": self.heard_weight > 0, "heard_convergence_weight": self.heard_convergence_weight > 0}
        wrong = {"envelope_weight": self.envelope_weight > 0} if bands else {
            "chunks": self.chunks != 2, "teacher_decay": self.teacher_decay > 0, **heard}  # fmt: skip
        for name in (name for name, bad in wrong.items() if bad):
            raise ConfigError(
                f"objective.{name} got {getattr(self, name)}, which the {'bands' if bands else 'convolution'} frontend does not have. Leave it out."
            )
        if isinstance(config, BandsConfig) and not config.estimated and any(heard.values()):
            raise ConfigError(
                f"objective.{next(name for name, used in heard.items() if used)} hears the refinement of an estimate, and this model "
                "has no estimate (model.replace.refinement.start=noise). Leave it out."
            )
        return (
            BandConsistencyObjective(config, self)
            if isinstance(config, BandsConfig)
            else ConsistencyObjective(config, self)
        )

    def task(self, parts: Parts) -> Task:
        """See `CoDiCodecObjectiveSection`. Raises `ConfigError` for a refinement without an estimate to begin with."""
        model = parts.model
        if isinstance(model, CoDiCodecSection) and model.start_from is None:
            config = model.build()
            if isinstance(config, BandsConfig) and config.refinement is not None and config.estimated:
                raise ConfigError(
                    "objective.kind consistency refines a trained estimate, but model.start_from is missing. Name the codec of a run "
                    "with objective.kind estimate (RUN/codec), or set model.replace.refinement.start=noise to train without one."
                )
        return super().task(parts)


class ConsistencyObjective(CoDiCodecObjective):
    """``{"samples": [B, 2, crop]}`` in, loss out. Owns the network, and auxiliary heads that are not exported."""

    made = CoDiCodec
    frontend = "convolution"
    config: CoDiCodecConfig
    network: CoDiCodecNetwork

    def __init__(self, config: CoDiCodecConfig, section: ConsistencyFields) -> None:
        super().__init__()
        self.config, self.section = config, section
        self.network = CoDiCodecNetwork(config)
        self.fsq = FSQ(config.levels)
        self.envelope = Envelope(config) if section.envelope_weight else None

    def fresh(self) -> ConsistencyObjective:
        """Another one of the same configuration."""
        return ConsistencyObjective(self.config, self.section)

    def before_bound(self, samples: Tensor) -> Tensor:
        """See `CoDiCodecObjective`."""
        return self.network.encode_pre(self.clean(samples))

    def save_memory(self) -> None:
        """Gradient checkpointing: keep the inputs of blocks and layers, compute the rest again in the backward pass."""
        for module in self.modules():
            if isinstance(module, Transformer | Frontend):
                module.checkpointing = True

    def compile_parts(self) -> None:
        """Compile the three networks in place; random draws and loss run eagerly."""
        self.network.encoder.compile()
        self.network.upsampler.compile()
        self.network.denoiser.denoise = torch.compile(self.network.denoiser.denoise)  # type: ignore[method-assign]

    @property
    def crop(self) -> int:
        """Samples of one example: two chunks and the overlap of a window."""
        return 2 * self.config.chunk_samples + self.config.hop

    @torch.no_grad()
    def calibrate(self, samples: Tensor, latents: bool = True) -> None:
        """Set the encoder's scale so that the latents of these samples have mean 0 and the target deviation.

        Data-dependent initialisation (arXiv 1602.07868, section 3): training starts with latents of the right scale.
        Without `latents`, for fine-tuning, only the parts that are not exported are set.
        """
        parts = [self.clean(part) for part in torch.split(samples, 8)]
        if self.envelope is not None:
            self.envelope.calibrate(torch.cat(parts))
        if not latents:
            return
        pre = torch.cat([self.network.encode_pre(part) for part in parts])
        over = 0 if self.config.anchored else (0, 1)
        var, mean = torch.var_mean(pre, over, correction=1)
        self.network.rescale(mean, var, self.section.deviation)

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples `[B, 2, crop]`, training progress in [0, 1] -> loss, and values: per chunk `sigma`, `error` `[2B]`."""
        samples = batch["samples"]
        device = samples.device
        clean = self.clean(samples)
        skip = draws.chosen("skip rounding", self.section.continuous_share).to(device)
        dt = step_size(progress, self.section)
        pairs = [draw_pair(side, dt, self.config.noise, self.section, draws) for side in ("left", "right")]
        high = torch.cat([p.high for p in pairs]).to(device)
        low = torch.cat([p.low for p in pairs]).to(device)
        noise = torch.cat([draws.noise(side, tuple(clean.shape[1:]), device) for side in ("left", "right")])

        pre = self.network.encode_pre(clean)
        latents = self.bottleneck(pre, skip.repeat(2))
        pyramid = self.network.upsample(latents)
        student = self.denoise(clean + high[:, None, None, None] * noise, high, latents, pyramid)
        with torch.no_grad():  # the same weights at the lower level, with the same noise
            if dt is None:
                teacher = clean
            else:
                teacher = self.denoise(clean + low[:, None, None, None] * noise, low, latents, pyramid)
        loss, error = consistency_loss(student, teacher, Pair(high, low), self.section.weight_power)
        if self.section.spread_weight:
            loss = loss + self.section.spread_weight * spread_loss(pre, self.section.deviation)
        values = {"sigma": high, "error": error}
        if self.envelope is not None:
            envelope_loss = self.envelope(pyramid[0], clean)
            loss = loss + self.section.envelope_weight * envelope_loss
            values["envelope"] = envelope_loss.detach()[None]
        return loss, values

    @torch.no_grad()
    def clean(self, samples: Tensor) -> Tensor:
        """Samples `[B, 2, crop]` -> spectra of the chunks `[2B, C, F, T]`: lefts, then rights."""
        with torch.autocast(samples.device.type, enabled=False):
            return torch.cat(
                torch.split(to_spectrum(samples.float(), stft_of(self.config)), self.config.frames, dim=-1)
            )

    def summarise(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Mean unweighted error for each range of noise levels, over the chunks of several steps, and of the envelopes.

        Empty bands are left out.
        """
        out = {}
        for low, high, name in BANDS:
            inside = (values["sigma"] >= low) & (values["sigma"] < high)
            if bool(inside.any()):
                out[name] = float(values["error"][inside].mean())
        if "envelope" in values:
            out["envelope_error"] = float(values["envelope"].mean())
        return out

    def denoise(self, noisy: Tensor, level: Tensor, latents: Tensor, pyramid: list[Tensor]) -> Tensor:
        """Lefts then rights, noisy `[2B, C, F, T]` at levels `[2B]` -> clean estimates `[2B, C, F, T]`."""
        left = [t.chunk(2)[0] for t in (noisy, level, latents)]
        right = [t.chunk(2)[1] for t in (noisy, level, latents)]
        halves = [p.chunk(2) for p in pyramid]
        out = self.network.denoise_pair(
            left[0], right[0], left[1], right[1], left[2], right[2], [h[0] for h in halves], [h[1] for h in halves]
        )
        return torch.cat(out)

    @torch.no_grad()
    def errors(self, batch: Batch, seed: int = 0) -> dict[str, float]:
        """Relative squared error of one denoising step at sigma 1, 10 and 80, from continuous and rounded latents.

        Samples `[B, 2, crop]`; the noise is a function of the seed; the noise level is the same left and right.
        """
        clean = self.clean(batch["samples"].to(next(self.parameters()).device))
        keep = torch.ones(len(clean), dtype=torch.bool, device=clean.device)
        pre = self.network.encode_pre(clean)
        noise = Draws.whole(len(clean), seed).noise("validation", tuple(clean.shape[1:]), clean.device)
        out = {}
        for face, choice in (("continuous", keep), ("rounded", ~keep)):
            latents = self.bottleneck(pre, choice)
            pyramid = self.network.upsample(latents)
            for sigma in SIGMAS:
                level = torch.full((len(clean),), sigma, device=clean.device)
                estimate = self.denoise(clean + sigma * noise, level, latents, pyramid)
                out[f"error_{face}_{sigma:g}"] = float((estimate - clean).pow(2).mean() / clean.pow(2).mean())
        return out
