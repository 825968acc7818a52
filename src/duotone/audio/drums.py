"""Drum parts: a beat of a kit, hand percussion, and loops of known styles. All times are in quarter notes."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

#: Adds a hit: start, length, General MIDI drum key, velocity.
Hit = Callable[[float, float, int, int], None]

_KICK, _SNARE, _RIM, _HAT, _OPEN, _RIDE, _CRASH = 36, 38, 37, 42, 46, 51, 49
_HANDS = (45, 47, 56, 60, 61, 64, 70, 75, 76, 82)  # toms, cowbell, bongos, conga, maracas, claves, wood block, shaker
_TOMS = (50, 47, 45, 43)
_SECTION = 4  # bars between fills
#: A bar of 4/4 in sixteenths for each drum: X is loud, x is plain, o is soft. Other meters repeat or cut it.
LOOPS: dict[str, dict[int, str]] = {
    "rock": {_KICK: "X.....x.X.x.....", _SNARE: "....X.......X...", _HAT: "x.o.x.o.x.o.x.o."},
    "funk": {
        _KICK: "X.x....x..x..x..",
        _SNARE: "....X..o.o..X..o",
        _HAT: "xoxoxoxoxoxoxo.o",
        _OPEN: "..............x.",
    },
    "four on the floor": {
        _KICK: "X...X...X...X...",
        _SNARE: "....x.......x...",
        _OPEN: "..x...x...x...x.",
        _HAT: "oooooooooooooooo",
    },
    "breakbeat": {_KICK: "X.x.......xx....", _SNARE: "....X..o.o..X..o", _RIDE: "x.x.x.x.x.x.x.x."},
    "bossa": {_KICK: "x..xx..xx..xx..x", _RIM: "x..x..x...x..x..", _HAT: "oooooooooooooooo"},
    "swing": {
        _RIDE: "x...x..xx...x..x",
        _HAT: "....x.......x...",
        _KICK: "o...o...o...o...",
        _SNARE: ".......o.......o",
    },
    "hip hop": {_KICK: "X......x..X.....", _SNARE: "....X.......X...", _HAT: "x.xox.x.x.x.xoxo"},
    "half time": {_KICK: "X.........x.....", _SNARE: "........X.......", _HAT: "x.x.xxx.x.x.xoxx"},
    "jungle": {_KICK: "X.X.......X.....", _SNARE: "....X..x.x..X..x", _HAT: "x.x.x.x.x.x.x.x."},
    "march": {_SNARE: "X..xxoxoX.xoxoxo", _KICK: "X.......X......."},
    "toms": {_KICK: "X.......X.......", 45: "..x..x....x..x..", 43: "......xx......xx", 50: "x..x....x..x...."},
    "sparse": {_KICK: "X...............", _SNARE: "........x.......", _RIDE: "x...x...x...x..."},
}
_LOUD = {"X": 112, "x": 92, "o": 58}


def beat(hit: Hit, rng: random.Random, bars: int, bar_length: float, pulses: Sequence[float]) -> None:
    """A drum kit: kick on the strong pulses, snare between, a cymbal in even parts, fills before a section."""
    busy, cymbal, back = rng.random(), rng.choice((_HAT, _HAT, _RIDE)), rng.choice((_SNARE, _SNARE, _RIM))
    floor, sub = rng.random() < 0.25, rng.choice((1, 2, 2, 4))
    for bar in range(bars):
        at = bar * bar_length
        if bar % 8 == 0 and rng.random() < 0.5:
            hit(at, 1, _CRASH, 90)
        for k, pulse in enumerate(pulses):
            hit(at + pulse, 0.3, _KICK if floor or k % 2 == 0 else back, 102)
            if floor and k % 2:
                hit(at + pulse, 0.3, back, 98)
            if rng.random() < 0.35 * busy:
                hit(at + pulse + 0.5, 0.2, rng.choice((_KICK, back)), 78)
        for k in range(int(bar_length * sub)):
            hit(at + k / sub, 0.2, _OPEN if rng.random() < 0.04 else cymbal, 70 if k % sub else 84)
        if bar % _SECTION == _SECTION - 1 and rng.random() < 0.5:
            _fill(hit, at + bar_length)


def hands(hit: Hit, rng: random.Random, bars: int, bar_length: float, pulses: Sequence[float]) -> None:
    """Hand percussion: a repeated pattern of a few instruments in eighths or sixteenths."""
    sub = rng.choice((2, 4))
    steps = int(bar_length * sub)
    voices = [(drum, [rng.random() < rng.uniform(0.2, 0.6) for _ in range(steps)]) for drum in rng.sample(_HANDS, 3)]
    for bar in range(bars):
        for drum, pattern in voices:
            for k, struck in enumerate(pattern):
                if struck:
                    hit(bar * bar_length + k / sub, 0.2, drum, 88 if k % sub == 0 else 74)


def loop(hit: Hit, rng: random.Random, bars: int, bar_length: float, pulses: Sequence[float]) -> None:
    """One of `LOOPS`, with some hits left out or added in the second half of each pair of bars, and fills."""
    pattern = LOOPS[rng.choice(list(LOOPS))]
    steps = int(bar_length * 4)
    change = {(drum, rng.randrange(steps)): rng.choice(".xo") for drum in pattern}
    for bar in range(bars):
        for drum, row in pattern.items():
            for k in range(steps):
                mark = change.get((drum, k), row[k % 16]) if bar % 2 else row[k % 16]
                if mark != ".":
                    hit(bar * bar_length + k / 4, 0.2, drum, _LOUD[mark])
        if bar % _SECTION == _SECTION - 1 and rng.random() < 0.6:
            _fill(hit, (bar + 1) * bar_length)


def _fill(hit: Hit, end: float) -> None:
    """Four toms in sixteenths up to `end`."""
    for k, tom in enumerate(_TOMS):
        hit(end - 1 + k / 4, 0.2, tom, 92)
