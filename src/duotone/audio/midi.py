"""Notes -> a Standard MIDI File (format 0), and its rendering by the `fluidsynth` program."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duotone.atomic import write_bytes
from duotone.audio.files import read
from duotone.audio.split import section
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError

#: Ticks a quarter note.
TICKS = 480
DRUM_CHANNEL = 9
_BEND_CENTS = 200  # what the whole pitch wheel means to a General MIDI synthesizer
SOUNDFONT = "FluidR3_GM.sf2"
SOUNDFONT_VARIABLE = "DUOTONE_SOUNDFONT"
_FONT_FOLDERS = (
    "/usr/share/sounds/sf2",
    "/usr/share/sounds/sf3",
    "/usr/share/soundfonts",
    "/usr/local/share/soundfonts",
    "/opt/homebrew/share/soundfonts",
)


@dataclass(frozen=True)
class Note:
    """One note: MIDI channel, start and length in quarter notes, pitch 0..127, velocity 1..127."""

    channel: int
    start: float
    length: float
    pitch: int
    velocity: int


@dataclass(frozen=True)
class Part:
    """What a MIDI channel plays with: General MIDI program (or drum kit), pan, volume, reverb send and vibrato, all 0..127.

    `cents` tunes the channel, by up to 200 hundredths of a semitone up or down.
    """

    channel: int
    program: int
    pan: int = 64
    volume: int = 100
    reverb: int = 40
    vibrato: int = 0
    cents: float = 0.0


@dataclass(frozen=True)
class Soundfont:
    """A set of samples in ``split.yaml``: the names its file may have, its Debian package and licence, and where it is used.

    `share`: how often it is chosen; `drums`: it has one drum kit as its first program, and nothing else.
    """

    files: tuple[str, ...]
    package: str
    licence: str
    splits: tuple[str, ...]
    share: float = 1.0
    drums: bool = False

    def find(self) -> Path | None:
        """The path of the first of its files that is installed."""
        paths = (Path(folder) / name for name in self.files for folder in _FONT_FOLDERS)
        return next((path for path in paths if path.is_file()), None)


SOUNDFONTS = tuple(
    Soundfont(**entry | {"files": tuple(entry["files"]), "splits": tuple(entry["splits"])})
    for entry in section("soundfonts")
)


def _variable(value: int) -> bytes:
    """A variable-length quantity: seven bits a byte, the highest bit set on all but the last."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append((value & 0x7F) | 0x80)
    return bytes(reversed(out))


def _check(notes: Sequence[Note], parts: Sequence[Part], tempo: float) -> None:
    if not 4 <= tempo <= 1000:  # 24 bits of microseconds a quarter note end near 3.6 a minute
        raise UsageError(f"The tempo is {tempo} quarter notes a minute; give one from 4 to 1000.")
    for part in parts:
        if not 0 <= part.channel < 16 or not all(
            0 <= v < 128 for v in (part.program, part.pan, part.volume, part.reverb, part.vibrato)
        ):
            raise UsageError(f"{part} does not fit MIDI: channels are 0..15, everything else 0..127.")
        if not abs(part.cents) <= _BEND_CENTS:
            raise UsageError(f"{part} is tuned by {part.cents} cents; give -{_BEND_CENTS} to {_BEND_CENTS}.")
    for note in notes:
        if not (0 <= note.channel < 16 and 0 <= note.pitch < 128 and 0 < note.velocity < 128):
            raise UsageError(f"{note} does not fit MIDI: channels 0..15, pitches 0..127, velocities 1..127.")
        if not (note.start >= 0 and note.length > 0):
            raise UsageError(f"{note} must start at 0 or later and last longer than 0 quarter notes.")


def to_midi(notes: Sequence[Note], parts: Sequence[Part], tempo: float) -> bytes:
    """Notes and parts at `tempo` quarter notes a minute -> a Standard MIDI File. Raises `UsageError` out of range."""
    _check(notes, parts, tempo)
    events: list[tuple[int, int, bytes]] = [(0, 0, b"\xff\x51\x03" + struct.pack(">I", round(60e6 / tempo))[1:])]
    for part in parts:
        c = part.channel
        events.append((0, 1, bytes([0xC0 | c, part.program])))
        for controller, value in ((10, part.pan), (7, part.volume), (91, part.reverb)):
            events.append((0, 1, bytes([0xB0 | c, controller, value])))
        if part.vibrato:
            events.append((0, 1, bytes([0xB0 | c, 1, part.vibrato])))
        if part.cents:
            bend = min(16_383, round(8192 * (1 + part.cents / _BEND_CENTS)))
            events.append((0, 1, bytes([0xE0 | c, bend & 127, bend >> 7])))
    for n in notes:
        start = round(n.start * TICKS)
        end = max(start + 1, round((n.start + n.length) * TICKS))
        events.append((start, 3, bytes([0x90 | n.channel, n.pitch, n.velocity])))
        events.append((end, 2, bytes([0x80 | n.channel, n.pitch, 0])))  # offs before ons of the same tick
    track, now = bytearray(), 0
    for tick, _, message in sorted(events):
        track += _variable(tick - now) + message
        now = tick
    track += b"\x00\xff\x2f\x00"
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, TICKS)
    return head + b"MTrk" + struct.pack(">I", len(track)) + bytes(track)


def write_midi(path: str | Path, notes: Sequence[Note], parts: Sequence[Part], tempo: float) -> None:
    """Write a Standard MIDI File atomically. Raises `UsageError` for values that do not fit MIDI."""
    write_bytes(path, to_midi(notes, parts, tempo))


def find_soundfont(font: str | Path | None = None) -> Path:
    """The path of a soundfont: a path, or a name in the usual folders; by default `$DUOTONE_SOUNDFONT` or FluidR3.

    Raises `AudioError` naming the Debian package when there is none.
    """
    wanted = str(font or os.environ.get(SOUNDFONT_VARIABLE) or SOUNDFONT)
    for path in (Path(wanted), *(Path(folder) / wanted for folder in _FONT_FOLDERS)):
        if path.is_file():
            return path
    known = known_soundfont(wanted)
    package = known.package if known else "fluid-soundfont-gm"
    raise AudioError(
        f"No soundfont {wanted} was found, neither as a path nor in {', '.join(_FONT_FOLDERS)}. "
        f"Install the Debian package {package}, or set {SOUNDFONT_VARIABLE} to the path of a .sf2 file."
    )


def known_soundfont(path: str | Path) -> Soundfont | None:
    """What ``split.yaml`` says about a soundfont, by the name of its file."""
    return next((font for font in SOUNDFONTS if Path(path).name in font.files), None)


def soundfonts_here(split: str, font: str | Path | None = None) -> tuple[Path, ...]:
    """The soundfonts for a split: `font` or `$DUOTONE_SOUNDFONT` alone if given, otherwise those of ``split.yaml`` that are installed.

    Raises `AudioError` naming the Debian package when there is none.
    """
    if font is None and not os.environ.get(SOUNDFONT_VARIABLE):
        paths = tuple(path for each in SOUNDFONTS if split in each.splits and (path := each.find()))
        if any(not _is_drums(path) for path in paths):
            return paths
    return (find_soundfont(font),)


def choose_soundfont(seed: int, fonts: Sequence[Path]) -> Path:
    """One of `fonts` for a piece, by their shares in ``split.yaml``."""
    shares = [known.share if (known := known_soundfont(font)) else 1.0 for font in fonts]
    return random.Random(f"duotone/soundfont/{seed}").choices(fonts, shares)[0]


def _is_drums(path: Path) -> bool:
    known = known_soundfont(path)
    return known is not None and known.drums


def require_program(name: str, package: str) -> str:
    """The path of a program. Raises `AudioError` naming the Debian package that has it."""
    found = shutil.which(name)
    if found is None:
        raise AudioError(f"The program {name} was not found. Install the Debian package {package}.")
    return found


def run_program(command: list[str]) -> None:
    """Run a renderer. Raises `AudioError` with its last words when it fails."""
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        words = (done.stderr or done.stdout).decode(errors="replace").strip()[-400:]
        raise AudioError(f"{Path(command[0]).name} failed with exit code {done.returncode}: {words}")


def render(midi: bytes, rate: int = 48_000, soundfont: str | Path | None = None) -> Waveform:
    """Render MIDI bytes with real instrument samples, stereo.

    Raises `AudioError` naming the Debian packages fluidsynth and fluid-soundfont-gm when one of them is missing.
    """
    program = require_program("fluidsynth", "fluidsynth (and fluid-soundfont-gm for its instruments)")
    font = find_soundfont(soundfont)
    with tempfile.TemporaryDirectory(prefix="duotone-") as folder:
        score, out = Path(folder) / "score.mid", Path(folder) / "out.wav"
        score.write_bytes(midi)
        quiet = [
            "-n",
            "-i",
            "-q",
            "-o",
            "synth.dynamic-sample-loading=1",
        ]  # no MIDI input, no shell, few words; what sounds is loaded
        output = ["-g", "0.6", "-r", str(rate), "-T", "wav", "-O", "float", "-F", str(out)]
        run_program([program, *quiet, *output, str(font), str(score)])
        return read(out)
