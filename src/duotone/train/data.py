"""Random crops from a folder of sound, read without decoding whole files.

Example i of step s is a function of (seed, s, i) alone, so a resumed run sees the same data.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from duotone.audio.files import EXTENSIONS
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError
from duotone.train.recipe import DataSection


@dataclass(frozen=True)
class Sound:
    """A file that crops can be taken from."""

    path: Path
    rate: int
    frames: int


def index(folder: str | Path) -> tuple[list[Sound], list[str]]:
    """All usable sound files below a folder (sorted), and a line for each that was left out. Raises `AudioError`."""
    root = Path(folder)
    if not root.is_dir():
        raise AudioError(f"There is no folder {root}. Give --data a folder that holds sound files.")
    sounds, skipped = [], []
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in EXTENSIONS):
        try:
            about = soundfile.info(str(path))
        except soundfile.LibsndfileError as error:
            skipped.append(f"{path}: {error}")
            continue
        if about.channels > 2 or about.frames == 0:
            skipped.append(f"{path}: {about.channels} channels, {about.frames} samples")
            continue
        sounds.append(Sound(path, about.samplerate, about.frames))
    if not sounds:
        hint = f" ({len(skipped)} could not be used: {skipped[0]})" if skipped else ""
        raise AudioError(f"{root} holds no sound that can be used{hint}. Expected {', '.join(EXTENSIONS)} files.")
    return sounds, skipped


class Crops:
    """Batches of stereo crops at one rate. Longer files are chosen more often, in proportion to their length."""

    def __init__(self, sounds: list[Sound], rate: int, samples: int, section: DataSection, seed: int) -> None:
        self.sounds, self.rate, self.samples, self.section, self.seed = sounds, rate, samples, section, seed
        self._ends = np.cumsum([s.frames / s.rate for s in sounds])

    def crop(self, rng: random.Random) -> Tensor:
        """One crop `[2, samples]`; a file shorter than it is filled up with zeros."""
        sound = self.sounds[int(np.searchsorted(self._ends, rng.random() * self._ends[-1]))]
        need = -(-self.samples * sound.rate // self.rate) + (8 if sound.rate != self.rate else 0)
        start = rng.randrange(max(1, sound.frames - need + 1))
        with soundfile.SoundFile(str(sound.path)) as file:
            file.seek(start)
            array = file.read(need, dtype="float32", always_2d=True)
        wave = Waveform(torch.from_numpy(np.ascontiguousarray(array.T)), sound.rate).resample(self.rate).to_channels(2)
        cut = wave.samples[:, : self.samples]
        return torch.nn.functional.pad(torch.nan_to_num(cut), (0, self.samples - cut.shape[1]))

    def example(self, step: int, position: int) -> Tensor:
        """Example `position` of a step: a crop with a random gain, at times mixed with another."""
        rng = random.Random(f"{self.seed}/{step}/{position}")
        out = self._gained(rng)
        if rng.random() < self.section.mixing_share:
            out = (out + self._gained(rng)) * 0.7071
        return out.clamp(-1, 1)

    def _gained(self, rng: random.Random) -> Tensor:
        return self.crop(rng) * 10 ** (rng.uniform(*self.section.gain_db) / 20)

    def batches(self, first: int, last: int, size: int) -> Iterator[Tensor]:
        """The batches `[size, 2, samples]` of steps first..last-1, read ahead in threads."""
        with ThreadPoolExecutor(self.section.workers) as pool:

            def order(step: int) -> list[Future[Tensor]]:
                return [pool.submit(self.example, step, i) for i in range(size)]

            waiting = [order(step) for step in range(first, min(first + 2, last))]
            for step in range(first, last):
                ready = waiting.pop(0)
                if step + 2 < last:
                    waiting.append(order(step + 2))
                yield torch.stack([future.result() for future in ready])
