"""A seeded composer: keys, chords, melody, bass, drums, varied tempo and instruments.

Training and held-out pieces share no instrument and no tempo (the tables below), so that evaluation meets new sounds.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

from duotone.audio.midi import DRUM_CHANNEL, Note, Part

Split = Literal["train", "heldout"]

_SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
}
#: Chord progressions as scale degrees, a bar each.
_PROGRESSIONS = (
    (0, 4, 5, 3), (0, 3, 4, 0), (0, 5, 3, 4), (1, 4, 0, 0), (0, 2, 3, 4), (5, 3, 0, 4), (0, 6, 5, 4), (0, 3, 0, 4),
)  # fmt: skip

#: General MIDI programs a role may use, by split; no program stands in both.
PROGRAMS: dict[Split, dict[str, tuple[int, ...]]] = {
    "train": {
        "melody": (0, 2, 5, 9, 11, 13, 21, 24, 26, 29, 40, 42, 52, 56, 60, 64, 68, 71, 73, 79, 80, 82, 98, 104, 107),
        "chords": (0, 1, 4, 6, 16, 18, 25, 27, 46, 48, 50, 61, 81, 88, 90, 94),
        "bass": (32, 33, 35, 38, 43),
        "pad": (49, 52, 89, 91, 92, 95),
    },
    "heldout": {
        "melody": (3, 12, 22, 41, 57, 65, 70, 74, 75, 105),
        "chords": (7, 8, 17, 28, 45, 51, 62),
        "bass": (34, 36, 39),
        "pad": (53, 54, 93),
    },
}
#: Tempi in quarter notes a minute: held-out pieces lie in the gaps of training.
TEMPI: dict[Split, tuple[tuple[int, int], ...]] = {
    "train": ((60, 82), (92, 117), (127, 160)),
    "heldout": ((84, 90), (119, 125), (162, 172)),
}
_KICK, _SNARE, _HAT, _OPEN, _RIDE, _CRASH, _TOM = 36, 38, 42, 46, 51, 49, 45


@dataclass(frozen=True)
class Piece:
    """A composed piece: notes, the parts that play them, and what was chosen."""

    notes: tuple[Note, ...]
    parts: tuple[Part, ...]
    tempo: float
    key: str
    seconds: float


def compose(seed: int, seconds: float = 20.0, split: Split = "train") -> Piece:
    """Compose a piece of about `seconds`, determined by its seed and split alone."""
    rng = random.Random(f"duotone/{split}/{seed}")
    tempo = rng.randint(*rng.choice(TEMPI[split]))
    beats = rng.choice((4, 4, 4, 3))
    bars = max(1, round(seconds * tempo / 60 / beats))
    scale = rng.choice(list(_SCALES))
    tonic = rng.randint(0, 11)
    writer = _Writer(rng, tonic, _SCALES[scale], beats, bars, PROGRAMS[split])
    writer.write()
    return Piece(tuple(writer.notes), tuple(writer.parts), tempo, f"{tonic} {scale}", bars * beats * 60 / tempo)


class _Writer:
    """Writes the roles one after another over a common progression."""

    def __init__(
        self,
        rng: random.Random,
        tonic: int,
        scale: tuple[int, ...],
        beats: int,
        bars: int,
        programs: dict[str, tuple[int, ...]],
    ) -> None:
        self.rng, self.tonic, self.scale, self.beats, self.bars = rng, tonic, scale, beats, bars
        self.programs = programs
        progression = rng.choice(_PROGRESSIONS)
        self.degrees = [progression[i % len(progression)] for i in range(bars)]
        self.swing = rng.choice((0.0, 0.0, 0.0, 0.12))
        self.notes: list[Note] = []
        self.parts: list[Part] = []

    def write(self) -> None:
        """Choose which roles play, at least one of them with pitch."""
        rng = self.rng
        roles = [r for r, p in (("chords", 0.85), ("melody", 0.8), ("bass", 0.75), ("pad", 0.35)) if rng.random() < p]
        for role in roles or ["melody"]:
            channel = len(self.parts)
            self._part(channel, rng.choice(self.programs[role]))
            getattr(self, f"_{role}")(channel)
        if rng.random() < 0.65:
            self._part(DRUM_CHANNEL, 0)
            self._drums()

    def _part(self, channel: int, program: int) -> None:
        pan = 64 if self.rng.random() < 0.3 else self.rng.randint(15, 112)
        self.parts.append(Part(channel, program, pan, self.rng.randint(70, 115), self.rng.randint(10, 90)))

    def _pitch(self, degree: int, octave: int) -> int:
        octave += degree // len(self.scale)
        return max(12, min(115, 12 * octave + self.tonic + self.scale[degree % len(self.scale)]))

    def _add(self, channel: int, start: float, length: float, pitch: int, velocity: int) -> None:
        off = start % 1
        late = self.swing if 0.4 < off < 0.6 else 0.0
        jitter = self.rng.gauss(0, 0.008)
        velocity = max(20, min(127, velocity + self.rng.randint(-12, 12)))
        self.notes.append(Note(channel, max(0.0, start + late + jitter), length, pitch, velocity))

    def _chords(self, channel: int) -> None:
        octave = self.rng.choice((4, 4, 5))
        style = self.rng.choice(("block", "strum", "arpeggio", "offbeat"))
        size = self.rng.choice((3, 3, 4))
        for bar, degree in enumerate(self.degrees):
            tones = [self._pitch(degree + 2 * i, octave) for i in range(size)]
            at = bar * self.beats
            if style == "block":
                for i, pitch in enumerate(tones):
                    self._add(channel, at + 0.01 * i, self.beats * 0.95, pitch, 78)
            elif style == "arpeggio":
                for k in range(2 * self.beats):
                    self._add(channel, at + k / 2, 0.6, tones[k % len(tones)], 76)
            else:
                shift = 0.5 if style == "offbeat" else 0.0
                for beat in range(self.beats):
                    for i, pitch in enumerate(tones):
                        self._add(channel, at + beat + shift + 0.015 * i, 0.4, pitch, 74)

    def _melody(self, channel: int) -> None:
        octave, degree = self.rng.choice((5, 5, 6)), self.rng.choice((0, 2, 4))
        density = self.rng.uniform(0.5, 0.95)
        values = self.rng.choice(((0.5, 0.5, 1.0), (0.25, 0.25, 0.5), (1.0, 0.5, 1.5), (2.0, 1.0, 1.0)))
        now, end = 0.0, float(self.bars * self.beats)
        while now < end:
            length = min(self.rng.choice(values), end - now)
            if self.rng.random() < density:
                chord = self.degrees[min(self.bars - 1, int(now // self.beats))]
                if now % 1 == 0 and self.rng.random() < 0.6:  # strong beats fall on chord tones
                    degree = min(
                        (chord + t + 7 * o for t in (0, 2, 4) for o in (-1, 0, 1)), key=lambda d: abs(d - degree)
                    )
                else:
                    degree += self.rng.choice((-2, -1, -1, 1, 1, 2))
                degree = max(-5, min(12, degree))
                self._add(channel, now, length * self.rng.uniform(0.6, 1.0), self._pitch(degree, octave), 92)
            now += length

    def _bass(self, channel: int) -> None:
        style = self.rng.choice(("root", "fifth", "walk", "eighths"))
        for bar, degree in enumerate(self.degrees):
            at = bar * self.beats
            if style == "root":
                self._add(channel, at, self.beats * 0.9, self._pitch(degree, 2), 95)
                continue
            steps = 2 * self.beats if style == "eighths" else self.beats
            for k in range(steps):
                move = {"fifth": (0, 4)[k % 2], "walk": k % 5, "eighths": 0}[style]
                self._add(
                    channel, at + k * self.beats / steps, 0.85 * self.beats / steps, self._pitch(degree + move, 2), 92
                )

    def _pad(self, channel: int) -> None:
        for bar in range(0, self.bars, 2):
            for i in range(3):
                self._add(channel, bar * self.beats, 2 * self.beats, self._pitch(self.degrees[bar] + 2 * i, 5), 62)

    def _drums(self) -> None:
        busy, cymbal = self.rng.random(), self.rng.choice((_HAT, _HAT, _RIDE))
        sub = self.rng.choice((1, 2, 2, 4))
        for bar in range(self.bars):
            at = bar * self.beats
            if bar % 8 == 0 and self.rng.random() < 0.5:
                self._add(DRUM_CHANNEL, at, 1, _CRASH, 90)
            for beat in range(self.beats):
                drum = _KICK if beat % 2 == 0 else _SNARE
                self._add(DRUM_CHANNEL, at + beat, 0.3, drum, 102)
                if self.rng.random() < 0.3 * busy:
                    self._add(DRUM_CHANNEL, at + beat + 0.5, 0.2, self.rng.choice((_KICK, _TOM, _SNARE)), 80)
                for k in range(sub):
                    which = _OPEN if self.rng.random() < 0.04 else cymbal
                    self._add(DRUM_CHANNEL, at + beat + k / sub, 0.2, which, 70 if k else 84)
