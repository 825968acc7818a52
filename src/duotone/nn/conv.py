"""Convolution frontends: a feature map `[B, C, F, T]` <-> one with fewer positions and more channels.

The outputs of the blocks form a pyramid, which another frontend can use as input, block by block.

Legend: B batch, C channels, F frequency, T time, D width of the condition. All tensors are channels-last in memory.
Source: arXiv 2509.09836, appendix; shapes pinned by the published tensors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from duotone.nn import native, winograd

_EPS = 1e-5

Pair = tuple[int, int]


class ScaledGroupNorm(nn.Module):
    """GroupNorm of min(C/4, 32) groups, times a weight per channel or, if conditioned, times ``1 + Linear(cond)``."""

    def __init__(self, channels: int, condition: int | None = None) -> None:
        super().__init__()
        self.groups = min(channels // 4, 32)
        if condition is None:
            self.weight = nn.Parameter(torch.ones(channels))
        else:
            self.project = nn.Linear(condition, channels)
            nn.init.zeros_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        self.conditioned = condition is not None

    def forward(self, x: Tensor, cond: Tensor | None = None) -> Tensor:
        """`[B, C, F, T]`, cond `[B, D]` or `[1, D]` -> the same shape."""
        weight = self.weights(cond).to(x.dtype)  # under autocast the two may differ
        if weight.shape[0] == 1:  # one noise level for the whole batch: the scale folds into the norm's weight
            return F.group_norm(x, self.groups, weight[0], None, _EPS)
        out: Tensor = F.group_norm(x, self.groups, None, None, _EPS) * weight[:, :, None, None]
        return out

    def weights(self, cond: Tensor | None) -> Tensor:
        """The weight of each channel, `[1, C]`, or `[B, C]` if each example has its own condition."""
        if not self.conditioned:
            return self.weight[None]
        if cond is None:
            raise AssertionError("a conditioned norm was called without its condition")
        out: Tensor = 1 + self.project(cond)
        return out


class ConvBlock(nn.Module):
    """``y + conv3x3(silu(conv3x3(norm(y))))`` without biases, where y is x or ``(x + other) / sqrt(2)``."""

    def __init__(self, channels: int, condition: int | None = None) -> None:
        super().__init__()
        self.norm = ScaledGroupNorm(channels, condition)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.conv2.weight)
        self._packed = (winograd.Kernel(), winograd.Kernel())

    def forward(self, x: Tensor, cond: Tensor | None = None, other: Tensor | None = None) -> Tensor:
        """`[B, C, F, T]`, other likewise -> `[B, C, F, T]`."""
        if torch.is_grad_enabled():
            if other is not None:
                x = _blend(x, other)
            inner = winograd.conv3x3(self.norm(x, cond), self.conv1)
            return x + winograd.conv3x3(F.silu(inner), self.conv2)
        if winograd.applies(x, self.conv1, self.conv2) and native.only_weight(self.norm, ScaledGroupNorm):
            weight = self.norm.weights(cond)
            if native.kernels_for(weight, *([] if other is None else [other])) is not None:
                return self._by_kernels(x, weight, other)
        if other is not None:
            x = _blend(x, other)
        # in place only where no hook can have kept the tensor
        own = native.only_weight(self.conv1, nn.Conv2d) and native.only_weight(self.conv2, nn.Conv2d)
        h: Tensor = self.conv2(F.silu(self.conv1(self.norm(x, cond)), inplace=own))
        return h.add_(x) if own and h.dtype == x.dtype else x + h

    def _by_kernels(self, x: Tensor, weight: Tensor, other: Tensor | None) -> Tensor:
        x, scale, shift = winograd.norm(x, self.norm.groups, weight, _EPS, other)
        # in training, weights change from step to step: packed copies would only take memory
        first, second = (winograd.Kernel(), winograd.Kernel()) if self.training else self._packed
        h = winograd.convolve(x, first, self.conv1.weight, scale, shift, silu=True)
        return winograd.convolve(h, second, self.conv2.weight, residual=x, overwrite=other is not None)


class Down(nn.Module):
    """``mean over each patch, every channel repeated out/in times + conv(norm(x))``, kernel = stride = factor."""

    def __init__(self, channels: int, out: int, factor: Pair) -> None:
        super().__init__()
        self.factor, self.repeat = factor, out // channels
        self.norm = ScaledGroupNorm(channels)
        self.conv = nn.Conv2d(channels, out, factor, stride=factor, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, F, T]` -> `[B, out, F/f, T/t]`."""
        fixed = F.avg_pool2d(x, self.factor).repeat_interleave(self.repeat, dim=1)
        out: Tensor = self.conv(self.norm(x)) + fixed
        return out


class Up(nn.Module):
    """The reverse of `Down`: means of groups of channels, repeated over each patch, plus a transposed convolution."""

    def __init__(self, channels: int, out: int, factor: Pair) -> None:
        super().__init__()
        self.factor, self.out = factor, out
        self.norm = ScaledGroupNorm(channels)
        self.conv = nn.ConvTranspose2d(channels, out, factor, stride=factor, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, F, T]` -> `[B, out, F*f, T*t]`."""
        fixed = x.reshape(x.shape[0], self.out, -1, *x.shape[2:]).mean(2)
        y = self.conv(self.norm(x))
        f, t = self.factor
        b, c, h, w = y.shape
        patches = y.reshape(b, c, h // f, f, w // t, t)  # `fixed` is broadcast over each patch
        out: Tensor = (patches + fixed[:, :, :, None, :, None]).reshape(b, c, h, w)
        return out


def _layers(
    channels: Sequence[int], blocks: Sequence[int], factors: Sequence[Pair], condition: int | None, up: bool
) -> list[nn.Module]:
    """Blocks of every stage with the resampling layers between them, from fine to coarse, or in reverse."""
    layers: list[nn.Module] = []
    order = range(len(channels))
    for i in reversed(order) if up else order:
        layers += [ConvBlock(channels[i], condition) for _ in range(blocks[i])]
        if up and i > 0:
            layers.append(Up(channels[i], channels[i - 1], factors[i - 1]))
        if not up and i < len(channels) - 1:
            layers.append(Down(channels[i], channels[i + 1], factors[i]))
    return layers


def _blend(x: Tensor, other: Tensor) -> Tensor:
    """``(x + other) / sqrt(2)``, which keeps the variance of two independent feature maps."""
    if torch.is_grad_enabled():
        return (x + other) * math.sqrt(0.5)
    return (x + other).mul_(math.sqrt(0.5))


class Frontend(nn.Module):
    """Base of both directions: runs the layers, with a pyramid as input and output."""

    layers: nn.ModuleList
    checkpointing = False  # in training, store only the layers' inputs and recompute the rest

    def run(self, x: Tensor, cond: Tensor | None, pyramid: Sequence[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Returns the last feature map and the outputs of all blocks, last first, as the next frontend needs them."""
        made: list[Tensor] = []
        again = self.checkpointing and torch.is_grad_enabled()
        for layer in self.layers:
            if isinstance(layer, ConvBlock):
                other = None if pyramid is None else pyramid[len(made)]
                x = checkpoint(layer, x, cond, other, use_reentrant=False) if again else layer(x, cond, other)
                made.append(x)
            else:
                x = checkpoint(layer, x, use_reentrant=False) if again else layer(x)
        return x, made[::-1]


class DownFrontend(Frontend):
    """`[B, in, F, T]` -> coarse `[B, D, F', T']`: stem, gain per frequency, stages from fine to coarse."""

    def __init__(
        self,
        inputs: int,
        channels: Sequence[int],
        blocks: Sequence[int],
        factors: Sequence[Pair],
        stem: Pair,
        condition: int | None = None,
    ) -> None:
        super().__init__()
        if stem == (1, 1):
            self.stem = nn.Conv2d(inputs, channels[0], 3, padding=1)
        else:
            self.stem = nn.Conv2d(inputs, channels[0], stem, stride=stem)
        self.layers = nn.ModuleList(_layers(channels, blocks, factors, condition, up=False))

    def forward(
        self, x: Tensor, gain: Tensor, cond: Tensor | None = None, pyramid: Sequence[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """x `[B, in, F, T]`, gain `[1 or B, 1, F/stem, 1]` -> (`[B, D, F', T']`, pyramid)."""
        x = self.stem(x.contiguous(memory_format=torch.channels_last)) * gain
        return self.run(x, cond, pyramid)


class UpFrontend(Frontend):
    """The reverse of `DownFrontend`. Without `outputs` it has no norm and output convolution, and only its pyramid is used."""

    def __init__(
        self,
        outputs: int | None,
        channels: Sequence[int],
        blocks: Sequence[int],
        factors: Sequence[Pair],
        stem: Pair,
        condition: int | None = None,
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_layers(channels, blocks, factors, condition, up=True))
        if outputs is not None:
            self.norm = ScaledGroupNorm(channels[0], condition)
            if stem == (1, 1):
                self.head: nn.Module = nn.Conv2d(channels[0], outputs, 3, padding=1)
            else:
                self.head = nn.ConvTranspose2d(channels[0], outputs, stem, stride=stem)
            for p in self.head.parameters():
                nn.init.zeros_(p)

    def pyramid(self, x: Tensor) -> list[Tensor]:
        """`[B, D, F', T']` -> the outputs of the blocks, from fine to coarse."""
        return self.run(x.contiguous(memory_format=torch.channels_last), None, None)[1]

    def forward(self, x: Tensor, gain: Tensor, cond: Tensor | None, pyramid: Sequence[Tensor] | None) -> Tensor:
        """`[B, D, F', T']` -> `[B, outputs, F, T]`."""
        x, _ = self.run(x.contiguous(memory_format=torch.channels_last), cond, pyramid)
        out: Tensor = self.head(self.norm(x, cond) * gain)
        return out
