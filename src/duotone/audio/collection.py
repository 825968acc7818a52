"""Make a collection of music and speech: FLAC files and a manifest, resumable, the same for the same seed.

``duotone make-sounds OUT --minutes 60 --split train --seed 0``
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from duotone.audio.compose import Split, compose
from duotone.audio.files import write
from duotone.audio.midi import SOUNDFONT_LICENCES, find_soundfont, render, require_program, to_midi, write_bytes
from duotone.audio.speech import speak
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import DuotoneError, UsageError

Kind = Literal["music", "speech", "synth"]
#: Raised whenever the same seed would give other sound, so that a resumed collection never mixes two recipes.
RECIPE = 2
RATE = 48_000
PIECE_SECONDS = 20.0
#: Shares of music, speech and plain synthesis.
SHARES: dict[Split, dict[Kind, float]] = {
    "train": {"music": 0.75, "speech": 0.15, "synth": 0.10},
    "heldout": {"music": 0.75, "speech": 0.25},
}
#: Loudness asked for, RMS. With the limiter below a training collection comes to about -12.5 dBFS, and its companded
#: spectra to a mean standard deviation of 0.45 (sigma_data is 0.5); unlimited at -16 dBFS that was 0.30.
TARGET_DBFS = -10.0
PEAK = 0.97
#: The most that the limiter may take off a peak; a piece that would need more stays quieter than the target.
LIMIT_DB = 9.0
_BLOCK, _REACH = 64, 15  # the limiter looks 15 blocks of 64 samples (20 ms at 48 kHz) to either side


def master(wave: Waveform, target: float = TARGET_DBFS, limit: float = LIMIT_DB) -> Waveform:
    """Scale to about `target` dBFS RMS, and bend peaks down (at most `limit` dB) so that none passes 0.97.

    A look-ahead limiter with one gain for both channels; silence stays silent.
    """
    samples = wave.samples - wave.samples.mean(1, keepdim=True)
    rms, peak = float(samples.pow(2).mean().sqrt()), float(samples.abs().max())
    if rms == 0:
        return Waveform(samples, wave.rate)
    samples = samples * min(10 ** (target / 20) / rms, PEAK * 10 ** (limit / 20) / peak)
    return Waveform((samples * _limiter_gain(samples)).clamp(-PEAK, PEAK), wave.rate)


def _limiter_gain(samples: Tensor) -> Tensor:
    """The gain `[T]` that keeps |samples| `[C, T]` within the peak: smooth, and never above what a sample allows."""
    length = samples.shape[1]
    padded = functional.pad(samples.abs().amax(0), (0, -length % _BLOCK))
    allowed = (PEAK / padded.view(-1, _BLOCK).amax(1).clamp_min(PEAK))[None, None]
    # The least over one block more than the smoothing reaches: neighbours may then be joined by straight lines.
    least = -functional.max_pool1d(-allowed, 2 * _REACH + 3, 1, _REACH + 1)
    window = torch.hann_window(2 * _REACH + 3, periodic=False)[1:-1]
    smooth = functional.conv1d(
        functional.pad(least, (_REACH, _REACH), mode="replicate") if least.shape[2] > 1 else least.expand(1, 1, 31),
        (window / window.sum())[None, None],
    )
    return functional.interpolate(smooth, scale_factor=_BLOCK, mode="linear", align_corners=False)[0, 0, :length]


def make_piece(
    seed: int, split: Split, kind: Kind, seconds: float = PIECE_SECONDS, soundfont: str | Path | None = None
) -> tuple[Waveform, dict[str, Any]]:
    """One mastered piece of exactly `seconds`, 48 kHz stereo, and what it is made of; raises `AudioError` without tools."""
    about: dict[str, Any] = {}
    if kind == "music":
        font = find_soundfont(soundfont)
        piece = compose(seed, seconds, split)
        wave = render(to_midi(piece.notes, piece.parts, piece.tempo), RATE, font)
        about = {
            "tempo": piece.tempo,
            "meter": piece.meter,
            "key": piece.key,
            "programs": [p.program for p in piece.parts if p.channel != 9],
            "kits": [p.program for p in piece.parts if p.channel == 9],
            "notes": len(piece.notes),
            "font_licence": SOUNDFONT_LICENCES.get(font.name, "unknown"),
        }
    elif kind == "speech":
        wave, about["voice"] = speak(seed, seconds, split, RATE)
    elif kind == "synth":
        wave = synthesize(seed, seconds, RATE)
    else:
        raise UsageError(f"There is no kind of piece {kind!r}. There are: music, speech, synth.")
    wave = master(_fit(wave, max(1, round(seconds * RATE))))
    level = 20 * math.log10(max(1e-9, float(wave.samples.pow(2).mean().sqrt())))
    return wave, about | {"rms_dbfs": round(level, 2), "peak": round(float(wave.samples.abs().max()), 4)}


def _fit(wave: Waveform, length: int) -> Waveform:
    """Exactly `length` samples; what is cut off fades out over 50 ms first."""
    samples = wave.samples[:, :length]
    if wave.length > length:
        fade = min(length, wave.rate // 20)
        samples = samples * torch.cat([torch.ones(length - fade), torch.linspace(1, 0, fade)])
    return Waveform(functional.pad(samples, (0, length - samples.shape[1])), wave.rate)


def plan(split: Split, seed: int, count: int, kinds: Sequence[Kind] | None = None) -> list[tuple[Kind, int]]:
    """Kind and seed of the first `count` pieces: the kinds keep to their shares, and a longer plan starts the same."""
    rng = random.Random(f"duotone/collection/{split}/{seed}")
    shares = SHARES[split] if kinds is None else {k: SHARES[split].get(k, 0.1) for k in kinds}
    whole = sum(shares.values())
    made: dict[Kind, int] = dict.fromkeys(shares, 0)
    pieces: list[tuple[Kind, int]] = []
    for index in range(count):
        kind = max(made, key=lambda k: shares[k] / whole * (index + 1) - made[k])
        made[kind] += 1
        pieces.append((kind, rng.randrange(2**31)))
    return pieces


def make_collection(
    out: str | Path,
    minutes: float,
    split: Split = "train",
    seed: int = 0,
    soundfont: str | Path | None = None,
    kinds: Sequence[Kind] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Fill a folder with pieces of 20 s up to `minutes`, and write `manifest.json`; pieces already made are kept.

    `kinds` takes some of music, speech and synth only (default: all of the split); `progress` is told (made, in all).
    Raises `UsageError` for a length or split that cannot be, `AudioError` when a program or soundfont is missing.
    """
    if split not in SHARES:
        raise UsageError(f"There is no split {split!r}. There are: {', '.join(SHARES)}.")
    if not 0 < minutes < 1e6:
        raise UsageError(f"A collection of {minutes} minutes was asked for; give a length above 0.")
    pieces = plan(split, seed, max(1, round(minutes * 60 / PIECE_SECONDS)), kinds)
    font = find_soundfont(soundfont) if any(kind == "music" for kind, _ in pieces) else Path()
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for index, (kind, number) in enumerate(pieces):
        entries.append(_keep_or_make(folder, index, kind, number, split, font))
        if progress:
            progress(index + 1, len(pieces))
    manifest = {
        "recipe": RECIPE,
        "split": split,
        "seed": seed,
        "minutes": len(entries) * PIECE_SECONDS / 60,
        "rate": RATE,
        "target_dbfs": TARGET_DBFS,
        "pieces": entries,
    }
    write_bytes(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    return folder


def _keep_or_make(folder: Path, index: int, kind: Kind, seed: int, split: Split, font: Path) -> dict[str, Any]:
    """The manifest's entry of a piece; made anew unless the very same piece lies there."""
    path = folder / f"{index:05d}-{kind}.flac"
    note = path.with_suffix(".json")
    order = {"file": path.name, "kind": kind, "seed": seed, "split": split, "recipe": RECIPE}
    order |= {"font": font.name} if kind == "music" else {}
    if path.is_file() and note.is_file():
        about: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        if all(about.get(key) == value for key, value in order.items()):
            return about
    for stale in folder.glob(f"{index:05d}-*"):  # another seed's piece of the same number
        stale.unlink()
    wave, made = make_piece(seed, split, kind, soundfont=font)
    write(path, wave)
    about = order | made
    write_bytes(note, json.dumps(about).encode())  # last: a piece without its note is made again
    return about


def makeable() -> tuple[list[Kind], list[str]]:
    """The kinds of pieces that can be made here, and a line for each that cannot."""
    able: list[Kind] = []
    lacking: list[str] = []
    for kind, program, package in (("music", "fluidsynth", "fluidsynth"), ("speech", "espeak-ng", "espeak-ng")):
        try:
            require_program(program, package)
            if kind == "music":
                find_soundfont(None)
            able.append(cast(Kind, kind))
        except DuotoneError as error:
            lacking.append(f"no {kind}: {error}")
    return [*able, "synth"], lacking
