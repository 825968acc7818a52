"""The refiner: a consistency model of complex spectra of mid and side, given the estimate and the estimator's time steps.

``f(x, sigma) = c_skip x + c_out (A + g x + h d)``. A transformer over time steps cannot carry the phase of every bin, so it makes real
gains g and h for each bin; phases reach the output through x itself, through d, the part of x that is no spectrum of samples
(mostly noise), and within a band through its own units (A). Chunks see the chunk before them (see `nn.chunked`).

The estimate enters by its magnitudes (x is relative to them, see `relative`) and as the start of x, not by its phases: in training
those of the original stand in for them, and the estimate's own would tell nothing of the original.

Legend: B rows, N chunks, n frames of a chunk, T time steps (tokens) of a chunk, F bins, D width, U units of all bands.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from duotone.codec import consistency
from duotone.codec.codicodec.bands import layout
from duotone.codec.codicodec.bands.relative import Projection, absolute, blend, relative, scaled
from duotone.config import BandsConfig, RefinementConfig
from duotone.nn.chunked import ChunkTransformer
from duotone.nn.transformer import KeyValue

#: Values of a bin and frame that the stem sees: four of x, and the logarithm of the estimate of mid.
_IN = 5
#: Values of a bin and frame that the head gives: A (4), g of mid and side, h of mid and side.
_OUT = 8
#: Where the logarithms of magnitudes are about, and how far they spread.
_MIDDLE, _SPREAD = -1.5, 4.0
#: Factor of the most rapid change of the embedding of noise levels.
_FASTEST = 4.0


@dataclass(frozen=True)
class Given:
    """What the refinement of B rows of N chunks is given."""

    hidden: Tensor  #: the estimator's time steps `[B, N, T, D of the estimator]`
    reference: Tensor  #: magnitudes that z is relative to `[B, N, 2, n, F]` (or dimensions of 1)
    companded: Tensor  #: ``reference**power``
    #: Relative magnitudes of the estimate `[B, N, 2, n, F]`; None where there is none.
    towards: Tensor | None = None

    def part(self, chunks: slice) -> Given:
        """Some of the chunks."""
        if self.towards is None:  # the same reference for all chunks
            return Given(self.hidden[:, chunks], self.reference, self.companded)
        return Given(*(t[:, chunks] for t in (self.hidden, self.reference, self.companded, self.towards)))


class RefinerNetwork(nn.Module):
    """x and d, scaled, a noise level for each chunk, what is given -> ``A + g x + h d``."""

    def __init__(self, config: BandsConfig, sizes: RefinementConfig) -> None:
        super().__init__()
        self.config, self.sizes, width = config, sizes, sizes.dim
        self.edges, fine = layout.band_edges(config), layout.fine_bins(config)
        self.units = [sizes.units[0 if b <= fine else 1] for b in self.edges[1:]]
        widths = [b - a for a, b in itertools.pairwise(self.edges)]
        each = list(zip(self.units, widths, strict=True))
        self.stem = nn.ModuleList(nn.Linear(_IN * config.per_token * w, u) for u, w in each)
        self.lift = nn.Linear(sum(self.units), width)
        self.hidden = nn.Linear(config.dim, width, bias=False)
        self.level = nn.Sequential(nn.Linear(sizes.levels, sizes.levels), nn.SiLU())
        self.to_tokens = nn.Linear(sizes.levels, width)
        self.to_units = nn.Linear(sizes.levels, sum(self.units))
        nn.init.zeros_(self.to_units.weight)
        nn.init.zeros_(self.to_units.bias)
        self.transformer = ChunkTransformer(config.tokens, width, sizes.heads, config.mlp, sizes.layers)
        self.inner = nn.Linear(width, sum(self.units))
        self.head = nn.ModuleList(nn.Linear(u, _OUT * config.per_token * w) for u, w in each)
        for layer, w in zip(self.head, widths, strict=True):
            nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
            bias = torch.zeros(config.per_token, _OUT, w)
            bias[:, 6:] = -1.0  # d is taken away
            with torch.no_grad():
                layer.bias.copy_(bias.flatten())  # type: ignore[operator]

    def forward(
        self, x: Tensor, d: Tensor, level: Tensor, given: Given, past: list[KeyValue] | None
    ) -> tuple[Tensor, list[KeyValue]]:
        """x and d `[B, N, 2, 2, n, F]`, level `[B, N]` -> `[B, N, 2, 2, n, F]`, and the state after the chunks."""
        config, kind = self.config, self.lift.weight.dtype
        b, chunks = x.shape[:2]
        seen = self._seen(x, given).to(kind)
        parts = [
            layer(seen[..., lo:hi].flatten(3))
            for layer, (lo, hi) in zip(self.stem, itertools.pairwise(self.edges), strict=True)
        ]
        bands = torch.cat(parts, -1)
        embedded = self.level(self._embed(level).to(kind))
        tokens = self.lift(F.silu(bands)) + self.hidden(given.hidden.to(kind)) + self.to_tokens(embedded)[:, :, None]
        tokens, state = self.transformer(tokens, past)
        units = F.silu(self.inner(tokens) * (1 + self.to_units(embedded)[:, :, None]) + bands).split(self.units, -1)
        shape = (b, chunks, config.frames, _OUT, -1)
        rows = [layer(u).view(shape) for layer, u in zip(self.head, units, strict=True)]
        added, g, h = torch.cat(rows, -1).to(x.dtype).transpose(2, 3).split((4, 2, 2), 2)
        return added.unflatten(2, (2, 2)) + scaled(x, g) + scaled(d, h), state

    def _seen(self, x: Tensor, given: Given) -> Tensor:
        """`[B, N, T, frames of a step, _IN, F]`."""
        log = torch.log(given.reference[:, :, :1]).expand(*x.shape[:2], 1, *x.shape[4:])
        both = torch.cat([x.flatten(2, 3), (log - _MIDDLE) / _SPREAD], 2)
        steps: Tensor = both.unflatten(3, (self.config.tokens, -1))
        return steps.movedim(2, 4)

    def _embed(self, level: Tensor) -> Tensor:
        """Noise levels `[B, N]` -> sines and cosines of their logarithm."""
        rates = torch.linspace(0, math.log(_FASTEST), self.sizes.levels // 2, device=level.device).exp() / 2
        angle = torch.log(level.float())[..., None] * rates
        return torch.cat([angle.sin(), angle.cos()], -1)


class Refiner(nn.Module):
    """The consistency model: noisy spectra at any level -> clean ones. ``f(x, sigma_min) = x``."""

    usual: Tensor

    def __init__(self, config: BandsConfig, sizes: RefinementConfig) -> None:
        super().__init__()
        self.config, self.sizes = config, sizes
        self.network = RefinerNetwork(config, sizes)
        self._project = Projection(config.n_fft, config.hop, config.frames)
        if sizes.start == "noise":
            self.register_buffer("usual", torch.ones(2, config.bins, dtype=torch.float32))

    def given(self, hidden: Tensor, magnitudes: Tensor | None) -> Given:
        """The estimator's time steps `[B, N, T, D]`, its magnitudes of mid and side `[B, N, 2, n, F]` if there are any -> `Given`."""
        power = self.sizes.compand_power
        if magnitudes is None:
            usual = self.usual[None, None, :, None]
            return Given(hidden, usual, usual**power)
        quiet = self.config.floor * self.config.n_fft / 4  # the magnitude of a sine is n_fft / 4 with a Hann window
        reference = magnitudes + quiet
        companded = reference**power
        return Given(hidden, reference, companded, magnitudes**power / companded)

    def relative(self, spectra: Tensor, given: Given) -> Tensor:
        """Complex spectra of mid and side `[B, N, 2, n, F]` -> z `[B, N, 2, 2, n, F]`."""
        return relative(spectra, given.companded, self.sizes.compand_power)

    def absolute(self, z: Tensor, given: Given) -> Tensor:
        """The inverse of `relative`."""
        return absolute(z, given.reference, self.sizes.compand_power)

    def noised(self, clean: Tensor, level: Tensor, noise: Tensor, given: Given) -> Tensor:
        """Clean z `[B, N, 2, 2, n, F]` at noise levels `[B, N]`: with noise, and with magnitudes on the way to the estimate's.

        ``x = z + a (towards z / |z| - z) + sigma noise``, a = 0 at sigma_min and 1 at sigma_max.
        """
        levels = self.sizes.noise
        if given.towards is not None:
            share = (level - levels.sigma_min) / (levels.sigma_max - levels.sigma_min)
            clean = blend(clean, given.towards, share.clamp(0, 1)[..., None, None, None])
        return self._silent(clean + consistency.renoise_scale(_wide(level), levels) * noise, given)

    def denoise(
        self, x: Tensor, level: Tensor, given: Given, past: list[KeyValue] | None = None
    ) -> tuple[Tensor, list[KeyValue]]:
        """x `[B, N, 2, 2, n, F]` at levels `[B, N]` after the chunks of `past` -> clean z, and the state after them."""
        sigma, levels = _wide(level.float()), self.sizes.noise
        scale = consistency.c_in(sigma, levels)
        with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
            power = self.sizes.compand_power
            spectra = absolute(x, given.reference, power)
            d = (x - relative(self._project(spectra), given.companded, power)) / sigma
        inner, state = self.network(scale * x, scale * levels.sigma_data * d, level, given, past)
        clean = consistency.c_skip(sigma, levels) * x + consistency.c_out(sigma, levels) * inner
        return self._silent(clean, given), state

    def _silent(self, z: Tensor, given: Given) -> Tensor:
        """Where the side of the estimate is silent, so is that of z: mono stays mono."""
        if given.towards is None:
            return z
        mid, side = z.split(1, 2)
        return torch.cat([mid, scaled(side, (given.towards[:, :, 1:] > 0).to(z.dtype))], 2)

    @torch.no_grad()
    def calibrate(self, spectra: Tensor) -> None:
        """Set the usual magnitudes, without an estimate, from complex spectra `[B, N, 2, n, F]`: z has the deviation sigma_data."""
        if self.sizes.start != "noise":
            return
        power = self.sizes.compand_power
        square = spectra.abs().pow(2 * power).mean((0, 1, 3)) / 2  # of real and imaginary parts
        floor = (self.config.floor * self.config.n_fft / 4) ** power
        self.usual.copy_(((square.sqrt() + floor) / self.sizes.noise.sigma_data) ** (1 / power))


def _wide(level: Tensor) -> Tensor:
    """Noise levels `[B, N]` -> `[B, N, 1, 1, 1, 1]`."""
    return level[..., None, None, None, None]
