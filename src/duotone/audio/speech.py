"""Seeded speech from `espeak-ng`, `flite` and `festival`: made-up sentences, many voices, pitches and speeds.

The voices of each split stand in ``split.yaml``: "en-us+m1" is one of espeak-ng, "flite:slt" and "festival:czech_ph" are recorded voices.
"""

from __future__ import annotations

import math
import random
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from duotone.audio.compose import Split
from duotone.audio.files import read
from duotone.audio.midi import require_program, run_program
from duotone.audio.sentences import sentences
from duotone.audio.split import section
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError

#: Voices by split; no voice and no speaker stands in both.
VOICES: dict[Split, tuple[str, ...]] = {
    split: tuple(voice for line in lines for voice in line) for split, lines in section("voices").items()
}
#: Recorded voices are played this much slower or faster, which moves pitch and formants: other speakers with the same words.
_PLAYED = (0.88, 1.14)


def engine(voice: str) -> str:
    """The program that speaks a voice: espeak-ng, flite or festival."""
    return voice.partition(":")[0] if ":" in voice else "espeak-ng"


def language(voice: str) -> str:
    """The language of a voice, two letters."""
    return str(section("recorded")[voice]["language"]) if ":" in voice else voice[:2]


def licence(voice: str) -> str:
    """The licence of the program or of the recordings that a voice is made of."""
    return str((section("speakers")[engine(voice)] | section("recorded").get(voice, {}))["licence"])


def package(voice: str) -> str:
    """The Debian package of a voice."""
    return str((section("speakers")[engine(voice)] | section("recorded").get(voice, {}))["package"])


@cache
def _festival_voices() -> frozenset[str]:
    """The voices that festival finds on this machine."""
    program = shutil.which("festival")
    if program is None:
        return frozenset()
    done = subprocess.run([program, "--pipe"], input="(print (voice.list))", capture_output=True, text=True)
    return frozenset(re.findall(r"[\w.-]+", done.stdout))


def installed(voice: str) -> bool:
    """Whether this machine can speak a voice."""
    if engine(voice) == "festival":
        return shutil.which("text2wave") is not None and voice.partition(":")[2] in _festival_voices()
    return shutil.which(engine(voice)) is not None


def choose_voice(seed: int, voices: tuple[str, ...]) -> str:
    """One of `voices` for a piece: first the program, by its share in ``split.yaml``, then one of its voices."""
    rng = random.Random(f"duotone/voice/{seed}")
    engines = [name for name in section("speakers") if any(engine(v) == name for v in voices)]
    chosen = rng.choices(engines, [section("speakers")[name]["share"] for name in engines])[0]
    return rng.choice([v for v in voices if engine(v) == chosen])


def voices_here(split: Split) -> tuple[str, ...]:
    """The voices of a split that are installed. Raises `AudioError` if there is none, `UsageError` for an unknown split."""
    if split not in VOICES:
        raise UsageError(f"There is no split {split!r}. There are: {', '.join(VOICES)}.")
    found = tuple(voice for voice in VOICES[split] if installed(voice))
    if not found:
        require_program("espeak-ng", "espeak-ng")
    return found


def _say(voice: str, rng: random.Random, folder: Path) -> Waveform:
    """A sentence or two by one voice, mono, at the voice's own rate."""
    text, out = folder / "text.txt", folder / "speech.wav"
    about: dict[str, Any] = section("recorded").get(voice, {})
    words = sentences(rng, rng.randint(1, 3), language(voice))
    text.write_bytes(words.encode(about.get("encoding", "utf-8"), "replace") + b"\n")
    program, name = engine(voice), voice.partition(":")[2]
    if program == "espeak-ng":
        pitch, speed, gap = rng.randint(15, 85), rng.randint(110, 220), rng.randint(0, 4)
        options = ["-v", voice, "-p", str(pitch), "-s", str(speed), "-g", str(gap), "-w", str(out), "-f", str(text)]
        run_program([require_program(program, package(voice)), *options])
        return read(out).to_channels(1)
    stretch = rng.uniform(0.85, 1.2)
    if program == "flite":
        options = ["-voice", name, "--setf", f"duration_stretch={stretch:.3f}", "-f", str(text), "-o", str(out)]
        run_program([require_program(program, package(voice)), *options])
    else:
        how = f"(begin (voice_{name}) (Parameter.set 'Duration_Stretch {stretch:.3f}))"
        run_program([require_program("text2wave", package(voice)), "-eval", how, "-o", str(out), str(text)])
    if not out.is_file():
        raise AudioError(f"{program} made no sound with the voice {name}. Install the Debian package {package(voice)}.")
    return read(out).to_channels(1)


def speak(
    seed: int, seconds: float = 20.0, split: Split = "train", rate: int = 48_000, voice: str | None = None
) -> tuple[Waveform, str]:
    """Exactly `seconds` of one speaker, with a random stereo position for each utterance; and the voice's name.

    The voice is chosen from those of the split that are installed. Raises `AudioError` without any of them, `UsageError` for a length,
    split or voice that cannot be.
    """
    if not 0 < seconds <= 3600:
        raise UsageError(f"{seconds} seconds of speech were asked for; give a length above 0 and up to 3600.")
    if split not in VOICES or (voice is not None and voice not in VOICES[split]):
        raise UsageError(
            f"There is no split {split!r} with a voice {voice!r}. There are the splits {', '.join(VOICES)}."
        )
    voice = voice or choose_voice(seed, voices_here(split))
    rng = random.Random(f"duotone/speech/{split}/{seed}")
    played = rng.uniform(*_PLAYED) if ":" in voice else 1.0
    out = torch.zeros(2, max(1, round(seconds * rate)))
    now = round(rng.uniform(0, 0.3) * rate)
    with tempfile.TemporaryDirectory(prefix="duotone-") as folder:
        while now < out.shape[1]:
            said = _say(voice, rng, Path(folder))
            mono = Waveform(said.samples, round(said.rate * played)).resample(rate).samples[0, : out.shape[1] - now]
            angle = rng.uniform(0.15, 0.85) * math.pi / 2  # equal power
            out[0, now : now + len(mono)] = math.cos(angle) * mono
            out[1, now : now + len(mono)] = math.sin(angle) * mono
            now += len(mono) + round(rng.uniform(0.1, 0.5) * rate)
    return Waveform(out, rate), voice
