"""The objective of flow models: the mean squared error of velocities of noisy chunks, given the chunks before them.

Two regimes decide what a noisy chunk sees of its past (C clean, N noisy chunk; a row shows what the last chunk attends to)::

    streams   clean copy   C C C C      every chunk is trained as it is streamed: its past is clean,
              noisy copy         N      each chunk and each copy has a time of its own
    prefix    C C N N N N               one clean prefix; all chunks after it have the same time, and see each other

Legend: B examples, K noisy copies, N chunks, M tokens a chunk, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from duotone.codec.codicodec import best_dtype
from duotone.config import FlowConfig
from duotone.flow.model import FlowModel
from duotone.flow.path import denoised, interpolate, sample_times, velocity
from duotone.train.draws import Draws
from duotone.train.flow_sections import FlowSettings
from duotone.train.task import Batch, Objective

#: Context of a chunk with noisy ones in its past (prefix regime), in the values for `summarise`.
NOISY_PAST = -1
#: Bands of t whose losses are shown apart: from, below, name.
TIMES = (
    (0.0, 0.25, "loss_t_below_0.25"), (0.25, 0.5, "loss_t_0.25_to_0.5"), (0.5, 0.75, "loss_t_0.5_to_0.75"),
    (0.75, 1.01, "loss_t_from_0.75"),
)  # fmt: skip
#: Bands of the number of clean chunks in the past.
CONTEXTS = (
    (NOISY_PAST, 0, "loss_noisy_past"), (0, 1, "loss_context_0"), (1, 4, "loss_context_1_to_3"),
    (4, 16, "loss_context_4_to_15"), (16, 1 << 30, "loss_context_from_16"),
)  # fmt: skip


class FlowObjective(Objective):
    """``{"latents": [B, N, M, C]}`` in, loss out; owns the model."""

    def __init__(self, config: FlowConfig, section: FlowSettings) -> None:
        super().__init__()
        self.config, self.section = config, section
        self.model = FlowModel(config)

    def wanted_dtype(self, device: torch.device) -> torch.dtype:
        """bfloat16 if the device has matrix units for it, else float32."""
        return best_dtype(device)

    def save_memory(self) -> None:
        """Store only the inputs of layers, and compute the rest again in the backward pass."""
        self.model.checkpointing = True

    def forward(self, batch: Batch, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """Latents `[B, N, M, C]` -> loss, and values: `t`, `context` and `error` of every chunk in the loss."""
        x = self.model.normalize(batch["latents"])
        if self.section.regime == "prefix":
            return self.prefix(x, draws)
        return self.streams(x, progress, draws)

    def streams(self, x: Tensor, progress: float, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of K noisy copies of normalised latents `[B, N, M, C]` in one pass with their clean copy."""
        section, (b, n), device = self.section, x.shape[:2], x.device
        k = section.draws
        s = self.context_levels(n, draws).to(device)
        keep = ~draws.chosen("drop context", section.context_drop).to(device)
        past = x
        if section.resample_from < 1 and progress >= section.resample_from:
            past = self.resampled(x, keep, draws)
        clean = interpolate(past, draws.noise("context", tuple(x.shape[1:]), device), s[..., None, None])

        eps = draws.noise("noise", (k, *x.shape[1:]), device)
        t = draws.drawn("t", lambda total, g: sample_times((total, k, n), section.times, g)).to(device)
        span = None
        if section.averaged_draws:
            t, span = with_spans(t, section.averaged_draws, draws)
        noisy = interpolate(x[:, None], eps, t[..., None, None])
        target = velocity(x[:, None], eps)
        if span is not None:
            target = self.average_targets(target, clean, s, noisy, t, span, keep, draws)
        found = self.model.streams(clean, s, noisy, t, keep=keep, span=span)

        error = (found - target).square().mean((-1, -2))
        context = torch.where(keep[:, None], torch.arange(n, device=device), 0)[:, None].expand(b, k, n)
        return error.mean(), _values(t, context, error)

    def prefix(self, x: Tensor, draws: Draws) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the chunks after a clean prefix of normalised latents `[B, N, M, C]`, all at one time an example."""
        section, (b, n), device = self.section, x.shape[:2], x.device
        length = prefix_length(draws.shared("prefix"), n, section.prefix_none, section.prefix_share)
        t = draws.drawn("t", lambda total, g: sample_times((total, 1), section.times, g)).to(device)
        levels = self.context_levels(n, draws).to(device)
        times = torch.cat([levels[:, :length], t.expand(b, n - length)], 1)
        eps = draws.noise("noise", tuple(x.shape[1:]), device)
        found = self.model(interpolate(x, eps, times[..., None, None]), times)

        error = (found - velocity(x, eps))[:, length:].square().mean((-1, -2))
        context = torch.full((b, n - length), NOISY_PAST, device=device)
        context[:, 0] = length
        return error.mean(), _values(times[:, length:], context, error)

    def context_levels(self, n: int, draws: Draws) -> Tensor:
        """Noise levels s of the chunks of the past `[B, N]`: 0 for a share of them, else U(0, context_noise)."""
        share, most = self.section.context_clean, self.section.context_noise
        u = draws.drawn("context level", lambda total, g: torch.rand(total, n, generator=g))
        return most * (u - share).clamp_min(0) / max(1e-9, 1 - share)

    @torch.no_grad()
    def resampled(self, x: Tensor, keep: Tensor, draws: Draws) -> Tensor:
        """Latents `[B, N, M, C]` as the model would have played them: noised, then finished by the model (arXiv 2512.15702).

        All chunks take their steps side by side; in the second step, the past is the first one's estimate.
        """
        section, (b, n), device = self.section, x.shape[:2], x.device
        low, high = section.resample_level
        level = draws.drawn("resampled level", lambda total, g: low + (high - low) * torch.rand(total, generator=g))
        chosen = draws.chosen("resampled", section.resample_share).to(device)
        t = level.to(device)[:, None, None].expand(b, 1, n)
        step = t / section.resample_steps
        x_t = interpolate(x[:, None], draws.noise("resampled", (1, *x.shape[1:]), device), t[..., None, None])
        past = x
        for _ in range(section.resample_steps):
            v = self.model.streams(past, torch.zeros(b, n, device=device), x_t, t, keep=keep)
            past = denoised(x_t, v, t[..., None, None])[:, 0]
            x_t, t = x_t - step[..., None, None] * v, t - step
        return torch.where(chosen[:, None, None, None], past, x)

    @torch.no_grad()
    def average_targets(
        self, target: Tensor, clean: Tensor, s: Tensor, noisy: Tensor, t: Tensor, span: Tensor, keep: Tensor,
        draws: Draws,
    ) -> Tensor:  # fmt: skip
        """Targets `[B, K, N, M, C]`, with those of the averaged copies replaced by the average of two parts of their span.

        Interval splitting (SplitMeanFlow, arXiv 2507.16884, algorithm 1): the average velocity from t to r is that from t to a
        point between, and that from there to r, weighted by their lengths; both are the model's own, without gradient.
        """
        k = self.section.averaged_draws
        share = draws.drawn("split", lambda total, g: torch.rand((total, k, t.shape[2]), generator=g)).to(t.device)
        x_t, t, span = noisy[:, :k], t[:, :k], span[:, :k]
        first, second = share * span, (1 - share) * span
        early = self.model.streams(clean, s, x_t, t, keep=keep, span=first)
        x_s = x_t - first[..., None, None] * early
        late = self.model.streams(clean, s, x_s, t - first, keep=keep, span=second)
        mixed = share[..., None, None] * early + (1 - share[..., None, None]) * late
        return torch.cat([mixed, target[:, k:]], 1)

    def summarise(self, values: dict[str, Tensor]) -> dict[str, float]:
        """Mean error by range of t, and by clean chunks in the past; ranges without chunks are left out."""
        out = {}
        for name, bands in (("t", TIMES), ("context", CONTEXTS)):
            for low, high, title in bands:
                inside = (values[name] >= low) & (values[name] < high)
                if bool(inside.any()):
                    out[title] = float(values["error"][inside].mean())
        return out

    @torch.no_grad()
    def with_weights(self, weights: dict[str, Tensor]) -> FlowModel:
        """A model with the averaged weights (see `averaged`), on their device, for evaluation."""
        model = FlowModel(self.config)
        own = {name.removeprefix("model."): value for name, value in weights.items()}
        statistics = {"lat_mean": self.model.lat_mean, "lat_std": self.model.lat_std}
        model.load_state_dict({**own, **statistics})
        return model.to(next(iter(weights.values())).device).eval()


def prefix_length(u: float, n: int, none: float, share: tuple[float, float]) -> int:
    """The length of the clean prefix of n chunks for a uniform number u: 0 with probability `none`, else a share of the crop."""
    if u < none or n < 2:
        return 0
    low, high = share
    return min(n - 1, max(1, round(n * (low + (high - low) * (u - none) / (1 - none)))))


def with_spans(t: Tensor, averaged: int, draws: Draws) -> tuple[Tensor, Tensor]:
    """Times `[B, K, N]` -> times and spans: the first `averaged` copies get two uniform times r < t each, the others span 0."""
    shape = (averaged, t.shape[2], 2)
    ends = draws.drawn("span", lambda total, g: torch.rand((total, *shape), generator=g)).to(t.device)
    high, low = ends.amax(-1), ends.amin(-1)
    rest = t[:, averaged:]
    return torch.cat([high, rest], 1), torch.cat([high - low, torch.zeros_like(rest)], 1)


def _values(t: Tensor, context: Tensor, error: Tensor) -> dict[str, Tensor]:
    return {"t": t.flatten(), "context": context.float().flatten(), "error": error.detach().flatten()}
