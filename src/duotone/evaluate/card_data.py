"""The section of a model card about the sound of a training: its sources, their hours, shares and licences.

What `duotone make-sounds` and `duotone fetch-sounds` wrote down about their folders tells it; the provenance of the weights tells how
sources were drawn.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from duotone.audio.catalogue import catalogue, licence_table, splits
from duotone.audio.speech import engine
from duotone.errors import UsageError

Note = dict[str, Any]
Kinds = type | tuple[type, ...]
#: A row of voices names them up to this many, and counts more.
NAMED = 8
#: A run may have this much more sound than its sources, as a share, before the card says that some are not known.
ROUNDING = 0.01


@dataclass(frozen=True)
class TrainingSound:
    """What a codec was trained on, as the folders of sound tell it."""

    manifests: tuple[Note, ...] = ()  #: `manifest.json` of each folder of make-sounds
    recordings: bool = False  #: whether recordings of fetch-sounds were trained on
    files: tuple[Note, ...] = ()  #: lines of `manifest.jsonl` of fetch-sounds; without them hours are not told

    @property
    def training_files(self) -> list[Note]:
        """The recordings that are for training: the manifest of a folder lists those of both splits."""
        return [file for file in self.files if file["split"] == "train"]


@dataclass(frozen=True)
class Part:
    """The pieces of one kind in one source, where a source is what a training is given as one --data."""

    source: str
    kind: str
    pieces: int
    hours: float


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that name a training's sound."""
    parser.add_argument(
        "--manifest",
        type=Path,
        action="append",
        default=[],
        help="manifest.json of a folder of make-sounds that was trained on, one source (--data); repeat it for several",
    )
    parser.add_argument(
        "--recordings",
        nargs="?",
        const="",
        metavar="MANIFEST",
        help="trained on the recordings of fetch-sounds: licences; with their manifest.jsonl, hours and shares too "
        "(music and speech are two sources)",
    )


def read_options(options: argparse.Namespace) -> TrainingSound:
    """Read the files that the options name. Raises `UsageError` for one that is missing or no such manifest."""
    files = read_files(Path(options.recordings)) if options.recordings else ()
    return TrainingSound(tuple(map(read_manifest, options.manifest)), options.recordings is not None, files)


def read_manifest(path: Path) -> Note:
    """`manifest.json` of make-sounds. Raises `UsageError` for another file."""
    values = read_json(path)
    kinds: dict[str, Kinds] = {"split": str, "seed": int, "minutes": (int, float), "pieces": list}
    if not all(isinstance(values.get(key), kind) for key, kind in kinds.items()) or not all(
        isinstance(piece, dict) and "kind" in piece for piece in values["pieces"]
    ):
        raise UsageError(f"{path} is no manifest of duotone make-sounds. Give the manifest.json that it wrote.")
    return values


def read_files(path: Path) -> tuple[Note, ...]:
    """The lines of `manifest.jsonl` of fetch-sounds. Raises `UsageError` for another file."""
    notes = tuple(_parsed(line, path) for line in _text(path).split("\n") if line)
    kinds: dict[str, Kinds] = {"kind": str, "split": str, "seconds": (int, float), "package": str}
    if not notes or not all(isinstance(note.get(key), kind) for note in notes for key, kind in kinds.items()):
        raise UsageError(f"{path} is no manifest of duotone fetch-sounds. Give the manifest.jsonl that it wrote.")
    if not any(note["split"] == "train" for note in notes):
        raise UsageError(
            f"{path} lists no recordings for training. Give the one of duotone fetch-sounds --split train."
        )
    return notes


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises `UsageError` if there is none."""
    return _parsed(_text(path), path)


def data_section(provenance: Mapping[str, Any], sound: TrainingSound) -> str:
    """Hours, sources, kinds with their shares, and licences, in Markdown."""
    points = [f"{provenance['hours_of_sound']:.2f} hours of sound."] if "hours_of_sound" in provenance else []
    points += [_made(manifest) for manifest in sound.manifests]
    if sound.files:
        points.append(_fetched(sound.training_files))
    elif sound.recordings:
        made = "" if sound.manifests else ", and what `duotone make-sounds` makes (split train)"
        points.append(f"Recordings of `duotone fetch-sounds` (split train){made}.")
    parts = parts_of(sound)
    whole = sum(part.hours for part in parts)
    lacking = provenance.get("hours_of_sound", 0.0) - whole
    told = lacking <= ROUNDING * whole and bool(sound.files or not sound.recordings)
    if parts and told:
        points.append(_balance(provenance))
    elif parts:
        hours = f"{lacking:.2f} hours or more" if lacking > 0 else "An unknown number of hours"
        points.append(f"{hours} of other sources are not in the table.")
    out = ["".join(f"- {point}\n" for point in points) or "The run did not note what it was trained on.\n"]
    if parts:
        out.append(_kinds(parts, shares(parts, provenance) if told else None))
    material = _material(sound.manifests)
    if material:
        out.append(material)
    if sound.recordings:
        out.append(_licences(sound))
    return "\n".join(out)


def parts_of(sound: TrainingSound) -> list[Part]:
    """The kinds of each source: each folder of make-sounds is a source, and so are recorded music and recorded speech."""
    parts = []
    for index, manifest in enumerate(sound.manifests):
        hours = manifest["minutes"] / 60 / max(1, len(manifest["pieces"]))  # all pieces have one length
        for kind, count in Counter(piece["kind"] for piece in manifest["pieces"]).most_common():
            parts.append(Part(f"made {index}", f"{kind}, generated", count, count * hours))
    for kind in sorted({file["kind"] for file in sound.training_files}):
        seconds = [file["seconds"] for file in sound.training_files if file["kind"] == kind]
        parts.append(Part(f"recorded {kind}", f"{kind}, recorded", len(seconds), sum(seconds) / 3600))
    return parts


def shares(parts: Sequence[Part], provenance: Mapping[str, Any]) -> dict[str, float] | None:
    """Kind -> the share of drawn sound, by `data.balance` of the recipe; None if weights do not tell that.

    Sources are drawn equally often, or by duration; files inside a source by duration.
    """
    balance = _balance_of(provenance)
    if balance is None:
        return None
    sources = {part.source: sum(p.hours for p in parts if p.source == part.source) for part in parts}
    out: dict[str, float] = {}
    for part in parts:
        of_source = 1 / len(sources) if balance == "sources" else sources[part.source] / sum(sources.values())
        out[part.kind] = out.get(part.kind, 0.0) + of_source * part.hours / sources[part.source]
    return out


def _balance_of(provenance: Mapping[str, Any]) -> str | None:
    balance = provenance.get("recipe", {}).get("data", {}).get("balance")
    return balance if isinstance(balance, str) else None


def _balance(provenance: Mapping[str, Any]) -> str:
    balance = _balance_of(provenance)
    how = "Files are drawn by their length" if balance else "How files were drawn is not noted"
    if balance == "sources":
        how = "Each source is drawn equally often, and its files by their length"
    return f"{how}. Hours below count files for validation and those left out as silent or clipped, too."


def _made(manifest: Note) -> str:
    """One folder of make-sounds."""
    pieces = manifest["pieces"]
    programs = {program for piece in pieces for program in piece.get("programs", [])}
    fonts = {piece["font"] for piece in pieces if "font" in piece}
    voices = {piece["voice"] for piece in pieces if "voice" in piece}
    counts = ", ".join(f"{n} {kind}" for kind, n in Counter(piece["kind"] for piece in pieces).most_common())
    of = []
    if fonts or programs:
        of.append(f"{len(programs)} instruments (General MIDI) of {_number(len(fonts), 'soundfont')}")
    if voices:
        of.append(_number(len(voices), "synthetic voice"))
    return (
        f"Made by `duotone make-sounds` (split {manifest['split']}, seed {manifest['seed']}): {counts} pieces, "
        f"{manifest['minutes'] / 60:.2f} hours{''.join(f'; {each}' for each in of)}."
    )


def _fetched(files: Sequence[Note]) -> str:
    """The recordings for training."""
    counts = ", ".join(f"{n} {kind}" for kind, n in sorted(Counter(file["kind"] for file in files).items()))
    hours = sum(file["seconds"] for file in files) / 3600
    return f"Recordings of `duotone fetch-sounds` (split train): {counts} files, {hours:.2f} hours."


def _kinds(parts: Sequence[Part], share: Mapping[str, float] | None) -> str:
    """Hours, pieces and shares of each kind."""
    rows = []
    for kind in dict.fromkeys(part.kind for part in parts):
        of_kind = [part for part in parts if part.kind == kind]
        row = [kind, f"{sum(part.hours for part in of_kind):.2f}", str(sum(part.pieces for part in of_kind))]
        rows.append([*row, f"{100 * share[kind]:.1f}%"] if share else row)
    return _table(["Kind", "Hours", "Pieces", "Share of what is drawn"], "-:::", rows)


def _material(manifests: Sequence[Note]) -> str:
    """The soundfonts and voices of generated pieces, and their licences; empty if there are none."""
    pieces = [piece for manifest in manifests for piece in manifest["pieces"]]
    fonts: Counter[tuple[str, str]] = Counter()
    voices: dict[tuple[str, str], list[str]] = {}
    for piece in pieces:
        if "font" in piece:
            fonts[piece["font"], piece.get("font_licence", "not noted")] += 1
        if "voice" in piece:
            key = engine(piece["voice"]), piece.get("voice_licence", "not noted")
            voices.setdefault(key, []).append(piece["voice"])
    rows = [[f"soundfont {font}", str(count), licence] for (font, licence), count in fonts.most_common()]
    for (program, licence), spoken in sorted(voices.items()):
        names = sorted({voice.removeprefix(f"{program}:") for voice in spoken})
        told = _number(len(names), "voice") + (f": {', '.join(names)}" if len(names) <= NAMED else "")
        rows.append([f"{program}, {told}", str(len(spoken)), licence])
    return _table(["Soundfonts and voices of generated sound", "Pieces", "Licence"], "-:-", rows) if rows else ""


def _licences(sound: TrainingSound) -> str:
    """The recordings' authors and licences: of the files that are told, or else of all of the catalogue for training."""
    known, split_of = catalogue(), splits()
    if sound.files:
        used = known.choose({file["package"] for file in sound.training_files})
    else:
        used = [package for package in known.packages if split_of[package.package] == "train"]
    return licence_table(used, known, split_of)


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _table(headings: Sequence[str], alignment: str, rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table as wide as its rows; `alignment` has a colon for each column of numbers."""
    width = len(rows[0])
    rule = ["---:" if mark == ":" else "---" for mark in alignment[:width]]
    lines = [headings[:width], rule, *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"No file at {path}. Give one that the evaluation, make-sounds or fetch-sounds wrote.")
    return path.read_text(encoding="utf-8")


def _parsed(text: str, path: Path) -> Note:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{path} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} holds {type(values).__name__}, expected a JSON object.")
    return values
