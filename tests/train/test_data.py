"""Where training sound comes from: sources, the index and its cache, filters, the split, crops."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from duotone.audio.files import write
from duotone.audio.synth import synthesize
from duotone.audio.waveform import Waveform
from duotone.errors import AudioError
from duotone.train import index as index_module
from duotone.train.data import Crops, open_sound
from duotone.train.index import Sound, build_index
from duotone.train.read_ahead import read_ahead
from duotone.train.sections import SoundSection
from duotone.train.sources import Place, find

ALL = SoundSection(validation_share=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    (root / "deep").mkdir()
    write(root / "a.wav", synthesize(1, 0.4))
    write(root / "deep" / "b.flac", synthesize(2, 0.4, 44_100))
    write(root / "deep" / "c.ogg", synthesize(3, 0.4))
    (root / "notes.txt").write_text("no sound")
    return root


def example(crops: Crops, step: int = 0, position: int = 0) -> torch.Tensor:
    return crops.batch(step, range(position, position + 1))["samples"][0]


def names(places: list[Place]) -> list[str]:
    return [Path(p.member or p.path).name for p in places]


def test_folders_globs_and_single_files(folder: Path) -> None:
    assert names(find(folder)[0]) == ["a.wav", "b.flac", "c.ogg"]
    assert names(find(f"{folder}/**/*.flac")[0]) == ["b.flac"]
    assert names(find([folder / "a.wav", folder])[0]) == ["a.wav", "b.flac", "c.ogg"]
    for missing in (folder / "none", f"{folder}/*.mp3"):
        with pytest.raises(AudioError, match=r"no file|No file"):
            find(missing)


def test_lists_take_relative_and_absolute_names(folder: Path, tmp_path: Path) -> None:
    write(tmp_path / "near.wav", synthesize(4, 0.2))
    listing = tmp_path / "files.txt"
    listing.write_text(f"# some\nnear.wav\n\n{folder / 'a.wav'}\n")
    assert sorted(names(find(listing)[0])) == ["a.wav", "near.wav"]


@pytest.fixture
def shard(folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "shards" / "000.tar"
    path.parent.mkdir()
    with tarfile.open(path, "w") as tar:
        for name in ("a.wav", "deep/b.flac", "deep/c.ogg", "notes.txt"):
            tar.add(folder / name, arcname=name)
    return path


def test_shards_are_read_in_place(folder: Path, shard: Path) -> None:
    for source in (shard, shard.parent):
        places, problems = find(source)
        assert names(places) == ["a.wav", "b.flac", "c.ogg"] and not problems
    for place in places:
        with place.blocks() as inside:
            inside.skip(1000)
            got = inside.read(500)
        with soundfile.SoundFile(str(folder / place.member)) as outside:
            outside.seek(1000)
            assert np.array_equal(got, outside.read(500, dtype="float32", always_2d=True))


def test_crops_of_a_shard_are_those_of_its_files(folder: Path, shard: Path) -> None:
    pieces = []
    for source in (folder, shard):
        found = build_index(source, ALL)
        crops = Crops(found.training, 48_000, 4_000, ALL, 0)
        pieces.append(crops.batch(0, range(6))["samples"])
    assert torch.equal(*pieces)


def test_a_compressed_shard_is_named(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(folder / "a.wav", arcname="a.wav")
    _, problems = find(path)
    assert len(problems) == 1 and "bad.tar" in problems[0]
    with pytest.raises(AudioError, match="compressed"):
        build_index(path, ALL)


def test_the_cache_spares_measuring_until_a_file_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    original = index_module._measure

    def spy(place: Place) -> dict[str, object]:
        measured.append(place.path)
        return original(place)

    monkeypatch.setattr(index_module, "_measure", spy)
    cache = tmp_path / "cache.json"
    for name in ("x.wav", "y.wav"):
        write(tmp_path / "in" / name if (tmp_path / "in").mkdir(exist_ok=True) is None else name, synthesize(1, 0.2))
    first = build_index(tmp_path / "in", ALL, cache=cache)
    assert len(measured) == 2
    assert build_index(tmp_path / "in", ALL, cache=cache) == first and len(measured) == 2
    write(tmp_path / "in" / "y.wav", synthesize(2, 0.3), force=True)
    assert build_index(tmp_path / "in", ALL, cache=cache) != first and len(measured) == 3
    cache.write_text("{damaged")
    build_index(tmp_path / "in", ALL, cache=cache)
    assert len(measured) == 5


def test_progress_counts_every_file(folder: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    build_index(folder, ALL, lambda done, total: told.append((done, total)), cache=tmp_path / "c.json")
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_silent_clipped_empty_and_crowded_files_are_left_out_and_named(tmp_path: Path) -> None:
    wave = synthesize(1, 0.5)
    write(tmp_path / "good.wav", wave)
    write(tmp_path / "silent.wav", Waveform(torch.zeros(2, 24_000), 48_000))
    write(tmp_path / "clipped.wav", Waveform((20 * wave.samples).clamp(-1, 1), wave.rate))
    soundfile.write(str(tmp_path / "six.wav"), np.random.default_rng(0).normal(0, 0.1, (1000, 6)), 48_000)
    soundfile.write(str(tmp_path / "empty.wav"), np.zeros((0, 2)), 48_000)
    (tmp_path / "cut.flac").write_bytes(b"fLaC1234")
    found = build_index(tmp_path, ALL)
    assert [Path(s.place.path).name for s in found.training] == ["good.wav"]
    reasons = {Path(line.split(": ")[0]).name: line for line in found.skipped}
    assert set(reasons) == {"silent.wav", "clipped.wav", "six.wav", "empty.wav", "cut.flac"}
    assert "silent" in reasons["silent.wav"] and "full scale" in reasons["clipped.wav"]
    assert "6 channels" in reasons["six.wav"] and "no samples" in reasons["empty.wav"]


def test_levels_are_measured_and_matched(tmp_path: Path) -> None:
    tone = 0.1 * torch.sin(2 * torch.pi * 440 * torch.arange(48_000) / 48_000)
    write(tmp_path / "tone.wav", Waveform(tone.expand(2, -1).contiguous(), 48_000))
    (sound,) = build_index(tmp_path, ALL).training
    assert sound.level_db == pytest.approx(-23.01, abs=0.05) and sound.silent == 0 and sound.clipped == 0
    section = SoundSection(validation_share=0, level_db=-10, gain_db=(0, 0), mixing_share=0)
    crop = example(Crops([sound], 48_000, 9_600, section, 0))
    assert 10 * torch.log10(crop.square().mean()) == pytest.approx(-10, abs=0.05)


def make(name: str) -> Sound:
    return Sound(Place(name), 48_000, 480_000, 2, -20.0, 0.0, 0.0, 0, 480_000)


@given(st.sets(st.text("abcdefgh", min_size=1, max_size=6), min_size=60, max_size=90), st.integers(1, 30))
def test_adding_files_moves_none_between_training_and_validation(stems: set[str], added: int) -> None:
    before = index_module._split([make(f"{s}.wav") for s in sorted(stems)], 0.2, [])
    more = index_module._split(
        [make(f"{s}.wav") for s in sorted(stems)] + [make(f"new{i}.wav") for i in range(added)], 0.2, []
    )
    assert {s.place for s in before.training} <= {s.place for s in more.training}
    assert {s.place for s in before.validation} <= {s.place for s in more.validation}
    assert not {s.place for s in more.training} & {s.place for s in more.validation}


def test_few_files_are_split_inside() -> None:
    found = index_module._split([make("only.wav")], 0.1, [])
    (train,), (held,) = found.training, found.validation
    assert (train.start, train.stop, held.start, held.stop) == (0, 432_000, 432_000, 480_000)


def test_crops_stay_inside_their_part(tmp_path: Path) -> None:
    ramp = torch.linspace(-0.9, 0.9, 48_000)
    write(tmp_path / "ramp.wav", Waveform(ramp.expand(2, -1).contiguous(), 48_000))
    section = SoundSection(validation_share=0.25, gain_db=(0, 0), mixing_share=0)
    found = build_index(tmp_path, section)
    edge = float(ramp[36_000])
    for sounds, inside in (
        (found.training, lambda x: x.max() < edge),
        (found.validation, lambda x: x.min() > edge - 1e-4),
    ):
        crops = Crops(sounds, 48_000, 2_000, section, 0)
        assert all(inside(example(crops, step)) for step in range(40))


def test_silent_crops_are_drawn_again_and_counted(tmp_path: Path) -> None:
    samples = torch.zeros(2, 96_000)
    samples[:, 90_000:] = synthesize(1, 0.2).samples[:, :6_000]
    write(tmp_path / "mostly.wav", Waveform(samples, 48_000))
    crops = Crops(build_index(tmp_path, ALL).training, 48_000, 4_800, ALL, 0)
    heard = sum(bool(example(crops, step).any()) for step in range(30))
    assert crops.silent_crops > 30 and heard >= 10


def test_a_file_that_vanishes_is_counted_and_one_that_was_the_last_ends_the_run(folder: Path, tmp_path: Path) -> None:
    for name in ("one.wav", "two.wav"):
        write(tmp_path / name, synthesize(3, 0.3))
    crops = Crops(build_index(tmp_path, ALL).training, 48_000, 4_000, ALL, 0)
    (tmp_path / "one.wav").unlink()
    for step in range(8):
        assert example(crops, step).shape == (2, 4_000)
    assert list(crops.unreadable) == [str(tmp_path / "one.wav")]
    (tmp_path / "two.wav").unlink()
    with pytest.raises(AudioError, match="no longer be read"):
        for step in range(8):
            example(crops, step)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc, as Linux has it")
def test_reading_ahead_starts_no_second_team_of_openmp_threads(tmp_path: Path) -> None:
    write(tmp_path / "one.wav", synthesize(3, 2.0, 44_100))
    program = (
        "import os, sys, torch; from pathlib import Path; from duotone.train.data import Crops; "
        "from duotone.train.index import build_index; from duotone.train.sections import SoundSection; "
        "from duotone.train.read_ahead import read_ahead; "
        "torch.set_num_threads(3); torch.ones(1 << 20).sin(); count = lambda: len(os.listdir('/proc/self/task')); alone = count(); "
        "section = SoundSection(validation_share=0, mixing_share=1, level_db=-14, workers=2); "
        "crops = Crops(build_index(sys.argv[1], section).training, 48_000, 60_000, section, 0); "
        "batches = read_ahead(crops, 0, 40, range(2)); next(batches); before = count(); "
        "[next(batches) for _ in range(30)]; torch.ones(1 << 20).sin(); print(alone, before, count())"
    )
    # alone: three of the team; before: two more that read; a team of each reader's would be two more apiece
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True)
    alone, before, after = map(int, run.stdout.split())
    assert before == after == alone + 2


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg", "mp3"])
def test_what_is_read_counts_where_a_file_is_shorter_than_its_length_says(kind: str, tmp_path: Path) -> None:
    """The only file of the collection holds a tenth of what the index was told: no crop fails, each has its sound."""
    write(tmp_path / f"short.{kind}", synthesize(3, 0.4))
    (sound,) = build_index(tmp_path, ALL).training
    told = dataclasses.replace(sound, frames=10 * sound.frames, stop=10 * sound.stop)
    crops = Crops([told], 48_000, 4_000, SoundSection(mixing_share=0), 0)
    heard = [bool(example(crops, step).any()) for step in range(30)]
    assert all(heard) and crops.status()["unreadable_files"] == 0
    assert torch.equal(example(crops, 3), example(Crops([told], 48_000, 4_000, SoundSection(mixing_share=0), 0), 3))
    behind = dataclasses.replace(told, start=2 * sound.frames)  # the part to be used lies beyond the end
    assert not example(Crops([behind], 48_000, 4_000, SoundSection(mixing_share=0), 0)).any()


def test_reading_ahead_gives_the_batches_in_order(folder: Path) -> None:
    crops = Crops(build_index(folder, ALL).training, 48_000, 1_000, SoundSection(workers=3), 0)
    for count in (1, 2, 5):
        batches = list(read_ahead(crops, 4, 9, range(3, 3 + count)))
        assert len(batches) == 5
        for step, batch in zip(range(4, 9), batches, strict=True):
            assert torch.equal(batch["samples"], crops.batch(step, range(3, 3 + count))["samples"])
    assert list(read_ahead(crops, 4, 4, range(2))) == []


def test_validation_can_be_a_folder_of_its_own(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "held").mkdir()
    write(tmp_path / "held" / "x.wav", synthesize(9, 0.3))
    apart = open_sound(SoundSection(validation=str(tmp_path / "held")), (str(folder),), 48_000, 1_000, 0)
    assert len(apart.training.sounds) == 3 and apart.validation is not None
    assert [Path(s.place.path).name for s in apart.validation.sounds] == ["x.wav"]
    assert all(s.start == 0 and s.stop == s.frames for s in (*apart.training.sounds, *apart.validation.sounds))
    inside = open_sound(SoundSection(validation=str(folder / "deep")), (str(folder),), 48_000, 1_000, 0)
    assert [Path(s.place.path).name for s in inside.training.sounds] == ["a.wav"]
    assert inside.about() != apart.about()
    both = SoundSection(validation=(str(tmp_path / "held"), str(folder / "deep")))
    assert len(open_sound(both, (str(folder),), 48_000, 1_000, 0).validation.sounds) == 3  # type: ignore[union-attr]
    with pytest.raises(AudioError, match=r"data\.validation"):
        open_sound(SoundSection(validation=str(folder)), (str(folder),), 48_000, 1_000, 0)


def test_what_the_data_is_does_not_depend_on_where_it_lies(folder: Path, tmp_path: Path) -> None:
    def about(where: Path) -> dict[str, str]:
        return open_sound(SoundSection(validation_share=0.2), (str(where),), 48_000, 1_000, 0).about()

    moved = tmp_path / folder.name
    shutil.copytree(folder, moved)
    assert about(moved) == about(folder)
    write(moved / "a.wav", synthesize(1, 0.5), force=True)
    assert about(moved) != about(folder)
