"""Random crops from a collection, read without decoding whole files.

Example i of step s is a function of (seed, s, i) alone, so a resumed run sees the same data, on any number of
processes. Examples are made by NumPy: an operation of PyTorch's in a second thread starts a second team of OpenMP threads,
and GNU OpenMP, with more threads than cores, then sends waiting ones to sleep at once (training steps 30% slower).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import soundfile
import torch
from numpy.typing import NDArray
from torch import Tensor

from duotone.audio.resample import resample
from duotone.errors import AudioError
from duotone.train.index import Sound
from duotone.train.recipe import DataSection

TRIES = 8
#: Loudness matching never changes a file by more than this.
LEVEL_LIMIT_DB = 24.0


class Crops:
    """Batches of stereo crops at one rate. Longer files are chosen more often, in proportion to their length."""

    def __init__(self, sounds: list[Sound], rate: int, samples: int, section: DataSection, seed: int) -> None:
        self.sounds, self.rate, self.samples, self.section, self.seed = sounds, rate, samples, section, seed
        self._ends = np.cumsum([s.seconds for s in sounds])
        self._lock = threading.Lock()
        self.unreadable: dict[str, str] = {}
        self.silent_crops = 0

    def crop(self, rng: random.Random) -> NDArray[np.float32]:
        """One crop `[2, samples]`; a sound shorter than it is filled up with zeros.

        A silent crop, or a file that cannot be read any more, is counted and drawn again. Raises `AudioError` when
        nothing but unreadable files comes up.
        """
        cut: NDArray[np.float32] | None = None
        for _ in range(TRIES):
            sound = self.sounds[
                min(len(self.sounds) - 1, int(np.searchsorted(self._ends, rng.random() * self._ends[-1])))
            ]
            need = -(-self.samples * sound.rate // self.rate) + (8 if sound.rate != self.rate else 0)
            start = rng.randrange(sound.start, max(sound.start + 1, sound.stop - need + 1))
            try:
                cut = self._read(sound, start, min(need, sound.stop - start))
            except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
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
                f"Is the disk still there? The run can be taken up again when it is."
            )
        return cut

    def _read(self, sound: Sound, start: int, frames: int) -> NDArray[np.float32]:
        with soundfile.SoundFile(sound.place.open()) as file:
            file.seek(start)
            block = file.read(frames, dtype="float32", always_2d=True)
        block = resample(block, sound.rate, self.rate)[: self.samples]
        cut = np.zeros((2, self.samples), np.float32)
        cut[:, : len(block)] = block.T  # mono on both sides
        if not np.isfinite(cut.sum()):
            np.nan_to_num(cut, copy=False)
        if self.section.level_db is not None:
            gain = max(-LEVEL_LIMIT_DB, min(LEVEL_LIMIT_DB, self.section.level_db - sound.level_db))
            cut *= np.float32(10 ** (gain / 20))
        return cut

    def example(self, step: int, position: int) -> Tensor:
        """Example `position` of a step, `[2, samples]`: a crop with a random gain, at times mixed with another."""
        rng = random.Random(f"{self.seed}/{step}/{position}")
        out = self._gained(rng)
        if rng.random() < self.section.mixing_share:
            out = (out + self._gained(rng)) * np.float32(0.7071)
        return torch.from_numpy(out.clip(-1, 1))

    def plain(self, count: int, name: str) -> Tensor:
        """`[count, 2, samples]`: crops without gain or mixing, a function of (seed, name)."""
        return torch.from_numpy(np.stack([self.crop(random.Random(f"{self.seed}/{name}/{i}")) for i in range(count)]))

    def _gained(self, rng: random.Random) -> NDArray[np.float32]:
        cut = self.crop(rng)
        cut *= np.float32(10 ** (rng.uniform(*self.section.gain_db) / 20))
        return cut

    def batches(self, first: int, last: int, positions: range) -> Iterator[Tensor]:
        """The examples at `positions` of steps first..last-1, `[len(positions), 2, samples]`, read ahead in threads."""
        pool = ThreadPoolExecutor(self.section.workers)
        try:

            def order(step: int) -> list[Future[Tensor]]:
                return [pool.submit(self.example, step, i) for i in positions]

            ahead = 2 + 2 * self.section.workers // max(1, len(positions))
            waiting = [order(step) for step in range(first, min(first + ahead, last))]
            for step in range(first, last):
                ready = waiting.pop(0)
                if step + ahead < last:
                    waiting.append(order(step + ahead))
                yield torch.stack([future.result() for future in ready])
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
