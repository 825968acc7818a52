"""Draw loop.png, the picture at the top of the README: ``python docs/pictures/make_loop.py`` (needs matplotlib).

It shows real data: the demo's composed piece, encoded and decoded by the bundled codec.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch

import duotone

INK, PAPER, WARM, COOL = "#1d2433", "#ffffff", "#c2410c", "#0f766e"
TOP_HZ, RANGE_DB = 5000, 72


def levels(wave: duotone.Waveform) -> np.ndarray:
    """Levels in dB of the mean of the channels, 0 to 5 kHz: in this range harmonics are lines at equal distances."""
    mono = wave.to_channels(1).samples[0]
    size = 4096
    frames = mono.unfold(0, size, 512) * torch.hann_window(size)
    power = 20 * torch.log10(torch.fft.rfft(frames).abs().T + 1e-4)
    return power[: round(TOP_HZ * size / wave.rate)].numpy()


def spectrogram(axes: Axes, wave: duotone.Waveform, title: str, brightest: float) -> None:
    """Draw a spectrogram; `brightest` is the level of the brightest colour."""
    axes.imshow(levels(wave), origin="lower", aspect="auto", cmap="magma", vmin=brightest - RANGE_DB, vmax=brightest)
    finish(axes, title)


def finish(axes: Axes, title: str) -> None:
    """A title, and no ticks."""
    axes.set_title(title, fontsize=11, color=INK, loc="left", pad=5)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def arrow(figure: plt.Figure, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """An arrow in figure coordinates."""
    figure.add_artist(
        FancyArrowPatch(
            start, end, transform=figure.transFigure, arrowstyle="-|>", mutation_scale=18, lw=2, color=colour
        )
    )


def main() -> None:
    """Draw and save."""
    codec = duotone.load("tiny", dtype="float32")
    wave = duotone.read(str(files("duotone") / "assets" / "demo-generated.flac"))
    brightest = float(levels(wave).max())
    latents = codec.encode(wave)
    codes = latents.codes()
    figure = plt.figure(figsize=(12, 5.2), facecolor=PAPER, dpi=110)
    place = figure.add_axes
    spectrogram(
        place((0.02, 0.28, 0.24, 0.42)), wave, f"sound, 48 kHz stereo ({wave.seconds:.0f} s), 0 to 5 kHz", brightest
    )
    top, bottom = place((0.375, 0.60, 0.25, 0.27)), place((0.375, 0.11, 0.25, 0.27))
    layout = latents.channels(64)
    grid = layout.reshape(-1, 64).T
    top.imshow(grid, aspect="auto", cmap="RdBu_r", vmin=-2, vmax=2, interpolation="nearest")
    finish(top, f"continuous latents {list(layout.shape)}")
    tokens = codes.indices.reshape(len(codes), -1).T.numpy()
    bottom.imshow(tokens, aspect="auto", cmap="viridis", interpolation="nearest")
    finish(bottom, f"discrete tokens [1, {codes.indices.shape[1]}], {codec.spec.bit_rate / 1000:.1f} kbit/s")
    spectrogram(place((0.74, 0.58, 0.24, 0.31)), codec.decode(latents), "decoded from latents", brightest)
    spectrogram(place((0.74, 0.09, 0.24, 0.31)), codec.decode(codes), "decoded from tokens", brightest)
    figure.text(0.5, 0.945, "for diffusion and flow models", ha="center", fontsize=11, color=COOL)
    figure.text(
        0.5, 0.045, "for language models: acoustic BPE, ordinary tokenizers", ha="center", fontsize=11, color=WARM
    )
    figure.text(0.317, 0.485, "one\nencoding", ha="center", va="center", fontsize=11, color=INK)
    arrow(figure, (0.272, 0.52), (0.365, 0.72), COOL)
    arrow(figure, (0.272, 0.46), (0.365, 0.26), WARM)
    arrow(figure, (0.50, 0.575), (0.50, 0.445), INK)
    figure.text(0.512, 0.505, "round", fontsize=10, color=INK, va="center")
    arrow(figure, (0.635, 0.735), (0.73, 0.735), COOL)
    arrow(figure, (0.635, 0.245), (0.73, 0.245), WARM)
    target = Path(__file__).with_name("loop.png")
    figure.savefig(target, facecolor=PAPER)


if __name__ == "__main__":
    main()
