"""Lycodec's objective: consistency, and the terms that shape its tokens and its stereo image.

Legend: B examples of N consecutive chunks, F bins, T frames, n tokens of a chunk, V values of a token, G groups of values.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import safetensors.torch
import torch
from pydantic import Field, field_validator
from torch import Tensor

from duotone.atomic import write_bytes
from duotone.codec.contract import Codec
from duotone.codec.lycodec.codec import Lycodec
from duotone.codec.lycodec.frontend import chunk_spectra
from duotone.codec.lycodec.network import LycodecNetwork
from duotone.codec.lycodec.weights import load_lycodec, save_lycodec
from duotone.codec.precision import best_dtype
from duotone.config import LycodecConfig, lycodec_preset
from duotone.errors import ConfigError
from duotone.represent.mel import DECIBEL
from duotone.train.alignment import Alignment, Teacher, TeacherSection
from duotone.train.bottleneck import spread_loss
from duotone.train.code_use import level_entropy
from duotone.train.codec_objective import CodecObjective, require_equal
from duotone.train.codec_task import codec_task
from duotone.train.draws import Draws
from duotone.train.lycodec_losses import SpectralLosses, StereoTargets, stereo_losses
from duotone.train.noise_pairs import NoiseFields, Pair, consistency_loss, draw_pair, follow, step_size
from duotone.train.sections import MODELS, OBJECTIVES, ModelSection, Parts, SoundSection, Warn
from duotone.train.task import Batch, Task

#: The maps from tokens to teachers' features, in the folder of a run.
MAPS = "alignment.safetensors"


@MODELS.register
class LycodecSection(ModelSection):
    """A Lycodec: a preset, with any of its fields replaced; from random weights or from those of a codec."""

    kind: Literal["lycodec"] = "lycodec"
    preset: str = "lycodec-tiny"
    replace: dict[str, Any] = Field(default_factory=dict)
    start_from: str | None = None  # a folder of a Lycodec to fine-tune

    def build(self) -> LycodecConfig:
        """The network's configuration. Raises `ConfigError` for an unknown preset or field."""
        return LycodecConfig.parse({**lycodec_preset(self.preset).to_dict(), **self.replace}, "model.replace")


@OBJECTIVES.register
class LycodecObjectiveSection(NoiseFields):
    """The objective *lycodec*: its draws, and the weights of its terms."""

    warnings: ClassVar[tuple[Warn, ...]] = (
        Warn("saturated_share", lambda v: v > 0.2, "values saturate: lower objective.deviation or optim.rate"),
        Warn("level_entropy", lambda v: v < 0.6, "few of the FSQ levels are used: raise objective.spread_weight"),
    )

    kind: Literal["lycodec"] = "lycodec"
    chunks: int = Field(default=1, ge=1)  # consecutive chunks of an example
    # FSQ-dropout: from which step on, and the share of examples with their residual
    hybrid_share: tuple[tuple[int, float], ...] = ((0, 0.50), (5000, 0.65), (10000, 0.75))
    group_share: float = Field(default=0.25, ge=0, le=1)  # group dropout: share of examples with fewer groups
    top_share: float = Field(default=0.0, ge=0, le=1)  # share of examples at sigma_max, where decoding begins
    teacher_decay: float = Field(default=0.999, ge=0, lt=1)  # of the teacher's moving average; 0: the student's weights
    deviation: float = Field(default=0.8, gt=0)  # target standard deviation of each value before the bound
    spread_weight: float = Field(default=0.05, ge=0)
    spectral_weight: float = Field(default=1.0, ge=0)  # of the distance over STFTs of several sizes
    mel_weight: float = Field(default=0.0, ge=0)
    spectral_warmup: int = Field(default=1000, ge=0)  # steps over which the two spectral weights rise from 0
    spectral_end: int | None = Field(default=None, ge=1)  # the first step without them; None: to the end
    spectral_sizes: tuple[int, ...] = (512, 1024, 2048)
    mel_bands: int = Field(default=64, ge=1)
    level_weight: float = Field(default=0.1, ge=0)  # of the stereo head's ILD
    time_weight: float = Field(default=0.1, ge=0)  # ITD
    side_weight: float = Field(default=0.1, ge=0)  # side residual
    predictor_weight: float = Field(default=1.0, ge=0)  # of the residual's prediction from codes
    teachers: tuple[TeacherSection, ...] = ()  # models whose features tokens are aligned with

    @field_validator("hybrid_share")
    @classmethod
    def _from_the_first_step(cls, value: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
        if not any(begin == 0 for begin, _ in value) or not all(0 <= share <= 1 for _, share in value):
            raise ValueError(
                f"hybrid_share got {value}, expected pairs of step and share in [0, 1], one of them from step 0"
            )
        return value

    def seconds(self, model: ModelSection) -> float | None:
        """The chunks of an example."""
        if not isinstance(model, LycodecSection):
            return None
        config = model.build()
        return self.chunks * config.chunk_samples / config.rate

    def task(self, parts: Parts) -> Task:
        """Train a Lycodec on audio. Raises `ConfigError` for another model or data."""
        model, data = parts.of_kinds(self.kind, LycodecSection, SoundSection)
        torch.manual_seed(parts.train.seed)
        objective = LycodecObjective(model.build(), self)
        began = None if model.start_from is None else start_of(parts, model.start_from)
        return codec_task(objective, data, parts, began)


class LycodecObjective(CodecObjective):
    """``{"samples": [B, 2, crop]}`` in, loss out. Owns the network, and with `teacher_decay` a teacher that is not exported."""

    #: Fields of the configuration that may change when a training starts from a codec.
    free: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, config: LycodecConfig, section: LycodecObjectiveSection, teachers: Sequence[Teacher] | None = None
    ) -> None:
        super().__init__()
        self.config, self.section = config, section
        self.network = LycodecNetwork(config)
        self.spectral = SpectralLosses(config, section.spectral_sizes, section.mel_bands)
        self.targets = StereoTargets(config)
        self.alignment: Alignment | None = None
        if section.teachers:
            loaded = [Teacher(each) for each in section.teachers] if teachers is None else list(teachers)
            self.alignment = Alignment(loaded, config.values, token_spans(config, section.chunks))
        self.teacher: LycodecNetwork | None = None
        if section.teacher_decay:
            self.teacher = copy.deepcopy(self.network).requires_grad_(False)

    @property
    def rate(self) -> int:
        """Samples a second of the examples."""
        return self.config.rate

    @property
    def crop(self) -> int:
        """Samples of an example: its chunks, and those that frames share with the sound before."""
        return self.config.overlap + self.section.chunks * self.config.chunk_samples

    def fresh(self) -> LycodecObjective:
        """Another one of the same configuration."""
        return LycodecObjective(self.config, self.section, None if self.alignment is None else self.alignment.teachers)

    def wanted_dtype(self, device: torch.device) -> torch.dtype:
        """bfloat16 if the device has matrix units for it, else float32."""
        return best_dtype(device)

    def save_memory(self) -> None:
        """Gradient checkpointing in encoder and decoder."""
        self.network.encoder.checkpointing = self.network.decoder.checkpointing = True

    def compile_parts(self) -> None:
        """Compile encoder and decoder, the teacher's decoder too; draws, rounding and losses run eagerly."""
        self.network.encoder.compile()
        for network in (self.network, self.teacher):
            if network is not None:
                network.decoder.compile()

    def begin_from(self, codec: Codec) -> None:
        """Start from a codec's weights. Raises `ConfigError` if it has another network."""
        if not isinstance(codec, Lycodec):
            raise ConfigError(f"model.start_from got {codec.spec.model or codec.spec.family}, expected a Lycodec.")
        begun, own = codec.config.to_dict(), self.network.state_dict()
        require_equal({name: value for name, value in begun.items() if name not in self.free}, self.config.to_dict())
        weights = {name: w.float() for name, w in codec.network.state_dict().items() if name in own}
        self.network.load_state_dict({**own, **weights})

    @torch.no_grad()
    def calibrate(self, samples: Tensor, latents: bool = True) -> None:
        """Set the encoder's means, scale and shift from these samples; the teacher begins as the student."""
        if latents:
            self.network.encoder.calibrate(self.clean(samples), self.section.deviation)
        self.after_step(0.0)

    def after_step(self, decay: float | None = None) -> None:
        """The teacher's weights follow the student's."""
        if self.teacher is not None:
            follow(self.teacher, self.network, self.section.teacher_decay if decay is None else decay)

    @torch.no_grad()
    def clean(self, samples: Tensor) -> Tensor:
        """Samples `[B, 2, crop]` -> companded spectra of their chunks `[B * N, 4, F, T]`."""
        with torch.autocast(samples.device.type, enabled=False):
            return chunk_spectra(samples.float(), self.config)

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples `[B, 2, crop]` -> loss, and values: `sigma` and `error` `[B * N]`, and the other terms `[1]` each."""
        section, clean = self.section, self.clean(batch["samples"])
        hybrid, kept = self.choices(draws)
        hybrid, kept = (x.to(clean.device).repeat_interleave(section.chunks) for x in (hybrid, kept))
        pre = self.network.encoder(clean)
        values = self.network.keep(self.network.fsq.bound(pre), kept)
        stereo, tokens = self.network.listen(self.network.fuse(values, hybrid))
        dt = step_size(progress, section)
        pair = self.levels(dt, draws, clean.device)
        noise = draws.noise("noise", (section.chunks, *clean.shape[1:]), clean.device).flatten(0, 1)
        student = self.network.denoise(_noised(clean, pair.high, noise), pair.high, tokens)
        target = clean
        if dt is not None:
            with torch.no_grad():
                target = (self.teacher or self.network).denoise(_noised(clean, pair.low, noise), pair.low, tokens)
        loss, error = consistency_loss(student, target, pair, section.weight_power)
        terms = self.terms(pre, values, stereo, student, clean, draws.step)
        if self.alignment is not None:
            found = values.unflatten(0, (-1, section.chunks)).flatten(1, 2)
            aligned = self.alignment(found, batch["samples"], self.config.rate)
            terms |= {f"teacher {i}": term for i, term in enumerate(aligned)}
        total = loss + sum(weight * term for weight, term in terms.values())
        return total, {"sigma": pair.high, "error": error, **{name: t.detach()[None] for name, (_, t) in terms.items()}}

    def choices(self, draws: Draws) -> tuple[Tensor, Tensor]:
        """Which examples have their residual `[B]`, in each batch at least one without; and groups that each keeps `[B]`."""
        share = hybrid_share(self.section.hybrid_share, draws.step)
        return (
            draws.drawn("hybrid", lambda total, g: draw_hybrid(total, share, g)),
            draws.drawn("groups", lambda total, g: draw_kept(total, self.section.group_share, self.config.groups, g)),
        )

    def levels(self, dt: float | None, draws: Draws, device: torch.device) -> Pair:
        """Noise levels of student and teacher `[B * N]`."""
        noise, top = self.config.noise, draws.chosen("top", self.section.top_share)
        pairs = [draw_pair(f"chunk {i}", dt, noise, self.section, draws) for i in range(self.section.chunks)]
        high, low = (torch.stack([getattr(p, name) for p in pairs], 1) for name in ("high", "low"))
        high = torch.where(top[:, None], torch.full_like(high, noise.sigma_max), high)
        return Pair(high.flatten().to(device), low.flatten().to(device))

    def terms(
        self, pre: Tensor, values: Tensor, stereo: Any, student: Tensor, clean: Tensor, step: int
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and term (scalar) by name, of all but consistency; those without weight are left out."""
        section, out = self.section, {}
        rise = spectral_rise(step, section.spectral_warmup, section.spectral_end)
        with torch.autocast(pre.device.type, enabled=False):
            if section.spread_weight and len(pre) > 1:
                out["spread"] = (section.spread_weight, spread_loss(pre, section.deviation))
            if rise and section.spectral_weight:
                out["spectral"] = (rise * section.spectral_weight, self.spectral.multi_resolution(student, clean))
            if rise and section.mel_weight:
                out["mel"] = (rise * section.mel_weight, self.spectral.mel_distance(student, clean))
            if stereo is not None:
                for name, term in stereo_losses(stereo, *self.targets(clean)).items():
                    out[name] = (getattr(section, f"{name}_weight"), term)
        if self.network.predictor is not None:
            levels = self.network.fsq.round(values).detach()
            missed = self.network.predictor(levels).float() - (values - levels).detach()
            out["predictor"] = (section.predictor_weight, missed.square().mean())
        return out

    @torch.no_grad()
    def health(self, batch: Batch) -> dict[str, float]:
        """Statistics of the values on a batch: deviation before the bound, share near it, entropy of the levels."""
        pre = self.network.encoder(self.clean(batch["samples"]))
        bounded = self.network.fsq.bound(pre)
        return {
            "pre_tanh_deviation": float(pre.std(0).mean()) if len(pre) > 1 else 0.0,
            "saturated_share": float((bounded.abs() > 0.97).float().mean()),
            "level_entropy": level_entropy(bounded, self.network.fsq.levels),
        }

    @torch.no_grad()
    def errors(self, batch: Batch, seed: int = 0) -> dict[str, float]:
        """Mel distances in dB of one step from sigma_max, from latents and from codes, and that of silence; seeded noise."""
        clean = self.clean(batch["samples"].to(self.spectral.mel.device))
        noise = Draws.whole(len(clean), seed).noise("validation", tuple(clean.shape[1:]), clean.device)
        level = clean.new_full((len(clean),), self.config.noise.sigma_max)
        values, out = self.network.encode(clean), {}
        for face, there in (("continuous", True), ("rounded", False)):
            hybrid = torch.full((len(clean),), there, device=clean.device)
            _, tokens = self.network.listen(self.network.fuse(values, hybrid))
            found = self.network.denoise(_noised(clean, level, noise), level, tokens)
            out[f"mel_{face}"] = DECIBEL * float(self.spectral.mel_distance(found, clean))
        out["mel_silence"] = DECIBEL * float(self.spectral.mel_distance(torch.zeros_like(clean), clean))
        return out

    @torch.no_grad()
    def export(self, provenance: dict[str, object]) -> Lycodec:
        """A codec of these weights."""
        network = LycodecNetwork(self.config)
        network.load_state_dict({k: v.detach().cpu() for k, v in self.network.state_dict().items()})
        return Lycodec(network, provenance=dict(provenance))

    def save(self, codec: Codec, folder: Path) -> None:
        """Write a codec with its weights in bfloat16."""
        assert isinstance(codec, Lycodec)
        save_lycodec(codec, folder, torch.bfloat16)
        if self.alignment is not None:
            write_bytes(folder.parent / MAPS, safetensors.torch.save(self.alignment.maps.state_dict()))


def hybrid_share(schedule: tuple[tuple[int, float], ...], step: int) -> float:
    """The share of the last entry whose step has come."""
    return max((begin, share) for begin, share in schedule if begin <= step)[1]


def draw_hybrid(total: int, share: float, generator: torch.Generator) -> Tensor:
    """Bools `[total]`, each true with this probability; but one of them, at a random place, is always false."""
    chosen = torch.rand(total, generator=generator) < share
    chosen[torch.randint(total, (1,), generator=generator)] = False
    return chosen


def draw_kept(total: int, share: float, groups: int, generator: torch.Generator) -> Tensor:
    """Groups `[total]` that each example keeps: all, or with probability `share` one of the lesser numbers from 1 on."""
    fewer = torch.randint(1, max(2, groups), (total,), generator=generator).clamp_max(groups)
    return torch.where(torch.rand(total, generator=generator) < share, fewer, torch.full_like(fewer, groups))


def spectral_rise(step: int, warmup: int, end: int | None) -> float:
    """The factor of the spectral weights at a step: linear up to 1 over `warmup` steps, 0 from `end` on."""
    if end is not None and step >= end:
        return 0.0
    return min(1.0, (step + 1) / max(1, warmup))


def token_spans(config: LycodecConfig, chunks: int) -> Tensor:
    """The time of each token of an example `[chunks * n, 2]`, as shares of the example's samples: that of its frames' middles."""
    length = config.overlap + chunks * config.chunk_samples
    first = config.n_fft / 2 - config.hop / 2
    edges = first + torch.arange(chunks * config.tokens + 1) * (config.chunk_samples / config.tokens)
    return torch.stack([edges[:-1], edges[1:]], 1) / length


def _noised(clean: Tensor, level: Tensor, noise: Tensor) -> Tensor:
    return clean + level[:, None, None, None] * noise


def start_of(parts: Parts, name: str) -> Any:
    """The codec that a training starts from, by the caller's function where there is one."""
    return load_lycodec(name) if parts.load is None else parts.load(name)
