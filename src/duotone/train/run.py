"""`train`: from a recipe and a folder of sound to a codec."""

from __future__ import annotations

import copy
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from duotone.codec.weights import save_codec
from duotone.represent.stft import to_spectrum
from duotone.train.data import Crops, index
from duotone.train.loop import fit
from duotone.train.objective import CodecObjective
from duotone.train.recipe import TrainRecipe
from duotone.train.schedule import EMA


def train(
    recipe: str | Path | TrainRecipe,
    data: str | Path,
    out: str | Path,
    overrides: list[str] | None = None,
    report: Callable[[dict[str, Any]], None] = lambda figures: None,
) -> Path:
    """Train a codec and write it to OUT/codec; run again with the same OUT, it goes on where it stopped.

    `report` gets each step's figures. Raises `ConfigError`, `AudioError` (no usable sound) or `TrainingError`.
    """
    recipe = recipe if isinstance(recipe, TrainRecipe) else TrainRecipe.load(recipe, overrides)
    run = Path(out)
    config = recipe.codec.build()
    sounds, skipped = index(data)
    run.mkdir(parents=True, exist_ok=True)
    (run / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    (run / "skipped.txt").write_text("\n".join(skipped), encoding="utf-8")
    torch.manual_seed(recipe.train.seed)
    objective = CodecObjective(config, recipe.objective)
    crops = Crops(sounds, config.rate, objective.crop, recipe.data, recipe.train.seed)
    started = time.monotonic()
    ema = fit(objective, crops, recipe, run, report)
    provenance = {
        "recipe": recipe.to_dict(),
        "steps": ema.updates,
        "examples": ema.updates * recipe.train.batch_size,
        "hours_of_sound": round(sum(s.frames / s.rate for s in sounds) / 3600, 3),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}",
        "minutes_of_last_run": round((time.monotonic() - started) / 60, 1),
    }
    save_codec(averaged(objective, ema, crops).export(provenance), run / "codec", torch.bfloat16)
    return run / "codec"


@torch.no_grad()
def averaged(objective: CodecObjective, ema: EMA, crops: Crops, batches: int = 8) -> CodecObjective:
    """A copy with the averaged weights, and the statistics of its bottleneck measured again for them."""
    out = copy.deepcopy(objective)
    ema.copy_to(out)
    if out.section.bottleneck_norm:
        out.norm.restart(momentum=0)
        out.train()
        device = next(out.parameters()).device
        keep = torch.ones(16, dtype=torch.bool, device=device)
        for samples in crops.batches(1 << 40, (1 << 40) + batches, 8):
            clean = torch.cat(torch.split(to_spectrum(samples.to(device), out.config), out.config.frames, dim=-1))
            out.bottleneck(out.network.encode_pre(clean), keep)
    return out.eval()
