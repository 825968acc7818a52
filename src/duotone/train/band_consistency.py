"""The consistency objective on the bands frontend: it trains the refiner, and without an estimate everything.

With an estimate (``refinement.start: estimate``) this is a later training of a codec: encoder, quantiser and estimate are frozen,
so codes stay as they are. True spectra with noise teach it, and by its fields `heard_*` also what decoding begins with: the estimate
with the phases that decoding makes; the sound of its first step is compared with the recording (see `heard`). Without one (``noise``) it is the published way, one loss from end to end (arXiv 2509.09836).

Legend: B examples of N consecutive chunks, n frames of a chunk, F bins, L latents of d dimensions.
"""

from __future__ import annotations

import copy
import itertools
from typing import Any

import torch
from torch import Tensor

from duotone.codec.codicodec.bands import layout
from duotone.codec.codicodec.bands.network import Maps
from duotone.codec.codicodec.bands.refiner import Given, Refiner
from duotone.codec.codicodec.bands.synthesis import Magnitudes
from duotone.config import BandsConfig
from duotone.errors import ConfigError
from duotone.train.band_objective import BandObjective
from duotone.train.bottleneck import spread_loss
from duotone.train.draws import Draws
from duotone.train.heard import (
    HeardDistance,
    channel,
    estimated_spectra,
    heard_convergence,
    original,
    sounds_of,
    spectra,
)
from duotone.train.noise_pairs import ConsistencyFields, Pair, consistency_loss, draw_pair, follow, step_size
from duotone.train.task import Batch

#: Noise levels, as shares of sigma_max, at which validation measures one step.
SHARES = (1.0, 0.3, 0.1)
#: Windows with which the refined sound is compared, as parts of n_fft.
PARTS = (4, 2, 1)


class BandConsistencyObjective(BandObjective):
    """``{"samples": [B, 2, crop]}`` in, loss out. With `teacher_decay` it also owns a teacher, which is not exported."""

    free = ("synthesis",)
    weights: Tensor

    def __init__(self, config: BandsConfig, section: ConsistencyFields) -> None:
        if config.refinement is None:
            raise ConfigError(
                "objective.kind consistency trains the refinement of a model with bands, and this one has none. "
                "Add model.replace.refinement={}, or choose objective.kind estimate."
            )
        super().__init__(config, section.chunks)
        self.section, self.sizes = section, config.refinement
        self.register_buffer("weights", layout.bin_weights(config).sqrt(), persistent=False)
        self.teacher: Refiner | None = None
        if config.estimated:
            self.network.encoder.requires_grad_(False)
            self.network.estimator.requires_grad_(False)
        if section.teacher_decay:
            self.teacher = copy.deepcopy(self.refiner).requires_grad_(False)
        self._magnitudes: Magnitudes | None = None
        self._windows = tuple(config.n_fft // part for part in PARTS)
        self._distance = HeardDistance(config.rate, self._windows)

    @property
    def refiner(self) -> Refiner:
        """The network that is trained."""
        assert self.network.refiner is not None
        return self.network.refiner

    def fresh(self) -> BandConsistencyObjective:
        """Another one of the same configuration."""
        return BandConsistencyObjective(self.config, self.section)

    def comparable(self, values: dict[str, Any]) -> dict[str, Any]:
        """See `CoDiCodecObjective`: noise levels and steps of decoding may change too."""
        found = super().comparable(values)
        if found["refinement"] is None:
            return {name: value for name, value in found.items() if name != "refinement"}  # begins at random
        sizes = {name: value for name, value in found["refinement"].items() if name not in ("noise", "begin", "decode")}
        return {**found, "refinement": sizes}

    @torch.no_grad()
    def calibrate(self, samples: Tensor, latents: bool = True) -> None:
        """Without an estimate: set means of features, scale and shift of latents, and the usual magnitudes, from these samples."""
        if latents and not self.config.estimated:
            self.network.encoder.calibrate(self.features(samples), self.section.deviation)
            self.refiner.calibrate(self.spectra(samples))
        self.after_step(0.0)

    def after_step(self, decay: float | None = None) -> None:
        """The teacher's weights follow the student's."""
        if self.teacher is not None:
            follow(self.teacher, self.refiner, self.section.teacher_decay if decay is None else decay)

    @torch.no_grad()
    def spectra(self, samples: Tensor) -> Tensor:
        """Samples `[B, 2, crop]` -> complex spectra of mid and side `[B, N, 2, n, F]`."""
        with torch.autocast(samples.device.type, enabled=False):
            return self.analysis(samples.device).spectra(samples)

    def given(self, pre: Tensor, skip: Tensor) -> Given:
        """Latents before the bound `[B * N, L, d]`, which of them stay unrounded `[B * N]` -> what the refiner is given."""
        return self.told(pre, skip)[0]

    def told(self, pre: Tensor, skip: Tensor) -> tuple[Given, Maps | None]:
        """The same, and the maps of the estimate, if there is one."""
        latents = self.bottleneck(pre, skip).unflatten(0, (-1, self.chunks))
        hidden, _ = self.network.estimator.trunk(latents)
        if not self.config.estimated:
            return self.refiner.given(hidden, None), None
        if self._magnitudes is None or self._magnitudes.to_bins.device != hidden.device:
            self._magnitudes = Magnitudes(self.config, hidden.device)
        maps = self.network.estimator.heads(hidden.flatten(0, 1))
        with torch.autocast(hidden.device.type, enabled=False):
            return self.refiner.given(hidden, self._magnitudes(maps).unflatten(0, (-1, self.chunks))), maps

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Samples `[B, 2, crop]`, training progress in [0, 1] -> loss, and values: per chunk `sigma`, `error` `[B * N]`."""
        samples, section = batch["samples"], self.section
        skip = draws.chosen("skip rounding", section.continuous_share).to(samples.device)
        pre = self.network.encoder(self.features(samples))  # without gradients where it is frozen
        given, maps = self.told(pre, skip.repeat_interleave(self.chunks))
        clean = self.refiner.relative(self.spectra(samples), given)
        dt = step_size(progress, section)
        pairs = [draw_pair(f"chunk {i}", dt, self.sizes.noise, section, draws) for i in range(self.chunks)]
        pair = Pair(*(torch.stack([getattr(p, name) for p in pairs], 1).to(samples.device) for name in ("high", "low")))
        noise = draws.noise("noise", tuple(clean.shape[1:]), samples.device)
        terms, error = self.terms(clean, noise, pair, given, to_clean=dt is None)
        if section.spread_weight and not self.config.estimated:
            terms["spread"] = section.spread_weight * spread_loss(pre, section.deviation)
        values = {"sigma": pair.high.flatten(), "error": error}
        if maps is not None and (section.heard_weight or section.heard_convergence_weight):
            heard, converged = self.heard(samples, maps, given, draws)
            terms["heard"] = section.heard_weight * heard + section.heard_convergence_weight * converged
            values |= {"heard": heard.detach()[None], "heard_convergence": converged.detach()[None]}
        return sum(terms.values(), samples.new_zeros(())), values

    def heard(self, samples: Tensor, maps: Maps, given: Given, draws: Draws) -> tuple[Tensor, Tensor]:
        """Samples `[B, 2, crop]`, maps of their estimate `[B * N, ...]` -> distances of the refined sound: of mel magnitudes, and
        spectral convergence. Mid, left or right is heard.
        """
        device, config = samples.device, self.config
        seeds = draws.drawn("phases", lambda n, g: torch.randint(2**62, (n,), generator=g))
        which = draws.drawn("channel", lambda n, g: torch.randint(3, (n,), generator=g)).to(device)
        noise = draws.noise("heard noise", (self.chunks, 2, 2, config.frames, config.bins), device)
        made = self.one_step(maps, given, seeds, noise)
        with torch.autocast(device.type, enabled=False):
            both = [spectra(channel(sound, which), self._windows) for sound in (original(samples, config), made)]
            return self._distance(*both), heard_convergence(*both)

    def one_step(self, maps: Maps, given: Given, seeds: Tensor, noise: Tensor) -> Tensor:
        """Maps of the estimate of B examples `[B * N, ...]`, seeds of phases `[B]`, noise `[B, N, 2, 2, n, F]` -> samples `[B, 2, S]`.

        They are those that decoding in one step gives, without the first, which too few frames cover.
        """
        config, begin = self.config, self.sizes.decoded_noise.sigma_max
        with torch.no_grad(), torch.autocast(noise.device.type, enabled=False):
            begun = estimated_spectra(maps, config, seeds).to(noise.device)
            estimate = self.refiner.relative(begun.unflatten(2, (-1, config.frames)).transpose(1, 2), given)
        level = torch.full(estimate.shape[:2], begin, dtype=torch.float32, device=noise.device)
        refined, _ = self.refiner.denoise(estimate + begin * noise, level, given)
        with torch.autocast(noise.device.type, enabled=False):
            return sounds_of(self.refiner.absolute(refined, given).transpose(1, 2).flatten(2, 3), config)

    def terms(
        self, clean: Tensor, noise: Tensor, pair: Pair, given: Given, to_clean: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Clean z and noise `[B, N, 2, 2, n, F]`, levels `[B, N]` -> the terms of the refiner's loss, and unweighted errors `[B * N]`."""
        student, _ = self.refiner.denoise(self.refiner.noised(clean, pair.high, noise, given), pair.high, given)
        with torch.no_grad():
            target = clean
            if not to_clean:
                lower = self.refiner.noised(clean, pair.low, noise, given)
                target, _ = (self.teacher or self.refiner).denoise(lower, pair.low, given)
        found, wanted = ((x * self.weights).flatten(0, 1) for x in (student, target))
        flat = Pair(pair.high.flatten(), pair.low.flatten())
        loss, error = consistency_loss(found, wanted, flat, self.section.weight_power)
        return {"consistency": loss}, error

    def summarise(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Mean unweighted error in four ranges of noise levels, as shares of sigma_max, and means of the other values."""
        top = self.sizes.noise.sigma_max
        out = {name: float(value.mean()) for name, value in values.items() if name not in ("sigma", "error")}
        for low, high in itertools.pairwise((0.0, 0.03, 0.1, 0.3, float("inf"))):
            inside = (values["sigma"] >= low * top) & (values["sigma"] < high * top)
            if bool(inside.any()):
                out[f"error_from_{low:g}"] = float(values["error"][inside].mean())
        return out

    @torch.no_grad()
    def errors(self, batch: Batch, seed: int = 0) -> dict[str, float]:
        """Relative squared error of one step at shares of sigma_max, from continuous and rounded latents.

        Samples `[B, 2, crop]`; the noise is a function of the seed; the noise level is the same in all chunks.
        """
        samples = batch["samples"].to(self.weights.device)
        pre, spectra = self.network.encoder(self.features(samples)), self.spectra(samples)
        out = {}
        for face, keep in (("continuous", True), ("rounded", False)):
            given = self.given(pre, torch.full((len(pre),), keep, device=pre.device))
            clean = self.refiner.relative(spectra, given)
            noise = Draws.whole(len(clean), seed).noise("validation", tuple(clean.shape[1:]), clean.device)
            for share in SHARES:
                level = torch.full(clean.shape[:2], share * self.sizes.noise.sigma_max, device=clean.device)
                found, _ = self.refiner.denoise(self.refiner.noised(clean, level, noise, given), level, given)
                error = ((found - clean) * self.weights).square().mean() / (clean * self.weights).square().mean()
                out[f"error_{face}_{share:g}"] = float(error)
        return out
