"""Notes -> a Standard MIDI File (format 0), and its rendering by the `fluidsynth` program."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from duotone.audio.files import read
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError

#: Ticks a quarter note.
TICKS = 480
DRUM_CHANNEL = 9
_FONT_FOLDERS = ("/usr/share/sounds/sf2", "/usr/share/soundfonts", "/usr/local/share/soundfonts", "/opt/homebrew/share")


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
    """What a MIDI channel plays with: General MIDI program 0..127, pan and volume 0..127, reverb send 0..127."""

    channel: int
    program: int
    pan: int = 64
    volume: int = 100
    reverb: int = 40


def _variable(value: int) -> bytes:
    """A variable-length quantity: seven bits a byte, the highest bit set on all but the last."""
    out = [value & 0x7F]
    while value := value >> 7:
        out.append((value & 0x7F) | 0x80)
    return bytes(reversed(out))


def to_midi(notes: Sequence[Note], parts: Sequence[Part], tempo: float) -> bytes:
    """Notes and parts at `tempo` quarter notes a minute -> the bytes of a Standard MIDI File."""
    events: list[tuple[int, int, bytes]] = [(0, 0, b"\xff\x51\x03" + struct.pack(">I", round(60e6 / tempo))[1:])]
    for part in parts:
        c = part.channel
        if c != DRUM_CHANNEL:
            events.append((0, 1, bytes([0xC0 | c, part.program])))
        for controller, value in ((10, part.pan), (7, part.volume), (91, part.reverb)):
            events.append((0, 1, bytes([0xB0 | c, controller, value])))
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


def find_soundfont(name: str = "FluidR3_GM.sf2") -> Path:
    """The path of a soundfont: `name` itself, `$DUOTONE_SOUNDFONT`, or the usual folders. Raises `AudioError`."""
    candidates = [Path(name), Path(os.environ.get("DUOTONE_SOUNDFONT", ""))]
    candidates += [Path(folder) / name for folder in _FONT_FOLDERS]
    for path in candidates:
        if path.is_file():
            return path
    raise AudioError(
        f"No soundfont {name} was found. Install the Debian package fluid-soundfont-gm, or set DUOTONE_SOUNDFONT to a .sf2 file."
    )


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


def render(midi: bytes, rate: int = 48_000, soundfont: Path | None = None) -> Waveform:
    """Render MIDI bytes with real instrument samples, stereo. Raises `AudioError` when fluidsynth or its font is missing."""
    program = require_program("fluidsynth", "fluidsynth")
    font = soundfont or find_soundfont()
    with tempfile.TemporaryDirectory(prefix="duotone-") as folder:
        score, out = Path(folder) / "score.mid", Path(folder) / "out.wav"
        score.write_bytes(midi)
        run_program(
            [
                program,
                "-n",
                "-i",
                "-q",
                "-g",
                "0.6",
                "-r",
                str(rate),
                "-T",
                "wav",
                "-O",
                "float",
                "-F",
                str(out),
                str(font),
                str(score),
            ]
        )
        return read(out)
