"""The example of the latents page: a store is made, a small model learns from it, and what it makes up is sound."""

from __future__ import annotations

import random
import runpy
from pathlib import Path

import torch
from typer.testing import CliRunner

import duotone
from duotone.audio.synth import synthesize
from duotone.cli.main import app

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "latent_diffusion.py"


def test_it_learns_and_writes_sound(tmp_path: Path) -> None:
    (tmp_path / "sounds").mkdir()
    for i in range(3):
        duotone.write(tmp_path / "sounds" / f"{i}.wav", synthesize(i, 8.0))
    made = CliRunner().invoke(app, ["latents", str(tmp_path / "sounds"), "-o", str(tmp_path / "latents")])
    assert made.exit_code == 0, made.stderr
    torch.manual_seed(0)
    random.seed(0)
    out = tmp_path / "out.wav"
    losses, values = runpy.run_path(str(SCRIPT))["main"](str(tmp_path / "latents"), str(out), 150, 2, 8)
    # Predicting nothing costs 2 (noise and data have unit variance each), predicting the noise alone 1 or more.
    assert losses[0] > 1.7 and sum(losses[-25:]) / 25 < 1.5
    assert 0.5 < float(values.std()) < 1.3 and abs(float(values.mean())) < 0.3
    wave = duotone.read(out)
    chunk = duotone.load("tiny").spec.chunk
    assert (wave.rate, wave.channels) == (48_000, 2) and chunk < wave.length <= 2 * chunk
    assert 0.001 < float(wave.samples.square().mean().sqrt()) < 0.7
