"""Draw spectrograms of harmonics, originals above what codecs make of them, 0 to 5 kHz:

    python docs/pictures/make_harmonics.py [FILE ...] [--codec tiny ...] [-o harmonics.png]

A column for each file; from the top: the original, then each codec's decoded tokens. Without files, the picture of docs/index.md: a piano and a
violin phrase of TimGM6mb, a soundfont that no training used (Debian: apt install fluidsynth timgm6mb-soundfont), and the beginning of the demo's voice. It prints
by how much harmonics stand out more (+) or less (-) than in the original, in dB.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duotone
from duotone.atomic import write_bytes
from duotone.audio.files import read
from duotone.audio.midi import Note, Part, render, to_midi
from duotone.audio.waveform import Waveform
from duotone.evaluate.compare import excerpt
from duotone.evaluate.metrics import harmonics_change
from duotone.evaluate.picture import harmonics_picture, png, side_by_side

HERE = Path(__file__).resolve().parent
VOICE = HERE.parents[1] / "src" / "duotone" / "assets" / "demo-voice.flac"
SOUNDFONT, TEMPO, SECONDS = "TimGM6mb.sf2", 100.0, 4.0
VOICE_SECONDS = 1.3
#: Pitches of the phrase, a quarter note each but the last.
PHRASE = (57, 60, 64, 67, 69, 64)


def phrase(program: int, vibrato: int) -> Waveform:
    """One voice of a General MIDI program."""
    notes = [Note(0, i, 1 if i < len(PHRASE) - 1 else 2, pitch, 90) for i, pitch in enumerate(PHRASE)]
    wave = render(to_midi(notes, [Part(0, program, reverb=0, vibrato=vibrato)], TEMPO), soundfont=SOUNDFONT)
    return Waveform(wave.samples[:, : round(SECONDS * wave.rate)], wave.rate)


def sounds(files: list[Path], seconds: float) -> dict[str, Waveform]:
    """What is drawn, by name."""
    if files:
        return {path.name: excerpt(path, seconds, middle=True) for path in files}
    voice = read(VOICE)
    return {
        "piano": phrase(0, 0),
        "violin": phrase(40, 40),
        "voice": Waveform(voice.to_channels(2).samples[:, : round(VOICE_SECONDS * voice.rate)], voice.rate),
    }


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--codec", action="append", help="may be given several times (default: tiny)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="from the middle of each file")
    parser.add_argument("--steps", type=int, help="steps of decoding (default: the codec's)")
    parser.add_argument("-o", "--out", type=Path, default=HERE / "harmonics.png")
    options = parser.parse_args()
    codecs = {name: duotone.load(name, dtype="float32") for name in options.codec or ["tiny"]}
    more = {} if options.steps is None else {"steps": options.steps}
    columns = []
    for name, wave in sounds(options.files, options.seconds).items():
        decoded = {codec: each.decode(each.encode(wave).codes(), **more) for codec, each in codecs.items()}
        for codec, made in decoded.items():
            print(f"{name}, {codec}: {harmonics_change(wave, made):+.1f} dB")
        columns.append(harmonics_picture(wave, list(decoded.values())))
    write_bytes(options.out, png(side_by_side(columns)))
    print(options.out)


if __name__ == "__main__":
    main()
