"""Make a collection of music and speech: FLAC files and a manifest, resumable, the same for the same seed.

``python -m duotone.audio.collection OUT --minutes 60 --split train --seed 0``
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from duotone.audio.compose import Split, compose
from duotone.audio.files import write
from duotone.audio.midi import find_soundfont, render, to_midi
from duotone.audio.speech import speak
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import DuotoneError

PIECE_SECONDS = 20.0
#: Shares of music, speech and plain synthesis.
SHARES: dict[Split, tuple[float, float, float]] = {"train": (0.8, 0.12, 0.08), "heldout": (0.75, 0.25, 0.0)}
TARGET_DBFS = -16.0
PEAK = 0.97


def level(wave: Waveform, target: float = TARGET_DBFS) -> Waveform:
    """Scale to an RMS of `target` dBFS, or as near to it as a peak of 0.97 allows."""
    rms = float(wave.samples.pow(2).mean().sqrt())
    peak = float(wave.samples.abs().max())
    if rms == 0:
        return wave
    gain = min(10 ** (target / 20) / rms, PEAK / peak)
    return Waveform(wave.samples * gain, wave.rate)


def make_piece(seed: int, split: Split, kind: str) -> tuple[Waveform, dict[str, Any]]:
    """One piece of a kind (music, speech, synth) and what it is made of."""
    about: dict[str, Any] = {"seed": seed, "kind": kind}
    if kind == "music":
        piece = compose(seed, PIECE_SECONDS, split)
        font = find_soundfont()
        wave = render(to_midi(piece.notes, piece.parts, piece.tempo), soundfont=font)
        about |= {
            "tempo": piece.tempo,
            "key": piece.key,
            "programs": [p.program for p in piece.parts],
            "font": font.name,
        }
    elif kind == "speech":
        wave, about["voice"] = speak(seed, split)
    else:
        wave = synthesize(seed, PIECE_SECONDS)
    length = int(PIECE_SECONDS * wave.rate)
    wave = level(Waveform(wave.samples[:, :length].contiguous(), wave.rate))
    about["rms_dbfs"] = round(20 * float(torch.log10(wave.samples.pow(2).mean().sqrt().clamp_min(1e-9))), 2)
    return wave, about


def make_collection(out: str | Path, minutes: float, split: Split = "train", seed: int = 0) -> Path:
    """Fill a folder with pieces of 20 s up to `minutes`, and write `manifest.json`; files already there are kept."""
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"duotone/collection/{split}/{seed}")
    entries = []
    for index in range(max(1, round(minutes * 60 / PIECE_SECONDS))):
        kind = rng.choices(("music", "speech", "synth"), SHARES[split])[0]
        piece_seed = rng.randrange(2**31)
        path = folder / f"{index:05d}-{kind}.flac"
        note = path.with_suffix(".json")
        if not (path.is_file() and note.is_file()):
            wave, about = make_piece(piece_seed, split, kind)
            write(path, wave)
            note.write_text(json.dumps(about), encoding="utf-8")
        entries.append({"file": path.name, **json.loads(note.read_text(encoding="utf-8"))})
    manifest = {"split": split, "seed": seed, "minutes": minutes, "pieces": entries}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m duotone.audio.collection", description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--split", choices=("train", "heldout"), default="train")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        folder = make_collection(options.out, options.minutes, options.split, options.seed)
    except DuotoneError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
