"""The composer, its MIDI files and their rendering."""

from __future__ import annotations

import random
import shutil
import struct
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio.compose import KITS, METERS, PROGRAMS, STYLES, TEMPI, Meter, Split, compose, on_drum_font
from duotone.audio.drums import LOOPS, beat, hands, loop
from duotone.audio.midi import (
    DRUM_CHANNEL,
    TICKS,
    Note,
    Part,
    choose_soundfont,
    find_soundfont,
    render,
    soundfonts_here,
    to_midi,
    write_midi,
)
from duotone.errors import AudioError, UsageError

SPLITS: tuple[Split, ...] = get_args(Split)
FONT = "/usr/share/sounds/sf2/FluidR3_GM.sf2"
needs_fluidsynth = pytest.mark.skipif(
    shutil.which("fluidsynth") is None or not Path(FONT).is_file(),
    reason="needs the Debian packages fluidsynth and fluid-soundfont-gm",
)


def parse(data: bytes) -> list[tuple[int, bytes]]:
    """An independent reader of the format-0 files we write: (tick, message) in file order."""
    assert data[:8] == b"MThd\x00\x00\x00\x06"
    assert struct.unpack(">HHH", data[8:14]) == (0, 1, TICKS)
    assert data[14:18] == b"MTrk"
    track = data[22:]
    assert struct.unpack(">I", data[18:22])[0] == len(track)
    events, at, now = [], 0, 0
    while at < len(track):
        delta = 0
        while True:
            byte = track[at]
            at += 1
            delta = delta << 7 | byte & 127
            if byte < 128:
                break
        now += delta
        status = track[at]
        size = 3 + track[at + 2] if status == 0xFF else 2 if status >> 4 == 0xC else 3
        events.append((now, track[at : at + size]))
        at += size
    assert events[-1][1] == b"\xff\x2f\x00"
    return events[:-1]


def test_a_file_worked_by_hand() -> None:
    data = to_midi([Note(2, 0, 1, 60, 100)], [Part(2, 5, pan=10, volume=20, reverb=30)], 120)
    track = (
        "00 ff5103 07a120  00 b2 07 14  00 b2 0a 0a  00 b2 5b 1e  00 c2 05"  # 500 000 us; volume, pan, reverb; program
        "00 92 3c 64  8360 82 3c 00  00 ff2f00"  # the note ends 480 ticks later: 0x83 0x60
    )
    body = bytes.fromhex(track.replace(" ", ""))
    assert data == b"MThd" + bytes.fromhex("00000006 0000 0001 01e0") + b"MTrk" + struct.pack(">I", len(body)) + body


anyones_notes = st.builds(
    Note, st.integers(0, 15), st.floats(0, 500), st.floats(0.01, 8), st.integers(0, 127), st.integers(1, 127)
)


@settings(max_examples=50, deadline=None)
@given(st.lists(anyones_notes, max_size=30), st.floats(20, 300))
def test_every_note_comes_back_from_the_file(notes: list[Note], tempo: float) -> None:
    events = parse(to_midi(notes, [Part(0, 1)], tempo))
    assert events[0] == (0, b"\xff\x51\x03" + round(60e6 / tempo).to_bytes(3, "big"))
    ons = sorted((tick, m[0] & 15, m[1], m[2]) for tick, m in events if m[0] >> 4 == 9)
    offs = sorted((tick, m[0] & 15, m[1]) for tick, m in events if m[0] >> 4 == 8)
    assert ons == sorted((round(n.start * TICKS), n.channel, n.pitch, n.velocity) for n in notes)
    ends = [(max(round(n.start * TICKS) + 1, round((n.start + n.length) * TICKS)), n.channel, n.pitch) for n in notes]
    assert offs == sorted(ends)


@pytest.mark.parametrize(
    ("notes", "parts", "tempo"),
    [
        ([Note(0, 0, 1, 128, 100)], [], 120),
        ([Note(16, 0, 1, 60, 100)], [], 120),
        ([Note(0, 0, 1, 60, 0)], [], 120),
        ([Note(0, -1, 1, 60, 100)], [], 120),
        ([Note(0, 0, 0, 60, 100)], [], 120),
        ([], [Part(0, 128)], 120),
        ([], [Part(0, 0, pan=-1)], 120),
        ([], [], 0),
    ],
)
def test_what_does_not_fit_midi_is_refused(notes: list[Note], parts: list[Part], tempo: float) -> None:
    with pytest.raises(UsageError):
        to_midi(notes, parts, tempo)


def test_midi_files_are_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.mid"
    write_midi(path, [Note(0, 0, 1, 60, 100)], [Part(0, 0)], 100)
    before = path.read_bytes()
    assert before == to_midi([Note(0, 0, 1, 60, 100)], [Part(0, 0)], 100)
    with pytest.raises(UsageError):
        write_midi(path, [Note(0, 0, 1, 200, 100)], [Part(0, 0)], 100)
    (tmp_path / "folder.mid").mkdir()
    with pytest.raises(UsageError, match="folder"):
        write_midi(tmp_path / "folder.mid", [], [], 100)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mid", "folder.mid"]  # no temporary is left


def test_splits_share_no_instrument_kit_or_tempo() -> None:
    def programs(split: Split) -> set[int]:
        return {p for role in PROGRAMS[split].values() for p in role}

    def tempi(split: Split) -> set[int]:
        return {t for low, high in TEMPI[split] for t in range(low, high + 1)}

    for table in (programs, tempi, lambda split: set(KITS[split])):
        assert table("train") and table("heldout")
        assert not table("train") & table("heldout")


@pytest.mark.parametrize("split", SPLITS)
def test_pieces_keep_to_their_split_and_length(split: Split) -> None:
    programs = {p for role in PROGRAMS[split].values() for p in role}
    for seed in range(60):
        piece = compose(seed, 12.0, split)
        assert any(low <= piece.tempo <= high for low, high in TEMPI[split])
        for part in piece.parts:
            assert part.program in (KITS[split] if part.channel == DRUM_CHANNEL else programs)
        assert len({p.channel for p in piece.parts}) == len(piece.parts)
        assert {n.channel for n in piece.notes} <= {p.channel for p in piece.parts}
        assert piece.notes and any(n.channel != DRUM_CHANNEL for n in piece.notes) == (piece.style != "loop")
        assert 12.0 <= piece.seconds < 12.0 + 5 * 60 / piece.tempo
        to_midi(piece.notes, piece.parts, piece.tempo)  # raises unless everything is in MIDI's range


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("style", list(STYLES))
def test_every_style_writes_its_parts(style: str, split: Split) -> None:
    for seed in range(15):
        piece = compose(seed, 8.0, split, style)
        assert piece.style == style and piece == compose(seed, 8.0, split, style)
        channels = {p.channel for p in piece.parts}
        assert {n.channel for n in piece.notes} <= channels and len(piece.parts) == len(channels)
        drums, pitched = DRUM_CHANNEL in channels, channels - {DRUM_CHANNEL}
        if style in ("solo", "held", "chords", "ensemble"):
            assert not drums and len(pitched) <= (4 if style == "ensemble" else 2)
        if style == "solo":
            assert len({p.program for p in piece.parts}) == 1
        if style in ("electronic", "loop"):
            assert drums and bool(pitched) == (style == "electronic")
        to_midi(piece.notes, piece.parts, piece.tempo)


def test_styles_come_as_often_as_said() -> None:
    counts = Counter(compose(seed, 1.0).style for seed in range(1000))
    whole = sum(STYLES.values())
    for style, share in STYLES.items():
        assert counts[style] / 1000 == pytest.approx(share / whole, abs=0.05)


@pytest.mark.parametrize("name", list(LOOPS))
def test_loops_are_bars_of_sixteenths(name: str) -> None:
    assert all(len(row) == 16 and set(row) <= set("Xxo.") for row in LOOPS[name].values())


@pytest.mark.parametrize("play", [beat, hands, loop])
@pytest.mark.parametrize("meter", METERS, ids=lambda m: m.name)
def test_drums_stay_in_their_bars(play: Any, meter: Meter) -> None:
    for seed in range(10):
        hits: list[tuple[float, int]] = []
        play(lambda at, _, key, loud: hits.append((at, key)), random.Random(seed), 8, meter.bar, meter.pulses)  # noqa: B023
        assert hits and all(0 <= at < 8 * meter.bar + 0.51 and 35 <= key <= 82 for at, key in hits)


def test_a_drum_font_gets_the_drums_alone() -> None:
    piece = on_drum_font(compose(0, 4.0, "train", "electronic"))
    assert [(p.channel, p.program) for p in piece.parts] == [(0, 0)]
    assert piece.notes and {n.channel for n in piece.notes} == {0}


def test_tuning_and_vibrato_are_written_as_pitch_bend_and_modulation() -> None:
    events = parse(to_midi([], [Part(3, 0, vibrato=50, cents=100)], 120))
    assert (0, bytes([0xB3, 1, 50])) in events and (0, bytes([0xE3, 0, 96])) in events  # 8192 * 1.5 = 96 * 128
    assert not [m for _, m in parse(to_midi([], [Part(3, 0)], 120)) if m[0] >> 4 == 0xE]
    with pytest.raises(UsageError, match="cents"):
        to_midi([], [Part(0, 0, cents=201)], 120)


def test_an_unknown_style_is_refused() -> None:
    with pytest.raises(UsageError, match="band, solo"):
        compose(0, 1.0, style="opera")


def test_a_soundfont_is_chosen_by_seed_and_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duotone.audio.midi._FONT_FOLDERS", (str(tmp_path),))
    monkeypatch.delenv("DUOTONE_SOUNDFONT", raising=False)
    for name in (
        "FluidR3_GM.sf2",
        "MuseScore_General_Full.sf3",
        "OPL-3_FM_128M.sf2",
        "TimGM6mb.sf2",
        "Black_Pearl_4_LV2.sf2",
    ):
        (tmp_path / name).write_bytes(b"x")
    fonts = soundfonts_here("train")
    assert {f.name for f in fonts} == {p.name for p in tmp_path.iterdir()} - {"TimGM6mb.sf2"}
    counts = Counter(choose_soundfont(seed, fonts).name for seed in range(1000))
    assert counts == Counter(choose_soundfont(seed, fonts).name for seed in range(1000))
    assert counts["FluidR3_GM.sf2"] > 3 * counts["OPL-3_FM_128M.sf2"] > 0
    assert soundfonts_here("train", tmp_path / "TimGM6mb.sf2") == (tmp_path / "TimGM6mb.sf2",)
    for name in ("FluidR3_GM.sf2", "MuseScore_General_Full.sf3", "OPL-3_FM_128M.sf2"):
        (tmp_path / name).unlink()
    with pytest.raises(AudioError, match="fluid-soundfont-gm"):  # drums alone do not do
        soundfonts_here("train")


def test_a_piece_is_its_seed_and_seeds_differ() -> None:
    assert compose(7, 20.0, "train") == compose(7, 20.0, "train")
    pieces = [compose(seed, 20.0, "train") for seed in range(40)]
    assert len({p.notes for p in pieces}) == 40
    assert len({p.key for p in pieces}) > 15
    assert len({p.tempo for p in pieces}) > 15
    assert len({p.meter for p in pieces}) >= 3
    assert len({part.program for p in pieces for part in p.parts}) > 25
    rates = [len(p.notes) / p.seconds for p in pieces]
    assert max(rates) > 3 * min(rates)  # sparse and dense


def test_notes_with_pitch_stay_in_the_key() -> None:
    scales = {"major": (0, 2, 4, 5, 7, 9, 11), "dorian": (0, 2, 3, 5, 7, 9, 10)}
    tonics = ("C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B")
    checked = 0
    for seed in range(60):
        piece = compose(seed, 10.0, "train")
        tonic, mode = piece.key.split(" ", 1)
        if mode in scales:
            allowed = {(tonics.index(tonic) + s) % 12 for s in scales[mode]}
            assert {n.pitch % 12 for n in piece.notes if n.channel != DRUM_CHANNEL} <= allowed
            checked += 1
    assert checked > 5


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_lengths_are_refused(seconds: float) -> None:
    with pytest.raises(UsageError, match="seconds"):
        compose(0, seconds)


def test_unknown_split_is_refused() -> None:
    with pytest.raises(UsageError, match="train, heldout"):
        compose(0, 1.0, "test")  # type: ignore[arg-type]


def test_missing_tools_name_their_debian_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(AudioError, match=r"fluidsynth.*fluid-soundfont-gm"):
        render(to_midi([], [], 120))
    with pytest.raises(AudioError, match=r"nowhere\.sf2.*fluid-soundfont-gm"):
        find_soundfont("nowhere.sf2")


def test_soundfont_from_the_environment_or_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    font = tmp_path / "mine.sf2"
    monkeypatch.setenv("DUOTONE_SOUNDFONT", str(font))
    with pytest.raises(AudioError, match=r"mine\.sf2"):  # a wrong setting is not passed over in silence
        find_soundfont()
    font.write_bytes(b"x")
    assert find_soundfont() == font
    monkeypatch.delenv("DUOTONE_SOUNDFONT")
    assert find_soundfont(font) == font


def test_a_renderer_that_fails_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program, font = tmp_path / "fluidsynth", tmp_path / "f.sf2"
    program.write_text("#!/bin/sh\necho broken font >&2\nexit 3\n")
    program.chmod(0o755)
    font.write_bytes(b"x")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(AudioError, match=r"exit code 3: broken font"):
        render(to_midi([], [], 120), soundfont=font)


@needs_fluidsynth
def test_rendering_plays_the_pitch_at_the_time_and_side_asked_for() -> None:
    midi = to_midi([Note(0, 2, 2, 69, 110)], [Part(0, 73, pan=0, reverb=0)], 120)  # a flute's a', hard left, at 1 s
    wave = render(midi, soundfont=FONT)
    assert wave.rate == 48_000 and wave.channels == 2 and wave.seconds > 2
    assert float(wave.samples[:, :47_000].abs().max()) < 1e-3
    sounding = wave.samples[:, 60_000:84_000]
    # Not further apart: the soundfont itself sends the flute to the reverb, which sounds on both sides.
    assert float(sounding[0].pow(2).mean()) > 4 * float(sounding[1].pow(2).mean())
    spectrum = torch.fft.rfft(sounding[0] * torch.hann_window(24_000)).abs()
    loudest = float(spectrum.argmax()) * 2.0
    assert min(abs(loudest / (440 * k) - 1) for k in (1, 2, 3)) < 0.02


@needs_fluidsynth
def test_rendering_is_the_same_every_time() -> None:
    piece = compose(3, 2.0, "train")
    midi = to_midi(piece.notes, piece.parts, piece.tempo)
    first, second = (render(midi, soundfont=FONT) for _ in range(2))
    assert first.samples.equal(second.samples)
