"""Make the demo's clips: ``python docs/pictures/make_clips.py SAMPLES``; SAMPLES is the folder of Debian's sonic-pi-samples.

Writes three FLAC files and clips.json (titles, authors, licences, checksums) to src/duotone/assets. Needs flite, FluidSynth and
the FluidR3 soundfont. None of the sound is in a training split (src/duotone/audio/split.yaml). Another
recipe of ``duotone make-sounds`` composes another piece than the one that is kept there.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from duotone.audio.collection import RECIPE, make_piece, master
from duotone.audio.files import read, write
from duotone.audio.waveform import Waveform

ASSETS = Path(__file__).parents[2] / "src" / "duotone" / "assets"
RATE = 48_000
FADE_SECONDS = 0.03
#: The tabla is tuned down by so many cents, to the E of the guitar; its beat is then this long.
CENTS = 38.0
BEAT_SECONDS = 2 / 3 * 2 ** (CENTS / 1200)
LINE = "A codec hears the room before it hears the words. Keep each consonant, and the line of the melody."


def recorded(samples: Path) -> tuple[Waveform, dict[str, Any]]:
    """Eight beats: two guitar chords over a tabla loop, all of them recordings under CC0."""
    tabla = read(samples / "loop_tabla.flac")
    tuned = Waveform(tabla.samples, round(tabla.rate * 2 ** (-CENTS / 1200))).resample(RATE).to_channels(2)
    mix = 1.4 * tuned.samples[:, : round(8 * BEAT_SECONDS * RATE)].clone()
    for name, beat in (("guit_em9", 0), ("guit_e_fifths", 4)):
        start = round(beat * BEAT_SECONDS * RATE)
        chord = read(samples / f"{name}.flac").resample(RATE).to_channels(2).samples[:, : mix.shape[1] - start]
        mix[:, start : start + chord.shape[1]] += chord
    return Waveform(mix, RATE), {
        "title": "Guitar and tabla", "kind": "recorded",
        "about": "two electric guitar chords over a tabla loop",
        "licence": "CC0-1.0",
        "source": "Debian package sonic-pi-samples 3.2.2~repack-8: guit_em9 and guit_e_fifths by Sub-d (freesound.org 46992 and "
        "46990), loop_tabla by lezaarth (freesound.org 242591), mixed; the tabla is tuned down by 38 cents",
    }  # fmt: skip


def generated() -> tuple[Waveform, dict[str, Any]]:
    """The beginning of a composed piece of the evaluation split."""
    wave, about = make_piece(86, "heldout", "music", seconds=12.0)
    return Waveform(wave.samples[:, : 7 * RATE].contiguous(), RATE), {
        "title": "Composed piece", "kind": "generated",
        "about": "jazz guitar, recorder, synth bass and drums",
        "licence": "Apache-2.0",
        "source": "composed by duotone.audio.compose, rendered by FluidSynth with the FluidR3 GM soundfont (MIT licence, Frank Wen): "
        f"the first 7 s of make_piece(86, 'heldout', 'music', seconds=12.0) of recipe {RECIPE}",
        "split": "heldout", "seed": 86, "recipe": RECIPE, **about,
    }  # fmt: skip


def voice() -> tuple[Waveform, dict[str, Any]]:
    """A line of ours, spoken by a synthetic voice that no codec of ours was trained on."""
    with tempfile.TemporaryDirectory() as folder:
        spoken = Path(folder) / "voice.wav"
        subprocess.run(["flite", "-voice", "rms", "-t", LINE, "-o", str(spoken)], check=True)
        wave = read(spoken)
    return wave, {
        "title": "Voice", "kind": "voice", "about": "a synthetic voice made from recordings of a man",
        "licence": "Apache-2.0",
        "source": f"text of ours, spoken by flite's voice rms (Carnegie Mellon University): {LINE!r}",
    }  # fmt: skip


def main() -> None:
    """Write the clips and what they are."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "loop_tabla.flac").is_file():
        sys.exit("Name the folder of the package sonic-pi-samples: python docs/pictures/make_clips.py SAMPLES")
    made = {"recorded": recorded(Path(sys.argv[1])), "generated": generated(), "voice": voice()}
    listed = []
    for name, (wave, about) in made.items():
        faded = master(wave, target=-18.0).samples.clone()
        ramp = torch.linspace(0, 1, round(FADE_SECONDS * wave.rate))
        faded[:, : len(ramp)] *= ramp
        faded[:, -len(ramp) :] *= ramp.flip(0)
        target = ASSETS / f"demo-{name}.flac"
        write(target, Waveform(faded, wave.rate), force=True)
        data = target.read_bytes()
        listed.append({
            "file": target.name, **about, "seconds": round(wave.seconds, 3), "rate": wave.rate, "channels": wave.channels,
            "sha256": hashlib.sha256(data).hexdigest(),
        })  # fmt: skip
        print(target.name, len(data), "bytes")
    (ASSETS / "clips.json").write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
