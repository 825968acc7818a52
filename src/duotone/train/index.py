"""Measure every training file once (length, rate, loudness, silence, clipping) and cache the results."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from duotone.audio.blocks import Blocks
from duotone.audio.formats import READABLE, shown
from duotone.config import cache_folder
from duotone.errors import AudioError, UsageError
from duotone.train.index_cache import Measured, read_cache, write_cache
from duotone.train.sources import Place, find

WINDOWS, WINDOW_SECONDS = 24, 0.5
FULL_SCALE = 0.999
#: With fewer files than this, validation takes the end of each file and not whole files.
FEW = 20


class Wanted(Protocol):
    """Which files are used: the fields of a recipe's `data` section that this module needs."""

    @property
    def silence_db(self) -> float:
        """Files whose level is below this everywhere are left out."""

    @property
    def clipped_share_max(self) -> float:
        """Files with a larger share of samples at full scale are left out."""

    @property
    def validation_share(self) -> float:
        """The share that is held out."""

    @property
    def workers(self) -> int:
        """Threads that measure."""


@dataclass(frozen=True)
class Sound:
    """A file, or the part ``start .. stop`` of it, to take crops from."""

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
        """Hours of audio to train on."""
        return sum(s.seconds for s in self.training) / 3600


def build_index(
    data: str | Path | Sequence[str | Path],
    section: Wanted,
    progress: Callable[[int, int], None] | None = None,
    cache: Path | None = None,
) -> Index:
    """Find, measure, filter and split the files that `data` names (see `sources.find`).

    Measuring runs in parallel; results are cached by path, size and modification time in `cache` (default: the user's cache
    folder), if that can be used. `progress` is called with (files done, total files). Raises
    `AudioError` when nothing usable is found.
    """
    places, skipped = find(data)
    known_at = cache or default_cache(data)
    kept = read_cache(known_at)
    keys = {place: _key(place) for place in places}
    known = {place: kept[keys[place]] for place in places if keys[place] in kept}
    missing = [place for place in places if place not in known]
    if progress:
        progress(len(known), len(places))
    with ThreadPoolExecutor(section.workers) as pool:
        for place, about in zip(missing, pool.map(_measure, missing), strict=True):
            known[place] = about
            if progress:
                progress(len(known), len(places))
    if missing:
        _keep(known_at, {keys[place]: known[place] for place in places})
    sounds = []
    for place in places:
        about = known[place]
        reason = about.problem or _reason(about, section)
        if reason:
            skipped.append(f"{place.name}: {reason}")
        else:
            values = (about.rate, about.frames, about.channels, about.level_db, about.silent, about.clipped)
            sounds.append(Sound(place, *values, stop=about.frames))
    if not sounds:
        hint = f" {len(skipped)} could not be used, the first: {skipped[0]}." if skipped else ""
        raise AudioError(
            f"{_name(data)} holds no sound that can be trained on.{hint} Expected some of {', '.join(READABLE)}."
        )
    return _split(sounds, section.validation_share, skipped)


def default_cache(data: str | Path | Sequence[str | Path]) -> Path | None:
    """The cache file for these sources, in `cache_folder`; None if there is no such folder."""
    folder = cache_folder()
    if folder is None:
        return None
    sources = [data] if isinstance(data, str | Path) else list(data)
    named = b"\n".join(os.fsencode(Path(source).absolute()) for source in sources)
    return folder / f"index-{hashlib.blake2b(named, digest_size=8).hexdigest()}.json"


def _keep(cache: Path | None, known: dict[str, Measured]) -> None:
    """Write the cache, or warn that the next run has to measure again."""
    problem = "there is no home folder"
    if cache is not None:
        try:
            write_cache(cache, known)
            return
        except (OSError, UsageError) as error:
            problem = str(error)
    warnings.warn(
        f"The measurements of the training files could not be cached ({problem}), so the next run measures them again. "
        "Set DUOTONE_CACHE to a folder that can be written.",
        RuntimeWarning,
        stacklevel=3,
    )


def _name(data: str | Path | Sequence[str | Path]) -> str:
    return str(data) if isinstance(data, str | Path) else ", ".join(map(str, data))


def _key(place: Place) -> str:
    try:
        about = os.stat(place.path)
    except OSError:
        return f"{place.name}|missing"
    return f"{place.name}|{about.st_size}|{about.st_mtime_ns}|{place.offset}"


def _measure(place: Place) -> Measured:
    """Length and loudness of a file, from its decoded samples; or its problem."""
    try:
        with open(place.path, "rb"):
            pass
    except OSError as error:
        return Measured(problem=f"it cannot be opened ({error.strerror})", lasting=False)
    try:
        with place.blocks(WINDOW_SECONDS) as sound:
            return _loudness(sound)
    except (AudioError, OSError) as error:
        text, name = str(error), shown(place.name)
        return Measured(
            problem=f"it {text[len(name) :].strip()}" if text.startswith(f"{name} ") else text,
            lasting=isinstance(error, AudioError),
        )


def _loudness(sound: Blocks) -> Measured:
    """True length, level, silent share and clipped share, from windows spread evenly over the file.

    Short files, and files whose length is not in the header, are read completely.
    """
    window = sound.block
    lengths, powers, clipped = [], [], []

    def take() -> int:
        block = np.nan_to_num(sound.read(window))
        if len(block):
            lengths.append(len(block))
            powers.append(float(np.square(block, dtype=np.float64).mean()))
            clipped.append(float((np.abs(block) >= FULL_SCALE).mean()))
        return len(block)

    if sound.samples is None or sound.samples <= WINDOWS * window:
        frames = 0
        while count := take():
            frames += count
        promised = sound.samples or frames
    else:
        frames = at = 0
        promised = sound.samples
        for start in (round((promised - window) * i / (WINDOWS - 1)) for i in range(WINDOWS)):
            sound.skip(start - at)
            frames = at = start + take()
    if frames == 0:
        return Measured(problem="it has no samples")
    if frames < promised:
        return Measured(problem=f"it is truncated: its header states {promised} samples, but it ends at {frames}")
    power, share = np.array(powers), np.array(lengths) / sum(lengths)
    heard = power > 10 ** (-60 / 10)
    level = 10 * np.log10((power * share)[heard].sum() / share[heard].sum()) if heard.any() else -120.0
    silent, full = 1 - share[heard].sum(), (np.array(clipped) * share).sum()
    return Measured(sound.rate, frames, sound.channels, float(level), float(silent), float(full))


def _reason(about: Measured, section: Wanted) -> str:
    if about.level_db <= section.silence_db:
        return f"it is silent (below {section.silence_db:g} dBFS throughout; data.silence_db)"
    if about.clipped > section.clipped_share_max:
        return f"{about.clipped:.1%} of its samples are at full scale (data.clipped_share_max)"
    return ""


def _split(sounds: list[Sound], share: float, skipped: list[str]) -> Index:
    """Choose whole files by a hash of their name, so that adding files does not change the split; of few files, the end of each."""
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
    """A number in [0, 1) from the last two parts of the path, which does not change when the collection is moved."""
    name = "/".join(Path(place.member or place.path).parts[-2:])
    return int.from_bytes(hashlib.blake2b(os.fsencode(name), digest_size=8).digest(), "little") / 2**64
