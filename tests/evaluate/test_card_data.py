"""The card's section on training sound: hours, shares and licences, as the folders' manifests tell them."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from duotone.errors import UsageError
from duotone.evaluate.card_data import TrainingSound, add_options, data_section, parts_of, read_options, shares

MUSIC: dict[str, Any] = {
    "split": "train",
    "seed": 3,
    "minutes": 60.0,
    "pieces": [
        {"kind": "music", "programs": [1, 2], "font": "Organ.sf2", "font_licence": "CC-BY-SA-4.0"},
        {"kind": "music", "programs": [2, 3], "font": "Organ.sf2", "font_licence": "CC-BY-SA-4.0"},
        {"kind": "music", "programs": [4], "font": "Piano.sf2", "font_licence": "MIT"},
    ],
}
MIXED: dict[str, Any] = {
    "split": "train",
    "seed": 4,
    "minutes": 120.0,
    "pieces": [
        {"kind": "speech", "voice": "eo+f1", "voice_licence": "GPL-3.0-or-later"},
        {"kind": "speech", "voice": "festival:czech_ph", "voice_licence": "GPL-2.0-or-later"},
        {"kind": "speech", "voice": "festival:lp_diphone", "voice_licence": "GPL-2.0-or-later"},
        {"kind": "synth"},
    ],
}
FILES: tuple[dict[str, Any], ...] = (
    {"kind": "music", "split": "train", "seconds": 3 * 3600.0, "package": "singularity-music"},
    {"kind": "speech", "split": "train", "seconds": 3600.0, "package": "fillets-ng-data-cs"},
    {"kind": "speech", "split": "train", "seconds": 3600.0, "package": "fillets-ng-data-cs"},
    {"kind": "music", "split": "heldout", "seconds": 7200.0, "package": "flare-game"},
)
SOUND = TrainingSound((MUSIC, MIXED), True, FILES)


def drawn(balance: str | None, hours: float = 7.5) -> dict[str, Any]:
    """The provenance of weights whose training drew its sound this way."""
    return {"hours_of_sound": hours, "recipe": {"data": {} if balance is None else {"balance": balance}}}


def test_sources_have_equal_shares_or_those_of_their_length() -> None:
    parts = parts_of(SOUND)
    assert shares(parts, drawn("sources")) == pytest.approx({
        "music, generated": 1 / 4, "speech, generated": 1 / 4 * 3 / 4, "synth, generated": 1 / 4 / 4,
        "music, recorded": 1 / 4, "speech, recorded": 1 / 4,
    })  # fmt: skip
    assert shares(parts, drawn("seconds")) == pytest.approx({
        "music, generated": 1 / 8, "speech, generated": 1.5 / 8, "synth, generated": 0.5 / 8,
        "music, recorded": 3 / 8, "speech, recorded": 2 / 8,
    })  # fmt: skip
    assert shares(parts, drawn(None)) is None and shares(parts, {}) is None
    twice = parts_of(TrainingSound((MUSIC, MUSIC, MIXED)))  # two sources of one kind
    share = shares(twice, drawn("sources"))
    assert share is not None and share["music, generated"] == pytest.approx(2 / 3)


def test_the_section_tells_sources_kinds_and_licences() -> None:
    text = data_section(drawn("sources"), SOUND)
    for words in (
        "- 7.50 hours of sound.",
        "(split train, seed 3): 3 music pieces, 1.00 hours; 4 instruments (General MIDI) of 2 soundfonts.",
        "(split train, seed 4): 3 speech, 1 synth pieces, 2.00 hours; 3 synthetic voices.",
        "`duotone fetch-sounds` (split train): 1 music, 2 speech files, 5.00 hours.",
        "- Each source is drawn equally often, and its files by their length.",
        "| Kind | Hours | Pieces | Share of what is drawn |\n| --- | ---: | ---: | ---: |",
        "| music, generated | 1.00 | 3 | 25.0% |",
        "| speech, generated | 1.50 | 3 | 18.8% |",
        "| speech, recorded | 2.00 | 2 | 25.0% |",
        "| soundfont Organ.sf2 | 2 | CC-BY-SA-4.0 |",
        "| soundfont Piano.sf2 | 1 | MIT |",
        "| espeak-ng, 1 voice: eo+f1 | 1 | GPL-3.0-or-later |",
        "| festival, 2 voices: czech_ph, lp_diphone | 2 | GPL-2.0-or-later |",
        "| [Endgame: Singularity: music]",
    ):
        assert words in text, f"{words!r} is not in the section:\n{text}"
    assert "Flare" not in text  # held out, and nothing else of its package is there
    assert "Files are drawn by their length" in data_section(drawn("seconds"), SOUND)


def test_shares_are_told_only_if_all_sources_are_known() -> None:
    part = TrainingSound((MUSIC,), recordings=True)
    text = data_section(drawn("sources"), part)
    assert "- 6.50 hours or more of other sources are not in the table." in text
    assert "| Kind | Hours | Pieces |\n" in text and "drawn" not in text
    shorter = data_section(drawn("sources", 0.5), part)  # hours of recordings are never told without their manifest
    assert "- An unknown number of hours of other sources" in shorter and "drawn" not in shorter
    assert "Flare" in text  # all recordings of the catalogue for training
    unknown = data_section({}, SOUND)
    assert "How files were drawn is not noted" in unknown and "Share" not in unknown
    assert data_section({}, TrainingSound()) == "The run did not note what it was trained on.\n"


def test_many_voices_are_counted_and_a_missing_licence_is_told() -> None:
    pieces = [{"kind": "speech", "voice": f"eo+f{i}"} for i in range(20)]
    text = data_section({}, TrainingSound(({**MIXED, "pieces": pieces},)))
    assert "| espeak-ng, 20 voices | 20 | not noted |" in text
    assert "Soundfonts" not in data_section({}, TrainingSound(({**MIXED, "pieces": []},)))


def test_options_take_several_manifests_and_refuse_other_files(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_options(parser)

    def read(*arguments: str) -> TrainingSound:
        return read_options(parser.parse_args(arguments))

    names = {"music.json": json.dumps(MUSIC), "mixed.json": json.dumps(MIXED), "list.json": "[]", "none.json": "{}"}
    names["recorded.jsonl"] = "".join(f"{json.dumps(file)}\n" for file in FILES)
    names |= {"heldout.jsonl": json.dumps(FILES[-1]), "broken.jsonl": "{", "empty.jsonl": ""}
    for name, text in names.items():
        (tmp_path / name).write_text(text)
    at = {name: str(tmp_path / name) for name in [*names, "missing"]}
    made = ("--manifest", at["music.json"], "--manifest", at["mixed.json"])
    assert read(*made, "--recordings", at["recorded.jsonl"]) == SOUND
    assert read(*made, "--recordings") == TrainingSound((MUSIC, MIXED), True)
    assert read() == TrainingSound()
    for name, told in (
        ("missing", "No file"),
        ("list.json", "holds list"),
        ("none.json", "no manifest of duotone make-sounds"),
        ("broken.jsonl", "not JSON"),
    ):
        with pytest.raises(UsageError, match=told):
            read("--manifest", at[name])
    for name, told in (
        ("missing", "No file"),
        ("broken.jsonl", "not JSON"),
        ("empty.jsonl", "no manifest of duotone fetch-sounds"),
        ("none.json", "no manifest of duotone fetch-sounds"),
        ("heldout.jsonl", "no recordings for training"),
    ):
        with pytest.raises(UsageError, match=told):
            read("--recordings", at[name])


def test_a_package_that_the_catalogue_lacks_is_named() -> None:
    file = {"kind": "music", "split": "train", "seconds": 1.0, "package": "songs-of-nobody"}
    with pytest.raises(UsageError, match="songs-of-nobody"):
        data_section({}, TrainingSound(recordings=True, files=(file,)))
