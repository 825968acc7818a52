"""Loudness, and collections on disk."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from duotone.audio import collection
from duotone.audio.collection import (
    LIMIT_DB,
    PEAK,
    TARGET_DBFS,
    make_collection,
    make_piece,
    master,
    missing_packages,
    plan,
)
from duotone.audio.collection_folder import CollectionFolder
from duotone.audio.files import read, write
from duotone.audio.midi import SOUNDFONTS
from duotone.audio.speech import VOICES, licence
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError, UsageError

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="needs the Debian package espeak-ng")
needs_all = pytest.mark.skipif(
    None in (shutil.which("espeak-ng"), shutil.which("fluidsynth"))
    or not Path("/usr/share/sounds/sf2/FluidR3_GM.sf2").is_file(),
    reason="needs the Debian packages espeak-ng, fluidsynth and fluid-soundfont-gm",
)


def rms_db(wave: Waveform) -> float:
    return 20 * math.log10(float(wave.samples.pow(2).mean().sqrt()))


# Loudness


def test_mastering_reaches_the_target_without_touching_calm_sound() -> None:
    t = torch.arange(48_000) / 48_000
    tone = Waveform(0.01 * torch.stack([torch.sin(2 * math.pi * 440 * t), torch.sin(2 * math.pi * 550 * t)]), 48_000)
    loud = master(tone)
    assert rms_db(loud) == pytest.approx(TARGET_DBFS, abs=0.01)
    torch.testing.assert_close(loud.samples / loud.samples.abs().max(), tone.samples / tone.samples.abs().max())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9_000), st.floats(1e-4, 30), st.floats(0, 1))
def test_no_peak_passes_and_the_limiter_bends_gently(seed: int, length: int, scale: float, spiky: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    samples = scale * torch.randn(2, length, generator=generator)
    samples *= 1 + 20 * spiky * (torch.rand(2, length, generator=generator) > 0.99)
    gain = collection._limiter_gain(samples)
    assert gain.shape == (length,)
    assert float((samples * gain).abs().max()) <= PEAK * (1 + 1e-5)
    assert float(gain.max()) <= 1 + 1e-6
    if length > 1:
        assert float(torch.diff(gain).abs().max()) < 0.01  # no step: a full swing takes milliseconds
    assert float(master(Waveform(samples, 48_000)).samples.abs().max()) <= PEAK + 1e-6


def test_the_limiter_takes_off_no_more_than_it_may() -> None:
    samples = 1e-4 * torch.randn(2, 48_000, generator=torch.Generator().manual_seed(0))
    samples[:, 24_000:24_002] = torch.tensor([1.0, -1.0])  # a click over next to nothing
    loud = master(Waveform(samples, 48_000))
    # Far from the click the gain is the plain one: capped where the click stands the limit above the peak.
    ratio = float(loud.samples[:, :10_000].pow(2).mean().sqrt() / samples[:, :10_000].pow(2).mean().sqrt())
    assert ratio == pytest.approx(PEAK * 10 ** (LIMIT_DB / 20), rel=0.02)


def test_silence_stays_silent() -> None:
    assert not master(Waveform(torch.zeros(2, 100), 48_000)).samples.any()


# Collections


def test_a_plan_keeps_its_shares_and_its_beginning() -> None:
    held = plan("heldout", 0, 24)
    assert Counter(kind for kind, _ in held) == {"music": 14, "speech": 10}
    train = plan("train", 0, 200)
    assert Counter(kind for kind, _ in train) == {"music": 120, "speech": 64, "synth": 16}
    assert plan("train", 0, 40) == train[:40]
    assert len({seed for _, seed in train}) == 200
    assert plan("train", 1, 10) != train[:10]


@needs_all
@pytest.mark.parametrize("kind", ["music", "speech"])
def test_pieces_of_the_held_out_split(kind: collection.Kind) -> None:
    wave, about = make_piece(4, "heldout", kind, seconds=1.5)
    assert wave.samples.shape == (2, 72_000) and wave.rate == 48_000
    assert about["peak"] <= PEAK + 1e-3 and about["rms_dbfs"] == pytest.approx(rms_db(wave), abs=0.01)
    again, _ = make_piece(4, "heldout", kind, seconds=1.5)
    assert again.samples.equal(wave.samples)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Collections of a quarter second a piece from the synthesizer alone; the list counts the pieces made."""
    made: list[int] = []

    def piece(seed: int, split: Any, kind: Any, **_: Any) -> tuple[Waveform, dict[str, Any]]:
        made.append(seed)
        return master(synthesize(seed, 0.25)), {"rms_dbfs": 0.0}

    font = tmp_path / "font.sf2"
    font.write_bytes(b"x")
    monkeypatch.setenv("DUOTONE_SOUNDFONT", str(font))
    monkeypatch.setattr(collection, "make_piece", piece)
    return made


def test_a_collection_resumes_and_grows(short: list[int], tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c", 2.0, "train", seed=3)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["split"], manifest["seed"], manifest["minutes"], len(manifest["pieces"])) == ("train", 3, 2.0, 6)
    assert [(p["kind"], p["seed"]) for p in manifest["pieces"]] == plan("train", 3, 6)
    files_before = {p.name: p.read_bytes() for p in folder.glob("*.flac")}
    assert set(files_before) == {p["file"] for p in manifest["pieces"]}
    assert read(folder / manifest["pieces"][0]["file"]).length == 12_000

    victim = manifest["pieces"][2]["file"]
    (folder / victim).unlink()
    short.clear()
    make_collection(folder, 3.0, "train", seed=3)
    assert short == [plan("train", 3, 9)[i][1] for i in (2, 6, 7, 8)]  # the lost one and the new ones only
    assert {name: (folder / name).read_bytes() for name in files_before} == files_before
    assert not [p.name for p in folder.iterdir() if p.name.startswith(".") or "tmp" in p.name]


@needs_all
def test_a_real_collection_makes_a_lost_piece_again_byte_for_byte(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(collection, "make_piece", partial(make_piece, seconds=1.0))
    folder = make_collection(tmp_path, 1.0, "heldout", seed=3)  # music, speech, music
    pieces = {p.name: p.read_bytes() for p in folder.glob("*.flac")}
    stamps = {name: (folder / name).stat().st_mtime_ns for name in pieces}
    assert len(pieces) == 3
    lost = sorted(pieces)[1]
    (folder / lost).unlink()
    make_collection(folder, 1.0, "heldout", seed=3)
    assert {p.name: p.read_bytes() for p in folder.glob("*.flac")} == pieces
    assert all((folder / name).stat().st_mtime_ns == stamps[name] for name in pieces if name != lost)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}


def test_another_seed_or_split_never_mixes_with_what_is_there(short: list[int], tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c", 2.0, "train", seed=3)
    before = contents(folder)
    short.clear()
    with pytest.raises(
        UsageError, match=r"split train, seed 3, .* and split heldout, seed 4, .* is asked for.*--force"
    ):
        make_collection(folder, 1.0, "heldout", seed=4)
    (folder / "manifest.json").rename(tmp_path / "away")  # interrupted before there was one: the notes tell
    with pytest.raises(UsageError, match=r"00000-music\.flac is a piece of another seed"):
        make_collection(folder, 1.0, "train", seed=4)
    (tmp_path / "away").rename(folder / "manifest.json")
    assert contents(folder) == before and not short
    make_collection(folder, 1.0, "heldout", seed=4, force=True)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert short == [seed for _, seed in plan("heldout", 4, 3)]
    assert {p.name for p in folder.glob("*.flac")} == {p["file"] for p in manifest["pieces"]}
    assert len(list(folder.iterdir())) == 7


def test_less_than_is_there_removes_nothing(short: list[int], tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c", 3.0, kinds=["synth"])
    before = contents(folder)
    make_collection(folder, 1.0, kinds=["synth"])
    assert contents(folder) == before


def test_other_files_stay_and_those_in_the_way_are_refused(short: list[int], tmp_path: Path) -> None:
    folder = tmp_path / "c"
    (folder / "00001-session").mkdir(parents=True)
    others = {"00000-interview.wav": b"mine", "00000-notes.txt": b"mine", "00000-music.flac": b"mine", "x.json": b"{}"}
    for name, data in others.items():
        (folder / name).write_bytes(data)
    make_collection(folder, 1.0, kinds=["synth"])
    made = {f"{i:05d}-synth.{end}" for i in range(3) for end in ("flac", "json")}
    assert set(contents(folder)) == {*others, *made, "manifest.json"}
    make_collection(folder, 1.0, kinds=["synth"], seed=5, force=True)  # force does not reach what is not in the way
    assert {name: data for name, data in contents(folder).items() if name in others} == others


@pytest.mark.parametrize("name", ["manifest.json", "00000-synth.flac", "00002-synth.json"])
@pytest.mark.parametrize("data", [b"", b"mine", b'{"mine": 1}', b"[]", b"\xff\xfe"])
def test_a_file_of_the_users_is_replaced_by_force_alone(
    short: list[int], tmp_path: Path, name: str, data: bytes
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UsageError, match=r"manifest.json is not one|is not known to be of this collection"):
        make_collection(tmp_path, 1.0, kinds=["synth"])
    assert contents(tmp_path) | {"font.sf2": b"x"} == {name: data, "font.sf2": b"x"} and not short
    make_collection(tmp_path, 1.0, kinds=["synth"], force=True)
    assert len(json.loads((tmp_path / "manifest.json").read_text())["pieces"]) == 3
    assert all(read(p).length == 12_000 for p in tmp_path.glob("*.flac"))


def test_folders_in_the_way_are_refused(short: list[int], tmp_path: Path) -> None:
    (tmp_path / "c" / "00001-synth.flac").mkdir(parents=True)
    with pytest.raises(UsageError, match="is a folder"):
        make_collection(tmp_path / "c", 1.0, kinds=["synth"], force=True)
    with pytest.raises(UsageError, match="is a file, expected a folder"):
        make_collection(tmp_path / "font.sf2", 1.0, kinds=["synth"], force=True)
    assert not short


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b"\xff", None])
@pytest.mark.parametrize("end", ["json", "flac"])
def test_damaged_pieces_and_notes_are_made_again(
    short: list[int], tmp_path: Path, damage: bytes | None, end: str
) -> None:
    folder = make_collection(tmp_path / "c", 1.0, kinds=["synth"])
    before = contents(folder)
    short.clear()
    victim = folder / f"00001-synth.{end}"
    if damage is None:
        victim.unlink()
    else:
        victim.write_bytes(damage if damage or end == "json" else before[victim.name][:5000])  # cut in the middle
    make_collection(folder, 1.0, kinds=["synth"])
    assert contents(folder) == before and len(short) == (end == "flac")


def test_an_empty_piece_is_made_again_and_an_edited_one_is_refused(short: list[int], tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c", 1.0, kinds=["synth"])
    before = contents(folder)
    (folder / "00000-synth.flac").write_bytes(b"")
    make_collection(folder, 1.0, kinds=["synth"])
    assert contents(folder) == before
    write(folder / "00000-synth.flac", synthesize(9, 0.1), force=True)
    edited = contents(folder)
    with pytest.raises(UsageError, match=r"00000-synth\.flac was changed since it was made"):
        make_collection(folder, 1.0, kinds=["synth"])
    assert contents(folder) == edited
    make_collection(folder, 1.0, kinds=["synth"], force=True)
    assert contents(folder) == before


def test_collections_of_earlier_versions_go_on(short: list[int], tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c", 1.0, seed=3)
    manifest = json.loads((folder / "manifest.json").read_text())
    pieces = [{k: v for k, v in piece.items() if k != "sha256"} for piece in manifest["pieces"]]
    for piece in pieces:
        (folder / piece["file"]).with_suffix(".json").write_text(json.dumps(piece))
    old = {k: v for k, v in manifest.items() if k not in ("made_by", "kinds")} | {"pieces": pieces}
    (folder / "manifest.json").write_text(json.dumps(old))
    (folder / pieces[1]["file"]).write_bytes(b"fLaC")  # damaged
    short.clear()
    make_collection(folder, 2.0, seed=3)
    assert short == [plan("train", 3, 6)[i][1] for i in (1, 3, 4, 5)]
    with pytest.raises(UsageError, match=r"another seed|kinds"):
        make_collection(folder, 2.0, seed=3, kinds=["synth"])


def test_a_manifest_cannot_reach_outside_its_folder(short: list[int], tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c", 1.0, kinds=["synth"])
    manifest = json.loads((folder / "manifest.json").read_text())
    (tmp_path / "00000-synth.flac").write_bytes(b"mine")
    manifest["pieces"].append({**manifest["pieces"][0], "file": "../00000-synth.flac"})
    (folder / "manifest.json").write_text(json.dumps(manifest))
    make_collection(folder, 1.0, kinds=["synth"], seed=7, force=True)
    assert (tmp_path / "00000-synth.flac").read_bytes() == b"mine"


@pytest.mark.parametrize("seed", [0, 1])
def test_two_processes_that_begin_at_once_agree_or_one_is_refused(
    short: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    mark = CollectionFolder._mark

    def late(folder: CollectionFolder) -> None:  # the other one is faster
        monkeypatch.setattr(CollectionFolder, "_mark", mark)
        make_collection(tmp_path / "c", 1.0, kinds=["synth"], seed=seed)
        mark(folder)

    monkeypatch.setattr(CollectionFolder, "_mark", late)
    if seed:
        with pytest.raises(UsageError, match="of seed 1, and seed 0 is asked for"):
            make_collection(tmp_path / "c", 1.0, kinds=["synth"])
    else:
        make_collection(tmp_path / "c", 1.0, kinds=["synth"])
    assert json.loads((tmp_path / "c" / "manifest.json").read_text())["seed"] == seed
    assert len(list((tmp_path / "c").iterdir())) == 7


def test_two_processes_fill_one_folder_together(
    short: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = contents(make_collection(tmp_path / "alone", 2.0, kinds=["synth"]))
    short.clear()
    calls: list[int] = []
    plain = collection.make_piece

    def meanwhile(seed: int, *args: Any, **options: Any) -> tuple[Waveform, dict[str, Any]]:
        calls.append(seed)
        if len(calls) == 2:  # a second process begins, and finishes more than the first one was to make
            make_collection(tmp_path / "both", 2.0, kinds=["synth"])
            with pytest.raises(UsageError, match="seed 0, and seed 1 is asked for"):
                make_collection(tmp_path / "both", 2.0, kinds=["synth"], seed=1)
        return plain(seed, *args, **options)

    monkeypatch.setattr(collection, "make_piece", meanwhile)
    make_collection(tmp_path / "both", 1.0, kinds=["synth"])
    assert contents(tmp_path / "both") == alone


@needs_all
@pytest.mark.long
def test_several_processes_make_the_same_collection(tmp_path: Path) -> None:
    one = make_collection(tmp_path / "one", 4 / 3, seed=5, kinds=["speech", "synth"])
    made: list[tuple[int, int]] = []
    make_collection(
        tmp_path / "two", 4 / 3, seed=5, kinds=["speech", "synth"], workers=2, progress=lambda *m: made.append(m)
    )
    assert contents(tmp_path / "two") == contents(one)
    assert made == [(k, 4) for k in range(5)]


@pytest.mark.long
def test_a_process_that_fails_ends_the_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    font = tmp_path / "font.sf2"
    font.write_bytes(b"no soundfont")
    program = tmp_path / "fluidsynth"
    program.write_text("#!/bin/sh\necho broken font >&2\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(AudioError, match="broken font"):
        make_collection(tmp_path / "c", 1.0, kinds=["music"], soundfont=font, workers=2)
    assert not list((tmp_path / "c").glob("*.flac"))


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(workers: int, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        make_collection(tmp_path / "c", 1.0, workers=workers)
    assert not (tmp_path / "c").exists()


@needs_all
def test_notes_name_the_material_and_its_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collection, "make_piece", partial(make_piece, seconds=0.5))
    for split in ("train", "heldout"):
        folder = make_collection(tmp_path / split, 10 / 3, split, seed=8, kinds=["music", "speech"])
        pieces = json.loads((folder / "manifest.json").read_text())["pieces"]
        assert len(pieces) == 10
        for piece in pieces:
            if piece["kind"] == "speech":
                assert piece["voice"] in VOICES[split] and piece["voice_licence"] == licence(piece["voice"])
            else:
                (font,) = (f for f in SOUNDFONTS if piece["font"] in f.files)
                assert split in font.splits and piece["font_licence"] == font.licence


def test_held_out_pieces_have_no_variant_and_training_pieces_may_be_plain() -> None:
    several = [make_piece(seed, "train", "synth", seconds=0.1) for seed in range(40)]
    assert any("variant" in about for _, about in several)
    for seed, (wave, about) in enumerate(several):
        plain, said = make_piece(seed, "train", "synth", seconds=0.1, plain=True)
        assert "variant" not in said and "variant" not in make_piece(seed, "heldout", "synth", seconds=0.1)[1]
        assert plain.samples.equal(wave.samples) == ("variant" not in about)
        assert float(wave.samples.abs().max()) <= PEAK + 1e-6


def test_plain_and_varied_collections_do_not_mix(short: list[int], tmp_path: Path) -> None:
    make_collection(tmp_path / "c", 1.0, kinds=["synth"])
    with pytest.raises(UsageError, match="plain False, and plain True is asked for"):
        make_collection(tmp_path / "c", 1.0, kinds=["synth"], plain=True)


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("duotone.audio.midi._FONT_FOLDERS", ())
    monkeypatch.setattr(collection, "installed", lambda voice: False)
    music, speech = missing_packages("train", ["music"]), missing_packages("train", ["speech"])
    assert (
        set(music) >= {"fluid-soundfont-gm", "musescore-general-soundfont-lossless"}
        and "timgm6mb-soundfont" not in music
    )
    assert set(speech) >= {"espeak-ng", "flite", "festival", "festvox-czech-ph"} and len(set(speech)) == len(speech)
    assert missing_packages("train", ["synth"]) == []


def test_some_kinds_only(short: list[int], tmp_path: Path) -> None:
    folder = make_collection(tmp_path / "c", 2.0, kinds=["synth"])
    assert {p["kind"] for p in json.loads((folder / "manifest.json").read_text())["pieces"]} == {"synth"}
    kinds = [kind for kind, _ in plan("train", 0, 40, ["music", "synth"])]
    assert set(kinds) == {"music", "synth"} and kinds.count("music") > 4 * kinds.count("synth")
