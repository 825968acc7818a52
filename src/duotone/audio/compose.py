"""A seeded composer: keys and modes, meters, chords, melody, bass, pads, drums, varied tempo and instruments.

Training and held-out pieces share no instrument, no drum kit and no tempo (the tables below), so that evaluation
meets new sounds.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from duotone.audio.midi import DRUM_CHANNEL, Note, Part
from duotone.errors import UsageError

Split = Literal["train", "heldout"]

_SCALES = {
    "major": (0, 2, 4, 5, 7, 9, 11),
    "minor": (0, 2, 3, 5, 7, 8, 10),
    "dorian": (0, 2, 3, 5, 7, 9, 10),
    "mixolydian": (0, 2, 4, 5, 7, 9, 10),
    "lydian": (0, 2, 4, 6, 7, 9, 11),
    "harmonic minor": (0, 2, 3, 5, 7, 8, 11),
}
_TONICS = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
#: Chord progressions as scale degrees, a bar each.
_PROGRESSIONS = (
    (0, 4, 5, 3), (0, 3, 4, 0), (0, 5, 3, 4), (1, 4, 0, 0), (0, 2, 3, 4), (5, 3, 0, 4), (0, 6, 5, 4), (0, 3, 0, 4),
    (0, 5, 1, 4), (3, 4, 2, 5), (0, 0, 3, 3), (0, 6, 3, 0),
)  # fmt: skip

#: General MIDI programs a role may use, by split; no program stands in both.
PROGRAMS: dict[Split, dict[str, tuple[int, ...]]] = {
    "train": {
        "melody": (0, 2, 5, 9, 11, 13, 21, 24, 26, 29, 40, 42, 52, 56, 60, 64, 68, 71, 73, 79, 80, 82, 98, 104, 107),
        "chords": (0, 1, 4, 6, 16, 18, 25, 27, 46, 48, 50, 61, 81, 88, 90, 94),
        "bass": (32, 33, 35, 38, 43, 58),
        "pad": (48, 49, 52, 89, 91, 92, 95),
    },
    "heldout": {
        "melody": (3, 12, 22, 41, 57, 65, 70, 74, 75, 105),
        "chords": (7, 8, 17, 28, 45, 51, 62),
        "bass": (34, 36, 39),
        "pad": (53, 54, 93),
    },
}
#: Drum kits (programs of the drum channel), by split.
KITS: dict[Split, tuple[int, ...]] = {"train": (0, 8, 16, 24, 32), "heldout": (25, 40)}
#: Tempi in quarter notes a minute: held-out pieces lie in the gaps of training.
TEMPI: dict[Split, tuple[tuple[int, int], ...]] = {
    "train": ((60, 82), (92, 117), (127, 160)),
    "heldout": ((84, 90), (119, 125), (162, 172)),
}
_KICK, _SNARE, _RIM, _HAT, _OPEN, _RIDE, _CRASH = 36, 38, 37, 42, 46, 51, 49
_HANDS = (45, 47, 56, 60, 61, 64, 70, 75, 76, 82)  # toms, cowbell, bongos, conga, maracas, claves, wood block, shaker


@dataclass(frozen=True)
class Meter:
    """A bar: its length in quarter notes, and where its pulses fall (the first one is the strongest)."""

    name: str
    bar: float
    pulses: tuple[float, ...]


METERS = (
    Meter("4/4", 4, (0, 1, 2, 3)),
    Meter("3/4", 3, (0, 1, 2)),
    Meter("6/8", 3, (0, 1.5)),
    Meter("5/4", 5, (0, 1, 2, 3, 4)),
    Meter("7/8", 3.5, (0, 1, 2)),
)
_METER_WEIGHTS = (10, 3, 3, 1, 1)
_SECTION = 4  # bars after which roles may enter or leave


@dataclass(frozen=True)
class Piece:
    """A composed piece: notes, the parts that play them, and what was chosen; `seconds` without the last ring."""

    notes: tuple[Note, ...]
    parts: tuple[Part, ...]
    tempo: float
    key: str
    meter: str
    seconds: float


def compose(seed: int, seconds: float = 20.0, split: Split = "train") -> Piece:
    """Compose whole bars lasting at least `seconds`, determined by seed, length and split. Raises `UsageError`."""
    if split not in PROGRAMS:
        raise UsageError(f"There is no split {split!r}. There are: {', '.join(PROGRAMS)}.")
    if not 0 < seconds <= 3600:
        raise UsageError(f"A piece of {seconds} seconds was asked for; give a length above 0 and up to 3600.")
    rng = random.Random(f"duotone/{split}/{seed}")
    tempo = rng.randint(*rng.choice(TEMPI[split]))
    meter = rng.choices(METERS, _METER_WEIGHTS)[0]
    bars = max(1, math.ceil(seconds * tempo / 60 / meter.bar))
    scale, tonic = rng.choice(list(_SCALES)), rng.randint(0, 11)
    writer = _Writer(rng, tonic, _SCALES[scale], meter, bars, split)
    writer.write()
    key = f"{_TONICS[tonic]} {scale}"
    notes = tuple(sorted(writer.notes, key=lambda n: (n.start, n.channel, n.pitch)))
    return Piece(notes, tuple(writer.parts), tempo, key, meter.name, bars * meter.bar * 60 / tempo)


class _Writer:
    """Writes the roles one after another over a common progression."""

    def __init__(
        self, rng: random.Random, tonic: int, scale: tuple[int, ...], meter: Meter, bars: int, split: Split
    ) -> None:
        self.rng, self.tonic, self.scale, self.meter, self.bars, self.split = rng, tonic, scale, meter, bars, split
        first, second = rng.sample(_PROGRESSIONS, 2)
        self.degrees = [(second if bar // 4 % 3 == 2 else first)[bar % 4] for bar in range(bars)]  # A A B
        self.swing = rng.choice((0.0, 0.0, 0.0, 0.12)) if meter.name == "4/4" else 0.0
        self.level = rng.randint(-24, 10)  # quiet and loud pieces: velocity changes the timbre, not only the gain
        self.arc = rng.uniform(0, 14)
        self.notes: list[Note] = []
        self.parts: list[Part] = []
        self.playing: list[bool] = []

    def write(self) -> None:
        """Choose which roles play, at least one of them with pitch and all through the piece."""
        rng = self.rng
        chances = (("chords", 0.85), ("melody", 0.85), ("bass", 0.75), ("pad", 0.35), ("melody", 0.15))
        roles = [role for role, p in chances if rng.random() < p] or ["melody"]
        for channel, role in enumerate(roles):
            self._enter(steady=channel == 0)
            self._part(channel, rng.choice(PROGRAMS[self.split][role]))
            getattr(self, f"_{role}")(channel)
        if rng.random() < 0.65:
            self._enter(steady=False)
            self._part(DRUM_CHANNEL, rng.choice(KITS[self.split]))
            rng.choice((self._beat, self._beat, self._hands))()

    def _enter(self, steady: bool) -> None:
        """Which bars the next part plays in."""
        sections = [steady or self.rng.random() < 0.8 for _ in range(-(-self.bars // _SECTION))]
        self.playing = [sections[bar // _SECTION] for bar in range(self.bars)]

    def _part(self, channel: int, program: int) -> None:
        pan = 64 if self.rng.random() < 0.25 else self.rng.randint(10, 117)
        self.parts.append(Part(channel, program, pan, self.rng.randint(65, 118), self.rng.randint(5, 100)))

    def _pitch(self, degree: int, octave: int) -> int:
        octave += degree // len(self.scale)
        return max(12, min(115, 12 * octave + self.tonic + self.scale[degree % len(self.scale)]))

    def _add(self, channel: int, start: float, length: float, pitch: int, velocity: int) -> None:
        """Add a note with variations of a human player: swing, timing, and loudness that follows a slow arc."""
        bar = int(start // self.meter.bar)
        if not self.playing[min(bar, self.bars - 1)]:
            return
        late = self.swing if 0.4 < start % 1 < 0.6 else 0.0
        rise = self.arc * math.sin(math.pi * start / (self.bars * self.meter.bar))
        loud = round(velocity + self.level + rise + self.rng.gauss(0, 6))
        at = max(0.0, start + late + self.rng.gauss(0, 0.008))
        self.notes.append(Note(channel, at, length, pitch, max(18, min(127, loud))))

    def _chords(self, channel: int) -> None:
        rng, bar_length = self.rng, self.meter.bar
        octave, size = rng.choice((4, 4, 5)), rng.choice((3, 3, 4))
        style = rng.choice(("block", "strum", "arpeggio", "offbeat", "alberti"))
        tones = [0] * size
        for bar, degree in enumerate(self.degrees):
            at = bar * bar_length
            # The inversion that moves least from the chord before keeps the voices smooth.
            shapes = [[self._pitch(degree + 2 * ((i + k) % size) + 7 * ((i + k) // size), octave) for i in range(size)]
                      for k in (-1, 0, 1)]  # fmt: skip
            tones = min(shapes, key=lambda shape: abs(sum(shape) - sum(tones))) if any(tones) else shapes[1]
            if style in ("block", "strum"):
                spread = 0.06 if style == "strum" else 0.01
                for i, pitch in enumerate(tones):
                    self._add(channel, at + spread * i, bar_length * 0.95, pitch, 78)
            elif style in ("arpeggio", "alberti"):
                order = (0, 2, 1, 2) if style == "alberti" else tuple(range(size)) + tuple(range(size - 2, 0, -1))
                for k in range(int(2 * bar_length)):
                    self._add(channel, at + k / 2, 0.6, tones[order[k % len(order)]], 84 if k == 0 else 76)
            else:
                for pulse in self.meter.pulses:
                    for i, pitch in enumerate(tones):
                        self._add(channel, at + pulse + 0.5 + 0.01 * i, 0.35, pitch, 74)

    def _motif(self) -> list[tuple[float, float, int]]:
        """A bar of melody: (start, length, step); the first note of a pulse may jump to the chord (step 99)."""
        rng, now, motif = self.rng, 0.0, []
        density = rng.uniform(0.6, 1.0)
        values = rng.choice(((0.5, 0.5, 1.0), (0.25, 0.25, 0.5), (1.0, 0.5, 1.5), (2.0, 1.0, 1.0)))
        while now < self.meter.bar:
            length = min(rng.choice(values), self.meter.bar - now)
            if rng.random() < density:
                on_pulse = now in self.meter.pulses and rng.random() < 0.6
                motif.append((now, length, 99 if on_pulse else rng.choice((-2, -1, -1, 1, 1, 2))))
            now += length
        return motif or [(0.0, self.meter.bar, 99)]

    def _melody(self, channel: int) -> None:
        rng = self.rng
        octave, degree, legato = rng.choice((4, 5, 5, 5, 6)), rng.choice((0, 2, 4)), rng.uniform(0.45, 1.0)
        motifs = [self._motif() for _ in range(3)]
        for bar, chord in enumerate(self.degrees):
            # Repeat and answer: a b a c, with now and then a new bar.
            motif = self._motif() if rng.random() < 0.15 else motifs[(0, 1, 0, 2)[bar % 4]]
            for start, length, step in motif:
                if step == 99:
                    tones = [chord + t + 7 * o for t in (0, 2, 4) for o in (-1, 0, 1)]
                    degree = min(tones, key=lambda d: abs(d - degree) + 0.1 * rng.random())
                else:
                    degree += step
                degree = max(-5, min(11, degree))
                pitch = self._pitch(degree, octave)
                self._add(channel, bar * self.meter.bar + start, length * legato, pitch, 96 if step == 99 else 90)

    def _bass(self, channel: int) -> None:
        style = self.rng.choice(("root", "fifth", "walk", "eighths", "syncopated"))
        bar_length, pulses = self.meter.bar, self.meter.pulses
        for bar, degree in enumerate(self.degrees):
            at, root = bar * bar_length, self._pitch(degree, 2)
            if style == "root":
                self._add(channel, at, bar_length * 0.9, root, 95)
            elif style == "eighths":
                for k in range(int(2 * bar_length)):
                    self._add(channel, at + k / 2, 0.42, root, 96 if k / 2 in pulses else 86)
            elif style == "syncopated":
                for start in (0.0, 0.75, 1.5, 2.5):
                    self._add(channel, at + start, 0.5, root if start != 1.5 else root + 12, 94)
            else:
                for k, pulse in enumerate(pulses):
                    move = (0, 4)[k % 2] if style == "fifth" else (0, 2, 4, 5, 4)[k % 5]
                    end = pulses[k + 1] if k + 1 < len(pulses) else bar_length
                    self._add(channel, at + pulse, 0.85 * (end - pulse), self._pitch(degree + move, 2), 92)

    def _pad(self, channel: int) -> None:
        octave = self.rng.choice((4, 5))
        for bar, degree in enumerate(self.degrees):
            for i in range(3):
                self._add(channel, bar * self.meter.bar, self.meter.bar * 1.02, self._pitch(degree + 2 * i, octave), 62)

    def _beat(self) -> None:
        """A drum kit: kick on the strong pulses, snare between, a cymbal in even parts, fills before a section."""
        rng, bar_length, pulses = self.rng, self.meter.bar, self.meter.pulses
        busy, cymbal, back = rng.random(), rng.choice((_HAT, _HAT, _RIDE)), rng.choice((_SNARE, _SNARE, _RIM))
        floor, sub = rng.random() < 0.25, rng.choice((1, 2, 2, 4))
        for bar in range(self.bars):
            at = bar * bar_length
            if bar % 8 == 0 and rng.random() < 0.5:
                self._add(DRUM_CHANNEL, at, 1, _CRASH, 90)
            for k, pulse in enumerate(pulses):
                self._add(DRUM_CHANNEL, at + pulse, 0.3, _KICK if floor or k % 2 == 0 else back, 102)
                if floor and k % 2:
                    self._add(DRUM_CHANNEL, at + pulse, 0.3, back, 98)
                if rng.random() < 0.35 * busy:
                    self._add(DRUM_CHANNEL, at + pulse + 0.5, 0.2, rng.choice((_KICK, back)), 78)
            for k in range(int(bar_length * sub)):
                which = _OPEN if rng.random() < 0.04 else cymbal
                self._add(DRUM_CHANNEL, at + k / sub, 0.2, which, 70 if k % sub else 84)
            if bar % _SECTION == _SECTION - 1 and rng.random() < 0.5:
                for k in range(4):
                    self._add(DRUM_CHANNEL, at + bar_length - 1 + k / 4, 0.2, (50, 47, 45, 43)[k], 92)

    def _hands(self) -> None:
        """Hand percussion: a repeated pattern of a few instruments in eighths or sixteenths."""
        rng = self.rng
        sub = rng.choice((2, 4))
        steps = int(self.meter.bar * sub)
        voices = [
            (drum, [rng.random() < rng.uniform(0.2, 0.6) for _ in range(steps)]) for drum in rng.sample(_HANDS, 3)
        ]
        for bar in range(self.bars):
            for drum, pattern in voices:
                for k, hit in enumerate(pattern):
                    if hit:
                        self._add(DRUM_CHANNEL, bar * self.meter.bar + k / sub, 0.2, drum, 88 if k % sub == 0 else 74)
