"""The file of the split, as the code reads it."""

from __future__ import annotations

import pytest

from duotone.audio.compose import PROGRAMS, STYLES, compose
from duotone.audio.midi import DRUM_CHANNEL, SOUNDFONTS
from duotone.audio.split import section


def test_each_soundfont_has_a_licence_a_package_and_a_split() -> None:
    for font in SOUNDFONTS:
        assert font.files and font.package and font.licence and font.share > 0
        assert font.splits and set(font.splits) <= {"train", "heldout"}
    names = [name for font in SOUNDFONTS for name in font.files]
    assert len(set(names)) == len(names)
    for split in ("train", "heldout"):
        assert any(split in font.splits and not font.drums for font in SOUNDFONTS)


def test_no_soundfont_plays_the_same_program_in_both_splits() -> None:
    """A font of both splits keeps to the tables of programs, which are disjoint; others may use all programs."""
    for font in SOUNDFONTS:
        if set(font.splits) == {"train", "heldout"}:
            used = {
                split: {
                    part.program
                    for seed in range(80)
                    for part in compose(seed, 4.0, split, everything=font.splits == ("heldout",)).parts
                    if part.channel != DRUM_CHANNEL
                }
                for split in PROGRAMS
            }
            assert used["train"] and used["heldout"] and not used["train"] & used["heldout"]


@pytest.mark.parametrize("style", list(STYLES))
def test_a_font_of_one_split_may_play_all_programs(style: str) -> None:
    programs = {
        part.program
        for seed in range(60)
        for part in compose(seed, 3.0, "heldout", style, everything=True).parts
        if part.channel != DRUM_CHANNEL
    }
    training = {p for role in PROGRAMS["train"].values() for p in role}
    assert bool(programs & training) == (style != "loop")


def test_a_section_that_is_not_there_is_an_error() -> None:
    with pytest.raises(KeyError):
        section("nowhere")
