"""Make a collection of music and speech: FLAC files and a manifest, resumable, the same for the same seed.

``duotone make-sounds OUT --minutes 60 --split train --seed 0``
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn import functional

from duotone.audio.collection_folder import CollectionFolder
from duotone.audio.compose import Split, compose
from duotone.audio.midi import SOUNDFONT_LICENCES, find_soundfont, render, require_program, to_midi
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
_BLOCK, _REACH = 64, 15  # the limiter looks 15 blocks of 64 samples (20 ms at 48 kHz) to each side


def master(wave: Waveform, target: float = TARGET_DBFS, limit: float = LIMIT_DB) -> Waveform:
    """Scale to about `target` dBFS RMS, and limit peaks (by at most `limit` dB) so that none exceeds 0.97.

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
    """Cut or pad to exactly `length` samples; a cut fades out over 50 ms."""
    samples = wave.samples[:, :length]
    if wave.length > length:
        fade = min(length, wave.rate // 20)
        samples = samples * torch.cat([torch.ones(length - fade), torch.linspace(1, 0, fade)])
    return Waveform(functional.pad(samples, (0, length - samples.shape[1])), wave.rate)


def plan(split: Split, seed: int, count: int, kinds: Sequence[Kind] | None = None) -> list[tuple[Kind, int]]:
    """Kind and seed of the first `count` pieces, with the given shares of kinds; longer plans begin with shorter ones."""
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
    force: bool = False,
) -> Path:
    """Fill a folder with pieces of 20 s up to `minutes`, and write `manifest.json`; pieces already made are kept.

    `kinds` selects from music, speech and synth (default: all of the split); `progress` is called with (made, total).
    Other files in the folder are kept; if one has the name of a piece, `UsageError` is raised before any work, or with
    `force` it is replaced. Raises `UsageError` for a length or split that cannot be, too, and `AudioError` when a program
    or soundfont is missing.
    """
    if split not in SHARES:
        raise UsageError(f"There is no split {split!r}. There are: {', '.join(SHARES)}.")
    if not 0 < minutes < 1e6:
        raise UsageError(f"The collection got {minutes} minutes, expected a length above 0.")
    count = max(1, round(minutes * 60 / PIECE_SECONDS))
    uses_font = any(kind == "music" for kind, _ in plan(split, seed, count, kinds))
    font = find_soundfont(soundfont) if uses_font else Path()
    head = {
        "made_by": "duotone make-sounds", "recipe": RECIPE, "split": split, "seed": seed,
        "kinds": list(SHARES[split] if kinds is None else kinds), "rate": RATE, "target_dbfs": TARGET_DBFS,
    }  # fmt: skip

    def orders(several: int) -> list[dict[str, Any]]:
        return [_order(i, *piece, split, font) for i, piece in enumerate(plan(split, seed, several, kinds))]

    folder = CollectionFolder(Path(out), head, orders, PIECE_SECONDS)
    folder.claim(count, force)
    for index, order in enumerate(orders(count)):
        if order["file"] not in folder.notes:
            folder.put(order, *make_piece(order["seed"], split, order["kind"], soundfont=font))
        if progress:
            progress(index + 1, count)
    folder.finish()
    return Path(out)


def _order(index: int, kind: Kind, seed: int, split: Split, font: Path) -> dict[str, Any]:
    """The description of a piece; an existing piece is kept if its note has the same."""
    order = {"file": f"{index:05d}-{kind}.flac", "kind": kind, "seed": seed, "split": split, "recipe": RECIPE}
    return order | ({"font": font.name} if kind == "music" else {})


def makeable() -> tuple[list[Kind], list[str]]:
    """The kinds of pieces that can be made on this machine, and a line for each that cannot."""
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
