"""The composer, its MIDI, the synthesizer, and collections."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import pytest
import torch

from duotone.audio.collection import make_collection, master
from duotone.audio.compose import PROGRAMS, TEMPI, compose
from duotone.audio.midi import Note, Part, find_soundfont, to_midi
from duotone.audio.speech import VOICES
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError


def programs(split: str) -> set[int]:
    return {p for role in PROGRAMS[split].values() for p in role}  # type: ignore[index]


def test_held_out_sounds_are_never_trained_on() -> None:
    assert not programs("train") & programs("heldout")
    assert not set(VOICES["train"]) & set(VOICES["heldout"])
    trained = {t for low, high in TEMPI["train"] for t in range(low, high + 1)}
    assert not trained & {t for low, high in TEMPI["heldout"] for t in range(low, high + 1)}


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_pieces_follow_their_seed_and_split(split: str) -> None:
    pieces = [compose(seed, 12, split) for seed in range(40)]  # type: ignore[arg-type]
    assert pieces[3] == compose(3, 12, split)  # type: ignore[arg-type]
    assert len({p.notes for p in pieces}) == 40
    for piece in pieces:
        assert {p.program for p in piece.parts if p.channel != 9} <= programs(split)
        assert any(low <= piece.tempo <= high for low, high in TEMPI[split])  # type: ignore[index]
        assert piece.notes and 6 < piece.seconds < 20
        assert all(0 <= n.pitch < 128 and 0 < n.velocity < 128 and n.start >= 0 for n in piece.notes)


def test_midi_by_hand() -> None:
    data = to_midi([Note(2, 0.0, 1.0, 60, 100)], [Part(2, 5, pan=10, volume=90, reverb=0)], 120)
    head = b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480)
    track = (
        b"\x00\xb2\x07\x5a" b"\x00\xb2\x0a\x0a" b"\x00\xb2\x5b\x00" b"\x00\xc2\x05"
        b"\x00\x92\x3c\x64" b"\x83\x60\x82\x3c\x00" b"\x00\xff\x2f\x00"
    )  # fmt: skip
    tempo = b"\x00\xff\x51\x03\x07\xa1\x20"
    assert data == head + b"MTrk" + struct.pack(">I", len(tempo + track)) + tempo + track


def test_synthesizer() -> None:
    wave = synthesize(5, 1.5)
    assert (wave.rate, wave.channels, wave.length) == (48_000, 2, 72_000)
    assert torch.equal(wave.samples, synthesize(5, 1.5).samples)
    assert not torch.equal(wave.samples, synthesize(6, 1.5).samples)
    assert torch.isfinite(wave.samples).all() and 0.05 < wave.samples.abs().max() <= 0.9001
    assert synthesize(1, 1 / 48_000).length == 1


def test_mastering_keeps_peaks_and_silence() -> None:
    noise = Waveform(1e-3 * torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0)), 48_000)
    loud = master(noise)
    assert loud.samples.abs().max() <= 0.97 and loud.samples.pow(2).mean() > 1e3 * noise.samples.pow(2).mean()
    assert not master(Waveform(torch.zeros(1, 10), 48_000)).samples.any()


def test_missing_programs_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    from duotone.audio.midi import render
    from duotone.audio.speech import speak

    with pytest.raises(AudioError, match="package fluidsynth"):
        render(b"")
    with pytest.raises(AudioError, match="package espeak-ng"):
        speak(0)
    with pytest.raises(AudioError, match="fluid-soundfont-gm"):
        find_soundfont("none.sf2")


@pytest.mark.skipif(
    not (shutil.which("fluidsynth") and shutil.which("espeak-ng")), reason="needs the programs fluidsynth and espeak-ng"
)
def test_a_collection_is_resumable(tmp_path: Path) -> None:
    make_collection(tmp_path, 2 / 3, "heldout", seed=3)
    names = sorted(p.name for p in tmp_path.glob("*.flac"))
    assert len(names) == 2
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert [p["file"] for p in manifest["pieces"]] == names
    stamps = {n: (tmp_path / n).stat().st_mtime_ns for n in names}
    first = (tmp_path / names[0]).read_bytes()
    (tmp_path / names[0]).unlink()
    make_collection(tmp_path, 2 / 3, "heldout", seed=3)
    assert (tmp_path / names[0]).read_bytes() == first
    assert (tmp_path / names[1]).stat().st_mtime_ns == stamps[names[1]]
