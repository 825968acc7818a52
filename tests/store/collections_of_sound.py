"""Small collections of sound, codecs that end their process, and the bytes of a store, for the tests of `prepare`."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import soundfile
from torch import Tensor

from duotone.codec.batches import Batch
from duotone.store import LatentStore, LatentWriter, missing, prepare
from duotone.store.encode import Job, settings_for
from toys import Grouped, Toy

RATE = 48_000
#: Chunks of each recording by name; a chunk is 720 samples.
LENGTHS = {"a": 7, "b/Op. 5 live": 3, "b/\udce9": 4, "c": 1, "d": 12, "e": 5, "f": 2}
MARK = 0.75  # the first sample of the file at which `Deadly` ends its process


class Deadly(Grouped):
    """Ends its process, or the one that started it too, at a file with a mark, as long as the file `flag` exists."""

    def __init__(self, flag: str, parent: bool = False, always: bool = False) -> None:
        super().__init__()
        self.flag, self.parent, self.always = flag, parent, always

    def encode_batch(self, samples: Tensor) -> Batch:
        if bool((samples == MARK).any()) and os.path.exists(self.flag):
            if not self.always:
                os.unlink(self.flag)
            if self.parent:
                os.kill(os.getppid(), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().encode_batch(samples)


def load_toy() -> Toy:
    return Grouped()


def make_sounds(folder: Path, marked: str = "") -> list[Job]:
    """Noise of the lengths in `LENGTHS`, as 16-bit wav."""
    jobs = []
    for seed, (name, chunks) in enumerate(LENGTHS.items()):
        path = folder / f"{name}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(seed).uniform(-0.5, 0.5, (chunks * 720, 2))
        if name == marked:
            samples[0] = MARK
        soundfile.write(os.fsencode(path), samples, RATE, subtype="PCM_16", format="WAV")
        jobs.append(Job(name, str(path)))
    return jobs


def jobs_in(folder: Path) -> list[Job]:
    """What `make_sounds` made there."""
    return [Job(name, str(folder / f"{name}.wav")) for name in LENGTHS]


def fill(
    folder: Path,
    jobs: list[Job],
    codec: object = load_toy,
    workers: int = 1,
    shard_bytes: int = 4_000,
    **options: object,
) -> LatentStore:
    """Prepare a store of latents and codes; shards of a few recordings."""
    info = settings_for(Grouped(), "shards", codes=True)
    with LatentWriter(folder, info, shard_bytes) as writer:
        for _, outcome in prepare(writer, missing(writer, jobs), codec, workers=workers, **options):  # type: ignore[arg-type]
            outcome.check()
    return LatentStore(folder)


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a store but the lock."""
    found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return {name: data for name, data in found.items() if not name.startswith(".duotone-lock")}
