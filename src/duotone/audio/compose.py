"""A seeded composer: bands, solos, held notes, chords, ensembles, synthesizers and drum loops, in keys, meters and tempi.

Training and held-out pieces share no instrument, no drum kit and no tempo (``split.yaml``), so that evaluation meets new sounds.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from duotone.audio import drums
from duotone.audio.midi import DRUM_CHANNEL, Note, Part
from duotone.audio.split import section
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

_TABLES = section("programs")
#: General MIDI programs a role may use, by split; no program stands in both.
PROGRAMS: dict[Split, dict[str, tuple[int, ...]]] = {
    split: {role: tuple(values) for role, values in roles.items() if role not in ("kits", "tempi")}
    for split, roles in _TABLES.items()
}
#: Drum kits (programs of the drum channel), by split.
KITS: dict[Split, tuple[int, ...]] = {split: tuple(roles["kits"]) for split, roles in _TABLES.items()}
#: Tempi in quarter notes a minute: held-out pieces lie in the gaps of training.
TEMPI: dict[Split, tuple[tuple[int, int], ...]] = {
    split: tuple((low, high) for low, high in roles["tempi"]) for split, roles in _TABLES.items()
}
#: What a piece is, and how often: a band; one instrument; held notes; chords alone; a few lone voices together; synthesizers over
#: a beat; drums alone.
STYLES: dict[str, int] = {"band": 50, "solo": 15, "held": 6, "chords": 8, "ensemble": 9, "electronic": 6, "loop": 6}


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
    style: str = "band"


def compose(
    seed: int, seconds: float = 20.0, split: Split = "train", style: str | None = None, everything: bool = False
) -> Piece:
    """Compose whole bars lasting at least `seconds`, determined by the arguments, in a style (one of `STYLES`; default: by the seed).

    With `everything` the piece may use the programs of both splits: for a soundfont that belongs to one split. Raises `UsageError`.
    """
    if split not in PROGRAMS:
        raise UsageError(f"There is no split {split!r}. There are: {', '.join(PROGRAMS)}.")
    if style is not None and style not in STYLES:
        raise UsageError(f"There is no style {style!r}. There are: {', '.join(STYLES)}.")
    if not 0 < seconds <= 3600:
        raise UsageError(f"A piece of {seconds} seconds was asked for; give a length above 0 and up to 3600.")
    rng = random.Random(f"duotone/{split}/{seed}")
    tempo = rng.randint(*rng.choice(TEMPI[split]))
    meter = rng.choices(METERS, _METER_WEIGHTS)[0]
    drawn = rng.choices(list(STYLES), list(STYLES.values()))[0]
    bars = max(1, math.ceil(seconds * tempo / 60 / meter.bar))
    scale, tonic = rng.choice(list(_SCALES)), rng.randint(0, 11)
    splits = PROGRAMS if everything else (split,)
    programs = {role: sum((PROGRAMS[each][role] for each in splits), ()) for role in PROGRAMS[split]}
    writer = _Writer(rng, tonic, _SCALES[scale], meter, bars, programs, KITS[split])
    writer.write(style or drawn)
    key = f"{_TONICS[tonic]} {scale}"
    notes = tuple(sorted(writer.notes, key=lambda n: (n.start, n.channel, n.pitch)))
    return Piece(notes, tuple(writer.parts), tempo, key, meter.name, bars * meter.bar * 60 / tempo, style or drawn)


def on_drum_font(piece: Piece) -> Piece:
    """The drums of a piece for a soundfont that has a drum kit as its first program, on the first channel."""
    parts = tuple(replace(part, channel=0, program=0) for part in piece.parts if part.channel == DRUM_CHANNEL)
    notes = tuple(replace(note, channel=0) for note in piece.notes if note.channel == DRUM_CHANNEL)
    return replace(piece, parts=parts, notes=notes)


class _Writer:
    """Writes the roles one after another over a common progression."""

    def __init__(
        self, rng: random.Random, tonic: int, scale: tuple[int, ...], meter: Meter, bars: int,
        programs: Mapping[str, tuple[int, ...]], kits: Sequence[int],
    ) -> None:  # fmt: skip
        self.rng, self.tonic, self.scale, self.meter, self.bars = rng, tonic, scale, meter, bars
        self.programs, self.kits = programs, kits
        first, second = rng.sample(_PROGRESSIONS, 2)
        self.degrees = [(second if bar // 4 % 3 == 2 else first)[bar % 4] for bar in range(bars)]  # A A B
        self.swing = rng.choice((0.0, 0.0, 0.0, 0.12)) if meter.name == "4/4" else 0.0
        self.level = rng.randint(-24, 10)  # quiet and loud pieces: velocity changes the timbre, not only the gain
        self.arc = rng.uniform(0, 14)
        self.cents = rng.choice((0.0, round(rng.uniform(-50, 50), 1)))  # not all music is tuned to 440 Hz
        self.notes: list[Note] = []
        self.parts: list[Part] = []
        self.playing: list[bool] = []

    def write(self, style: str) -> None:
        """Write all parts of a style."""
        getattr(self, f"_as_{style}")()

    def _as_band(self) -> None:
        """Choose which roles play, at least one of them with pitch and all through the piece."""
        rng = self.rng
        chances = (("chords", 0.85), ("melody", 0.85), ("bass", 0.75), ("pad", 0.35), ("melody", 0.15))
        roles = [role for role, p in chances if rng.random() < p] or ["melody"]
        for channel, role in enumerate(roles):
            self._enter(steady=channel == 0)
            self._part(channel, rng.choice(self.programs[role]))
            getattr(self, f"_{role}")(channel)
        if rng.random() < 0.65:
            self._enter(steady=False)
            self._drums(rng.choice((drums.beat, drums.beat, drums.loop, drums.hands)))

    def _as_solo(self) -> None:
        """One instrument: a melody, for some pieces with chords of the same instrument under it."""
        program = self.rng.choice(self.programs["solo"])
        self._enter(steady=True)
        self._part(0, program, vibrato=self.rng.choice((0, 0, self.rng.randint(20, 90))))
        self._melody(0)
        if self.rng.random() < 0.4:
            self._part(1, program)
            self._chords(1)

    def _as_held(self) -> None:
        """Long notes of one instrument, alone or two at a time, from low to high."""
        rng = self.rng
        self._enter(steady=True)
        self._part(0, rng.choice(self.programs["solo"] + self.programs["pad"]), vibrato=rng.choice((0, 0, 40, 80)))
        now, octave, two = 0.0, rng.choice((2, 3, 4, 5)), rng.random() < 0.4
        while now < self.bars * self.meter.bar:
            length = rng.choice((2.0, 3.0, 4.0, 6.0))
            degree = rng.randint(-3, 13)
            for each in (degree, degree + rng.choice((2, 4, 5))) if two else (degree,):
                self._add(0, now, 0.96 * length, self._pitch(each, octave), rng.randint(60, 110))
            now += length

    def _as_chords(self) -> None:
        """Chords of one instrument, with or without a bass."""
        self._enter(steady=True)
        self._part(0, self.rng.choice(self.programs["chords"] + self.programs["solo"]))
        self._chords(0)
        if self.rng.random() < 0.4:
            self._part(1, self.rng.choice(self.programs["bass"]))
            self._bass(1)

    def _as_ensemble(self) -> None:
        """Two to four lone voices of the same pace: each takes its note of the chord, and passes between chords."""
        rng = self.rng
        self._enter(steady=True)
        one = rng.choice(self.programs["ensemble"]) if rng.random() < 0.3 else None  # a choir of one instrument
        pace = rng.choice((0.5, 1.0, 1.0, 2.0))
        for channel in range(rng.randint(2, 4)):
            self._part(channel, one if one is not None else rng.choice(self.programs["ensemble"]), rng.choice((0, 40)))
            octave, tone = (5, 4, 4, 3)[channel], (4, 2, 0, 0)[channel]
            for bar, degree in enumerate(self.degrees):
                for k in range(max(1, int(self.meter.bar / pace))):
                    step = rng.choice((0, 0, 1, -1, 2)) if k else 0
                    pitch = self._pitch(degree + tone + step, octave)
                    self._add(channel, bar * self.meter.bar + k * pace, 0.95 * pace, pitch, 84)

    def _as_electronic(self) -> None:
        """A loop of drums, a synthesizer in sixteenths, a bass and perhaps a pad."""
        rng = self.rng
        self._enter(steady=True)
        self._part(0, rng.choice(self.programs["synth"]))
        steps = [rng.choice((0, 2, 4, 7, 9, None)) for _ in range(rng.choice((8, 12, 16)))]
        octave = rng.choice((3, 4, 5))
        for bar, degree in enumerate(self.degrees):
            for k in range(int(4 * self.meter.bar)):
                step = steps[k % len(steps)]
                if step is not None:
                    self._add(0, bar * self.meter.bar + k / 4, 0.2, self._pitch(degree + step, octave), 88)
        self._part(1, rng.choice(self.programs["bass"]))
        self._bass(1)
        if rng.random() < 0.5:
            self._part(2, rng.choice(self.programs["pad"]))
            self._pad(2)
        self._enter(steady=rng.random() < 0.7)
        self._drums(drums.loop)

    def _as_loop(self) -> None:
        """Drums alone."""
        self._enter(steady=True)
        self._drums(self.rng.choice((drums.loop, drums.loop, drums.loop, drums.beat)))

    def _drums(self, play: Callable[..., None]) -> None:
        self._part(DRUM_CHANNEL, self.rng.choice(self.kits))

        def hit(start: float, length: float, key: int, velocity: int) -> None:
            self._add(DRUM_CHANNEL, start, length, key, velocity)

        play(hit, self.rng, self.bars, self.meter.bar, self.meter.pulses)

    def _enter(self, steady: bool) -> None:
        """Which bars the next part plays in."""
        sections = [steady or self.rng.random() < 0.8 for _ in range(-(-self.bars // _SECTION))]
        self.playing = [sections[bar // _SECTION] for bar in range(self.bars)]

    def _part(self, channel: int, program: int, vibrato: int = 0) -> None:
        pan = 64 if self.rng.random() < 0.25 else self.rng.randint(10, 117)
        volume, reverb = self.rng.randint(65, 118), self.rng.randint(5, 100)
        cents = 0.0 if channel == DRUM_CHANNEL else self.cents
        self.parts.append(Part(channel, program, pan, volume, reverb, vibrato, cents))

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
