"""Seeded speech from the `espeak-ng` program: made-up sentences, several voices, pitches and speeds."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

from duotone.audio.compose import Split
from duotone.audio.files import read
from duotone.audio.midi import require_program, run_program
from duotone.audio.waveform import Waveform

#: Voices of espeak-ng by split; no voice stands in both.
VOICES: dict[Split, tuple[str, ...]] = {
    "train": ("en-us+m1", "en-us+f1", "en-gb+m3", "en-gb+f2", "de+m2", "de+f3", "fr-fr+f4", "es+m4", "it+m5", "pl+f5"),
    "heldout": ("en-us+m7", "en-gb+f4", "nl+m6", "sv+f1", "pt+m8"),
}
_SUBJECTS = [
    "the river",
    "an old clock",
    "my neighbour",
    "the orchestra",
    "a small bird",
    "the captain",
    "every student",
    "the city",
]
_VERBS = [
    "carries",
    "remembers",
    "follows",
    "quietly answers",
    "paints",
    "measures",
    "never forgets",
    "opens",
    "repairs",
    "listens to",
]
_OBJECTS = [
    "the morning light",
    "a broken radio",
    "seven letters",
    "the northern road",
    "some warm bread",
    "a distant song",
]
_TAILS = [
    "before the rain",
    "at half past nine",
    "without a word",
    "for the first time",
    "near the harbour",
    "every winter",
]


def sentences(rng: random.Random, count: int) -> str:
    """A few made-up sentences."""
    made = (
        " ".join(rng.choice(words) for words in (_SUBJECTS, _VERBS, _OBJECTS, _TAILS)).capitalize()
        for _ in range(count)
    )
    return ". ".join(made) + "."


def speak(seed: int, split: Split = "train", rate: int = 48_000) -> tuple[Waveform, str]:
    """Some seconds of speech, stereo with a small pan, and the voice's name. Raises `AudioError` without espeak-ng."""
    program = require_program("espeak-ng", "espeak-ng")
    rng = random.Random(f"duotone/speech/{split}/{seed}")
    voice = rng.choice(VOICES[split])
    with tempfile.TemporaryDirectory(prefix="duotone-") as folder:
        out = Path(folder) / "speech.wav"
        options = ["-v", voice, "-p", str(rng.randint(20, 80)), "-s", str(rng.randint(120, 200)), "-w", str(out)]
        run_program([program, *options, sentences(rng, rng.randint(3, 6))])
        wave = read(out).resample(rate).to_channels(2)
    pan = rng.uniform(-0.3, 0.3)
    samples = wave.samples.clone()
    samples[0] *= 1 - max(0.0, pan)
    samples[1] *= 1 + min(0.0, pan)
    return Waveform(samples, rate), voice
