"""Draw spectrograms of harmonics, originals above what codecs make of them, 0 to 5 kHz:

    python docs/pictures/make_harmonics.py piano.wav violin.wav voice.wav --codec tiny -o harmonics.png

A column for each file; from the top: the original, then each codec's decoded tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duotone
from duotone.atomic import write_bytes
from duotone.evaluate.compare import excerpt
from duotone.evaluate.picture import harmonics_picture, png, side_by_side


def main() -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--codec", action="append", help="may be given several times (default: tiny)")
    parser.add_argument("--seconds", type=float, default=4.0, help="from the middle of each file")
    parser.add_argument("--steps", type=int, help="steps of decoding (default: the codec's)")
    parser.add_argument("-o", "--out", type=Path, default=Path("harmonics.png"))
    options = parser.parse_args()
    codecs = [duotone.load(name, dtype="float32") for name in options.codec or ["tiny"]]
    more = {} if options.steps is None else {"steps": options.steps}
    columns = []
    for path in options.files:
        wave = excerpt(path, options.seconds, middle=True)
        columns.append(harmonics_picture(wave, [codec.decode(codec.encode(wave).codes(), **more) for codec in codecs]))
    write_bytes(options.out, png(side_by_side(columns)))
    print(options.out)


if __name__ == "__main__":
    main()
