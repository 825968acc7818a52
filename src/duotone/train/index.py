"""What is known of every training file: length, rate, loudness, silence, clipping; measured once and kept in a cache."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from duotone.config import cache_folder
from duotone.errors import AudioError
from duotone.train.recipe import DataSection
from duotone.train.sources import Place, find

WINDOWS, WINDOW_SECONDS = 24, 0.5
FULL_SCALE = 0.999
#: With fewer files than this, validation takes the end of each file and not whole files.
FEW = 20
_VERSION = 1


@dataclass(frozen=True)
class Sound:
    """A file, or the part ``start .. stop`` of it, that crops can be taken from."""

    place: Place
    rate: int
    frames: int
    channels: int
    level_db: float  # RMS of the windows that are not silent, dBFS
    silent: float  # share of windows below the silence threshold
    clipped: float  # share of samples at full scale
    start: int = 0
    stop: int = 0

    @property
    def seconds(self) -> float:
        """Length of the part."""
        return (self.stop - self.start) / self.rate


@dataclass
class Index:
    """Files to train on and to validate on, and a line for every file that was left out."""

    training: list[Sound]
    validation: list[Sound]
    skipped: list[str] = field(default_factory=list)

    @property
    def hours(self) -> float:
        """Hours of sound to train on."""
        return sum(s.seconds for s in self.training) / 3600


def build_index(
    data: str | Path | Sequence[str | Path],
    section: DataSection,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> Index:
    """Find, measure, filter and split the files that `data` names (see `sources.find`).

    Measuring runs in parallel and is remembered by path, size and time of change in `cache` (default: the user's cache
    folder). `progress` is told (files done, files in all). Raises `AudioError` when nothing usable is found.
    """
    places, skipped = find(data)
    known_at = cache or default_cache(data)
    known = _read_cache(known_at)
    keys = {place: _key(place) for place in places}
    missing = [p for p in places if keys[p] not in known]
    if progress:
        progress(len(places) - len(missing), len(places))
    with ThreadPoolExecutor(section.workers) as pool:
        for done, (place, about) in enumerate(zip(missing, pool.map(_measure, missing), strict=True), start=1):
            known[keys[place]] = about
            if progress:
                progress(len(places) - len(missing) + done, len(places))
    if missing:
        _write_cache(known_at, {keys[p]: known[keys[p]] for p in places})
    sounds = []
    for place in places:
        about = known[keys[place]]
        reason = about.get("problem") or _reason(about, section)
        if reason:
            skipped.append(f"{place.name}: {reason}")
        else:
            sounds.append(Sound(place, **about, stop=about["frames"]))
    if not sounds:
        hint = f" {len(skipped)} could not be used, the first: {skipped[0]}." if skipped else ""
        raise AudioError(
            f"{_name(data)} holds no sound that can be trained on.{hint} Expected wav, flac, ogg, opus or mp3."
        )
    return _split(sounds, section.validation_share, skipped)


def default_cache(data: str | Path | Sequence[str | Path]) -> Path:
    """Where what is known of these sources is kept, below `cache_folder`."""
    sources = [data] if isinstance(data, str | Path) else list(data)
    digest = hashlib.blake2b("\n".join(str(Path(s).absolute()) for s in sources).encode(), digest_size=8).hexdigest()
    return (cache_folder() or Path(tempfile.gettempdir())) / f"index-{digest}.json"


def _name(data: str | Path | Sequence[str | Path]) -> str:
    return str(data) if isinstance(data, str | Path) else ", ".join(map(str, data))


def _key(place: Place) -> str:
    try:
        about = os.stat(place.path)
    except OSError:
        return f"{place.name}|missing"
    return f"{place.name}|{about.st_size}|{about.st_mtime_ns}|{place.offset}"


def _measure(place: Place) -> dict[str, Any]:
    """Header and loudness of a file; ``{"problem": ...}`` when it cannot be read."""
    try:
        with soundfile.SoundFile(place.open()) as file:
            about: dict[str, Any] = {"rate": file.samplerate, "frames": file.frames, "channels": file.channels}
            if file.frames <= 0:
                return {"problem": "it has no samples"}
            if file.channels > 2:
                return {"problem": f"{file.channels} channels, expected 1 or 2"}
            return about | _loudness(file)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        return {"problem": f"it cannot be read ({error})"}


def _loudness(file: soundfile.SoundFile) -> dict[str, float]:
    """Level, silent share and clipped share from windows spread evenly over the file; short files are read whole."""
    window = max(1, round(WINDOW_SECONDS * file.samplerate))
    last = max(0, file.frames - window)
    starts = sorted({round(last * i / (WINDOWS - 1)) for i in range(WINDOWS)})
    powers, clipped = [], []
    for start in starts:
        file.seek(start)
        block = np.nan_to_num(file.read(window, dtype="float32", always_2d=True))
        if len(block):
            powers.append(float(np.square(block, dtype=np.float64).mean()))
            clipped.append(float((np.abs(block) >= FULL_SCALE).mean()))
    if not powers:
        raise RuntimeError("its samples cannot be decoded")
    power = np.array(powers)
    heard = power > 10 ** (-60 / 10)
    level = 10 * np.log10(power[heard].mean()) if heard.any() else -120.0
    return {"level_db": float(level), "silent": float(1 - heard.mean()), "clipped": float(np.mean(clipped))}


def _reason(about: dict[str, Any], section: DataSection) -> str:
    if about["level_db"] <= section.silence_db:
        return f"it is silent (below {section.silence_db:g} dBFS throughout; data.silence_db)"
    if about["clipped"] > section.clipped_share_max:
        return f"{about['clipped']:.1%} of its samples are at full scale (data.clipped_share_max)"
    return ""


def _split(sounds: list[Sound], share: float, skipped: list[str]) -> Index:
    """Whole files by the hash of their name, so that adding files moves none; of few files, the end of each."""
    if share == 0:
        return Index(sounds, [], skipped)
    if len(sounds) >= FEW:
        held = [s for s in sounds if _hash(s.place) < share]
        if held:
            rest = [s for s in sounds if _hash(s.place) >= share]
            return Index(rest, held, skipped)
    training, validation = [], []
    for s in sounds:
        cut = max(1, round(s.frames * (1 - share)))
        training.append(dataclasses.replace(s, stop=cut))
        if cut < s.frames:
            validation.append(dataclasses.replace(s, start=cut))
    return Index(training, validation, skipped)


def _hash(place: Place) -> float:
    """A number in [0, 1) from the last two parts of the name, so that moving the collection changes nothing."""
    name = "/".join(Path(place.member or place.path).parts[-2:])
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") / 2**64


def _read_cache(path: Path) -> dict[str, dict[str, Any]]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return {}  # a cache: what is missing or damaged is measured again
    return dict(values["files"]) if isinstance(values, dict) and values.get("version") == _VERSION else {}


def _write_cache(path: Path, files: dict[str, dict[str, Any]]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            json.dump({"version": _VERSION, "files": files}, file)
        os.replace(file.name, path)
    except PermissionError:
        return  # a cache that may not be written is no reason to fail; the next run measures again
