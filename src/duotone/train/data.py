"""Random crops from an audio collection, read without decoding whole files.

Examples are computed with NumPy: a PyTorch operation in a second thread starts a second team of OpenMP threads, and GNU
OpenMP, with more threads than cores, then lets waiting threads sleep at once (training steps become 30% slower).
"""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotone.audio.resample import resample
from duotone.errors import AudioError
from duotone.train.index import Sound, build_index
from duotone.train.sections import SoundSection
from duotone.train.task import Batch, Examples

TRIES = 8
#: Loudness matching never changes a file by more than this.
LEVEL_LIMIT_DB = 24.0


class Crops(Examples):
    """Batches of stereo crops at one rate, ``{"samples": [B, 2, samples]}``. Longer files are chosen more often.

    With ``balance: sources`` each of `sources` is chosen equally often, and among its files the longer ones more often.
    """

    def __init__(
        self,
        sounds: list[Sound],
        rate: int,
        samples: int,
        section: SoundSection,
        seed: int,
        sources: tuple[str, ...] = (),
    ) -> None:
        self.sounds, self.rate, self.samples, self.section, self.seed = sounds, rate, samples, section, seed
        self.workers = section.workers
        weights = [s.seconds for s in sounds]
        if section.balance == "sources":
            groups = [_source_of(s, sources) for s in sounds]
            totals = {g: sum(w for w, h in zip(weights, groups, strict=True) if h == g) for g in set(groups)}
            weights = [w / totals[g] for w, g in zip(weights, groups, strict=True)]
        self._ends = np.cumsum(weights)
        self._lock = threading.Lock()
        self.unreadable: dict[str, str] = {}
        self.silent_crops = 0

    def batch(self, step: int, positions: range) -> Batch:
        """Crops with random gains, some mixed with another: a function of (seed, step, position)."""
        return {"samples": torch.from_numpy(np.stack([self._example(step, i) for i in positions]))}

    def status(self) -> dict[str, float]:
        """Files that could not be read, and silent crops that were drawn again."""
        return {"unreadable_files": len(self.unreadable), "silent_crops": self.silent_crops}

    def plain(self, count: int, name: str) -> Tensor:
        """`[count, 2, samples]`: crops without gain or mixing, a function of (seed, name)."""
        return torch.from_numpy(np.stack([self._crop(random.Random(f"{self.seed}/{name}/{i}")) for i in range(count)]))

    def _example(self, step: int, position: int) -> NDArray[np.float32]:
        """`[2, samples]`: a crop with a random gain, at times mixed with another."""
        rng = random.Random(f"{self.seed}/{step}/{position}")
        out = self._gained(rng)
        if rng.random() < self.section.mixing_share:
            out = (out + self._gained(rng)) * np.float32(0.7071)
        return out.clip(-1, 1)

    def _gained(self, rng: random.Random) -> NDArray[np.float32]:
        cut = self._crop(rng)
        cut *= np.float32(10 ** (rng.uniform(*self.section.gain_db) / 20))
        if self.section.swap_share and rng.random() < self.section.swap_share:
            cut = cut[::-1]
        return cut

    def _crop(self, rng: random.Random) -> NDArray[np.float32]:
        """One crop `[2, samples]`; shorter audio is padded with zeros.

        Silent crops and files that can no longer be read are counted, and another crop is drawn. Raises `AudioError`
        if only unreadable files are drawn.
        """
        cut: NDArray[np.float32] | None = None
        for _ in range(TRIES):
            sound = self.sounds[
                min(len(self.sounds) - 1, int(np.searchsorted(self._ends, rng.random() * self._ends[-1])))
            ]
            try:
                cut = self._leveled(sound, self._read(sound, rng))
            except (AudioError, OSError) as error:
                with self._lock:
                    self.unreadable[sound.place.name] = str(error)
                continue
            power = float(np.square(cut).mean())
            if power > 10 ** (self.section.silence_db / 10):
                return cut
            with self._lock:
                self.silent_crops += 1
        if cut is None:
            name, reason = next(iter(self.unreadable.items()))
            raise AudioError(
                f"{len(self.unreadable)} files can no longer be read, for example {name} ({reason}). "
                f"Is the disk still there? The run can be resumed when it is."
            )
        return cut

    def _read(self, sound: Sound, rng: random.Random) -> NDArray[np.float32]:
        """Read samples `[n, channels]` from a random position of a file.

        The length of a file may be an estimate (mp3) or have changed. If there are no samples, an earlier position is
        drawn; so the result depends only on the generator and the file's content.
        """
        need = -(-self.samples * sound.rate // self.rate) + (8 if sound.rate != self.rate else 0)
        stop = sound.stop
        for _ in range(TRIES):
            start = rng.randrange(sound.start, max(sound.start + 1, stop - need + 1))
            block = _frames(sound, start, min(need, sound.stop - start))
            if len(block) or start == sound.start:
                return block
            stop = start
        return _frames(sound, sound.start, min(need, sound.stop - sound.start))

    def _leveled(self, sound: Sound, block: NDArray[np.float32]) -> NDArray[np.float32]:
        """Frames `[n, channels]` at the file's rate -> `[2, samples]` at our rate, at the configured loudness."""
        cut = np.zeros((2, self.samples), np.float32)
        if len(block):
            block = resample(block, sound.rate, self.rate)[: self.samples]
            cut[:, : len(block)] = block.T  # mono on both channels
        if not np.isfinite(cut.sum()):
            np.nan_to_num(cut, copy=False)
        if self.section.level_db is not None:
            gain = max(-LEVEL_LIMIT_DB, min(LEVEL_LIMIT_DB, self.section.level_db - sound.level_db))
            cut *= np.float32(10 ** (gain / 20))
        return cut


def _frames(sound: Sound, start: int, count: int) -> NDArray[np.float32]:
    """Up to `count` frames from `start` on, `[n, channels]`; none where the file ends before, or is damaged there.

    Raises `AudioError` for a file that cannot be opened.
    """
    with sound.place.blocks() as blocks:
        try:
            blocks.skip(start)
            return blocks.read(count)
        except AudioError:
            return np.zeros((0, blocks.channels), np.float32)


@dataclass(frozen=True)
class Collection:
    """Audio to train and to validate on, and a line for every source that was left out."""

    training: Crops
    validation: Crops | None
    skipped: list[str]

    @property
    def hours(self) -> float:
        """Hours of audio to train on."""
        return sum(sound.seconds for sound in self.training.sounds) / 3600

    def about(self) -> dict[str, str]:
        """A description of the audio for the run's record; it depends on file names and lengths, not on the folder."""
        out = {"training": _summary(self.training.sounds)}
        if self.validation is not None:
            out["validation"] = _summary(self.validation.sounds)
        return out


def open_sound(
    section: SoundSection,
    sources: tuple[str, ...],
    rate: int,
    samples: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> Collection:
    """Open the audio that `sources` name; validation uses the files of `validation`, or else a share of them.

    Files of `validation` are never trained on. Raises `AudioError` when no usable sound is found.
    """
    if section.validation is None:
        found = build_index(list(sources), section, progress)
        training, held, skipped = found.training, found.validation, found.skipped
    else:
        whole = section.model_copy(update={"validation_share": 0.0})
        chosen = section.validation
        own = build_index(chosen if isinstance(chosen, str) else list(chosen), whole, progress)
        found = build_index(list(sources), whole, progress)
        held, skipped = own.training, own.skipped + found.skipped
        kept_out = {_where(sound) for sound in held}
        training = [sound for sound in found.training if _where(sound) not in kept_out]
        if not training:
            raise AudioError(
                f"All {len(found.training)} files of the data belong to data.validation={section.validation}. "
                f"Give other files to train on."
            )
    return Collection(
        Crops(training, rate, samples, section, seed, sources),
        Crops(held, rate, samples, section, seed, sources) if held else None,
        skipped,
    )


def _source_of(sound: Sound, sources: tuple[str, ...]) -> int:
    """Index of the first source that is the file or a folder above it; -1 for a file that a list or a pattern names."""
    path = os.path.realpath(sound.place.path)
    for i, source in enumerate(sources):
        root = os.path.realpath(source)
        if path == root or path.startswith(root.rstrip(os.sep) + os.sep):
            return i
    return -1


def _where(sound: Sound) -> tuple[str, str]:
    return os.path.realpath(sound.place.path), sound.place.member


def _summary(sounds: list[Sound]) -> str:
    """Files, hours, and a hash of names (last two parts) and lengths."""
    digest = hashlib.blake2b(digest_size=8)
    for sound in sounds:
        name = "/".join(Path(sound.place.member or sound.place.path).parts[-2:])
        digest.update(f"{name}\0{sound.rate}\0{sound.start}\0{sound.stop}\n".encode("utf-8", "surrogateescape"))
    hours = sum(sound.seconds for sound in sounds) / 3600
    return f"{len(sounds)} files, {hours:.4g} hours, {digest.hexdigest()}"
