"""Make a collection of music and speech: FLAC files and a manifest, resumable, the same for the same seed.

``duotone make-sounds OUT --minutes 60 --split train --seed 0``
"""

from __future__ import annotations

import math
import multiprocessing
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from duotone.audio.collection_folder import CollectionFolder, write_piece
from duotone.audio.compose import Piece, Split, compose, on_drum_font
from duotone.audio.midi import (
    DRUM_CHANNEL,
    SOUNDFONTS,
    choose_soundfont,
    known_soundfont,
    render,
    require_program,
    soundfonts_here,
    to_midi,
)
from duotone.audio.speech import VOICES, choose_voice, engine, installed, licence, package, speak, voices_here
from duotone.audio.synth import synthesize
from duotone.audio.variants import Variant, apply, draw
from duotone.audio.waveform import Waveform
from duotone.errors import DuotoneError, UsageError

Kind = Literal["music", "speech", "synth"]
#: Raised whenever the same seed would give other sound, so that a resumed collection never mixes two recipes.
RECIPE = 3
RATE = 48_000
PIECE_SECONDS = 20.0
#: Shares of music, speech and plain synthesis.
SHARES: dict[Split, dict[Kind, float]] = {
    "train": {"music": 0.60, "speech": 0.32, "synth": 0.08},
    "heldout": {"music": 0.60, "speech": 0.40},
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
    seed: int,
    split: Split,
    kind: Kind,
    seconds: float = PIECE_SECONDS,
    soundfont: str | Path | None = None,
    voice: str | None = None,
    plain: bool = False,
) -> tuple[Waveform, dict[str, Any]]:
    """One mastered piece of exactly `seconds`, 48 kHz stereo, and what it is made of; raises `AudioError` without tools.

    Training pieces become variants (band-limited, reverberant, mono, narrow) as their seed says, unless they are to be `plain`.
    """
    about: dict[str, Any] = {}
    if kind == "music":
        font = Path(soundfont) if soundfont else choose_soundfont(seed, soundfonts_here(split))
        wave, about = _play(seed, split, seconds, font)
    elif kind == "speech":
        wave, about["voice"] = speak(seed, seconds, split, RATE, voice)
        about["voice_licence"] = licence(about["voice"])
    elif kind == "synth":
        wave = synthesize(seed, seconds, RATE)
    else:
        raise UsageError(f"There is no kind of piece {kind!r}. There are: music, speech, synth.")
    chosen = Variant() if plain or split != "train" else draw(random.Random(f"duotone/variant/{seed}"), kind)
    wave = master(apply(_fit(wave, max(1, round(seconds * RATE))), chosen))
    level = 20 * math.log10(max(1e-9, float(wave.samples.pow(2).mean().sqrt())))
    about |= {"variant": chosen.describe()} if chosen.describe() else {}
    return wave, about | {"rms_dbfs": round(level, 2), "peak": round(float(wave.samples.abs().max()), 4)}


def _play(seed: int, split: Split, seconds: float, font: Path) -> tuple[Waveform, dict[str, Any]]:
    """A composed piece played by a soundfont; one that belongs to held-out pieces alone may use all programs."""
    known = known_soundfont(font)
    drums = known is not None and known.drums
    everything = known is not None and known.splits == ("heldout",)
    piece: Piece = compose(seed, seconds, split, "loop" if drums else None, everything)
    about = {
        "style": piece.style,
        "tempo": piece.tempo,
        "meter": piece.meter,
        "key": piece.key,
        "programs": [p.program for p in piece.parts if p.channel != DRUM_CHANNEL],
        "kits": [p.program for p in piece.parts if p.channel == DRUM_CHANNEL and not drums],
        "notes": len(piece.notes),
        "font_licence": known.licence if known else "unknown",
    }
    played = on_drum_font(piece) if drums else piece
    return render(to_midi(played.notes, played.parts, played.tempo), RATE, font), about


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


@dataclass(frozen=True)
class Tools:
    """What the pieces of a collection are chosen from: soundfonts and voices; `plain`: no variants."""

    fonts: tuple[Path, ...] = ()
    voices: tuple[str, ...] = ()
    plain: bool = False


def make_collection(
    out: str | Path,
    minutes: float,
    split: Split = "train",
    seed: int = 0,
    soundfont: str | Path | None = None,
    kinds: Sequence[Kind] | None = None,
    progress: Callable[[int, int], None] | None = None,
    force: bool = False,
    workers: int = 1,
    plain: bool = False,
) -> Path:
    """Fill a folder with pieces of 20 s up to `minutes`, and write `manifest.json`; pieces already made are kept.

    `kinds` selects from music, speech and synth (default: all of the split); `progress` is called with (made, total); `workers` processes
    share the work (a script that asks for several needs `if __name__ == "__main__":`); `plain` makes no variants.
    Other files in the folder are kept; if one has the name of a piece, `UsageError` is raised before any work, or with
    `force` it is replaced. Raises `UsageError` for a length, split or number of workers that cannot be, too, and `AudioError` when a
    program or soundfont is missing.
    """
    if split not in SHARES:
        raise UsageError(f"There is no split {split!r}. There are: {', '.join(SHARES)}.")
    if not 0 < minutes < 1e6:
        raise UsageError(f"The collection got {minutes} minutes, expected a length above 0.")
    if workers < 1:
        raise UsageError(f"The collection got {workers} workers, expected at least 1.")
    count = max(1, round(minutes * 60 / PIECE_SECONDS))
    used = {kind for kind, _ in plan(split, seed, count, kinds)}
    tools = Tools(
        soundfonts_here(split, soundfont) if "music" in used else (),
        voices_here(split) if "speech" in used else (),
        plain,
    )
    head = {
        "made_by": "duotone make-sounds", "recipe": RECIPE, "split": split, "seed": seed,
        "kinds": list(SHARES[split] if kinds is None else kinds), "plain": plain, "rate": RATE, "target_dbfs": TARGET_DBFS,
    }  # fmt: skip

    def orders(several: int) -> list[dict[str, Any]]:
        return [_order(i, *piece, split, tools) for i, piece in enumerate(plan(split, seed, several, kinds))]

    folder = CollectionFolder(Path(out), head, orders, PIECE_SECONDS)
    folder.claim(count, force)
    _fill(folder, orders(count), tools, workers, progress or (lambda made, total: None))
    folder.finish()
    return Path(out)


def _fill(
    folder: CollectionFolder,
    orders: Sequence[dict[str, Any]],
    tools: Tools,
    workers: int,
    progress: Callable[[int, int], None],
) -> None:
    """Make the pieces that are lacking, here or in several processes; the sound is the same."""
    lacking = [order for order in orders if order["file"] not in folder.notes]
    done = len(orders) - len(lacking)
    progress(done, len(orders))
    if min(workers, len(lacking)) <= 1:
        for order in lacking:
            folder.notes[order["file"]] = _make(folder.folder, order, tools)
            done += 1
            progress(done, len(orders))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(lacking)), context) as pool:
        waiting = [pool.submit(_make, folder.folder, order, tools) for order in lacking]
        try:
            for future in as_completed(waiting):
                note = future.result()
                folder.notes[note["file"]] = note
                done += 1
                progress(done, len(orders))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _make(folder: Path, order: dict[str, Any], tools: Tools) -> dict[str, Any]:
    """Make and write a piece; its note."""
    fonts = [font for font in tools.fonts if font.name == order.get("font")]
    material: dict[str, Any] = {"soundfont": fonts[0] if fonts else None, "voice": order.get("voice")}
    piece = make_piece(order["seed"], order["split"], order["kind"], plain=tools.plain, **material)
    return write_piece(folder, order, *piece)


def _order(index: int, kind: Kind, seed: int, split: Split, tools: Tools) -> dict[str, Any]:
    """The description of a piece; an existing piece is kept if its note has the same."""
    order = {"file": f"{index:05d}-{kind}.flac", "kind": kind, "seed": seed, "split": split, "recipe": RECIPE}
    if kind == "music":
        return order | {"font": choose_soundfont(seed, tools.fonts).name}
    return order | ({"voice": choose_voice(seed, tools.voices)} if kind == "speech" else {})


def makeable(split: Split = "train", soundfont: str | Path | None = None) -> tuple[list[Kind], list[str]]:
    """The kinds of pieces that can be made on this machine, and a line for each that cannot."""
    able: list[Kind] = []
    lacking: list[str] = []
    for kind in ("music", "speech"):
        try:
            if kind == "music":
                require_program("fluidsynth", "fluidsynth")
                soundfonts_here(split, soundfont)
            else:
                voices_here(split)
            able.append(kind)
        except DuotoneError as error:
            lacking.append(f"no {kind}: {error}")
    return [*able, "synth"], lacking


def missing_packages(split: Split, kinds: Sequence[Kind]) -> list[str]:
    """The Debian packages whose soundfonts or voices would add to these kinds of pieces, and are not installed."""
    packages: list[str] = []
    if "music" in kinds:
        packages += [font.package for font in SOUNDFONTS if split in font.splits and font.find() is None]
    if "speech" in kinds:
        for voice in VOICES[split]:
            if not installed(voice):
                packages += ["festival"] * (engine(voice) == "festival") + [package(voice)]
    return list(dict.fromkeys(packages))
